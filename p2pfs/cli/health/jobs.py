"""`p2pfs jobs`: the pool's background work, seen, held back and tried again."""

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Final

import click
import msgspec

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import console_for_output, print_json, say
from p2pfs.cli.waiting import drawing
from p2pfs.runtime.home import NodeHome
from p2pfs.wire.jobs import ENDED, JobAction, JobInfo

_ASKING: Final = "asking the coordinator …"
_NOTHING: Final = "nothing goes on; --all shows what is over"
_SAID: Final = {
    JobAction.PAUSE: "is held back until: p2pfs jobs resume {id}",
    JobAction.RESUME: "goes on",
    JobAction.CANCEL: "is cancelled",
    JobAction.RETRY: "goes on, and tries again at once what failed",
}


@click.group("jobs", invoke_without_command=True)
@click.option("-w", "--watch", is_flag=True, help="Show it anew every second until Ctrl-C.")
@click.option("-a", "--all", "every", is_flag=True, help="Also what is over, the latest first.")
@home_option
@json_option
@click.pass_context
def command(context: click.Context, watch: bool, every: bool, home: NodeHome, as_json: bool) -> int | None:
    """Show the pool's background work: repair, drain, rebalance, scrub, purge, backup.

    How far each job is, how fast, for how long still, and why it does not get on. With --watch and no terminal, or with
    --json, what has changed is printed below what was.

    \b
    Examples:
      p2pfs jobs
      p2pfs jobs --watch
      p2pfs jobs --json | jq '.[] | select(.error != "")'
      p2pfs jobs pause 12
    """
    if context.invoked_subcommand is not None:
        return None
    from p2pfs.cli import connect

    def chosen(jobs: list[JobInfo]) -> list[JobInfo]:
        return [job for job in jobs if every or job.state not in ENDED]

    if watch:
        with _reader_may_leave():
            _watch(home, chosen, as_json)
        return exitcodes.OK
    _print(chosen(connect.call(home, "GET", "/jobs", None, list[JobInfo])), as_json)
    return exitcodes.OK


def _print(jobs: list[JobInfo], as_json: bool) -> None:
    from p2pfs.cli.job_tables import job_table

    if as_json:
        print_json(jobs)
    elif jobs:
        console_for_output().print(job_table(jobs))
    else:
        say(_NOTHING)


def _watch(home: NodeHome, chosen: Callable[[list[JobInfo]], list[JobInfo]], as_json: bool) -> None:
    """Until Ctrl-C: redraw on a terminal, otherwise print what changed."""
    from p2pfs.cli import connect
    from p2pfs.cli.job_tables import follow, job_table

    console = console_for_output()
    shown: list[JobInfo] | None = None

    def print_changed(jobs: list[JobInfo]) -> bool:
        nonlocal shown
        if chosen(jobs) != shown:
            shown = chosen(jobs)
            if as_json:
                click.echo(msgspec.json.encode(shown).decode())
            else:
                _print(shown, as_json)
            sys.stdout.flush()
        return not _reader_left()

    if as_json or not console.is_terminal:
        connect.converse(home, lambda coordinator: follow(coordinator, print_changed))
        return
    from rich.live import Live

    with drawing(), Live(_ASKING, console=console, auto_refresh=False) as live:

        def redraw(jobs: list[JobInfo]) -> bool:
            live.update(job_table(chosen(jobs)) if chosen(jobs) else _NOTHING, refresh=True)
            return True

        connect.converse(home, lambda coordinator: follow(coordinator, redraw))


def _reader_left() -> bool:
    """Whether the output is a pipe that nobody reads any more: while nothing changes, nothing else would tell."""
    looking = select.poll()
    try:
        looking.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no real file
        return False
    return any(event & select.POLLERR for _, event in looking.poll(0))


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Whoever reads what is printed may have seen enough (`| head`); Ctrl-C is how a person says so."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left for the end to flush into


def _add(action: JobAction, what: str) -> None:
    """`p2pfs jobs ACTION JOB`."""

    @command.command(action.value, help=f"{what} Needs the role admin.\n\n\b\nExample:\n  p2pfs jobs {action.value} 12")
    @click.argument("number", metavar="JOB", type=click.IntRange(min=1))
    @home_option
    @json_option
    def act(number: int, home: NodeHome, as_json: bool) -> int:
        from p2pfs.cli import connect

        job = connect.call(home, "POST", f"/jobs/{number}/{action.value}", None, JobInfo)
        if as_json:
            print_json(job)
            return exitcodes.OK
        name = f"{job.kind} of {job.subject}" if job.subject else job.kind
        say(f"job {job.id}, {name}, {_SAID[action].format(id=job.id)}")
        return exitcodes.OK


_add(JobAction.PAUSE, "Hold a job back: what is under way ends, nothing more begins.")
_add(JobAction.RESUME, "Let a job go on that was held back.")
_add(JobAction.CANCEL, "End a job for good where that breaks no promise: a drain; the peer stays then.")
_add(JobAction.RETRY, "Try again at once what failed in a job, instead of later.")
