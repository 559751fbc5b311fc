"""`p2pfs accesslog MNT`: each request of the kernel to a mount, as it is answered, while somebody reads."""

from pathlib import Path
from typing import Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import json_option
from p2pfs.errors import PoolError, UserError

_NOT_KNOWN: Final = "this request is not known"
"""What `p2pfs_mount.life` says to whom it does not understand."""


@click.command("accesslog")
@click.argument("directory", metavar="MNT", type=click.Path(path_type=Path))
@json_option
def command(directory: Path, as_json: bool) -> int:
    """Show every request to the mount at MNT with who asked, its outcome and how long it took, until Ctrl-C.

    Only the user that mounted (and root) can read it; names stay on this machine. Nothing is recorded while nobody
    reads; a reader that is too slow misses lines, and is told how many.

    \b
    Examples:
      p2pfs accesslog ~/photos
      p2pfs accesslog ~/photos | grep EIO
    """
    import msgspec

    from p2pfs.cli.asking import mounted
    from p2pfs.cli.show import say

    mount = mounted(directory)
    try:
        for told in mount.ask("access log"):
            if told["missed"]:
                say(f"p2pfs: {told['missed']} lines were missed", err=True)
            if told["lines"]:
                lines = [msgspec.json.encode({"line": line}).decode() for line in told["lines"]] if as_json else None
                click.echo("\n".join(lines or told["lines"]))
    except KeyboardInterrupt:  # how it is ended
        click.echo()
    except PoolError as error:
        if str(error) != _NOT_KNOWN:
            raise
        raise UserError(f"the mount at {mount.record.mount_point} is of an older version", exitcodes.FAILED) from None
    return exitcodes.OK
