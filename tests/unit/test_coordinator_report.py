"""Health is what the facts say, each reason with its code."""

import msgspec
import pytest

from p2pfs.coordinator.health import judge
from p2pfs.coordinator.report import CoordinatorReport, PeerReport, PoolReport, VolumeReport, count_chunks
from p2pfs.types import GIB, Health
from p2pfs.wire.jobs import JobInfo

pytestmark = pytest.mark.l0

NOW = 1_800_000_000.0
FAR = NOW + 60 * 86400
POOL = PoolReport("ab" * 16, "home", 3, 2, 30 * GIB, GIB, 0, 10 * GIB, 9 * GIB, 1, 1, 0)
COORDINATOR = CoordinatorReport("cd" * 16, "root@server", [], "1", 5.0, FAR, NOW)
WHOLE = count_chunks({3: 100}, 3)


def peer(number: int, state: str = "up", **more: object) -> PeerReport:
    report = PeerReport(
        number,
        f"{number:032x}",
        f"owner{number}@host",
        f"owner{number}",
        "",
        state,
        ["192.0.2.1:1"],
        capacity=10 * GIB,
        used=0,
        trash=0,
        free=10 * GIB,
        chunks=0,
        silent_s=130.0,
        clock_ahead_s=0.0,
        certificate_expires_s=FAR,
        version="1",
        resources=None,
    )
    return msgspec.structs.replace(report, **more)


def job(state: str = "running", error: str = "", kind: str = "repair") -> JobInfo:
    return JobInfo(7, kind, "", state, 1, 5, 10, 50, 0.0, None, started_s=NOW, ended_s=None, error=error)


def volume(**more: int) -> VolumeReport:
    return VolumeReport("ab" * 8, "photos", "anna", 10, 20, **more)  # type: ignore[arg-type]


PEERS = [peer(1), peer(2), peer(3)]


def codes(**facts: object) -> tuple[Health, list[str]]:
    given = {"pool": POOL, "coordinator": COORDINATOR, "peers": PEERS, "chunks": WHOLE, **facts}
    health, reasons = judge(given.pop("pool"), given.pop("coordinator"), now_s=NOW, **given)  # type: ignore[arg-type]
    assert all(reason.message for reason in reasons)
    return health, [reason.code for reason in reasons]


def test_a_pool_in_order_is_healthy_without_a_word() -> None:
    assert codes() == (Health.HEALTHY, [])


