"""The pages as a program sees them: fenced blocks in order, what runs them, and the commands in them.

A fence says its language first. ``console`` has commands behind ``$ `` and what they print, ``sh`` has commands only;
every other language is read and not run. Words after the language say how a block is run:

    on=NAME       by the page's test, on that machine of its
    types=A,B     what the test types at the prompts, in order: names of answers that the test knows
    keeps=NAME    the first line that the last command prints is kept as the answer NAME
    exit=N        the last command's exit status, where it is not 0
    within=N      said again until what is shown comes, for N s at most

A block that no test runs stands after ``<!-- not run: CLASS, and why -->``; the classes are below. What a person does
with their hands is a comment too: ``<!-- machine NAME: power off -->``. It is no parser of Markdown: fences begin a
line, as they do here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
GENERATED: Final = ROOT / "docs" / "reference"
"""Pages made from the code, whose examples the code's own tests try."""
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

COMMANDS: Final = frozenset({"console", "sh"})
TEXTS: Final = frozenset({"text", "mermaid", "ini", "toml", "json", "yaml", "python", "promql"})
CLASSES: Final = {
    "systemd": "needs a booted systemd: `make test-package` does such things",
    "installs": "changes this machine, or takes minutes: `make test-package` or `.ci/run` does it",
    "elsewhere": "a test named there runs the same",
    "made up": "names files, machines or numbers of the reader's own",
}
"""Why a block may be left out."""
_WORDS: Final = frozenset({"on", "types", "keeps", "exit", "within"})

_FENCE: Final = re.compile(r"^```(.*)$")
_NOT_RUN: Final = re.compile(r"<!-- not run: ([a-z ]+?), (.+?) -->")
_EVENT: Final = re.compile(r"<!-- machine ([\w-]+): ([a-z ]+?) -->")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a block, and the lines that a reader is told to expect of it."""

    text: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person does to a machine between two blocks."""

    machine: str
    what: str


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is that of its fence; `excuse` is the class and the words why no test runs it."""

    page: Path
    line: int
    language: str
    words: dict[str, str]
    text: str
    excuse: tuple[str, str] | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[Command]:
        """Those of a block with commands, in order."""
        if self.language == "sh":
            return [Command(self.text)]
        found: list[Command] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif found and found[-1].text.endswith("\\") and not found[-1].shown:
                found[-1] = Command(f"{found[-1].text}\n{line.removeprefix('> ')}")
            elif found:
                found[-1] = Command(found[-1].text, (*found[-1].shown, line))
            else:
                raise ValueError(f"{self.where}: begins with no command")
        return found


def steps(page: Path) -> Iterator[Block | Event]:
    """Blocks and events of a page, as they follow each other."""
    excuse: tuple[str, str] | None = None
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence and not fence[1]:
                language, words = _info(opened[1])
                yield Block(page, opened[0], language, words, "".join(inside), excuse)
                opened, excuse, inside = None, None, []
            else:
                inside.append(f"{line}\n")
        elif fence:
            opened = number, fence[1]
        elif event := _EVENT.fullmatch(line):
            yield Event(event[1], event[2])
        elif reason := _NOT_RUN.fullmatch(line):
            excuse = reason[1], reason[2]
        elif line:
            excuse = None
    assert opened is None, f"{page}:{opened}: never closed"


def _info(text: str) -> tuple[str, dict[str, str]]:
    language, *rest = text.split() or [""]
    return language, dict(word.partition("=")[::2] for word in rest)


def blocks(page: Path) -> list[Block]:
    """Those of a page."""
    return [step for step in steps(page) if isinstance(step, Block)]


def complaint(block: Block, run_pages: frozenset[str]) -> str:
    """What is wrong with how a block is marked; "" when nothing is. `run_pages` are those that a test runs."""
    if block.language in TEXTS or GENERATED in block.page.parents:
        return ""
    if block.language not in COMMANDS:
        return f"say what it is: one of {', '.join(sorted(COMMANDS | TEXTS))}"
    unknown = block.words.keys() - _WORDS
    if unknown:
        return f"{', '.join(sorted(unknown))} means nothing"
    if (block.excuse is None) == ("on" not in block.words):
        return "write on=MACHINE for the page's test, or <!-- not run: CLASS, why --> above it, and not both"
    if block.excuse is not None and block.excuse[0] not in CLASSES:
        return f"the class is one of: {', '.join(CLASSES)}"
    if block.excuse is None and str(block.page.relative_to(ROOT)) not in run_pages:
        return "no test runs this page"
    return ""
