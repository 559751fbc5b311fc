"""`p2pfs key list|add|remove|passwd`: the ways of opening a volume."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pfs import exitcodes
from p2pfs.cli import passphrases
from p2pfs.cli.members import find_volume
from p2pfs.cli.options import home_option, json_option, require_answer, yes_option
from p2pfs.cli.show import print_json, print_table
from p2pfs.cli.volumes import volume_sharing
from p2pfs.errors import UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.wire.volumes import VolumeInfo

if TYPE_CHECKING:
    from p2pfs.cli.volumes.key_changes import Slot

new_passphrase_option = click.option(
    "--new-passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Read the new passphrase from the first line of FILE.",
)


@click.group("key")
def command() -> None:
    """See and change the ways of opening a volume: its passphrases and recovery phrases.

    Each wraps the same key. Whoever knew a passphrase and kept a copy of its slot can still open the volume after it
    was removed: that takes the way away, not the knowledge.

    \b
    Examples:
      p2pfs key list photos
      p2pfs key passwd photos
    """


@command.command("list")
@click.argument("volume")
@home_option
@json_option
def list_slots(volume: str, home: NodeHome, as_json: bool) -> None:
    """List the ways of opening VOLUME, without opening it.

    \b
    Example:
      p2pfs key list photos
    """
    from p2pfs.cli.volumes import key_changes

    _show(key_changes.slots(home, _find(home, volume)), as_json)


@command.command("add")
@click.argument("volume")
@click.option("--recovery", is_flag=True, help="A new recovery phrase, shown once, instead of a passphrase.")
@passphrases.passphrase_options
@new_passphrase_option
@home_option
@json_option
def add(
    volume: str,
    recovery: bool,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    new_passphrase_file: Path | None,
    home: NodeHome,
    as_json: bool,
) -> None:
    """Add a passphrase, or a recovery phrase, that opens VOLUME too. Asks for one that opens it now.

    \b
    Examples:
      p2pfs key add photos
      p2pfs key add photos --recovery
    """
    from p2pfs.cli.volumes import key_changes

    found = _find(home, volume)
    old = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}")
    if recovery:
        if new_passphrase_file is not None:
            raise UserError("a recovery phrase is made, not given: leave --new-passphrase-file out", exitcodes.USAGE)
        slots, phrase = key_changes.add_recovery(home, found, old)
        if as_json:
            print_json({"recovery_phrase": phrase, "slots": slots})
        else:
            click.echo(f"Its recovery phrase, shown this once; keep it on paper:\n\n    {phrase}\n")
        return
    new = passphrases.source(new_passphrase_file, None, prompt=f"Another passphrase for {volume}", new=True)
    _show(key_changes.add_passphrase(home, found, old, new), as_json)


@command.command("passwd")
@click.argument("volume")
@passphrases.passphrase_options
@new_passphrase_option
@home_option
@json_option
def passwd(
    volume: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    new_passphrase_file: Path | None,
    home: NodeHome,
    as_json: bool,
) -> None:
    """Put a new passphrase in the place of an old one. After a forgotten one give the recovery phrase: it stays, and
    the new passphrase is added.

    \b
    Examples:
      p2pfs key passwd photos
      p2pfs key passwd photos --passphrase-file old.pass --new-passphrase-file new.pass
    """
    from p2pfs.cli.volumes import key_changes

    found = _find(home, volume)
    old = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Old passphrase of {volume}")
    new = passphrases.source(new_passphrase_file, None, prompt=f"New passphrase for {volume}", new=True)
    _show(key_changes.replace_passphrase(home, found, old, new), as_json)


@command.command("remove")
@click.argument("volume")
@click.argument("slot")
@passphrases.passphrase_options
@yes_option
@home_option
@json_option
def remove(
    volume: str,
    slot: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    yes: bool,
    home: NodeHome,
    as_json: bool,
) -> int:
    """Remove one way of opening VOLUME: SLOT is its id in `p2pfs key list`, or the beginning of it. Asks for a
    passphrase that opens another one: what is left must be known to open.

    \b
    Example:
      p2pfs key remove photos 3f9c
    """
    from p2pfs.cli.volumes import key_changes

    require_answer(yes, as_json)
    found = _find(home, volume)
    chosen = key_changes.choose(key_changes.slots(home, found), slot)
    if not yes and not click.confirm(f"Remove the {chosen.kind} {chosen.id} of {volume}?"):
        return exitcodes.FAILED
    kept = passphrases.source(passphrase_file, passphrase_fd, prompt=f"A passphrase of {volume} that stays")
    _show(key_changes.remove(home, found, chosen, kept), as_json)
    return exitcodes.OK


command.add_command(volume_sharing.fingerprint)


def _find(home: NodeHome, volume: str) -> VolumeInfo:
    from p2pfs.cli import connect

    return find_volume(connect.call(home, "GET", "/volumes", None, list[VolumeInfo]), volume)


def _show(slots: "list[Slot]", as_json: bool) -> None:
    if as_json:
        print_json(slots)
    else:
        print_table(("slot", "kind"), [(slot.id, slot.kind) for slot in slots])
