"""What a shell offers after Tab where a word is more than one choice or one file. Asks no daemon and opens no key."""

from collections.abc import Iterable
from typing import Final

import click
from click.shell_completion import CompletionItem

from p2pfs.types import Role

_MOUNT_OPTIONS: Final = (
    "ro", "allow_other", "noatime", "xattr", "hard", "sync", "writeback_cache",
    "uid=", "gid=", "idmap=", "home=", "passphrase_file=",
)  # fmt: skip


def files(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of files, of something that is only text to click as it may also be `-`."""
    return [CompletionItem(begun, type="file")]


def roles(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Those that an invite may give, with commas between."""
    return _next_of(begun, [Role.CLIENT, Role.PEER, Role.ADMIN])


def mount_options(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """What may stand behind `-o`, settings too, with commas between."""
    from p2pfs.runtime.config import KINDS

    return _next_of(begun, [*_MOUNT_OPTIONS, *(f"{name}=" for name in KINDS)])


def _next_of(begun: str, words: Iterable[str]) -> list[str]:
    before, comma, last = begun.rpartition(",")
    given = {word.partition("=")[0] for word in before.split(",")}
    free = (word for word in words if word.rstrip("=") not in given and word.startswith(last))
    return [f"{before}{comma}{word}" for word in free]
