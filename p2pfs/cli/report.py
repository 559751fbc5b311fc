"""The coordinator's report of its pool, for every command that reads one."""

from typing import Any, Final

import msgspec

from p2pfs import exitcodes
from p2pfs.errors import Misuse
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Health

EXIT_CODES: Final = {
    Health.HEALTHY.value: exitcodes.OK,
    Health.WARNING.value: exitcodes.HEALTH_WARNING,
    Health.ERROR.value: exitcodes.HEALTH_ERROR,
}


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
