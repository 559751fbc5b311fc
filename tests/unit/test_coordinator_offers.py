"""What the coordinator makes of what peers say they offer, and of a peer that holds more than that."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from careful import careful
from coordination import pool
from plugins.checklogs import Claims

from p2pfs.coordinator import offers
from p2pfs.errors import Misuse
from p2pfs.types import GIB
from p2pfs.wire.offers import Offered, PooledOffer
from p2pfs.wire.orders import Transfer

pytestmark = [pytest.mark.l0, pytest.mark.trio]

DISK = Offered("storage", "bytes", 0, 0, "2 GiB")
UPLOAD = Offered("upload", "bytes/s", 1000, 300, "8kbit")


def _by_kind(report: Any) -> dict[str, PooledOffer]:  # noqa: ANN401 - a StatusReport
    return {one.kind: one for one in report.offers}


async def test_the_pool_offers_what_its_peers_offer_together(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, three = await p.peers(3)
        await p.beat(one.node, capacity=4 * GIB, used=GIB, offers=[UPLOAD, Offered("download", "bytes/s", None, 7)])
        await p.beat(
            two.node, capacity=2 * GIB, used=3 * GIB, offers=[msgspec.structs.replace(UPLOAD, used=2000), DISK]
        )
        await p.beat(three.node, capacity=GIB, offers=[Offered("upload", "bytes/s", None, 50)])
        report = await p.services.status.report(p.identity())
        found = _by_kind(report)
        storage = found["storage"]
        assert (storage.offered, storage.used, storage.peers, storage.unlimited) == (7 * GIB, 4 * GIB, 3, 0)
        assert storage.free == sum(peer.free for peer in report.peers) == 4 * GIB
        upload = found["upload"]
        # What one has too much of is not what another lacks.
        assert (upload.offered, upload.used, upload.free, upload.peers, upload.unlimited) == (2000, 2350, 700, 3, 1)
        assert (found["download"].offered, found["download"].used, found["download"].unlimited) == (0, 7, 1)
        assert not found["compute"].is_on
        assert [(told.kind, told.offered, told.rule) for told in report.peers[0].offers] == [
            ("storage", 4 * GIB, ""),
            ("upload", 1000, "8kbit"),
            ("download", None, ""),
        ]
        [note] = [reason for reason in report.reasons if reason.code == "PEER_OVER_OFFER"]
        assert (note.severity, "holds 3 GiB and offers 2 GiB" in note.message) == ("info", True)


async def test_storage_is_bounded_by_the_invite_whatever_a_peer_says(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        joined = await p.join("anna@nas", capacity=2 * GIB)
        lie = Offered("storage", "bytes", 900 * GIB, 0, "900 GiB")
        answer = await p.beat(joined.node, capacity=900 * GIB, offers=[lie])
        assert answer.capacity == 2 * GIB
        report = await p.services.status.report(p.identity())
        assert (_by_kind(report)["storage"].offered, report.peers[0].offers[0].offered) == (2 * GIB, 2 * GIB)


async def test_an_unknown_kind_and_a_silent_peer_do_not_count(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path) as p:
        one, two = await p.peers(2)
        await p.beat(one.node, offers=[UPLOAD, Offered("warp", "count", 5, 0)])
        await p.beat(two.node, offers=[UPLOAD, Offered("download", "count", 5, 0)])  # in another unit
        report = await p.services.status.report(p.identity())
        assert (_by_kind(report)["upload"].offered, _by_kind(report)["download"].peers) == (2000, 0)
        assert "warp" not in _by_kind(report)
        p.clock.advance(3600)
        await p.beat(one.node, offers=[UPLOAD])
        await p.services.pulse.work()
        report = await p.services.status.report(p.identity())
        assert (_by_kind(report)["upload"].offered, _by_kind(report)["storage"].peers) == (1000, 1)


async def test_a_peer_of_the_version_before_offers_its_storage(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(1)
        report = await p.services.status.report(p.identity())
        assert [one.kind for one in report.peers[0].offers] == ["storage"]


@pytest.mark.parametrize(
    "offered",
    [
        [UPLOAD] * 2,
        [Offered(f"kind{number}", "count", 1, 0) for number in range(17)],
        [Offered("\x1b[2J", "count", 1, 0)],
        [Offered("upload", "x" * 40, 1, 0)],
        [Offered("upload", "bytes/s", -1, 0)],
        [Offered("upload", "bytes/s", 1 << 63, 0)],
        [Offered("upload", "bytes/s", None, -1)],
        [Offered("upload", "bytes/s", None, 1, "\x1b[2J")],
        [Offered("upload", "bytes/s", None, 1, "5" * 600)],
    ],
)
async def test_impossible_offers_are_refused(offered: list[Offered], tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        offers.check(offered)
    async with pool(tmp_path) as p:
        (one,) = await p.peers(1)
        with pytest.raises(Misuse):
            await p.beat(one.node, offers=offered)


async def test_what_a_peer_holds_beyond_its_offer_is_moved_where_there_is_room(tmp_path: Path) -> None:
    """It takes nothing new; each chunk is copied first and taken away last, so none has fewer copies meanwhile."""
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 3)
        stored = [await c.store(number, [1, 2 + number % 2]) for number in range(12)]
        await c.settle()
        mine = [chunk for chunk in stored if 1 in c.holders(chunk)]
        assert mine
        fewest, told = 2, msgspec.structs.replace(DISK, rule="auto")
        await p.beat(c.peers[1].node, capacity=10 * GIB, used=11 * GIB, offers=[told])
        assert await c.settle() == 0  # a disk that somebody else has filled
        told = DISK

        async def beat(used: int) -> None:
            nonlocal fewest
            await p.beat(c.peers[1].node, capacity=10 * GIB, used=used, chunks=len(c.peers[1].chunks), offers=[told])
            await c.settle()
            fewest = min(fewest, *(len(c.having(chunk)) for chunk in stored))

        for _ in range(3):
            await beat(10 * GIB + 1)
        assert [chunk for chunk in stored if 1 in c.holders(chunk)] == []
        assert (fewest, {len(c.holders(chunk)) for chunk in stored}) == (2, {2})
        assert not any(isinstance(order, Transfer) for order in c.peers[1].seen[-20:])
        await beat(10 * GIB)  # exactly what it offers: nothing moves back to a peer that is full
        assert [chunk for chunk in stored if 1 in c.holders(chunk)] == []
