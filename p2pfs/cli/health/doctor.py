"""`p2pfs doctor`: what keeps this machine from working in its pool, and how to mend it."""

import contextlib
import functools
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Final

import click

from p2pfs.cli.health import checks
from p2pfs.cli.health.checks import Finding
from p2pfs.cli.health.clock import machine_clock_error
from p2pfs.cli.looking import look_around, shake_hands
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.report import EXIT_CODES, parse
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.cli.waiting import waiting
from p2pfs.errors import PoolError, UserError
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import Health, Role

_MOST_DIALLED: Final = 40
_MARKS: Final = {Health.HEALTHY: "ok", Health.WARNING: "warning", Health.ERROR: "error"}


@click.command("doctor")
@home_option
@json_option
def command(home: NodeHome, as_json: bool) -> int:
    """Check what this machine needs to work in its pool, and say how to mend what is wrong.

    Looks at FUSE, versions, mounts, the node's state directory, disk, certificate, the coordinator, the clock and every
    peer's port. Changes nothing. Exit status: 0 all is well, 20 warnings, 21 errors.

    \b
    Examples:
      p2pfs doctor
      p2pfs doctor --json | jq '.[] | select(.health != "healthy")'
    """
    with waiting("examining this machine"):
        found = findings(home)
    if as_json:
        print_json(found)
    else:
        _show(found)
    return EXIT_CODES[_worst(found).value]


def findings(home: NodeHome) -> list[Finding]:
    """What all checks found."""
    return [*_machine(), *_node(home)]


def _machine() -> Iterator[Finding]:
    yield from checks.versions()
    yield from checks.fuse()
    yield from checks.mounts()
    yield from checks.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _node(home: NodeHome) -> Iterator[Finding]:
    yield from checks.state(home)
    try:
        record = home.record()
    except UserError:
        return  # nobody lives here whom the rest could be about
    now_s = time.time()
    if Role.COORDINATOR in record.roles:
        yield from checks.set_clock(machine_clock_error())
    yield from checks.disk(home)
    yield from checks.certificate(home, now_s)
    try:
        home.settings()
    except UserError:
        return  # told above; nothing can be asked without them
    yield from _pool(home, now_s)


def _pool(home: NodeHome, now_s: float) -> Iterator[Finding]:
    import trio

    from p2pfs.cli import connect
    from p2pfs.cli.versions import version_of

    record = home.record()
    try:
        report = parse(connect.fetch(home, "/status"))
    except (PoolError, UserError) as error:
        yield checks.silent(record, str(error), _seen_elsewhere(home, record))
        return
    yield checks.coordinator(report["health"])
    yield from checks.clock(report, now_s)
    yield from checks.software(report, version_of("p2pfs") or "")
    yield from checks.own_peer(report, record)
    for door in checks.doors(report, record)[:_MOST_DIALLED]:
        dial = functools.partial(trio.run, shake_hands, home, record, door.node, door.role, door.address)
        yield from checks.reachable(door.name, door.address, dial, is_relayed=door.is_relayed)


def _seen_elsewhere(home: NodeHome, record: NodeRecord) -> str:
    """Where on the local network the coordinator is; empty: not found there."""
    if Role.COORDINATOR in record.roles:
        return ""
    with contextlib.suppress(PoolError):
        return look_around(home, record) or ""
    return ""


def _show(found: Sequence[Finding]) -> None:
    print_table(("check", "", "found"), [(f.check, _MARKS[f.health], f.found) for f in found])
    for finding in found:
        if finding.mend:
            say(f"\n{finding.check}: {finding.found}\n  → {finding.mend}")


def _worst(found: Sequence[Finding]) -> Health:
    order = [Health.HEALTHY, Health.WARNING, Health.ERROR]
    return max((finding.health for finding in found), key=order.index, default=Health.HEALTHY)
