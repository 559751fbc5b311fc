"""Handing a recovery kit over to a person, once, and reading it again. Never by arguments: every user sees those."""

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from p2pfs import exitcodes
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.files import write_durably

if TYPE_CHECKING:
    from p2pfs.format.kits import Kit

_MOST_BYTES: Final = 65536

kit_file_option = click.option(
    "--kit-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the recovery kit to a new file, mode 0600, instead of printing it.",
)


class HandOver:
    """Takes a kit: into `path` at once, or to be printed by `show` when all went well."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._text = ""

    def require_new(self) -> None:
        """Raises UserError: EXISTS when the file is there, as it may be another pool's kit; USAGE when it cannot be."""
        if self._path is not None and os.path.lexists(self._path):
            raise UserError(f"{self._path} is there already: name a new file for the recovery kit", exitcodes.EXISTS)
        if self._path is not None and not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise UserError(f"nothing can be written in {self._path.parent}", exitcodes.USAGE)

    def take(self, kit: "Kit") -> None:
        """Raises NoSpace, Unavailable when it cannot be written."""
        from p2pfs.format.kits import encode_kit

        if self._path is None:
            self._text = encode_kit(kit)
        else:
            self.require_new()
            write_durably(self._path, encode_kit(kit).encode("ascii"), 0o600)

    def show(self) -> None:
        """Say where it is, or print it: the only time."""
        if self._path is not None:
            click.echo(f"the recovery kit is in {self._path}: move it to another machine, or print it")
            return
        click.echo(
            "This is the pool's recovery kit, shown only now. With it, and with peers that answer, the pool comes"
        )
        click.echo("back when this disk is lost; whoever else has it can read the coordinator's backups. Keep it safe:")
        click.echo("")
        click.echo(self._text)


def read_kit(file: str | None) -> "Kit":
    """The kit in FILE, on standard input for "-", or asked for.

    Raises:
        UserError: There is none.
    """
    from p2pfs.format.kits import decode_kit

    try:
        if file is not None and file != "-":
            with Path(file).open("rb") as opened:
                data = opened.read(_MOST_BYTES)
        elif file == "-" or not sys.stdin.isatty():
            data = sys.stdin.buffer.read(_MOST_BYTES)
        else:
            data = _ask().encode()
        return decode_kit(data.decode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", exitcodes.USAGE) from None
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None


def _ask() -> str:
    """Its lines, unseen, up to the last one."""
    lines = [getpass.getpass("Paste the recovery kit (it is not shown): ")]
    while "END" not in lines[-1] and lines[-1]:
        lines.append(getpass.getpass(""))
    return "\n".join(lines)
