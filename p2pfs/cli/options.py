"""Options that several commands share, each spelled and explained once."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from p2pfs import exitcodes
from p2pfs.errors import UserError
from p2pfs.runtime.home import NodeHome, default_home
from p2pfs.runtime.process import pid_file

F = TypeVar("F", bound=Callable[..., object])


class MountPoint(click.ParamType[Path]):
    """A directory nobody looks at: click.Path would stat it, a question to a mount that may be dead or hung."""

    name = "directory"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]  # the shell looks for them


def home_option(function: F) -> F:
    """`--home`; the command gets `home: NodeHome`."""
    return click.option(
        "--home",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        callback=lambda _context, _parameter, value: NodeHome((value or default_home()).absolute()),
        help="The node's state directory (default: $P2PFS_HOME).",
    )(function)


def json_option(function: F) -> F:
    """`--json`; the command gets `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of a table.")(function)


def require_answer(yes: bool, as_json: bool) -> None:
    """Of a command that asks before it changes anything: a program that reads its JSON has to say yes beforehand.

    Raises:
        UserError: USAGE.
    """
    if as_json and not yes:
        raise UserError("with --json nothing is asked: say --yes too", exitcodes.USAGE)


def set_option(function: F) -> F:
    """`--set KEY=VALUE`, repeatable; the command gets `overrides: dict[str, str]`."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        callback=_parse_settings,
        shell_complete=_settings_beginning,
        help="A setting by its configuration name, such as io_timeout=10s; may be repeated.",
    )(function)


def log_file_option(function: F) -> F:
    """`--log-file`; the command gets `log_file: Path | None`."""
    return click.option(
        "--log-file",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Append the log to FILE instead of standard error.",
    )(function)


def pid_file_option(function: F) -> F:
    """`--pid-file`; the command gets `pid_file: Path | None` and runs within `holding_pid_file`."""
    return click.option(
        "--pid-file",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Keep the process id in FILE while it runs.",
    )(function)


def holding_pid_file(path: Path | None) -> contextlib.AbstractContextManager[None]:
    """The pid file, if there shall be one, while the block runs; a killed process leaves it behind."""
    return contextlib.nullcontext() if path is None else pid_file(path.absolute())


def yes_option(function: F) -> F:
    """`--yes`; the command gets `yes: bool`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def _settings_beginning(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    from p2pfs.runtime.config import KINDS
    from p2pfs.runtime.offers import registry

    names = dict.fromkeys([*KINDS, *registry.by_key()])
    return [f"{name}=" for name in names if name.startswith(begun)]


def _parse_settings(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            raise click.BadParameter(f"“{text}” is not KEY=VALUE, such as io_timeout=10s")
        settings[name.strip().replace("-", "_")] = value
    return settings
