"""`p2pfs volume create|list|show|set|ls`; the commands of `volume_care` are added to the group."""

import os
import shlex
import time
from pathlib import Path
from typing import Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli import passphrases
from p2pfs.cli.members import find_volume
from p2pfs.cli.options import home_option, json_option, set_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.cli.volumes import volume_care, volume_sharing
from p2pfs.errors import UserError
from p2pfs.runtime.config import parse_given
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.types import VolumeId, volume_name
from p2pfs.wire.volumes import VolumeInfo, VolumeSettings

_CHANGEABLE: Final = {
    "trash_removed": "trash_removed=24h",
    "trash_expired": "trash_expired=7d",
    "distribution": "distribution=swarm",
    "index_names": "index_names=on",
    "index_prefixes": "index_prefixes=on",
}
"""Settings of a volume that there is, each with how it is written."""


@click.group("volume")
def command() -> None:
    """Make volumes and look into them. A volume is one encrypted namespace, mounted as one directory.

    \b
    Example:
      p2pfs volume create photos
    """


@command.command("create")
@click.argument("name")
@passphrases.passphrase_options
@click.option(
    "--recovery-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the recovery phrase to a new FILE instead of printing it.",
)
@set_option
@home_option
@json_option
def create(
    name: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    recovery_file: Path | None,
    overrides: dict[str, str],
    home: NodeHome,
    as_json: bool,
) -> None:
    """Make a volume. Its keys are made here and leave this machine only wrapped by your passphrase.

    The recovery phrase is shown once and kept nowhere: it opens the volume when the passphrase is forgotten. Without
    both, nobody can read the volume any more. Settings: small_file, dedup, trash_removed, trash_expired,
    distribution, index_names, index_prefixes.

    \b
    Examples:
      p2pfs volume create photos
      p2pfs volume create backup --set dedup=off --passphrase-file /root/backup.pass
    """
    from p2pfs.cli.volumes import volume_keys

    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"New passphrase for {name}", new=True)
    settings = home.settings(overrides)
    made = volume_keys.create(
        home,
        name,
        source,
        settings=settings,
        owner=(os.geteuid(), os.getegid()),
        time_ns=time.time_ns(),
        recovery_file=recovery_file,
    )
    if as_json:
        phrase = {} if recovery_file else {"recovery_phrase": made.recovery_phrase}
        print_json(_as_json(made.volume) | phrase)
        return
    click.echo(f"made the volume {name}; mount it with: p2pfs mount {shlex.quote(name)} DIRECTORY")
    if recovery_file is None:
        click.echo("\nIts recovery phrase, shown this once; keep it on paper:\n")
        click.echo(f"    {made.recovery_phrase}\n")


@command.command("list")
@click.option("--deleted", is_flag=True, help="Those that were deleted and can be brought back.")
@home_option
@json_option
def list_volumes(deleted: bool, home: NodeHome, as_json: bool) -> None:
    """List the volumes this node may use.

    \b
    Examples:
      p2pfs volume list --json
      p2pfs volume list --deleted
    """
    if deleted:
        return volume_care.show_deleted(home, as_json=as_json)
    volumes = _volumes(home)
    if as_json:
        print_json([_as_json(volume) for volume in volumes])
    elif not volumes:
        click.echo("no volumes yet; make one with: p2pfs volume create NAME")
    else:
        rows = [
            (
                f"{volume.owner}/{volume.name}" if volume.access else volume.name,
                volume.owner + (f" ({volume.access})" if volume.access else ""),
                f"{volume.files}" + (f" of {volume.quota_files}" if volume.quota_files else ""),
                format_size(volume.bytes) + (f" of {format_size(volume.quota_bytes)}" if volume.quota_bytes else ""),
            )
            for volume in volumes
        ]
        print_table(("volume", "owner", "files", "content"), rows, right=("files", "content"))
    return None


@command.command("show")
@click.argument("volume")
@home_option
@json_option
def show(volume: str, home: NodeHome, as_json: bool) -> None:
    """Show what the pool knows about one volume.

    \b
    Example:
      p2pfs volume show photos
    """
    found = find_volume(_volumes(home), volume)
    facts = _as_json(found)
    if as_json:
        print_json(facts)
        return
    if found.access:
        rights = "read" if found.access == "ro" else "read and write"
        name = shlex.quote(f"{found.owner}/{found.name}")
        facts["access"] = f"shared by {found.owner}, who owns it, to {rights}; mount it as {name}"
        del facts["members"]  # the owner's to know
    for key, value in facts.items():
        say(f"{key.removesuffix('_s'):18} {_shown(key, value)}")


