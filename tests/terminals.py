"""A command at a real terminal: a pseudo-terminal that a test types into."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class Typing:
    """One p2pfs command whose standard input, output and error are a terminal."""

    def __init__(self, arguments: Sequence[str], home: Path) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "p2pfs.cli.main", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=dict(os.environ, P2PFS_HOME=str(home), TERM="dumb", COLUMNS="200"),
        )
        os.close(theirs)
        self.shown = ""
        self._answered = 0

    def answer(self, question: str, text: str, *, within_s: float = 30.0) -> None:
        """Wait until `question` is the last thing shown, since the last answer, and type `text` and Enter."""
        self._read(lambda: question in self.shown[self._answered :].rpartition("\n")[2], within_s)
        self._answered = len(self.shown)
        os.write(self._ours, text.encode() + b"\n")

    def end(self, *, within_s: float = 30.0) -> int:
        """Read to the end; the exit status."""
        self._read(lambda: False, within_s)
        os.close(self._ours)
        return self._process.wait(within_s)

    def _read(self, is_there: Callable[[], bool], within_s: float) -> None:
        until_s = time.monotonic() + within_s
        while not is_there():
            ready, _, _ = select.select([self._ours], [], [], until_s - time.monotonic())
            assert ready, f"waited in vain after: {self.shown}"
            try:
                more = os.read(self._ours, 65536)
            except OSError:  # EIO: the other end is closed
                return
            self.shown += more.decode()
