"""`p2pfs debug`: what somebody needs who is asked for help."""

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.cli.waiting import waiting
from p2pfs.errors import PoolError, UserError
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_size
from p2pfs.types import Role
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.volumes import DeletedVolume, VolumeInfo


@click.group("debug")
def command() -> None:
    """Pack up what is needed to find a fault.

    \b
    Example:
      p2pfs debug bundle
    """


@command.command("bundle")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it: a new file (default: p2pfs-debug-TIME.tar.gz here).",
)
@click.option("--anonymous", is_flag=True, help="Replace names of nodes, owners, volumes, and addresses by pseudonyms.")
@click.option("--tasks", is_flag=True, help="Also have this home's processes write to their logs what they wait for.")
@home_option
@json_option
def bundle(out: Path | None, anonymous: bool, tasks: bool, home: NodeHome, as_json: bool) -> None:
    """Pack logs and state into one file that can be shown to others.

    In it: versions, what doctor and status say, settings, the newest part of logs and journal. Not in it: keys,
    passphrases, invites, contents or names of files, paths of your own. It is for this user only (mode 0600), and what
    it holds is listed: look into it before you send it.

    \b
    Examples:
      p2pfs debug bundle
      p2pfs debug bundle --anonymous --tasks --out fault.tar.gz
    """
    from p2pfs.cli.health import bundle as contents

    process.harden()  # it looks for secrets, to leave them out
    home.record()  # without a node there is nothing to pack
    top = contents.name_now()
    file = out or Path(f"{top}.tar.gz")
    if os.path.lexists(file):
        raise UserError(f"{file} is there already: name a new file", exitcodes.EXISTS)
    asked = contents.ask_for_dumps(home) if tasks else 0
    with waiting("looking at everything"):
        entries, left_out = _entries(home, anonymous=anonymous)
    rows = [(name, len(data), about) for name, (data, about) in entries.items()]
    _write_private(file, contents.pack({name: data for name, (data, _) in entries.items()}, top))
    size = file.stat().st_size
    if as_json:
        listed = [{"name": name, "bytes": count, "about": about} for name, count, about in rows]
        print_json({"file": str(file), "bytes": size, "entries": listed, "left_out": left_out, "asked": asked})
        return
    print_table(("in it", "size", "what"), [(name, format_size(n), about) for name, n, about in rows], right=("size",))
    for name in left_out:
        say(f"left out: {name} holds a secret of this home. That is a bug in p2pfs; please report it", err=True)
    say(f"\n{file} ({format_size(size)}), for you only. Look into it before you send it: tar -xzf {file}")


def _entries(home: NodeHome, *, anonymous: bool) -> tuple[dict[str, tuple[bytes, str]], list[str]]:
    """(name → content and what it is), and the names of what had to be left out."""
    from p2pfs.cli.health import bundle as contents
    from p2pfs.cli.health.redaction import Secrets, secret_files

    made = {source: contents.attempt(source) for source in contents.sources(home)}
    redactor = _redactor(home, {source.name: value for source, value in made.items()}, anonymous=anonymous)
    secrets = Secrets(secret_files(home.path))
    entries, left_out = {}, []
    for source, value in made.items():
        data = contents.encode(redactor.text(value) if isinstance(value, str) else redactor.value(value))
        name = redactor.text(source.name) if source.name.startswith("log/") else source.name
        # Before too: what is taken out may be the middle of a secret, whose rest nobody would know again.
        if secrets.are_in(data) or secrets.are_in(contents.encode(value)):
            left_out.append(name)
        elif data:
            entries[name] = (data, source.about)
    lines = ["Made by p2pfs debug bundle. No keys, passphrases, invites, contents or names of files.", ""]
    lines += [f"{name}: {about}" for name, (_, about) in entries.items()]
    lines += [f"{name}: left out, as it held a secret of the home" for name in left_out]
    entries["README.txt"] = ("\n".join([*lines, ""]).encode(), "this list")
    return entries, left_out


def _write_private(file: Path, data: bytes) -> None:
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "wb") as written:
            written.write(data)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}", exitcodes.USAGE) from None


def _redactor(home: NodeHome, made: dict[str, Any], *, anonymous: bool) -> Any:  # noqa: ANN401 - imported late
    from p2pfs.cli.health.redaction import Redactor

    if not anonymous:
        return Redactor((home.path,))
    status = made.get("status.json")
    is_told = isinstance(status, dict) and "error" not in status
    told = [status, made.get("node.json"), made.get("mounts.json"), _told(home) if is_told else None]
    names = {*_names(told), platform.node(), str(home.path)}
    names |= {name[:_SHOWN_OF_ID] for name in names if _ID.fullmatch(name)}  # as refusals put them
    return Redactor((), names - _OUR_WORDS)


def _told(home: NodeHome) -> list[Any]:
    """Whom and what the coordinator knows besides what is in its status; what it does not tell is left out."""
    from p2pfs.cli import connect

    async def ask(coordinator: connect.Coordinator) -> list[Any]:
        found: list[Any] = []
        for path, kind in _ROWS.items():
            with contextlib.suppress(PoolError):  # an older one has not all of them
                rows = await coordinator.call("GET", path, None, kind)
                found += [{key: getattr(row, key) for key in _NAMING if hasattr(row, key)} for row in rows]
        return found

    try:
        return connect.converse(home, ask)
    except PoolError:
        return []


_ID: Final = re.compile("[0-9a-f]{32}")
_SHOWN_OF_ID: Final = 8
_OUR_WORDS: Final = frozenset({*Role, "demo", "mount", "server", "p2pfs"})
"""Names that everybody's machines may have, and that stand everywhere in our own logs."""
_ROWS: Final[dict[str, Any]] = {
    "/nodes": list[NodeInfo],
    "/volumes": list[VolumeInfo],
    "/deleted-volumes": list[DeletedVolume],
}
"""What the coordinator tells of whom it knows: to each their own, to an admin all."""
_NAMING: Final = frozenset({"name", "owner", "zone", "node", "id", "pool", "subject", "volume"})


def _names(value: Any, key: str = "") -> Iterator[str]:  # noqa: ANN401 - anything that JSON can hold
    """Whatever names somebody in a report, and its parts: anna@laptop, anna and laptop."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _names(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner, key)
    elif isinstance(value, str) and key in ("addresses", "delegated_to"):
        host = value.rpartition(":")[0].strip("[]")
        if re.search(r"[g-z]", host, re.IGNORECASE):  # numbers are found by their looks
            yield host
    elif isinstance(value, str) and key in _NAMING:
        yield from filter(None, (value, *value.split("@")))