@command.command("set")
@click.argument("volume")
@click.argument("settings", metavar="KEY=VALUE...", nargs=-1, required=True)
@passphrases.passphrase_options
@home_option
@json_option
def configure(
    volume: str,
    settings: tuple[str, ...],
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    home: NodeHome,
    as_json: bool,
) -> None:
    """Change settings of a volume: trash_removed and trash_expired, how long what was removed or has expired can be
    brought back. 0 turns the trash off; what is in it keeps its time. distribution, for mounts from their next start:
    direct sends every copy from the mount; relay and swarm send one, which peers pass on; auto goes by the uplink.

    index_names=on makes the words of names searchable, index_prefixes=on the beginnings of words: what is named or
    tagged from the next mount on, and the rest with `p2pfs tag --reindex`. Both show the coordinator more.

    Only who has the volume's key can change it: a mount of it from this home is asked to do so; without one, or with
    --passphrase-file or --passphrase-fd, the passphrase is.

    \b
    Examples:
      p2pfs volume set photos trash_removed=7d
      p2pfs volume set scratch trash_removed=0 trash_expired=0
      p2pfs volume set photos index_names=on
      p2pfs volume set photos distribution=swarm
    """
    from p2pfs.cli import asking
    from p2pfs.cli.volumes import volume_keys

    given = _parse_volume_settings(settings)
    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")
    found = find_volume(_volumes(home), volume)
    is_typed = passphrase_file is not None or passphrase_fd is not None
    holder = None if is_typed else asking.holding(home.path, found)
    if holder is None:
        volume_keys.configure(home, found, source, VolumeSettings(**given))
    else:
        list(holder.ask("volume set", volume=found.volume, settings=given))
    made = find_volume(_volumes(home), volume)
    if as_json:
        print_json(_as_json(made))
        return
    for key, value in _as_json(made).items():
        if key in given:
            say(f"{key:18} {_shown(key, value)}")


def _parse_volume_settings(given: tuple[str, ...]) -> dict[str, Any]:
    """By their names on the wire. Raises UserError."""
    values: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or name not in _CHANGEABLE:
            raise UserError(f"“{text}” cannot be set: write one of {', '.join(_CHANGEABLE.values())}", exitcodes.USAGE)
        parsed = parse_given(name, value)
        values[f"{name}_s" if isinstance(parsed, float) else name] = parsed
    return values


def _shown(key: str, value: str | int | float | bool) -> str:
    if key.startswith("quota_") and not value:
        return "none"
    if key.endswith("bytes"):
        return format_size(int(value))
    if key.startswith("trash_") and key.endswith("_s"):
        return format_duration(float(value)) if value else "off"
    if key.startswith("index_") or key == "dedup":
        return "on" if value else "off"
    if key == "created_s":
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(value)))
    return str(value)


@command.command("ls")
@click.argument("volume")
@click.argument("path", default="/")
@click.option("-l", "--long", "long", is_flag=True, help="Also kind, mode, owner, size and time.")
@passphrases.passphrase_options
@home_option
@json_option
def ls(
    volume: str,
    path: str,
    long: bool,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    home: NodeHome,
    as_json: bool,
) -> None:
    """List all files of a volume, or those below PATH, without mounting it.

    Names are encrypted, so this needs the passphrase; every name and size shown was checked against its seal.

    \b
    Examples:
      p2pfs volume ls photos
      p2pfs volume ls photos /2026 --long --passphrase-file ~/.photos.pass
    """
    from p2pfs.cli.volumes import listing

    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")

    def show_item(item: listing.Item) -> None:
        if as_json:
            # One object a line: a volume may have more files than fit in memory.
            click.echo(listing.as_json_line(item))
        else:
            say(listing.as_line(item) if long else item.path)

    listing.walk(home, volume, path, source, show_item)


def _volumes(home: NodeHome) -> list[VolumeInfo]:
    from p2pfs.cli import connect

    return connect.call(home, "GET", "/volumes", None, list[VolumeInfo])


def _as_json(volume: VolumeInfo) -> dict[str, str | int | float | bool]:
    return {
        "id": volume_name(VolumeId(volume.volume)),
        "name": volume.name,
        "owner": volume.owner,
        "files": volume.files,
        "bytes": volume.bytes,
        "small_file_bytes": volume.small_file_bytes,
        "dedup": volume.dedup,
        "created_s": volume.created_s,
        "trash_removed_s": volume.trash_removed_s,
        "trash_expired_s": volume.trash_expired_s,
        "trash_files": volume.trash_files,
        "trash_bytes": volume.trash_bytes,
        "index_names": volume.index_names,
        "index_prefixes": volume.index_prefixes,
        "distribution": volume.distribution,
        "quota_bytes": volume.quota_bytes,
        "quota_files": volume.quota_files,
        "members": volume.members,
        "access": volume.access or "owner",
    }


for _more in (volume_care.rename, volume_care.quota, volume_care.delete, volume_care.undelete):
    command.add_command(_more)
for _more in (volume_sharing.share, volume_sharing.unshare, volume_sharing.members, volume_sharing.accept):
    command.add_command(_more)
