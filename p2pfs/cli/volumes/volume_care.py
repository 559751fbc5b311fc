"""`p2pfs volume rename|delete|undelete|quota`: what its owner decides about a volume as a whole, or an admin."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from p2pfs import exitcodes
from p2pfs.cli import passphrases
from p2pfs.cli.members import find_volume
from p2pfs.cli.options import home_option, json_option, require_answer, yes_option
from p2pfs.cli.passphrases import Passphrase
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.errors import Invalid, NotFound, UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_count, format_duration, format_size, given_size
from p2pfs.types import Role, VolumeId, volume_name
from p2pfs.wire.volumes import DeletedVolume, DeleteVolume, UndeleteVolume, VolumeInfo, VolumeSettings

OLDER: Final = "the coordinator is of an older version, which knows nothing of this: upgrade it first"


@click.command("rename")
@click.argument("volume")
@click.argument("new_name")
@passphrases.passphrase_options
@home_option
@json_option
def rename(
    volume: str,
    new_name: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    home: NodeHome,
    as_json: bool,
) -> None:
    """Give VOLUME another name. What is mounted stays mounted; lines of fstab and scripts have to follow.

    Takes the volume's key, as `p2pfs volume set` does, or the role admin.

    \b
    Example:
      p2pfs volume rename photos family-photos
    """
    found = _find(home, volume)
    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")
    made = change(
        home, found, VolumeSettings(name=new_name), source, is_typed=_is_typed(passphrase_file, passphrase_fd)
    )
    if made.name != new_name:
        raise UserError(OLDER, exitcodes.FAILED)
    if as_json:
        print_json({"id": volume_name(VolumeId(made.volume)), "name": made.name})
    else:
        say(f"{found.name} is called {made.name} now")


@click.command("quota")
@click.argument("volume")
@click.argument("limit", metavar="[SIZE|none|show]", default="show")
@click.option("--files", metavar="N|none", help="How many files and directories it may have.")
@passphrases.passphrase_options
@home_option
@json_option
def quota(
    volume: str,
    limit: str,
    files: str | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    home: NodeHome,
    as_json: bool,
) -> None:
    """Limit how much VOLUME may hold: bytes of its files as `ls -l` shows them, copies and trash not counted, and
    number of files. Beyond it, writing and creating fail with EDQUOT, and `df` shows it as the size of the mount.
    Without SIZE it shows the limits.

    Mounts hear of it within 5 s. Takes the volume's key, as `p2pfs volume set` does, or the role admin.

    \b
    Examples:
      p2pfs volume quota photos 100G --files 1000000
      p2pfs volume quota photos none
      p2pfs volume quota photos
    """
    settings = _limits(limit, files)
    found = _find(home, volume)
    if settings is not None:
        source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")
        found = change(home, found, settings, source, is_typed=_is_typed(passphrase_file, passphrase_fd))
        kept = VolumeSettings(quota_bytes=found.quota_bytes, quota_files=found.quota_files)
        if any(value not in (None, getattr(kept, name)) for name, value in _given(settings)):
            raise UserError(OLDER, exitcodes.FAILED)
    if as_json:
        print_json(
            {
                "id": volume_name(VolumeId(found.volume)),
                "name": found.name,
                "bytes": found.bytes,
                "quota_bytes": found.quota_bytes or None,
                "files": found.files,
                "quota_files": found.quota_files or None,
            }
        )
        return
    most = format_size(found.quota_bytes) if found.quota_bytes else ""
    say(f"{found.name} holds {format_size(found.bytes)}{_limit(most)}")
    entries = format_count(found.files, "file or directory", "files and directories")
    say(f"and {entries}{_limit(str(found.quota_files or ''))}")


@click.command("delete")
@click.argument("volume")
@passphrases.passphrase_options
@yes_option
@home_option
@json_option
def delete(
    volume: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    yes: bool,
    home: NodeHome,
    as_json: bool,
) -> int:
    """Delete VOLUME, which must not be mounted. It can be brought back for a while (`volume_trash`, a week by default)
    with `p2pfs volume undelete`; then its keys are destroyed, and after that its chunks.

    Takes the volume's key, or the role admin. Shows what would be lost and asks for the name.

    \b
    Examples:
      p2pfs volume delete scratch
      p2pfs volume delete scratch --yes --passphrase-file ~/.scratch.pass
    """
    require_answer(yes, as_json)
    found = _find(home, volume)
    if not yes:
        _show_loss(found)
        if click.prompt("Type its name to delete it", default="", show_default=False) != found.name:
            say("nothing was deleted")
            return exitcodes.FAILED
    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")
    gone = _delete(home, found, source, is_typed=_is_typed(passphrase_file, passphrase_fd))
    if as_json:
        print_json(_as_json(gone))
    else:
        kept = format_duration(max(0.0, gone.purge_s - gone.deleted_s))
        say(f"deleted {gone.name}; for {kept} it can be brought back: p2pfs volume undelete {gone.name}")
    return exitcodes.OK


@click.command("undelete")
@click.argument("volume")
@click.option("--as", "new_name", metavar="NAME", default="", help="Under another name, when the old one is taken.")
@home_option
@json_option
def undelete(volume: str, new_name: str, home: NodeHome, as_json: bool) -> None:
    """Bring back a deleted volume: VOLUME is its name, or its id, in `p2pfs volume list --deleted`. Files, key slots
    and settings are as they were.

    \b
    Examples:
      p2pfs volume undelete photos
      p2pfs volume undelete photos --as photos-before
    """
    from p2pfs.cli import connect

    known = deleted(home)
    found = [one for one in known if volume in (one.name, f"{one.owner}/{one.name}", volume_name(VolumeId(one.volume)))]
    if len(found) != 1:
        raise UserError(
            f"{'no' if not found else 'more than one'} deleted volume is “{volume}”: "
            "`p2pfs volume list --deleted` shows those there are, with their ids",
            exitcodes.NOT_FOUND,
        )
    path = f"/volumes/{volume_name(VolumeId(found[0].volume))}/undelete"
    back = connect.call(home, "POST", path, UndeleteVolume(new_name), VolumeInfo)
    if as_json:
        print_json({"id": volume_name(VolumeId(back.volume)), "name": back.name})
    else:
        say(f"{back.name} is back; mount it with: p2pfs mount {shlex.quote(back.name)} DIRECTORY")


def show_deleted(home: NodeHome, *, as_json: bool) -> None:
    """`p2pfs volume list --deleted`."""
    known = deleted(home)
    if as_json:
        print_json([_as_json(one) for one in known])
    elif not known:
        say("no deleted volume can be brought back")
    else:
        now_s = time.time()
        rows = [
            (
                one.name,
                one.owner,
                volume_name(VolumeId(one.volume)),
                f"{one.files}",
                format_size(one.bytes),
                format_duration(max(0.0, round(one.purge_s - now_s))),
            )
            for one in known
        ]
        print_table(("volume", "owner", "id", "files", "content", "for"), rows, right=("files", "content"))


def deleted(home: NodeHome) -> list[DeletedVolume]:
    """What can be brought back. Raises UserError: the coordinator cannot say."""
    from p2pfs.cli import connect

    try:
        return connect.call(home, "GET", "/deleted-volumes", None, list[DeletedVolume])
    except NotFound:
        raise UserError(OLDER, exitcodes.FAILED) from None


def change(
    home: NodeHome, volume: VolumeInfo, settings: VolumeSettings, source: Passphrase, *, is_typed: bool
) -> VolumeInfo:
    """Change settings of a volume: as an admin, by a mount that has its key, or with a passphrase (always if one
    `is_typed`). Raises as the coordinator, or UserError (WRONG_PASSPHRASE)."""
    from p2pfs.cli import asking, connect
    from p2pfs.cli.volumes import volume_keys

    if is_admin(home) and not is_typed:
        path = f"/volumes/{volume_name(VolumeId(volume.volume))}/settings"
        return connect.call(home, "POST", path, settings, VolumeInfo)
    holder = None if is_typed else asking.holding(home.path, volume)
    if holder is None:
        volume_keys.configure(home, volume, source, settings)
    else:
        list(holder.ask("volume set", volume=volume.volume, settings=dict(_given(settings))))
    return find_volume(_volumes(home), volume_name(VolumeId(volume.volume)))


def is_admin(home: NodeHome) -> bool:
    """Whether this node may do it without the volume's key."""
    return Role.ADMIN in home.record().roles


