"""What a demo pool is to be: `demo.json`, its defaults, its ports. Nothing runs here; see `demo_pool`."""

import fcntl
import os
import random
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from p2pfs import exitcodes
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.config import KINDS, parse_setting
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome
from p2pfs.types import MIB

HOST: Final = "127.0.0.1"
_FILE: Final = "demo.json"
_PORTS: Final = range(20000, 30000)
"""Below the ports that Linux gives to outgoing connections, so that a pool finds its own free again."""
_ROOM_SHARE: Final = 0.8
"""Part of the disk's free space that all peers together offer: they share one disk and must not count it thrice."""
_PEERS: Final = 3
_DEFAULTS: Final = {"replicas": "2", "min_replicas": "2", "early_purge": "100%", "reserve": "256M"}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`demo.json`."""

    mount: str  # absolute
    settings: dict[str, str]  # by configuration name, for every part
    coordinator_port: int
    peer_ports: list[int]  # one a peer
    version: int = 1
    options: str = ""  # what stands behind -o of the mount


def read(root: Path) -> Plan | None:
    """The plan of the pool below `root`, or None where there is none.

    Raises:
        UserError: The file is damaged.
    """
    try:
        data = (root / _FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise UserError(
            f"{root / _FILE} is damaged ({error}): remove {root} and start anew", exitcodes.FAILED
        ) from None
    return msgspec.structs.replace(
        plan, settings={name: _with_unit(name, value) for name, value in plan.settings.items()}
    )


def _with_unit(name: str, value: str) -> str:
    """Plans of older versions may have numbers without a unit, which are refused where a person writes them now."""
    unit = {"duration": "s", "size": "B", "automatic size": "B", "rate": "B"}.get(KINDS.get(name, ""), "")
    return value + unit if value.replace(".", "", 1).isdecimal() else value


def write(root: Path, plan: Plan) -> None:
    """Keep the plan for later starts."""
    write_durably(root / _FILE, msgspec.json.format(msgspec.json.encode(plan)) + b"\n")


def decide(
    root: Path,
    known: Plan | None,
    *,
    mount: Path | None,
    peers: int | None,
    given: dict[str, str],
    options: str | None = None,
) -> Plan:
    """What the pool is from now on: what was given now, else what it was, else the defaults.

    Raises:
        UserError: A setting cannot be meant, or there would be fewer peers than before.
    """
    if known is None:
        plan = _new(root, mount or root / "mnt", peers or _PEERS, given)
    else:
        plan = _changed(known, mount, peers, given)
    if options is not None:
        plan = msgspec.structs.replace(plan, options=options)
    NodeHome(root).settings(plan.settings)
    return plan


def _new(root: Path, mount: Path, peers: int, given: dict[str, str]) -> Plan:
    settings = _DEFAULTS | given
    if "min_replicas" not in given:
        settings["min_replicas"] = f"{min(2, _replicas(settings))}"
    if "capacity" not in given:
        settings["capacity"] = f"{int(shutil.disk_usage(root).free * _ROOM_SHARE / peers) // MIB}M"
    ports = _free_ports(peers + 1)
    return Plan(mount=str(mount.absolute()), settings=settings, coordinator_port=ports[0], peer_ports=ports[1:])


def _changed(known: Plan, mount: Path | None, peers: int | None, given: dict[str, str]) -> Plan:
    present = len(known.peer_ports)
    if peers is not None and peers < present:
        raise UserError(
            f"this pool has {present} peers, and leaving one out would lose copies: start it without --peers",
            exitcodes.USAGE,
        )
    more = _free_ports((peers or present) - present, but=(known.coordinator_port, *known.peer_ports))
    return Plan(
        mount=str(mount.absolute()) if mount else known.mount,
        settings=known.settings | given,
        coordinator_port=known.coordinator_port,
        peer_ports=known.peer_ports + more,
        options=known.options,
    )


def _replicas(settings: dict[str, str]) -> int:
    try:
        return int(parse_setting("replicas", settings["replicas"]))
    except Invalid as error:
        raise UserError(str(error), exitcodes.BAD_CONFIGURATION) from None


def _free_ports(count: int, but: Sequence[int] = ()) -> list[int]:
    """Ports that nobody listens on now. Raises UserError (BUSY) when there are not as many."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        if port not in but and _is_free(port):
            found.append(port)
    if len(found) < count:
        raise UserError("this machine has no free ports between 20000 and 30000", exitcodes.BUSY)
    return found


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One `demo` command at a time below this directory, which is made if need be.

    Raises:
        UserError: BUSY, or the directory cannot be made.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(root / ".demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"cannot use {root}: {error.strerror}", exitcodes.USAGE) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another `p2pfs demo` works on {root}: wait for it", exitcodes.BUSY) from None
        yield
    finally:
        os.close(fd)
