"""`p2pfs status`: the pool in one word, with reasons, tables for people and stable JSON for programs."""

from typing import Any, Final

import click
import msgspec

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json
from p2pfs.errors import Misuse, Unavailable
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Health

EXIT_CODES: Final = {
    Health.HEALTHY.value: exitcodes.OK,
    Health.WARNING.value: exitcodes.HEALTH_WARNING,
    Health.ERROR.value: exitcodes.HEALTH_ERROR,
}


@click.command("status")
@home_option
@json_option
def command(home: NodeHome, as_json: bool) -> int:
    """Show the pool's health, peers, volumes and chunks.

    Exit status: 0 healthy, 20 warning, 21 error or no answer from the coordinator. The keys of the JSON are documented
    in docs/commands.md and only ever added to.

    \b
    Examples:
      p2pfs status
      p2pfs status --json | jq .chunks.by_copies
    """
    from p2pfs.cli import connect

    try:
        answer = connect.fetch(home, "/status")
    except Unavailable as error:
        report = unreachable(home, str(error))
        if not as_json:
            click.echo(f"p2pfs: {error}", err=True)
    else:
        report = parse(answer)
    if as_json:
        print_json(report)
    elif report["pool"] is not None:
        from p2pfs.cli.status_tables import print_report

        print_report(report)
    return EXIT_CODES.get(report["health"], exitcodes.HEALTH_ERROR)


def parse(answer: bytes) -> dict[str, Any]:
    """The report in the coordinator's JSON, kept as it is: a newer coordinator may say more than this version knows.

    Raises:
        Misuse: It is no report.
    """
    try:
        report = msgspec.json.decode(answer)
    except msgspec.DecodeError as error:
        raise Misuse(f"the coordinator's status is not JSON: {error}") from None
    empty = _empty()
    if not isinstance(report, dict) or report.get("health") not in EXIT_CODES or not empty.keys() <= report.keys():
        raise Misuse("the coordinator's status is not one: is it another version of p2pfs?")
    return report


def unreachable(home: NodeHome, message: str) -> dict[str, Any]:
    """The report where the coordinator does not answer: same keys, nothing known."""
    record = home.record()
    reason = {"code": "COORDINATOR_UNREACHABLE", "message": message, "severity": Health.ERROR.value}
    return _empty() | {
        "reasons": [reason],
        "coordinator": {"node": record.coordinator, "addresses": record.addresses, "reachable": False},
    }


def _empty() -> dict[str, Any]:
    return {
        "health": Health.ERROR.value,
        "reasons": [],
        "pool": None,
        "coordinator": None,
        "peers": [],
        "volumes": [],
        "chunks": {"total": 0, "under_replicated": 0, "lost": 0, "by_copies": {}, "away": 0},
        "jobs": [],
    }