def _delete(home: NodeHome, volume: VolumeInfo, source: Passphrase, *, is_typed: bool) -> DeletedVolume:
    from p2pfs.cli import connect
    from p2pfs.cli.volumes import volume_keys

    path = f"/volumes/{volume_name(VolumeId(volume.volume))}/delete"

    async def ask(coordinator: connect.Coordinator) -> DeletedVolume:
        guard = (
            b""
            if is_admin(home) and not is_typed
            else (await volume_keys.open_keys(home, coordinator, volume, source)).guard
        )
        return await coordinator.call("POST", path, DeleteVolume(guard), DeletedVolume)

    try:
        return connect.converse(home, ask)
    except NotFound:
        raise UserError(f"{volume.name} is gone already, or {OLDER}", exitcodes.NOT_FOUND) from None


def _show_loss(volume: VolumeInfo) -> None:
    say(f"The volume {volume.name} of {volume.owner}, made {time.strftime('%Y-%m-%d', time.gmtime(volume.created_s))}:")
    say(f"  {format_count(volume.files, 'file or directory', 'files and directories')}, {format_size(volume.bytes)}")
    say(f"  {volume.trash_files} more in its trash, {format_size(volume.trash_bytes)}")
    if volume.members:
        say(f"  shared with {format_count(volume.members, 'other')}: lost to them too")
    say("Once it is gone for good, no passphrase and no recovery phrase brings anything of it back.")


