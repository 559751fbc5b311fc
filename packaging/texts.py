#!/usr/bin/env python3
"""Everything in the Debian package that is written by a program: man pages, completions and a sample configuration.

Made from the commands themselves, from `p2pfs/runtime/config.py` and from the tables of `docs/commands.md`, which
`tests/unit/test_docs.py` holds to the code, so that none of it can go stale. usage: texts.py DIRECTORY, with p2pfs
importable; called by `packaging/stage`.
"""

import importlib.metadata
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from p2pfs.cli.main import cli
from p2pfs.cli.mount_helper import mount_command, umount_command
from p2pfs.runtime.config import KINDS, Settings, format_setting
from p2pfs.runtime.offers import registry

ROOT: Final = Path(__file__).parents[1]
COMPLETIONS: Final = {"bash": "p2pfs.bash", "zsh": "_p2pfs", "fish": "p2pfs.fish"}
"""Shell → file; the names zsh and fish look for."""
_HOW_WRITTEN: Final = {
    "duration": "a time: 5s, 10min, 24h, 30d",
    "size": "a size: 512M, 20G",
    "automatic size": "a size: 512M, 20G; or auto",
    "rate": "a size a second: 20M/s; or none",
    "count": "a whole number",
    "share": "a share: 25% or 0.25",
    "switch": "on or off",
    "text": "text",
    "host names": "host names with commas between",
    "level": "debug, info, warning or error",
    "log format": "text or json",
    "durability": "close, fsync or sync",
    "relay": "auto, on or off",
    "policy": "open or fair",
    "weight": "a number: 1.0",
    "distribution": "auto, direct, relay or swarm",
}
_HOW_OFFERED: Final = "for p2pfs share: 20Mbit, or 20Mbit@08:00-18:00,100Mbit by the time of day; or none"
_NOBODY: Final = "nobody yet"
"""What the table says of a setting that is understood, so that old files stay valid, and does nothing."""
_HELP: Final = ("-h, --help", "Show this message and exit.")
_INTRODUCTION: Final = """\
# Settings of one p2pfs node: every key with its default.
#
# Copy what shall differ to config.toml in the node's home, /var/lib/p2pfs for the machine's own services and
# ~/.local/state/p2pfs for a person's, without the #. A service reads it when it starts. `--set KEY=VALUE`, and
# KEY=VALUE among the options of a mount, come before what stands there.
"""


def table(name: str) -> list[list[str]]:
    """The rows between `<!-- name -->` and `<!-- /name -->` of docs/commands.md, as plain text."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    inside = text.split(f"<!-- {name} -->", 1)[1].split(f"<!-- /{name} -->", 1)[0]
    rows = [[_plain(cell) for cell in line.strip("|").split("|")] for line in inside.strip().splitlines()]
    return rows[2:]


def _plain(cell: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", cell).replace("`", "").strip()


# ---- the sample configuration ---------------------------------------------------------------------------------------


def sample_configuration() -> str:
    """A config.toml with every setting that something reads, commented out, at its default."""
    defaults, parts = Settings(), [_INTRODUCTION]
    offered = registry.by_key()
    for name, _default, reader, meaning in table("settings"):
        if reader == _NOBODY:
            continue
        written = format_setting(name, getattr(defaults, name)) if name in KINDS else offered[name].default
        parts.append(
            f"# {meaning[:1].upper()}{meaning[1:]}.\n"
            f"# Read by: {reader}. Written as {_how_written(name)}.\n"
            f'#{name} = "{written}"\n'
        )
    return "\n".join(parts)


def _how_written(name: str) -> str:
    return _HOW_WRITTEN[KINDS[name]] if name in KINDS else _HOW_OFFERED


# ---- completions ----------------------------------------------------------------------------------------------------


def completions() -> dict[str, str]:
    """File → script, one for each shell."""
    made = {}
    for shell, file in COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None, shell
        made[file] = kind(cli, {}, "p2pfs", "_P2PFS_COMPLETE").source()
    # Names of files where nothing better is known, and no blank behind `storage=` or within `-o ro,xattr`.
    bash, file = made[COMPLETIONS["bash"]], COMPLETIONS["bash"]
    for before, after in (
        ("complete -o nosort -F", "complete -o nosort -o default -F"),
        ("COMPREPLY+=($value)", 'COMPREPLY+=("$value")\n            [[ $value == *= ]] && compopt -o nospace'),
        ("read type value", "read -r type value"),
    ):
        assert bash.count(before) == 1, before
        bash = bash.replace(before, after)
    return made | {file: bash}


# ---- man pages ------------------------------------------------------------------------------------------------------


def man_pages() -> dict[str, str]:
    """File → page: a page for each command and group, the helpers of mount(8), and the settings."""
    pages = {f"{name.replace(' ', '-')}.1": _page(name, command, 1) for name, command in _walk("p2pfs", cli)}
    pages["mount.p2pfs.8"] = _page("mount.p2pfs", mount_command, 8)
    pages["umount.p2pfs.8"] = _page("umount.p2pfs", umount_command, 8)
    pages["p2pfs-config.5"] = _settings_page()
    return pages


def _walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for word, inner in _inner(command):
        yield from _walk(f"{name} {word}", inner)


def _inner(command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None, word
            yield word, found


def usage(command: click.Command) -> str:
    """What follows the command's name in its usage."""
    return " ".join(command.collect_usage_pieces(_context(command)))


