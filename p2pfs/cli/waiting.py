"""A sign of life for what takes longer than two seconds and cannot say how far it is; bars are in `progress`.

A thread writes it, as what is waited for may hold the event loop, or none runs. Nothing without a terminal, with
`--json` or with `--quiet`; never around a question to a person. One at a time: inside a sign, a bar or a screen there
is no second one, so that whoever asks the coordinator need not know who shows what meanwhile.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

from p2pfs.cli.show import say

LATE_S: Final = 2.0
"""What is over before that shows nothing."""
_FRAME_S: Final = 0.2
_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR: Final = "\r\033[K"


def is_wanted() -> bool:
    """Whether somebody watches the command that runs, and has not said that they do not want to."""
    context = click.get_current_context(silent=True)
    said = context.params if context is not None else {}
    return os.isatty(2) and not (said.get("as_json") or said.get("quiet"))


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error that `what` goes on, and for how long; the function says a line meanwhile."""
    if _terminal.is_taken:
        yield _terminal.say
        return
    sign = _Sign(what)
    thread = threading.Thread(target=sign.run, name="waiting", daemon=True) if is_wanted() else None
    if thread is not None:
        thread.start()
    try:
        with _terminal.taken(sign.say):
            yield sign.say
    finally:
        sign.over.set()
        if thread is not None:
            thread.join()


@contextmanager
def drawing() -> Iterator[None]:
    """No sign while the block runs: it draws by itself."""
    with _terminal.taken(_say):
        yield


def _say(text: str) -> None:
    say(text, err=True)


class _Terminal:
    """Who draws, and how something is said meanwhile."""

    def __init__(self) -> None:
        self.is_taken = False
        self.say: Callable[[str], None] = _say

    @contextmanager
    def taken(self, say: Callable[[str], None]) -> Iterator[None]:
        before = self.is_taken, self.say
        self.is_taken, self.say = True, say
        try:
            yield
        finally:
            self.is_taken, self.say = before


_terminal: Final = _Terminal()


class _Sign:
    def __init__(self, what: str) -> None:
        self.over = threading.Event()
        self._what, self._is_shown, self._writing = what, False, threading.Lock()

    def run(self) -> None:
        began_s = time.monotonic()
        self.over.wait(LATE_S)
        for frame in itertools.cycle(_FRAMES):
            if self.over.is_set():
                break
            with self._writing:
                self._write(f"\r{frame} {self._what}, {time.monotonic() - began_s:.0f} s")
                self._is_shown = True
            self.over.wait(_FRAME_S)
        with self._writing:
            self._clear()

    def say(self, text: str) -> None:
        """A line of its own."""
        with self._writing:
            self._clear()
            say(text, err=True)

    def _clear(self) -> None:
        """To be called with `_writing`."""
        if self._is_shown:
            self._write(_CLEAR)
        self._is_shown = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