def _limits(limit: str, files: str | None) -> VolumeSettings | None:
    """None: they are only to be shown. Raises UserError (USAGE)."""
    size = None if limit == "show" else _number(limit, given_size, "a size such as 100G")
    count = None if files is None else _number(files, _count, "a number of files")
    return None if size is None and count is None else VolumeSettings(quota_bytes=size, quota_files=count)


def _number(text: str, parse: Callable[[str], int], what: str) -> int:
    if text == "none":
        return 0
    try:
        number = parse(text)
    except Invalid as error:
        raise UserError(f"{error}, or “none”", exitcodes.USAGE) from None
    if not 0 < number < 1 << 63:
        raise UserError(f"“{text}” is not {what}, nor “none”", exitcodes.USAGE)
    return number


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _given(settings: VolumeSettings) -> list[tuple[str, object]]:
    names = [name for name in settings.__struct_fields__ if name != "guard"]
    return [(name, getattr(settings, name)) for name in names if getattr(settings, name) is not None]


def _is_typed(passphrase_file: Path | None, passphrase_fd: int | None) -> bool:
    return passphrase_file is not None or passphrase_fd is not None


def _limit(most: str) -> str:
    return f" of at most {most}" if most else ", without a limit"


def _find(home: NodeHome, volume: str) -> VolumeInfo:
    return find_volume(_volumes(home), volume)


def _volumes(home: NodeHome) -> list[VolumeInfo]:
    from p2pfs.cli import connect

    return connect.call(home, "GET", "/volumes", None, list[VolumeInfo])


def _as_json(volume: DeletedVolume) -> dict[str, str | int | float]:
    return {
        "id": volume_name(VolumeId(volume.volume)),
        "name": volume.name,
        "owner": volume.owner,
        "files": volume.files,
        "bytes": volume.bytes,
        "deleted_s": volume.deleted_s,
        "purge_s": volume.purge_s,
    }
