"""Commands on a page against the real ones: what is shown must exist, with the options and arguments it is shown with.

Finds calls of `p2pfs` in shell text, also behind sudo, in pipes and in `$(…)`, and parses them with the command's own
parser, which runs nothing.
"""

import re
import shlex
from collections.abc import Iterator

import click

from p2pfs.cli.main import cli

_SEPARATORS = frozenset({";", "&&", "||", "|", "&", "(", ")", "|&", ";;"})
_BEFORE = frozenset({"sudo", "exec", "then", "do", "else", "!", "time"})


def calls(script: str) -> Iterator[list[str]]:
    """The words after `p2pfs` of each call in a script."""
    inner = re.findall(r"\$\(([^()]*)\)", script)
    outer = re.sub(r"\$\(([^()]*)\)", "…", script).replace("\\\n", " ")
    for part in inner:
        yield from calls(part)
    for line in outer.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        yield from _split(list(lexer))


def _split(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in _SEPARATORS:
            command.append(word)
            continue
        while command and (command[0] in _BEFORE or re.fullmatch(r"\w+=.*", command[0])):
            del command[0]
        if command and command[0].rpartition("/")[2] == "p2pfs":
            yield _without_redirections(command[1:])
        command = []


def _without_redirections(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if word in (">", ">>", "<", "<<<", "2>", ">&"):
            skip = True
        elif skip:
            skip = False
        else:
            kept.append(word)
    return kept


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` call, and what is left for it.

    Raises:
        LookupError: There is none.
    """
    command: click.Command = cli
    while isinstance(command, click.Group):
        if (not words or words[0].startswith("-")) and (command.invoke_without_command or words[:1] == ["--help"]):
            break
        found = command.get_command(click.Context(command), words[0]) if words else None
        if found is None:
            if command.invoke_without_command:
                break
            raise LookupError(f"there is no p2pfs {' '.join(words)}")
        command, words = found, words[1:]
    return command, words


def refusal(words: list[str]) -> str:
    """Why a call would be refused by the parser; "" when it would not."""
    try:
        command, rest = find(words)
        with command.make_context(" ".join(words), list(rest)):
            return ""
    except (LookupError, click.UsageError) as error:
        return str(error) or repr(error)
    except click.exceptions.Exit:
        return ""  # --help


def mentioned_wrongly(code: str) -> str:
    """The same of a command in prose, which may leave out arguments or name them: `p2pfs plan drain NODE`."""
    try:
        words = shlex.split(code)[1:]
    except ValueError as error:
        return str(error)
    group: click.Command = cli
    for word in words:
        if not isinstance(group, click.Group) or not re.fullmatch(r"[a-z][a-z-]*|\d+\w*", word):
            break
        found = group.get_command(click.Context(group), word)
        if found is None:
            return f"there is no p2pfs {word}"
        group = found
    known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
    wrong = [word for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in known | {"--help"}]
    return f"has no {', '.join(wrong)}" if wrong else ""
