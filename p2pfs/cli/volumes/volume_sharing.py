"""`p2pfs volume share|unshare|members|accept` and `p2pfs key fingerprint`: one volume, several people's keys."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from p2pfs import exitcodes
from p2pfs.cli import passphrases
from p2pfs.cli.members import find_volume
from p2pfs.cli.options import home_option, json_option, require_answer, yes_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.cli.volumes.volume_care import OLDER
from p2pfs.errors import Invalid, NotFound, UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.types import VolumeId, volume_name
from p2pfs.wire.sharing import Member
from p2pfs.wire.volumes import VolumeInfo

T = TypeVar("T")


@click.command("fingerprint")
@home_option
@json_option
def fingerprint(home: NodeHome, as_json: bool) -> None:
    """Show the fingerprint of your own key, for others to share volumes with. The key is made at first use, stays on
    this machine (identity.key in the home), and its public part is given to the coordinator.

    Read the fingerprint out, or write it where nobody can change it: it is what `p2pfs volume share` goes by.

    \b
    Example:
      p2pfs key fingerprint
    """
    from p2pfs.cli.volumes import sharing_changes

    shown = _asked(lambda: sharing_changes.publish(home))
    if as_json:
        print_json({"fingerprint": shown, "name": home.record().name})
    else:
        say(shown)


@click.command("share")
@click.argument("volume")
@click.option(
    "--to", "recipient", metavar="FINGERPRINT", required=True, help="What `p2pfs key fingerprint` shows there."
)
@click.option("--rw/--ro", "writable", default=False, help="Whether they may change it; --ro unless you say so.")
@passphrases.passphrase_options
@home_option
@json_option
def share(
    volume: str,
    recipient: str,
    writable: bool,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    home: NodeHome,
    as_json: bool,
) -> None:
    """Share VOLUME with whoever has the key of FINGERPRINT. They mount it as OWNER/VOLUME, without a passphrase. Again
    with other rights changes those, and ends their mounts.

    Whoever has a volume's key can read all of it for ever, what was copied cannot be taken back. That those with --ro
    change nothing is the coordinator's doing: see docs/privacy.md. Asks for the passphrase.

    \b
    Examples:
      p2pfs volume share photos --to G557-7QIP-H7BJ-2M4C-JB6B-7W5K-IQLD-IJYM
      p2pfs volume share photos --to G557-7QIP-H7BJ-2M4C-JB6B-7W5K-IQLD-IJYM --rw
    """
    from p2pfs.cli.volumes import sharing_changes

    wanted = _parse(recipient)
    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")
    found = find_volume(_volumes(home), volume)
    before = _member(_asked(lambda: sharing_changes.members(home, found)), wanted)
    members = sharing_changes.share(home, found, wanted, source, read_only=not writable)
    if as_json:
        print_json([_as_json(member) for member in members])
        return
    new = _member(members, wanted)
    whom = f"{_shown(wanted)} ({', '.join(new.names)})" if new is not None and new.names else _shown(wanted)
    was = ""
    if before is not None:
        was = f", and was to {_rights(before.read_only)}" if before.read_only == writable else ", as before"
    say(f"{found.name} is shared with {whom}, to {_rights(not writable)}{was}")  # it is, whatever becomes of the rest
    shared = shlex.quote(f"{found.owner}/{found.name}")
    how = f"p2pfs volume accept {shared} --from {sharing_changes.publish(home)}"
    if before is None:
        say(f"they accept it with: {how}")
    else:
        say("Their mounts of it have ended: they mount it again. Who accepted it from this machine's key need not do")
        say(f"so once more; others, and who accepted it from another machine's key, do with: {how}")


@click.command("unshare")
@click.argument("volume")
@click.option(
    "--from", "member", metavar="MEMBER", required=True, help="A fingerprint, or its beginning, or OWNER@MACHINE."
)
@passphrases.passphrase_options
@home_option
@json_option
def unshare(
    volume: str, member: str, passphrase_file: Path | None, passphrase_fd: int | None, home: NodeHome, as_json: bool
) -> None:
    """Share VOLUME with MEMBER no more: their mounts end, their key slot is destroyed. What they could read they can
    keep, and they know the volume's key: sealed chunks that they get hold of stay readable to them, new ones too.

    \b
    Examples:
      p2pfs volume unshare photos --from bob@laptop
      p2pfs volume unshare photos --from G557
    """
    from p2pfs.cli.volumes import sharing_changes

    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")
    found = find_volume(_volumes(home), volume)
    chosen = choose(_asked(lambda: sharing_changes.members(home, found)), member)
    left = sharing_changes.unshare(home, found, chosen.fingerprint, source)
    if as_json:
        print_json([_as_json(one) for one in left])
        return
    say(f"{found.name} is not shared with {_shown(chosen.fingerprint)} any more")
    say("What was readable to them stays so, where they have it or get it. To keep new files from them,")
    say("make a new volume, copy what is needed, and delete this one.")


@click.command("members")
@click.argument("volume")
@home_option
@json_option
def members(volume: str, home: NodeHome, as_json: bool) -> None:
    """List with which keys VOLUME is shared, and which nodes have those.

    \b
    Example:
      p2pfs volume members photos
    """
    from p2pfs.cli.volumes import sharing_changes

    found = find_volume(_volumes(home), volume)
    known = _asked(lambda: sharing_changes.members(home, found))
    if as_json:
        print_json([_as_json(member) for member in known])
    elif not known:
        say(
            f"{found.name} is shared with nobody; share it with:"
            f" p2pfs volume share {shlex.quote(found.name)} --to FINGERPRINT"
        )
    else:
        rows = [
            (
                _shown(member.fingerprint),
                ", ".join(member.names) or "nobody",
                _rights(member.read_only),
                time.strftime("%Y-%m-%d", time.gmtime(member.since_s)),
            )
            for member in known
        ]
        print_table(("fingerprint", "nodes", "may", "since"), rows)


@click.command("accept")
@click.argument("volume", metavar="OWNER/VOLUME")
@click.option("--from", "signer", metavar="FINGERPRINT", help="Whose key must have signed it: read out by its owner.")
@yes_option
@home_option
@json_option
def accept(volume: str, signer: str | None, yes: bool, home: NodeHome, as_json: bool) -> int:
    """Accept a volume that somebody shares with you; then it can be mounted. Checks that the owner's key signed it.

    Without --from it shows whose key that was, and asks: a coordinator that means ill could have made up the volume and
    the key, and would read what you write there.

    \b
    Examples:
      p2pfs volume accept anna/photos --from 7QIP-G557-H7BJ-2M4C-JB6B-7W5K-IQLD-IJYM
      p2pfs mount anna/photos ~/annas-photos -o ro
    """
    from p2pfs.cli.volumes import sharing_changes

    wanted = None if signer is None else _parse(signer)
    require_answer(yes or wanted is not None, as_json)
    found = find_volume(_volumes(home), volume)
    if not found.access:
        raise UserError(f"{volume} is your own: nothing has to be accepted", exitcodes.USAGE)
    offer = sharing_changes.offer(home, found)
    shown = _shown(offer.signer)
    if wanted is not None and wanted != offer.signer:
        raise UserError(
            f"{volume} was shared by {shown}, which is another key: do not use it, and ask {found.owner}",
            exitcodes.DENIED,
        )
    if wanted is None and not yes:
        say(f"{volume} was shared with the key {shown}.")
        if not click.confirm(f"Is that what `p2pfs key fingerprint` shows to {found.owner}?"):
            return exitcodes.FAILED
    sharing_changes.accept(home, found, offer)
    if as_json:
        print_json({"id": volume_name(VolumeId(found.volume)), "signer": shown, "access": found.access})
    else:
        options = " -o ro" if offer.read_only else ""
        say(f"accepted from {shown}; mount it with: p2pfs mount {shlex.quote(volume)} DIRECTORY{options}")
    return exitcodes.OK


def choose(known: Sequence[Member], text: str) -> Member:
    """The member meant by a fingerprint, its beginning, or the name of its node. Raises UserError (NOT_FOUND)."""
    letters = text.replace("-", "").upper()
    found = [member for member in known if text in member.names]
    found = found or [one for one in known if letters and _shown(one.fingerprint).replace("-", "").startswith(letters)]
    if len(found) != 1:
        raise UserError(
            f"{'no' if not found else 'more than one'} member is “{text}”: `p2pfs volume members` shows them",
            exitcodes.NOT_FOUND,
        )
    return found[0]


def _asked(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except NotFound as error:
        if "route" in str(error):
            raise UserError(OLDER, exitcodes.FAILED) from None
        raise


def _parse(text: str) -> bytes:
    from p2pfs.format.sharing import parse_fingerprint

    try:
        return parse_fingerprint(text)
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None


def _shown(fingerprint: bytes) -> str:
    from p2pfs.format.sharing import shown

    return shown(fingerprint)


def _rights(read_only: bool) -> str:
    return "read" if read_only else "read and write"


def _member(known: Sequence[Member], fingerprint: bytes) -> Member | None:
    return next((member for member in known if member.fingerprint == fingerprint), None)


def _volumes(home: NodeHome) -> list[VolumeInfo]:
    from p2pfs.cli import connect

    return connect.call(home, "GET", "/volumes", None, list[VolumeInfo])


def _as_json(member: Member) -> dict[str, str | float | list[str]]:
    return {
        "fingerprint": _shown(member.fingerprint),
        "nodes": list(member.names),
        "access": "ro" if member.read_only else "rw",
        "since_s": member.since_s,
    }
