"""The generated reference is current, and what it is made from is whole: schemas, examples, completions."""

import importlib.util
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.shell_completion import ShellComplete

from p2pfs.cli.main import cli
from p2pfs.cli.mount_helper import mount_command, umount_command
from p2pfs.cli.schemas import LINES, OUTPUTS

pytestmark = pytest.mark.l0

ROOT = Path(__file__).parents[2]
WITHOUT_JSON = {
    *("peer away", "peer undrain", "peer start"),
    *("coordinator start", "coordinator restore", "coordinator confirm", "coordinator kit"),
    *("mount", "umount", "demo start", "demo stop", "demo env"),
}
"""Commands that do something and report nothing but that it is done, or that run until they are told to stop."""


def all_commands(command: click.Command = cli, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group) or command.invoke_without_command:
        by_size = command.get_command(click.Context(command), "50G") if isinstance(command, click.Group) else None
        yield name, by_size or command  # `reserve SIZE` is found by a size
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            inner = command.get_command(context, word)
            assert inner is not None
            yield from all_commands(inner, f"{name} {word}".strip())


COMMANDS = dict(all_commands())


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`packaging/reference.py`, which is a script."""
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    spec = importlib.util.spec_from_file_location("packaging_reference", ROOT / "packaging" / "reference.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current(reference: ModuleType) -> None:
    pages = reference.pages()
    assert sorted(path.name for path in (ROOT / "docs" / "reference").iterdir()) == sorted(pages)
    for name, text in pages.items():
        same = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == text
        assert same, f"docs/reference/{name} is not what the code says: run `make docs` and commit what it writes"


def test_every_command_that_reports_has_json_with_a_documented_type() -> None:
    """A new command belongs into OUTPUTS, or into the list of those that only do something."""
    with_json = {name for name, command in COMMANDS.items() if any(p.name == "as_json" for p in command.params)}
    documented = {re.sub(r" (--\w+|[A-Z]+)$", "", name) for name in OUTPUTS}
    assert documented == with_json
    assert COMMANDS.keys() - with_json == WITHOUT_JSON
    assert OUTPUTS.keys() >= LINES


def test_schemas_are_whole(reference: ModuleType) -> None:
    made = json.loads(json.dumps(reference.schemas()))
    assert made["commands"].keys() == OUTPUTS.keys()
    for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(made)):
        assert name in made["$defs"]
    assert made["$defs"]["Purged"]["required"] == ["purged"]


def test_the_meaning_of_a_key_is_the_comment_beside_it(reference: ModuleType) -> None:
    page = reference.json_page()
    assert "| `purged` | integer | files and directories |" in page
    assert "| `survives` | [Survives](#survives) or null | null without chunks |" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_in_help_can_be_typed(name: str) -> None:
    examples = list(_examples(inspect.cleandoc(COMMANDS[name].help or "")))
    assert examples, f"{name} has no example"
    assert any(example.startswith(f"p2pfs {name}") for example in examples), f"none of {name} itself"
    for example in examples:
        words = shlex.split(example)[1:]
        command, rest = _found(words)
        # An option that is none, or too few arguments, is a UsageError.
        command.make_context(" ".join(words), rest)


def _examples(text: str) -> Iterator[str]:
    """Lines of p2pfs in the examples, without what they are piped to and what is said of them."""
    for line in text.partition("\b\n" + "Example")[2].splitlines():
        for part in re.split(r"\s\|\s|&&|;", re.split(r"\s{3,}(?=[a-z])", line.strip())[0]):
            part = re.sub(r'^eval "\$\((.*)\)"$', r"\1", part.strip())
            if "p2pfs " in part:
                yield part[part.index("p2pfs ") :]


def _found(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = cli
    while isinstance(command, click.Group):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("command", [mount_command, umount_command], ids=lambda command: str(command.name))
def test_helpers_of_mount_have_examples_too(command: click.Command) -> None:
    assert "Example" in (command.help or "")


def test_completion_knows_every_command_and_its_options() -> None:
    complete = ShellComplete(cli, {}, "p2pfs", "_P2PFS_COMPLETE")
    for name, command in COMMANDS.items():
        *above, last = name.split()
        assert last in {item.value for item in complete.get_completions(above, last[:2])}, name
        typed = [*name.split(), *(["50G"] if name == "reserve" else [])]
        options = {item.value for item in complete.get_completions(typed, "--")}
        visible = (p for p in command.params if isinstance(p, click.Option) and not p.hidden)
        assert {option for p in visible for option in p.opts if option.startswith("--")} <= options, name


def test_completion_knows_the_settings() -> None:
    complete = ShellComplete(cli, {}, "p2pfs", "_P2PFS_COMPLETE")
    assert [item.value for item in complete.get_completions(["init", "--set"], "min_r")] == ["min_replicas="]
