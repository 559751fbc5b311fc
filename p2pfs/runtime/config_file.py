"""Keeps settings that a person gave once in a home's config.toml. Reading it is `p2pfs.runtime.config`'s."""

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from p2pfs import exitcodes
from p2pfs.errors import UserError
from p2pfs.runtime.config import parse_setting
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome

_HEAD = "# Settings of this p2pfs node; docs/commands.md lists them all with their defaults.\n"


def write_settings(home: NodeHome, settings: Mapping[str, str]) -> None:
    """Add settings to the home's configuration; lines already there for the same names are replaced.

    Raises:
        Invalid: An unknown name or a value it cannot have.
        UserError: The configuration is a link to a file that may be anybody's.
    """
    for name, value in settings.items():
        parse_setting(name, value)
    if not settings:
        return
    try:
        lines = _own_text(home.config_path).splitlines()
    except FileNotFoundError:
        lines = [_HEAD.rstrip()]
    kept = [line for line in lines if _name_in(line) not in settings]
    # JSON's strings are TOML's basic strings, except for DEL, which no setting contains.
    kept += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()]
    write_durably(home.config_path, ("\n".join(kept) + "\n").encode(), 0o600, like=home.path)


def is_written(home: NodeHome, name: str) -> bool:
    """Whether the home's configuration says something of a setting."""
    try:
        return name in map(_name_in, home.config_path.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return False


def _own_text(path: Path) -> str:
    """Of a file that has no name but this one. Root writes what is read here to a file of the home's owner, who must
    not get to read so what is root's."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a symbolic link: change the file it leads to", exitcodes.FAILED) from None
    with open(fd, encoding="utf-8") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise UserError(f"{path} is no file of its own: replace it by a copy", exitcodes.FAILED)
        return file.read()


def _name_in(line: str) -> str:
    return line.partition("=")[0].strip()
