"""The pages say what the code does: paths and tests exist, tables match, nothing names a machine or a registry."""

import errno
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from docs_blocks import PAGES, ROOT, blocks

from p2pfs import errors, exitcodes
from p2pfs.cli.main import cli
from p2pfs.runtime.config import KINDS, Settings, format_setting
from p2pfs.runtime.offers import registry
from p2pfs_mount.errno import errno_of

pytestmark = pytest.mark.l0

FOLDERS = ("p2pfs", "mount", "peerd", "tests", "benchmarks", "packaging", "docs", ".ci")
AT_THE_TOP = re.compile(r"[\w.-]+\.(?:md|toml|lock)|Makefile|LICENSE")

NOT_OURS = {".git", ".venv", ".demo", ".hypothesis", "bench-results", "build", "dist", "__pycache__"}
SUFFIXES = {"", ".py", ".md", ".toml", ".lock", ".json", ".service", ".sh", ".typed", ".in", ".yml", ".yaml"}
# Written in two pieces, so that this file does not find itself.
REGISTRIES = re.compile("pypi" + r"\.org|python" + r"hosted\.org|index-url[= ]+[\"']?" + "http|INDEX" + "_URL=")
MACHINES = re.compile(r"(?<![\w.])/" + r"(?:work|builds?|workspace)" + r"/[\w.-]+")


def named(page: Path) -> Iterator[tuple[str, Path]]:
    """Everything on a page that means a file or folder of the repository: inline code, and targets of links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for shown, target in re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", text):
        if "://" not in target:
            yield target, page.parent / target.partition("#")[0]
        if shown.endswith(".md") and not target.endswith(shown):
            yield shown, page.parent / shown  # the words of a link lead elsewhere than the link
    for code in re.findall(r"`([^`\n]+)`", text):
        path = code.partition("::")[0]
        is_below = path.partition("/")[0] in FOLDERS and re.fullmatch(r"[\w./@*-]+", path) and "/" in path
        if is_below or (AT_THE_TOP.fullmatch(path) and path != "config.toml"):
            yield code, ROOT / path


def table(page: str, name: str) -> list[list[str]]:
    """The rows between `<!-- name -->` and `<!-- /name -->`, without their head."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    inside = text.split(f"<!-- {name} -->", 1)[1].split(f"<!-- /{name} -->", 1)[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in inside.strip().splitlines()]
    return rows[2:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_a_page_names_is_there(page: Path) -> None:
    found = list(named(page))
    missing = [code for code, path in found if not any(path.parent.glob(path.name)) and not path.exists()]
    assert missing == []


def test_pages_name_enough_paths_for_that_to_mean_something() -> None:
    assert sum(1 for page in PAGES for _ in named(page)) > 200


def test_every_promise_names_tests_or_says_that_there_are_none() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.split(",", 1)[0] for section in sections] == [f"P{number}" for number in range(1, 10)]
    for section in sections:
        assert "**Today.**" in section
        assert "**Not there.**" in section
        assert "`tests/" in section


def test_no_promise_test_is_forgotten() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    for path in (ROOT / "tests").rglob("test_promise_*.py"):
        assert str(path.relative_to(ROOT)) in text


def test_the_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {block.text for block in blocks(ROOT / "README.md")}
    assert {"make demo\n", "make test\n"} <= shown
    first = re.search(r"^\s*make test\s*(#.*)?$", text, flags=re.MULTILINE)  # as .ci/run looks for it
    assert first is not None


def leaves(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{name} {word}")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{name} {word}", command


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = {
        name: section
        for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]
        for name in re.findall(r"`(p2pfs [a-z -]*[a-z])", section.split("\n", 1)[0])
    }
    commands = dict(leaves(cli, "p2pfs"))
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        given = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", sections[name]))
        missing = [
            parameter.opts
            for parameter in command.params
            if isinstance(parameter, click.Option) and not given.intersection(parameter.opts)
        ]
        assert missing == [], name
        for parameter in command.params:
            if isinstance(parameter, click.Argument) and isinstance(parameter.type, click.Choice):
                unsaid = [choice for choice in parameter.type.choices if f"`{choice}`" not in sections[name]]
                assert unsaid == [], f"{name} {parameter.name}"


def test_settings_are_documented_with_their_defaults() -> None:
    documented = {row[0]: row[1] for row in table("commands.md", "settings")}
    defaults = Settings()
    actual = {name: format_setting(name, getattr(defaults, name)) or "(empty)" for name in KINDS}
    offered = {name: kind.default for name, kind in registry.by_key().items() if kind.is_on}
    assert documented == offered | actual


def test_exit_codes_are_documented() -> None:
    documented = {row[1]: int(row[0]) for row in table("commands.md", "exit codes")}
    actual = {name: value for name, value in vars(exitcodes).items() if name.isupper()}
    assert documented == actual


def test_errnos_are_documented() -> None:
    documented = {row[0]: row[1] for row in table("posix.md", "errno")}
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    for name, number in documented.items():
        assert errno.errorcode[errno_of(kinds[name]("x"))] == number, name
    others = kinds.keys() - documented.keys() - {"UserError"}
    assert {errno.errorcode[errno_of(kinds[name]("x"))] for name in others} == {"EIO"}


def test_every_dependency_has_its_row() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in (*project["project"]["optional-dependencies"].values(), *project["dependency-groups"].values()):
        wanted += extra
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| ([\w-]+) \|", text, flags=re.MULTILINE)) - {"library"}
    assert rows == {re.split(r"[^\w-]", requirement)[0] for requirement in wanted}


def test_the_guide_for_contributors_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 100


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the repository, without what tools and demo pools make in it."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in NOT_OURS and not name.endswith("_cache"))
        for path in (Path(folder) / name for name in sorted(files)):
            if path.suffix in SUFFIXES and path.is_file():
                yield path, path.read_text(encoding="utf-8", errors="replace")


def test_no_file_names_a_machines_paths_or_a_registry() -> None:
    found = []
    count = 0
    for path, text in texts():
        count += 1
        hits = [match.group() for pattern in (REGISTRIES, MACHINES) for match in pattern.finditer(text)]
        if len(ROOT.parts) > 2 and f"{ROOT}/" in text:
            hits.append("this checkout's own path")
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert count > 100
    assert found == []
