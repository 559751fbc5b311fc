"""Every command on every page exists and is marked as run by a test, or says why not. The tests that run them are
tests/cluster/test_documentation.py."""

import re
from pathlib import Path

import pytest
from docs_blocks import CLASSES, COMMANDS, PAGES, ROOT, Block, Command, Event, blocks, complaint, steps
from docs_commands import calls, mentioned_wrongly, refusal

pytestmark = pytest.mark.l0

RUN_PAGES = frozenset({"README.md", "docs/tutorial.md", "docs/using.md", "docs/operations.md"})
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
UNITS = {path.stem for path in (ROOT / "packaging").glob("*.service")}


@BY_NAME
def test_every_block_says_what_it_is_and_who_runs_it(page: Path) -> None:
    told = [(block.where, complaint(block, RUN_PAGES)) for block in blocks(page)]
    assert [pair for pair in told if pair[1]] == []
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^ +```.*", text, flags=re.MULTILINE) == []  # found by nobody
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^ {4,}(?:\$ )?p2pfs .*", prose, flags=re.MULTILINE) == []  # nor are blocks by indentation


@BY_NAME
def test_what_is_run_elsewhere_names_where(page: Path) -> None:
    for block in blocks(page):
        if block.excuse is not None and block.excuse[0] == "elsewhere":
            assert (ROOT / block.excuse[1].partition(" ")[0]).is_file(), block.where


@BY_NAME
def test_every_command_in_a_block_is_a_command(page: Path) -> None:
    wrong = []
    for block in blocks(page):
        if block.language in COMMANDS:
            scripts = [command.text for command in block.commands()]
            wrong += [
                (block.where, words, refusal(words)) for text in scripts for words in calls(text) if refusal(words)
            ]
    assert wrong == []


@BY_NAME
def test_every_command_in_a_sentence_is_a_command(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    codes = re.findall(r"`(p2pfs [^`]+)`", prose)
    codes = [code for code in codes if not re.fullmatch(r"[\w -]+ \d+", code)]  # a label that keeps keys apart
    assert [(code, mentioned_wrongly(code)) for code in codes if mentioned_wrongly(code)] == []


@BY_NAME
def test_every_make_target_and_unit_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"(?:^(?:\$ )?|`)make ([a-z-]+)", text, flags=re.MULTILINE)
    units = [name for line in re.findall(r"systemctl .*", text) for name in re.findall(r"p2pfs-[a-z]+@?", line)]
    assert set(targets) - TARGETS == set()
    assert set(units) - UNITS == set()


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {
        (index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index.read_text(encoding="utf-8"))
    }
    pages = {page for page in PAGES if page.name != "README.md" and page.parent.name != "adr"}
    assert {str(page.relative_to(ROOT)) for page in pages - listed} == set()


def test_pages_show_enough_for_that_to_mean_something() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.language in COMMANDS]
    shown = [words for block in found for command in block.commands() for words in calls(command.text)]
    assert len(found) > 20
    assert len(shown) > 60
    assert {block.excuse[0] for block in found if block.excuse} <= CLASSES.keys()


PAGE = """
```console on=attic keeps=invite
$ p2pfs invite bob@nas \\
>     --roles peer
p2pfs1…
$ ls
```
<!-- machine nas: power off -->

<!-- not run: systemd, no systemd here -->

```sh
systemctl start p2pfs-peer
```
words
```text
anything
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_a_page_is_blocks_and_events_in_order(page: Path) -> None:
    first, event, second, third = steps(page)
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    assert isinstance(third, Block)
    assert (first.language, first.words, first.line) == ("console", {"on": "attic", "keeps": "invite"}, 2)
    assert first.commands() == [
        Command("p2pfs invite bob@nas \\\n    --roles peer", ("p2pfs1…",)),
        Command("ls"),
    ]
    assert event == Event("nas", "power off")
    assert second.excuse == ("systemd", "no systemd here")
    assert second.commands() == [Command("systemctl start p2pfs-peer\n")]
    assert (third.language, third.excuse) == ("text", None)


@pytest.mark.parametrize(
    ("fence", "above", "wrong"),
    [
        ("", "", "say what it is"),
        ("console", "", "write on=MACHINE"),
        ("console on=attic", "<!-- not run: systemd, why -->", "and not both"),
        ("console", "<!-- not run: mood, why -->", "the class is one of"),
        ("console onn=attic", "", "means nothing"),
        ("console on=attic", "", "no test runs this page"),
    ],
)
def test_a_block_that_is_marked_wrongly_is_told(fence: str, above: str, wrong: str) -> None:
    page = ROOT / "docs" / "none.md"
    language, _, words = fence.partition(" ")
    excuse = re.match(r"<!-- not run: (\w+), (\w+)", above)
    block = Block(
        page,
        1,
        language,
        dict([words.split("=")] if words else []),
        "$ ls\n",
        (excuse[1], excuse[2]) if excuse else None,
    )
    assert wrong in complaint(block, RUN_PAGES)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("p2pfs status --json | jq .x", [["status", "--json"]]),
        ('eval "$(.venv/bin/p2pfs demo env --root .demo)"', [["demo", "env", "--root", ".demo"]]),
        ("cd /srv && sudo p2pfs umount photos   # waits", [["umount", "photos"]]),
        ("A=1 p2pfs join <invite", [["join"]]),
        ("echo p2pfs status", []),
    ],
)
def test_calls_are_found_in_scripts(script: str, expected: list[list[str]]) -> None:
    assert list(calls(script)) == expected


@pytest.mark.parametrize(
    ("words", "is_refused"),
    [
        ("status --json", False),
        ("jobs pause 7", False),
        ("status --jsn", True),
        ("stauts", True),
        ("plan drain", True),
        ("volume", True),
        ("volume create --help", False),
    ],
)
def test_a_command_that_is_none_is_refused(words: str, is_refused: bool) -> None:
    assert bool(refusal(words.split())) is is_refused


@pytest.mark.parametrize(
    ("code", "is_wrong"),
    [
        ("p2pfs plan drain NODE", False),
        ("p2pfs volume set VOLUME KEY=VALUE…", False),
        ("p2pfs coordinator confirm orphans", False),
        ("p2pfs tag -r --reindex", False),
        ("p2pfs tag -r --rindex", True),
        ("p2pfs volume destroy", True),
    ],
)
def test_a_mention_of_none_is_told(code: str, is_wrong: bool) -> None:
    assert bool(mentioned_wrongly(code)) is is_wrong
