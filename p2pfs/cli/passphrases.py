"""Where a passphrase comes from: a prompt, a file or a file descriptor; never arguments or the environment."""

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from p2pfs import exitcodes
from p2pfs.errors import UserError

Passphrase = Callable[[], str]
"""Asks for or reads the passphrase when it is needed."""

F = TypeVar("F", bound=Callable[..., object])
_MOST_BYTES: Final = 4096
_WEAK_LENGTH: Final = 12


def passphrase_options(function: F) -> F:
    """`--passphrase-file` and `--passphrase-fd`; the command gets `passphrase_file` and `passphrase_fd`."""
    function = click.option(
        "--passphrase-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Read the passphrase (or recovery phrase) from the first line of FILE.",
    )(function)
    return click.option(
        "--passphrase-fd",
        metavar="FD",
        type=click.IntRange(min=0),
        help="Read it from the first line of an open file descriptor.",
    )(function)


def source(file: Path | None, fd: int | None, *, prompt: str = "Passphrase", new: bool = False) -> Passphrase:
    """A function that gets the passphrase. `new`: a prompt asks twice.

    Raises:
        UserError: Both a file and a descriptor were given.
    """
    if file is not None and fd is not None:
        raise UserError("give --passphrase-file or --passphrase-fd, not both", exitcodes.USAGE)
    if file is not None:
        return lambda: from_file(file)
    if fd is not None:
        return lambda: _from_descriptor(fd)
    return lambda: _from_prompt(prompt, new)


def from_file(file: Path) -> str:
    """The first line of `file`.

    Raises:
        UserError: It cannot be read, or is empty.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the passphrase file {file}: {error.strerror}", exitcodes.USAGE) from None
    return _first_line(data, str(file))


def _from_descriptor(fd: int) -> str:
    data = b""
    try:
        while len(data) <= _MOST_BYTES and b"\n" not in data and (piece := os.read(fd, _MOST_BYTES)):
            data += piece
    except OSError as error:
        raise UserError(
            f"cannot read the passphrase from file descriptor {fd}: {error.strerror}", exitcodes.USAGE
        ) from None
    return _first_line(data, f"file descriptor {fd}")


def _first_line(data: bytes, where: str) -> str:
    line = data.split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise UserError(f"there is no passphrase in the first line of {where}", exitcodes.USAGE)
    if len(line) > _MOST_BYTES:
        raise UserError(f"the first line of {where} is too long for a passphrase", exitcodes.USAGE)
    return os.fsdecode(line)


def _from_prompt(prompt: str, new: bool) -> str:
    _require_terminal()
    while True:
        given = getpass.getpass(f"{prompt}: ")
        if not given:
            click.echo("It must not be empty.", err=True)
            continue
        if not new:
            return given
        if len(given) < _WEAK_LENGTH:
            click.echo("That is short: whoever copies the coordinator's disk can try to guess it.", err=True)
        if getpass.getpass(f"{prompt} again: ") == given:
            return given
        click.echo("They differ; once more.", err=True)


def _require_terminal() -> None:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        raise UserError(
            "there is no terminal to ask for the passphrase: give --passphrase-file or --passphrase-fd",
            exitcodes.USAGE,
        ) from None
