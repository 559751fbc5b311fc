"""How answers look: tables and sentences for people, JSON for programs. No decisions here.

Much of what is shown was written by other nodes: no table and no sentence commands the terminal it is printed on.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2pfs.runtime.terminal import printable

_WIDE: Final = 200
_WRAPPED: Final = frozenset({"address", "why"})


def print_json(value: object) -> None:
    """Any message, list or dictionary as indented JSON on standard output. What is no UTF-8 in the name of a file is
    shown as U+FFFD, as it is to people."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_encodable(value))
    click.echo(msgspec.json.format(encoded, indent=2).decode())


def _encodable(value: Any) -> Any:  # noqa: ANN401 - anything that JSON can hold
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(inner) for inner in value]
    return _encodable(msgspec.to_builtins(value)) if isinstance(value, msgspec.Struct) else value


def say(text: str, *, err: bool = False) -> None:
    """A line for a person, or some. Not for text that is coloured already."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Iterable[str] = ()) -> None:
    """Rows under titles; columns named in `right` are numbers."""
    console_for_output().print(make_table(titles, rows, right=right))


def make_table(titles: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Iterable[str] = ()) -> Table:
    """The same, not printed yet."""
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold underline")
    numbers = frozenset(right)
    for title in titles:
        table.add_column(
            title, justify="right" if title in numbers else "left", overflow="fold", no_wrap=title not in _WRAPPED
        )
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: str | Text) -> str | Text:
    if isinstance(value, str):
        return printable(value)
    value = value.copy()
    value.plain = printable(value.plain)  # as long as before, so its styles stay where they are
    return value


def console_for_output() -> Console:
    """Standard output. Piped output is not cut at 80 columns: something else reads it."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_WIDE)
