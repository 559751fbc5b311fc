"""As much of a terminal as p2pfs' output asks of one: text, colours, lines, moving and clearing. Pure.

What it does not know it passes over, as a terminal would. `lines` gives each line with the colours it was written in.
"""

import re
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"\x1b\[(?P<parameters>[0-9;:<=>?]*)(?P<final>[@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b."
    r"|(?P<control>[\x00-\x1f\x7f])|(?P<text>[^\x00-\x1f\x7f]+)"
)


@dataclass
class Screen:
    """A grid of cells, each a character and the SGR parameters it was written with."""

    columns: int
    rows: int
    _cells: list[list[tuple[str, str]]] = field(default_factory=list)
    _row: int = 0
    _column: int = 0
    _style: str = ""

    def __post_init__(self) -> None:
        self._clear()

    def feed(self, text: str) -> None:
        """Whole sequences only; the caller collects what a program writes."""
        for token in _TOKEN.finditer(text):
            if token["text"] is not None:
                for character in token["text"]:
                    self._put(character)
            elif token["control"] is not None:
                self._control(token["control"])
            elif token["final"] is not None:
                self._command(token["final"], token["parameters"])

    def lines(self) -> list[str]:
        """With ANSI colours, without blanks at the ends, and without empty lines at the bottom."""
        shown = [_coloured(row) for row in self._cells]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def _clear(self) -> None:
        self._cells = [self._blank() for _ in range(self.rows)]

    def _blank(self) -> list[tuple[str, str]]:
        return [(" ", "")] * self.columns

    def _put(self, character: str) -> None:
        if self._column >= self.columns:
            self._column = 0
            self._line_feed()
        self._cells[self._row][self._column] = (character, self._style)
        self._column += 1

    def _line_feed(self) -> None:
        self._row += 1
        if self._row >= self.rows:
            self._cells = [*self._cells[1:], self._blank()]
            self._row = self.rows - 1

    def _control(self, control: str) -> None:
        if control == "\n":
            self._line_feed()
        elif control == "\r":
            self._column = 0
        elif control == "\b":
            self._column = max(0, self._column - 1)
        elif control == "\t":
            self._column = min(self.columns - 1, (self._column // 8 + 1) * 8)

    def _command(self, final: str, parameters: str) -> None:
        numbers = [int(word) if word.isdigit() else 0 for word in parameters.strip("?<=>").split(";")]
        count = max(1, numbers[0])
        if final == "m":
            first, _, rest = parameters.partition(";")
            self._style = rest if first in ("", "0") else ";".join(filter(None, (self._style, parameters)))
        elif final in "AB":
            self._row = min(self.rows - 1, max(0, self._row + (count if final == "B" else -count)))
        elif final in "CD":
            self._column = min(self.columns - 1, max(0, self._column + (count if final == "C" else -count)))
        elif final == "G":
            self._column = min(self.columns, count) - 1
        elif final in "Hf":
            column = numbers[1] if len(numbers) > 1 else 1
            self._row, self._column = min(self.rows, count) - 1, min(self.columns, max(1, column)) - 1
        elif final == "J" and numbers[0] in (2, 3):
            self._clear()
        elif final in "JK":
            self._erase(final, numbers[0])
        elif final == "h" and parameters in ("?1049", "?47"):  # the other screen
            self._clear()
            self._row = self._column = 0

    def _erase(self, final: str, what: int) -> None:
        row = self._cells[self._row]
        begin, end = {0: (self._column, self.columns), 1: (0, self._column + 1)}.get(what, (0, self.columns))
        row[begin:end] = [(" ", "")] * (end - begin)
        if final == "J" and what == 0:
            for number in range(self._row + 1, self.rows):
                self._cells[number] = self._blank()


def _coloured(row: list[tuple[str, str]]) -> str:
    text, style = "", ""
    plain = "".join(character for character, _ in row).rstrip()
    for character, wanted in row[: len(plain)]:
        if wanted != style:
            text += "\x1b[0m" + (f"\x1b[{wanted}m" if wanted else "")
            style = wanted
        text += character
    return text + ("\x1b[0m" if style else "")
