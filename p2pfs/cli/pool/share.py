"""`p2pfs share`: what this machine offers to the pool, seen and changed while its peer runs."""

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime import config, mounts
from p2pfs.runtime.config_file import write_settings
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.offers import registry, storage, units
from p2pfs.runtime.offers.book import parse_given
from p2pfs.runtime.sizes import format_size, parse_size
from p2pfs.types import Role

_ANSWER_S: Final = 30.0


def _kinds_beginning(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    return [f"{kind.name}=" for kind in registry.kinds() if kind.is_on and kind.name.startswith(begun)]


@click.command("share")
@click.argument("offers", metavar="[KIND=RULE]...", nargs=-1, shell_complete=_kinds_beginning)
@home_option
@json_option
def command(offers: tuple[str, ...], home: NodeHome, as_json: bool) -> int:
    """Show what this machine's peer offers to the pool, or change it: at once, and for good.

    Without OFFERS: every kind there is. A rule of bandwidth may have times, local ones, the first that fits counts:
    20Mbit@08:00-18:00,100Mbit or 20Mbit@mon-fri/08:00-18:00; none is without a limit. Offering less storage than is
    held deletes nothing: nothing new is taken, and what others have room for is moved there. See docs/resources.md.

    \b
    Examples:
      p2pfs share
      p2pfs share storage=200G upload=20Mbit
      p2pfs share upload=20Mbit@mon-fri/08:00-18:00,100Mbit download=none
      p2pfs share --json | jq '.offers[] | select(.kind == "upload").used'
    """
    record = home.record()
    if Role.PEER not in record.roles:
        raise UserError(f"the node in {home.path} is no peer: it has nothing to offer", exitcodes.DENIED)
    wanted = _wanted(offers)
    told = _ask_daemon(home, wanted)
    if told is None:
        write_settings(home, {registry.named(name).key: text for name, text in wanted.items()})
        told = {"offers": [], "wished": None, "granted": None}
    told = {"running": bool(told["offers"]), "passing": []} | told | {"offers": _every_kind(home, told["offers"])}
    if as_json:
        print_json(told)
    else:
        _print(home, told, wanted)
    return exitcodes.OK


def _wanted(texts: Sequence[str]) -> dict[str, str]:
    """Rules as written, by kind. Raises UserError."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, rule = text.partition("=")
        if not separator or not rule.strip():
            raise UserError(f"“{text}” is not KIND=RULE, such as storage=200G", exitcodes.USAGE)
        if name in found:
            raise UserError(f"{name} is offered twice", exitcodes.USAGE)
        found[name] = rule.strip()
    try:
        parse_given(found)
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None
    return found


def _ask_daemon(home: NodeHome, wanted: Mapping[str, str]) -> dict[str, Any] | None:
    """What the running daemon says; None: none runs.

    Raises:
        UserError: It refuses, or does not answer as it should.
    """
    request = {"op": "share"} | ({"set": wanted} if wanted else {})
    try:
        with mounts.dial(home.path / "run" / "peer.sock", _ANSWER_S) as connection, connection.makefile("rb") as lines:
            connection.sendall(json.dumps(request).encode() + b"\n")
            if not (line := lines.readline()).endswith(b"\n"):
                raise ConnectionError
            answer: dict[str, Any] = json.loads(line)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"the peer daemon does not answer: {mounts.why_silent(error)}", exitcodes.UNREACHABLE) from None
    if "error" in answer:
        raise UserError(f"the peer refuses: {answer['error']}", exitcodes.FAILED)
    return answer


def _every_kind(home: NodeHome, told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the daemon tells of each kind there is, else the rule that it would start with."""
    now = {one["kind"]: one for one in told}
    settings = config.load(home.path)
    rows = []
    for kind in registry.kinds():
        rule = kind.default
        if kind.key in config.KINDS:
            rule = config.format_setting(kind.key, getattr(settings, kind.key))
        rule = settings.offers.get(kind.key, rule)
        known = {"kind": kind.name, "rule": rule, "unit": kind.unit.value, "offered": None, "used": None}
        rows.append(known | dict(now.get(kind.name, {})) | {"about": kind.about, "is_on": kind.is_on})
    return rows


def _print(home: NodeHome, told: Mapping[str, Any], changed: Mapping[str, str]) -> None:
    running = told["running"]
    titles = ("kind", "rule", "offered now", "used", "what it is")
    print_table(titles, [_row(one, running) for one in told["offers"]], right=("offered now", "used"))
    disk = next(one for one in told["offers"] if one["kind"] == storage.KIND.name)
    _tell_room(home, disk)
    for name in [name for name in told["passing"] if name in changed]:
        key = registry.named(name).key
        say(
            f"The peer was started with --set {key}=…, and has that again when it is started anew: leave it out of its"
            " command line, and what is said here lasts."
        )
    if not running:
        say("The peer of this home does not run: this counts from its next start.")
        return
    if told["granted"] is not None and told["granted"] < told["wished"]:
        say(f"The pool takes at most {format_size(told['granted'])} of it: so the invite of this machine says.")
    surplus = disk["used"] - disk["offered"]
    if surplus > 0 and disk["rule"] != storage.AUTOMATIC:
        say(
            f"It holds {format_size(surplus)} more than it offers. Nothing of that is deleted: it takes nothing new,"
            " and what other peers have room for is moved there (see p2pfs jobs: rebalance, trim)."
        )


def _tell_room(home: NodeHome, offered: Mapping[str, Any]) -> None:
    """Say so where a disk has less than is offered of it."""
    if offered["rule"] == storage.AUTOMATIC:
        return
    room = shutil.disk_usage(home.path).free + (offered["used"] or 0)
    if parse_size(offered["rule"]) > room:
        say(f"The disk with {home.path} has {format_size(room)} for it, which is less: so much can be taken.")


def _row(one: Mapping[str, Any], running: bool) -> tuple[str, ...]:
    if not one["is_on"]:
        return one["kind"], "off", "", "", f"{one['about']} (not yet)"
    amounts = (units.shown(one["offered"], one["unit"]), units.shown(one["used"], one["unit"])) if running else ("", "")
    return one["kind"], one["rule"], *amounts, one["about"]
