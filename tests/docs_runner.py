"""Runs a page's blocks in order on machines, and compares what they print with what the page shows.

What is shown is compared loosely: each line shown must be printed, in that order, with whatever between; ``…`` stands
for anything, within a line and as a line; runs of blanks are one; a quantity (``42 MiB``, ``3 s``, ``2026-11-22``)
stands for any of that kind. Everything else must be as shown, so a command that says something else now fails here.
"""

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from docs_blocks import Block, Event, steps

BLOCK_S: Final = 90.0
_MARK: Final = "\x1e"
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECONDS: Final = 0.4
"""Between two looks."""
_ANY: Final = {
    "date": r"\d{4}-\d\d-\d\d",
    "clock": r"\d\d:\d\d(?::\d\d)?",
    "sized": r"\d[\d.]* ?(?:B|KiB|MiB|GiB|TiB)(?:/s)?(?!\w)",
    "long": r"(?:(?:\d[\d.]* ?(?:ms|s|min|h|d|seconds|minutes)\b ?)+|now\b)",
    "rest": r".*",
}
_QUANTITY: Final = re.compile("|".join(f"(?P<{name}>{'…' if name == 'rest' else any_})" for name, any_ in _ANY.items()))


@dataclass(frozen=True, slots=True)
class Said:
    """What one command of a block printed, and how it ended."""

    status: int
    text: str


def pattern_of(shown: str) -> re.Pattern[str]:
    """What a line shown on a page stands for, in a line printed without needless blanks."""
    line, words, at = _tidy(shown), "", 0
    for match in _QUANTITY.finditer(line):
        words += re.escape(line[at : match.start()]) + _ANY[match.lastgroup or "rest"]
        at = match.end()
    words += re.escape(line[at:])
    return re.compile(words.removesuffix(r"\ .*") + "(?: .*)?" if words.endswith(r"\ .*") else words)


def missing(shown: Sequence[str], printed: str) -> str:
    """The first line shown that was not printed in its turn; "" when all were."""
    lines = iter([_tidy(line) for line in printed.splitlines()])
    for line in shown:
        if _tidy(line) in ("", "…"):
            continue
        pattern = pattern_of(line)
        if not any(pattern.fullmatch(there) for there in lines):
            return line
    return ""


def _tidy(line: str) -> str:
    return " ".join(line.split())


class Reader:
    """Somebody who follows a page. `enter` gives the command line that runs words on a machine; `happens` does what a
    person's hands do; `answers` are what they type, by name."""

    def __init__(
        self,
        enter: Callable[[str, Sequence[str]], list[str]],
        happens: Callable[[Event], None],
        answers: Mapping[str, str],
    ) -> None:
        self._enter, self._happens = enter, happens
        self.answers = dict(answers)
        self.took: list[tuple[str, float]] = []

    def follow(self, page: Path) -> None:
        """Run all blocks that are to be run."""
        for step in steps(page):
            began = time.monotonic()
            if isinstance(step, Event):
                self._happens(step)
                self.took.append((step.what, time.monotonic() - began))
            elif "on" in step.words:
                self.run(step)
                self.took.append((step.where, time.monotonic() - began))

    def run(self, block: Block) -> None:
        """Until what it prints is what is shown, for as long as the block says."""
        deadline = time.monotonic() + float(block.words.get("within", "0"))
        while True:
            said = self._say(block)
            wrong = self._complaint(block, said)
            if not wrong:
                break
            if time.monotonic() > deadline:
                printed = "\n".join(f"[{one.status}] {one.text}" for one in said)
                raise AssertionError(f"{block.where}: {wrong}\n--- it printed:\n{printed}")
            time.sleep(_SECONDS)
        if name := block.words.get("keeps"):
            self.answers[name] = said[-1].text.strip().splitlines()[0]

    def _complaint(self, block: Block, said: Sequence[Said]) -> str:
        commands = block.commands()
        for number, command in enumerate(commands):
            if number >= len(said):
                return f"“{command.text}” did not end"
            is_last = number == len(commands) - 1
            expected = int(block.words.get("exit", "0")) if is_last else 0
            if said[number].status != expected:
                return f"“{command.text}” ended with {said[number].status}, not {expected}"
            lost = missing(command.shown, said[number].text)
            if lost:
                return f"“{command.text}” did not print “{lost}”"
        return ""

    def _say(self, block: Block) -> list[Said]:
        marked = "".join(f"{command.text}\nprintf '{_MARK}%d{_MARK}' $?\n" for command in block.commands())
        flags = ["-euo", "pipefail"] if block.language == "sh" else ["-o", "pipefail"]
        words = self._enter(block.words["on"], ["bash", *flags, "-c", marked])
        names = block.words.get("types", "").split(",") if "types" in block.words else []
        printed = self._typing(words, [self.answers[name] for name in names]) if names else self._plainly(words)
        parts = printed.split(_MARK)
        return [Said(int(status), text) for text, status in zip(parts[::2], parts[1::2], strict=False)]

    def _plainly(self, words: Sequence[str]) -> str:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=BLOCK_S, check=False,
        )  # fmt: skip
        return done.stdout if _MARK in done.stdout else f"{done.stdout}{_MARK}{done.returncode}{_MARK}"

    def _typing(self, words: Sequence[str], answers: list[str]) -> str:
        """On a terminal, as prompts for secrets want one; an answer is typed when a line waits behind a colon."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        printed, waiting = b"", list(answers)
        deadline = time.monotonic() + BLOCK_S
        try:
            while time.monotonic() < deadline:
                ready, _, _ = select.select([master], [], [], _SECONDS)
                if ready:
                    try:
                        piece = os.read(master, 65536)
                    except OSError:  # everybody has closed it
                        break
                    if not piece:
                        break
                    printed += piece
                elif printed.endswith(b": ") and waiting:
                    os.write(master, f"{waiting.pop(0)}\n".encode())
            process.wait(5)
        finally:
            process.kill()
            process.wait(5)
            os.close(master)
        assert not waiting, f"nobody asked for {len(waiting)} answers:\n{printed.decode(errors='replace')}"
        return _ESCAPES.sub("", printed.decode(errors="replace")).replace("\r\n", "\n")