CASES = {
    "down": ({"peers": [*PEERS, peer(4, "down")]}, "warning", ["PEER_DOWN"]),
    "suspect": ({"peers": [*PEERS, peer(4, "suspect")]}, "warning", ["PEER_SUSPECT"]),
    "revoked": ({"peers": [*PEERS, peer(4, "revoked")]}, "healthy", []),
    "none": ({"peers": []}, "error", ["NO_PEERS"]),
    "only revoked": ({"peers": [peer(4, "revoked")]}, "error", ["NO_PEERS"]),
    "left": ({"peers": [*PEERS, peer(4, "left", certificate_expires_s=NOW - 1)]}, "healthy", []),
    "lost for good": ({"peers": [*PEERS, peer(4, "lost", clock_ahead_s=999.0)]}, "healthy", []),
    "away": ({"peers": [*PEERS, peer(4, "away", away_until_s=NOW + 60)]}, "healthy", ["PEER_AWAY"]),
    "draining": ({"peers": [*PEERS, peer(4, "draining", leaving=True)]}, "healthy", ["PEER_DRAINING"]),
    "draining, and silent": (
        {"peers": [*PEERS, peer(4, "down", leaving=True)]},
        "warning",
        ["PEER_DOWN", "PEER_DRAINING"],
    ),
    "too few stay": (
        {"peers": [peer(1), peer(2), peer(3, "draining", leaving=True)]},
        "warning",
        ["FEWER_PEERS_THAN_REPLICAS", "PEER_DRAINING"],
    ),
    "nobody else can be written to": (
        {"peers": [peer(1), peer(2, "away"), peer(3, "draining", leaving=True), peer(4, "away")]},
        "error",
        ["TOO_FEW_PEERS_UP", "PEER_AWAY", "PEER_DRAINING", "PEER_AWAY"],
    ),
    "short as announced": ({"chunks": count_chunks({3: 5, 2: 2}, 3, {3: 7})}, "healthy", []),
    "shorter than announced": (
        {"chunks": count_chunks({3: 5, 2: 2}, 3, {3: 6, 2: 1})},
        "warning",
        ["CHUNKS_UNDER_REPLICATED"],
    ),
    "stuck": ({"jobs": [job(error="no room")]}, "warning", ["JOB_STUCK"]),
    "for a quiet hour": ({"jobs": [job(error="waiting for a quiet hour", kind="purge")]}, "healthy", []),
    "over": ({"jobs": [job(state="failed", error="no room")]}, "healthy", []),
    "held back": ({"jobs": [job(state="paused", error="no room")]}, "healthy", ["JOB_PAUSED"]),
    "at work": ({"jobs": [job()]}, "healthy", []),
    "room short, with trash": ({"volumes": [volume(trash_files=1)], "is_pressed": True}, "warning", ["TRASH_PRESSED"]),
    "room short, without": ({"volumes": [volume()], "is_pressed": True}, "healthy", []),
    "volume expires": ({"volumes": [volume(expires_s=int(NOW) + 6 * 86400)]}, "warning", ["VOLUME_EXPIRES"]),
    "volume is over": ({"volumes": [volume(expires_s=int(NOW) - 5)]}, "warning", ["VOLUME_EXPIRES"]),
    "volume lasts": ({"volumes": [volume(expires_s=int(NOW) + 8 * 86400)]}, "healthy", []),
    "files expire": ({"volumes": [volume(expiring=3)]}, "healthy", ["LEASES_EXPIRE"]),
    "clock in doubt": ({"clock_doubt": "the clock went back"}, "error", ["CLOCK_IN_DOUBT"]),
    "one": ({"peers": [peer(1)]}, "warning", ["ONE_PEER_ONLY"]),
    "two": ({"peers": PEERS[:2]}, "warning", ["FEWER_PEERS_THAN_REPLICAS"]),
    "too few up": (
        {"peers": [peer(1), peer(2, "down"), peer(3, "down")]},
        "error",
        ["TOO_FEW_PEERS_UP", "PEER_DOWN", "PEER_DOWN"],
    ),
    "one is down": ({"peers": [peer(1, "down")]}, "error", ["TOO_FEW_PEERS_UP", "PEER_DOWN", "ONE_PEER_ONLY"]),
    "short": ({"chunks": count_chunks({3: 5, 1: 2}, 3)}, "warning", ["CHUNKS_UNDER_REPLICATED"]),
    "lost": ({"chunks": count_chunks({0: 1, 3: 5}, 3)}, "error", ["CHUNKS_LOST"]),
    "full": ({"pool": msgspec.structs.replace(POOL, writable=0)}, "error", ["POOL_FULL"]),
    "nearly full": ({"pool": msgspec.structs.replace(POOL, writable=GIB - 1)}, "warning", ["POOL_NEARLY_FULL"]),
    "not nearly full": ({"pool": msgspec.structs.replace(POOL, writable=GIB)}, "healthy", []),
    "ends": ({"peers": [*PEERS, peer(4, certificate_expires_s=NOW + 86400)]}, "warning", ["CERTIFICATE_EXPIRES"]),
    "ended": ({"peers": [*PEERS, peer(4, certificate_expires_s=NOW - 1)]}, "error", ["CERTIFICATE_EXPIRED"]),
    "own ends": (
        {"coordinator": msgspec.structs.replace(COORDINATOR, certificate_expires_s=NOW + 1)},
        "warning",
        ["CERTIFICATE_EXPIRES"],
    ),
    "clock": ({"peers": [*PEERS[:2], peer(3, clock_ahead_s=-61.0)]}, "warning", ["CLOCK_DIFFERS"]),
    "clock unknown": ({"peers": [*PEERS[:2], peer(3, clock_ahead_s=None)]}, "healthy", []),
}


@pytest.mark.parametrize(("facts", "health", "reasons"), CASES.values(), ids=CASES.keys())
def test_reasons(facts: dict[str, object], health: str, reasons: list[str]) -> None:
    assert codes(**facts) == (Health(health), reasons)


def test_chunks_are_counted_by_copies() -> None:
    report = count_chunks({0: 1, 1: 2, 2: 4, 3: 8, 5: 16}, 3)
    assert (report.total, report.under_replicated, report.lost) == (31, 6, 1)
    assert report.by_copies == {"0": 1, "1": 2, "2": 4, "3": 8, "5": 16}
    assert count_chunks({}, 3).total == 0


def test_messages_say_how_long() -> None:
    _, reasons = judge(POOL, COORDINATOR, peers=[*PEERS, peer(4, "down")], chunks=WHOLE, now_s=NOW)
    assert reasons[0].message.startswith("peer owner4@host has not been heard of for 2 minutes: start it")