def options(command: click.Command) -> list[tuple[str, str]]:
    """Each option with its help."""
    rows = [parameter.get_help_record(_context(command)) for parameter in command.params]
    return [row for row in rows if row is not None and row[0].startswith("-")] + [_HELP]


def _context(command: click.Command) -> click.Context:
    """As below `p2pfs`. A command keeps the option for help of its first context, so they must be the same."""
    return click.Context(command, help_option_names=cli.context_settings["help_option_names"])


def _page(name: str, command: click.Command, section: int) -> str:
    description, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExample")
    lines = [_title(name, section), ".SH NAME", f"{_dashed(name)} \\- {_escaped(_summary(command))}"]
    lines += [".SH SYNOPSIS", f"\\fB{_escaped(name)}\\fR {_escaped(usage(command))}"]
    lines += [".SH DESCRIPTION", *_paragraphs(description)]
    lines += [".SH OPTIONS", *(line for given, words in options(command) for line in _entry(given, words))]
    if inner := list(_inner(command)):
        lines.append(".SH COMMANDS")
        for word, below in inner:
            lines += [".TP", f"\\fB{_dashed(f'{name} {word}')}\\fR(1)", _escaped(_summary(below))]
    if examples:
        lines += [".SH EXAMPLES", ".nf", *map(_escaped, examples.split("\n")[1:]), ".fi"]
    if name == "p2pfs":
        lines += [".SH EXIT STATUS"]
        for code, word, meaning in table("exit codes"):
            lines += _entry(code, meaning or word.lower().replace("_", " "))
    above = name.rpartition(" ")[0]
    also = ["mount.p2pfs(8)"] if name == "p2pfs" else [f"{_dashed(above or 'p2pfs')}(1)"]
    lines += [".SH SEE ALSO", _escaped(", ".join([*also, "p2pfs-config(5)"]))]
    return "\n".join(lines) + "\n"


def _settings_page() -> str:
    lines = [_title("p2pfs-config", 5), ".SH NAME", "p2pfs-config \\- settings of a p2pfs node", ".SH DESCRIPTION"]
    lines += _paragraphs("\n".join(line.removeprefix("#").strip() for line in _INTRODUCTION.splitlines()))
    lines.append(".SH SETTINGS")
    for name, default, reader, meaning in table("settings"):
        lines += _entry(f"{name} = {default}", f"{meaning}. Read by: {reader}. Written as {_how_written(name)}.")
    return "\n".join([*lines, ".SH SEE ALSO", "p2pfs(1), mount.p2pfs(8)"]) + "\n"


def _title(name: str, section: int) -> str:
    return f'.TH "{_dashed(name).upper()}" "{section}" "" "p2pfs {importlib.metadata.version("p2pfs")}" "p2pfs"'


def _dashed(name: str) -> str:
    return _escaped(name.replace(" ", "-"))


def _summary(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").split("\n\n")[0].replace("\n", " ").rstrip(".")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in filter(None, (part.strip() for part in text.split("\n\n"))):
        yield ".PP"
        yield _escaped(paragraph.replace("\b\n", ""))


def _entry(term: str, words: str) -> list[str]:
    return [".TP", f"\\fB{_escaped(term)}\\fR", _escaped(words) or "\\&"]


def _escaped(text: str) -> str:
    """`text` so that roff takes nothing in it for an order."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def main(directory: Path) -> None:
    """Write all of them below `directory`."""
    made = {f"man/{file}": page for file, page in man_pages().items()}
    made |= {f"completions/{file}": script for file, script in completions().items()}
    made["config.toml"] = sample_configuration()
    for file, text in made.items():
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
