"""`p2pfs top`: the pool live in a terminal, over ssh too; once for scripts and pipes."""

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.report import EXIT_CODES, parse, unreachable
from p2pfs.cli.show import console_for_output, print_json
from p2pfs.cli.waiting import drawing
from p2pfs.errors import Invalid, PoolError, Unavailable
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import given_duration

if TYPE_CHECKING:
    from rich.live import Live

    from p2pfs.cli.connect import Coordinator
    from p2pfs.cli.health.top_view import View

_SHORTEST_S: Final = 0.5
_LONGEST_S: Final = 3600.0
_FASTER, _SLOWER = 0.5, 2.0


def _interval(_context: click.Context, _parameter: click.Parameter, text: str) -> float:
    try:
        seconds = given_duration(text)
    except Invalid as error:
        raise click.BadParameter(str(error)) from None
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise click.BadParameter("from 500ms to 1h")
    return seconds


@click.command("top")
@click.option(
    "-i",
    "--interval",
    metavar="TIME",
    default="2s",
    show_default=True,
    callback=_interval,
    help="How often it is drawn.",
)
@click.option("--once", is_flag=True, help="Print it once and end, as where the output is no terminal.")
@home_option
@json_option
def command(interval: float, once: bool, home: NodeHome, as_json: bool) -> int:
    """Watch the pool: health, peers with their space and traffic, jobs with progress, volumes.

    Keys: s sorts the peers by the next column, r the other way round; + and - draw more and less often; q quits.
    --json prints what `p2pfs status --json` does, once. Exit status of --once and --json as of `p2pfs status`.

    \b
    Examples:
      p2pfs top
      p2pfs top -i 10s
      p2pfs top --once
      ssh nas p2pfs top --once
    """
    if as_json or once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _once(home, as_json)
    from rich.live import Live

    from p2pfs.cli import connect
    from p2pfs.cli.health.top_view import View

    view = View(interval)
    home.record()  # before the screen is taken: whoever has no home is told so
    drawn = Live("asking the coordinator …", console=console_for_output(), screen=True, auto_refresh=False)
    with _quiet_end(), _keys_at_once(), drawing(), drawn as live:
        connect.converse(home, lambda coordinator: _watch(coordinator, view, live))
    return exitcodes.OK


def _once(home: NodeHome, as_json: bool) -> int:
    from p2pfs.cli import connect
    from p2pfs.cli.health.top_view import View

    error = ""
    try:
        report = parse(connect.fetch(home, "/status"))
    except Unavailable as caught:
        error = str(caught)
        report = unreachable(home, error)
    if as_json:
        print_json(report)
    elif error:
        click.echo(f"p2pfs: {error}", err=True)
    else:
        view = View(0.0)
        view.take(report)
        console = console_for_output()
        console.print(view.whole(console.width))
    return EXIT_CODES.get(report["health"], exitcodes.HEALTH_ERROR)


async def _watch(coordinator: "Coordinator", view: "View", live: "Live") -> None:
    """Draw until somebody presses q.

    Raises:
        PoolError: The coordinator refuses, or its report cannot be shown.
    """
    import trio

    def draw() -> None:
        live.update(view.screen(*live.console.size), refresh=True)

    async def listen() -> None:
        while (key := await _key()) not in ("q", "Q", ""):
            _obey(view, key)
            draw()
        nursery.cancel_scope.cancel()

    refusal: PoolError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        while True:
            try:
                view.take(await _report(coordinator))
            except Unavailable as error:
                view.silent(str(error))
            except PoolError as error:
                refusal = error
                nursery.cancel_scope.cancel()
                break
            draw()
            with trio.move_on_after(view.interval_s):
                await view.hurried.wait()
    if refusal is not None:  # from outside the nursery, which would make a group of it
        raise refusal


async def _report(coordinator: "Coordinator") -> dict[str, Any]:
    return parse(await coordinator.fetch("/status"))


def _obey(view: "View", key: str) -> None:
    if key == "s":
        view.sort_by_next()
    elif key == "r":
        view.is_reversed = not view.is_reversed
    elif key in ("+", "-"):
        wanted = view.interval_s * (_FASTER if key == "+" else _SLOWER)
        view.draw_every(min(max(wanted, _SHORTEST_S), _LONGEST_S))


async def _key() -> str:
    """The next key; empty when there will be none."""
    import trio

    await trio.lowlevel.wait_readable(sys.stdin.fileno())
    return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace")


@contextlib.contextmanager
def _keys_at_once() -> Iterator[None]:
    """Each key is read when it is pressed, and not shown; the terminal is as before in the end."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """Ctrl-C ends it as q does."""
    try:
        yield
    except* KeyboardInterrupt:
        pass
