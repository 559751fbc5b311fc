"""What `p2pfs init` asks a person at a terminal. What was given as an option is not asked for; Enter takes the default.

Knows the questions and what can be meant by an answer; makes nothing.
"""

import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from p2pfs.cli.pool.kits import HandOver
from p2pfs.cli.show import say
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.sizes import format_size, given_size
from p2pfs.types import GIB, MIB

_NONE: Final = ("0", "none", "no")
_NO_PATHS: Final = ("y", "yes", "n", "no", "none")
"""Answers to another question: nobody looks for the kit in a file that is called so."""
_MOST_SHOWN: Final = 8


@dataclass(slots=True)
class Wishes:
    """What shall be made; empty: not said."""

    name: str = ""
    node: str = ""
    zone: str = ""
    addresses: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    offers_disk: bool = True


def ask(given: Wishes, *, name: str, node: str, home: Path) -> Wishes:
    """`given`, with answers where it says nothing; `name` and `node` are the defaults.

    Raises:
        click.Abort: Ctrl-C.
    """
    from p2pfs.coordinator.init import check_pool_name
    from p2pfs.coordinator.invites import parse_name, parse_zone

    say("A new pool, with this machine as its coordinator. Enter takes what stands in brackets.\n")
    pool = given.name or _ask("What shall the pool be called?", name, check_pool_name)
    named = given.node or _ask("Who owns this machine, and what is it called (OWNER@MACHINE)?", node, parse_name)
    zone = given.zone or _ask(
        "Where does it stand, such as home? Copies are spread over zones. (Empty: not said)", "", parse_zone
    )
    addresses, settings = given.addresses, dict(given.settings)
    if not addresses and not settings.keys() & {"listen", "advertise"}:
        addresses = _ask_addresses()
    offers_disk = given.offers_disk
    if "capacity" not in settings:
        capacity = _ask_capacity(home)
        offers_disk = capacity not in _NONE
        settings["capacity"] = capacity if offers_disk else "0"
    click.echo("")
    return Wishes(pool, named, zone, addresses, settings, offers_disk)


def ask_kit_file() -> Path | None:
    """A new file for the recovery kit, which need not be given; then it is shown.

    Raises:
        click.Abort: Ctrl-C.
    """

    def check(text: str) -> None:
        try:
            HandOver(_path(text)).require_new()
        except UserError as error:
            raise Invalid(str(error)) from None

    say("The recovery kit brings the pool back when this disk is lost: a file for it belongs on another one.")
    return _path(_ask("A new file for it, such as on a USB stick? (Empty: it is shown, once)", "", check))


def _path(text: str) -> Path | None:
    """Raises Invalid: There is no such path, nor can be, or it is not meant as one."""
    if text.lower() in _NO_PATHS:
        raise Invalid(f"write a path, or nothing; ./{text} is a file of that name here")
    if "\0" in text:
        raise Invalid("no path has a zero byte in it")
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:
        raise Invalid(f"“{text}” begins with the home of a user that this machine does not know") from None


def _ask(question: str, default: str, check: Callable[[str], object]) -> str:
    def valid(text: str) -> str:
        try:
            check(text.strip())
        except Invalid as error:
            raise click.UsageError(str(error)) from None
        return text.strip()

    answer: str = click.prompt(question, default=default, value_proc=valid, show_default=bool(default))
    return answer


def _ask_addresses() -> tuple[str, ...]:
    from p2pfs.coordinator.files import DEFAULT_PORT
    from p2pfs.net.advertising import advertised
    from p2pfs.net.interfaces import candidates

    found = candidates(DEFAULT_PORT)[:_MOST_SHOWN]
    say("Where do other machines reach this one? From outside your network: your router's name or address, and a port")
    say("that it passes on to this machine.")
    for number, (address, interface) in enumerate(found, 1):
        say(f"  {number}  {address}  ({interface})")
    known = [address for address, _ in found]
    default = "1" if found else f"127.0.0.1:{DEFAULT_PORT}"
    while True:
        chosen = _ask("Numbers or HOST:PORT, the best first", default, lambda text: addresses_in(text, known))
        wanted = addresses_in(chosen, known)
        strange = unresolved(wanted)
        if not strange or click.confirm(f"No address is known here for {', '.join(strange)}. Take it all the same?"):
            break
    # What is worked out anyway need not be kept: it is worked out anew when the machine gets another address.
    return () if wanted == tuple(advertised([f":{DEFAULT_PORT}"], "")) else wanted


def unresolved(addresses: Sequence[str]) -> list[str]:
    """Names of hosts in `addresses` that have no address here; elsewhere they may have one. Blocking: asks the
    network's name servers, for their usual 5 to 10 s at most."""
    from p2pfs.net.addresses import parse_address

    found = []
    for host in dict.fromkeys(parse_address(address)[0] for address in addresses):
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError):
            found.append(host)
    return found


def addresses_in(text: str, known: list[str]) -> tuple[str, ...]:
    """Addresses from numbers of `known` ones, from 1, and from what is written out; a missing port is the usual one.

    Raises:
        Invalid: One is neither.
    """
    from p2pfs.coordinator.files import DEFAULT_PORT
    from p2pfs.net.addresses import format_address, parse_address

    found: dict[str, None] = {}
    for word in filter(None, re.split(r"[\s,]+", text)):
        if word.isascii() and word.isdigit():
            if not 1 <= int(word) <= len(known):
                raise Invalid(f"there is no number {word}")
            found[known[int(word) - 1]] = None
            continue
        host, port = parse_address(_with_port(word, DEFAULT_PORT))
        if not host:
            raise Invalid(f"“{word}” names no machine: write host:port, such as 192.0.2.7:{DEFAULT_PORT}")
        found[format_address(host, port)] = None
    if not found:
        raise Invalid("write at least one")
    return tuple(found)


def _with_port(word: str, port: int) -> str:
    """An address as a person writes it, completed."""
    if word.count(":") > 1 and not word.startswith("["):
        return f"[{word}]:{port}"
    return word if re.search(r"(^|[^:]):\d+$", word) else f"{word}:{port}"


def _ask_capacity(home: Path) -> str:
    free = _free(home)
    half = max(free // 2 // GIB, 1)
    say(
        f"How much of the disk with {home} shall the pool's members have for their files? {format_size(free)} are free."
    )
    return _ask("A size; auto: all but a reserve; 0: nothing", f"{half}G", _check_capacity)


def _check_capacity(text: str) -> None:
    if text not in (*_NONE, "auto") and given_size(text) < 64 * MIB:
        raise Invalid("a size of 64M at least, or 0")


def _free(path: Path) -> int:
    """Bytes free where `path` is, or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize
