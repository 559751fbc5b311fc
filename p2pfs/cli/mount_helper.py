"""`mount.p2pfs` and `umount.p2pfs`: how mount(8), umount(8) and fstab call us.

`mount -t p2pfs VOLUME DIR -o …` becomes `mount.p2pfs VOLUME DIR -o …`, which returns when the mount is usable; a plain
`umount DIR` becomes `umount.p2pfs DIR`, which waits until everything is stored. Both only translate.
"""

import os
import sys
from pathlib import Path
from typing import Final

import click

from p2pfs import exitcodes
from p2pfs.cli import main as cli
from p2pfs.cli.options import MountPoint
from p2pfs.cli.progress import stored_bar
from p2pfs.cli.volumes import mount as mounting
from p2pfs.cli.volumes import umount as unmounting
from p2pfs.runtime import mounts
from p2pfs.runtime.home import NodeHome, default_home

PASSPHRASES: Final = Path("/etc/p2pfs/mounts")
"""Where root keeps VOLUME.passphrase for lines of fstab that name no file, as the unit p2pfs-mount@ does."""


@click.command("mount.p2pfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("volume")
@click.argument("mount_point", type=MountPoint())
@click.option("-o", "options", metavar="OPTIONS", multiple=True, help="As in fstab, with commas between; see above.")
@click.option("-f", "fake", is_flag=True, help="Do everything except mounting.")
@click.option("-r", "read_only", is_flag=True, help="The same as -o ro.")
@click.option("-s", "_sloppy", is_flag=True, help="Ignored.")
@click.option("-n", "_no_mtab", is_flag=True, help="Ignored.")
@click.option("-v", "_verbose", is_flag=True, help="Ignored.")
@click.option("-w", "_writable", is_flag=True, help="Ignored.")
@click.option("-t", "_type", metavar="TYPE", help="Ignored.")
@click.option("-N", "_namespace", metavar="NS", help="Ignored.")
def mount_command(
    volume: str, mount_point: Path, options: tuple[str, ...], fake: bool, read_only: bool, **_ignored: object
) -> int:
    """Called by mount(8) for file systems of the type p2pfs; returns when the mount is usable.

    Options: ro; allow_other, for others than who mounts (mounts of root have it); noatime: reading leaves atime alone;
    xattr: extended attributes and access control lists; hard: wait for a pool that does not answer; sync:
    durability=sync; writeback_cache: the kernel collects small writes, and nobody else can mount the volume meanwhile;
    uid=N and gid=N: whose all files are here; idmap=u:STORED:LOCAL[:COUNT],g:… or idmap=FILE: whose they are, by
    number; home=DIR: the node's state directory; passphrase_file=FILE; and settings, such as io_timeout=10s
    (p2pfs-config(5)). What fstab has for others, such as _netdev, nofail and x-systemd.automount, is passed over.

    Without the option passphrase_file, root's passphrase is the first line of /etc/p2pfs/mounts/VOLUME.passphrase.

    \b
    Examples:
      mount -t p2pfs photos /srv/photos -o passphrase_file=/etc/p2pfs/photos.pass
      photos /srv/photos p2pfs _netdev,nofail,x-systemd.automount 0 0     (in fstab)
    """
    if volume.startswith("/"):  # mount(8) found a file of that name where it stood, such as /home for the volume home
        volume = volume.rpartition("/")[2]
    words = [*_kept_passphrase(volume), *options, *(["ro"] if read_only else [])]
    request = mounting.prepare(
        volume, mount_point, ",".join(words),
        home=NodeHome(default_home().absolute()), overrides={}, passphrase_file=None, passphrase_fd=None,
        log_file=None, background=True,
    )  # fmt: skip
    return exitcodes.OK if fake else mounting.serve_behind(request)


def _kept_passphrase(volume: str) -> list[str]:
    """The option for the file root keeps, if there is one; an option given later replaces it."""
    file = PASSPHRASES / f"{volume}.passphrase"
    is_name = not {"/", ","} & set(volume)
    return [f"passphrase_file={file}"] if is_name and os.geteuid() == 0 and file.is_file() else []


@click.command("umount.p2pfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("mount_point", type=MountPoint())
@click.option("-f", "force", is_flag=True, help="Do not wait for what is not stored yet.")
@click.option("-l", "lazy", is_flag=True, help="The same.")
@click.option("-n", "_no_mtab", is_flag=True, help="Ignored.")
@click.option("-r", "_read_only", is_flag=True, help="Ignored.")
@click.option("-v", "_verbose", is_flag=True, help="Ignored.")
@click.option("-t", "_type", metavar="TYPE", help="Ignored.")
@click.option("-N", "_namespace", metavar="NS", help="Ignored.")
def umount_command(mount_point: Path, force: bool, lazy: bool, **_ignored: object) -> int:
    """Called by umount(8) for mounts of the type fuse.p2pfs; waits until everything is stored.

    \b
    Example:
      umount /srv/photos
    """
    path = mounts.canonical(mount_point)
    if force or lazy:
        unmounting.detach(path)
        return exitcodes.OK
    with stored_bar() as progress:
        unmounting.unmount(path, progress)
    return exitcodes.OK


def main() -> None:
    """Entry point of the `mount.p2pfs` script."""
    sys.exit(cli.run(sys.argv[1:], mount_command, "mount.p2pfs"))


def umount() -> None:
    """Entry point of the `umount.p2pfs` script."""
    sys.exit(cli.run(sys.argv[1:], umount_command, "umount.p2pfs"))
