"""`p2pfs fsck`: checks a volume as a member with its key sees it, and mends it. docs/fsck.md says what it can find."""

import os
from pathlib import Path

import click

from p2pfs import exitcodes
from p2pfs.cli import passphrases
from p2pfs.cli.options import home_option, json_option, yes_option
from p2pfs.errors import UserError
from p2pfs.runtime import mounts
from p2pfs.runtime.home import NodeHome


@click.command("fsck")
@click.argument("target", metavar="[PATH|VOLUME]", default=".")
@click.option("--data", is_flag=True, help="Also fetch every copy of every chunk from its holder, and open it.")
@click.option("--repair", is_flag=True, help="Mend what can be mended; ask before anything that nobody vouched for.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@passphrases.passphrase_options
@yes_option
@home_option
@json_option
def command(
    target: str,
    data: bool,
    repair: bool,
    quiet: bool,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    yes: bool,
    home: NodeHome,
    as_json: bool,
) -> int:
    """Check a volume: names, heads, contents, link counts, what nothing leads to, and whether there are enough copies.

    Takes a volume's name, or a path in a mounted one: then what is below the path. Works while the volume is mounted,
    with what is stored by then. Exit status 0: nothing is wrong; 22: all of it is mended; 23: something is left.

    \b
    Examples:
      p2pfs fsck photos
      p2pfs fsck ~/photos/2026 --data
      p2pfs fsck photos --data --repair
    """
    from p2pfs.cli.health import fsck_run, fsck_show

    name, volume, path, found_home = _meant(target, home)
    source = passphrases.source(passphrase_file, passphrase_fd, prompt=f"Passphrase of {name}")
    findings = fsck_run.run(found_home, volume, path, source, data=data, repair=repair, yes=yes)
    return fsck_show.show(findings, name, path, repair=repair, as_json=as_json)


def _meant(target: str, home: NodeHome) -> tuple[str, str, bytes, NodeHome]:
    """(what the volume is called, what to ask for it by, path in it, the home it is mounted from or that was given).

    Raises:
        UserError: NOT_MOUNTED, when it looks like a path and is in no mount.
    """
    path = Path(os.path.realpath(target))
    record = mounts.find_above(path)
    if record is not None and record.alive():
        inside = path.relative_to(record.mount_point)
        below = b"" if inside == Path() else os.fsencode(inside)
        return record.volume, record.identity, below, NodeHome(Path(record.home))
    if target.startswith((".", "~")) or "/" in target:
        raise UserError(
            f"{target} is not in a volume mounted by this user: name the volume instead", exitcodes.NOT_MOUNTED
        )
    return target, target, b"", home
