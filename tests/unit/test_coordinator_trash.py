"""What is in the trash goes when its time is over and it is quiet, before that when room is short, and never by a clock
that is wrong (P6)."""

from pathlib import Path

import pytest
from broken_rows import broken_invariants
from careful import VOLUME, Careful, careful
from coordination import Pool, pool
from plugins.checklogs import Claims

from p2pfs.coordinator.upkeep.trash import STEP, TrashPurge
from p2pfs.meta import reaper, trash
from p2pfs.runtime.worker import Progress
from p2pfs.types import GIB
from p2pfs.wire.leases import ReadTrash
from p2pfs.wire.namespace import Make, TrashRow, Unlink
from p2pfs.wire.volumes import VolumeSettings

pytestmark = [pytest.mark.l2, pytest.mark.trio]

KEPT_S = 400.0


async def started(p: Pool, *, trash_s: float = KEPT_S) -> Careful:
    """Three peers, and a volume with trash."""
    c = await careful(p, 3)
    await p.services.volumes.configure(VOLUME, VolumeSettings(trash_removed_s=trash_s, guard=b"g" * 32))
    return c


def worker(p: Pool) -> TrashPurge:
    return next(one for one in p.services.workers if isinstance(one, TrashPurge))


async def rest(p: Pool) -> None:
    while await worker(p).work() is Progress.BUSY:
        pass


def kept(p: Pool) -> int:
    """How many are in the trash."""
    assert p.database.read(broken_invariants) == []
    return len(rows(p))


def rows(p: Pool) -> list[TrashRow]:
    return p.database.read(lambda c: trash.page(c, VOLUME, ReadTrash(0, 500))).rows


async def test_it_goes_when_its_time_is_over_and_its_chunks_after_it(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="400s", purge_latest="0s") as p:
        c = await started(p)
        chunk = await c.store(1, [1, 2, 3])
        await c.settle()
        await c.unlink(1)
        await c.pass_time(KEPT_S - 10)
        await rest(p)
        assert kept(p) == 1
        await c.pass_time(20)
        await rest(p)
        assert kept(p) == 0
        assert p.services.sessions.reapable.is_set()
        assert p.database.write_now(lambda connection: reaper.reap(connection, now_s=p.clock.time())) > 0
        await c.pass_time(2 * KEPT_S)
        await c.purge.work()
        await c.settle()
        assert c.holders(chunk) == c.having(chunk) == set()


async def test_it_waits_for_a_quiet_hour_but_not_for_ever(tmp_path: Path) -> None:
    async with pool(tmp_path, quiet_load="0", purge_latest="800s") as p:
        c = await started(p)
        await c.store(1, [1, 2, 3])
        await c.unlink(1)
        await c.pass_time(2 * KEPT_S)
        await rest(p)
        assert kept(p) == 1
        await c.pass_time(KEPT_S + 10)
        await rest(p)
        assert kept(p) == 0


@pytest.mark.parametrize("heard", [True, False])
async def test_a_clock_that_was_set_lets_nothing_go(tmp_path: Path, claim_logs: Claims, heard: bool) -> None:
    if heard:
        claim_logs("nothing is purged", count=1)
    async with pool(tmp_path, purge_latest="0s") as p:
        c = await started(p)
        await c.store(1, [1, 2, 3])
        await c.unlink(1)
        right_s = p.clock.time()
        p.clock.set_time(right_s + 10 * 365 * 86400.0)
        if heard:
            for peer in c.peers.values():
                await p.beat(peer.node, clock_s=right_s)
        for _ in range(3):
            assert await worker(p).work() is Progress.IDLE
        assert kept(p) == 1
        if heard:  # once an admin confirms that the clock is right, it is kept for its time from then on
            await p.services.pool_clock.confirm()
            await rest(p)
            assert kept(p) == 1
            p.clock.advance(KEPT_S - 10)
            for peer in c.peers.values():
                await p.beat(peer.node, clock_s=right_s + KEPT_S)
            await rest(p)
            assert kept(p) == 1
            p.clock.advance(20)
            await rest(p)
            assert kept(p) == 0


async def test_a_restart_keeps_what_its_time_is_not_over_for(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_latest="0s") as p:
        c = await started(p)
        await c.store(1, [1, 2, 3])
        await c.unlink(1)
        clock = p.clock
    async with pool(tmp_path, clock=clock, purge_latest="0s") as p:
        c.pool = p
        await c.pass_time(KEPT_S / 2)
        await rest(p)
        assert kept(p) == 1
        await c.pass_time(KEPT_S)
        await rest(p)
        assert kept(p) == 0


async def test_when_room_is_short_the_oldest_goes_first_and_no_more_than_is_needed(tmp_path: Path) -> None:
    async with pool(tmp_path, quiet_load="0", trash_pressure="10%") as p:
        c = await started(p)
        for number in (1, 2, 3):
            await c.store(number, [1, 2, 3])
            await c.unlink(number)
            await c.pass_time(10)
        oldest = min(row.removed_s for row in rows(p))
        assert not worker(p).is_pressed
        await c.batch(Make(1, b"small", small := c.first + 9, b"tag", small, 1, 0o644, 0, 0, 0, b"head", 1))
        await c.batch(Unlink(1, b"small", small, False, 2))  # of which peers have nothing
        p.database.write_now(lambda d: d.execute("UPDATE trash SET removed_s = 1 WHERE inode = ?", (small,)))
        for peer in c.peers.values():  # what is free is one byte less than a tenth
            await p.beat(peer.node, capacity=10 * GIB, used=9 * GIB + 1)
        assert worker(p).is_pressed
        await rest(p)
        assert kept(p) == 3
        assert all(row.removed_s > oldest for row in rows(p) if row.entry.attributes.inode != small)
        for peer in c.peers.values():
            await p.beat(peer.node, capacity=10 * GIB, used=9 * GIB + 1500)
        await rest(p)
        assert kept(p) == 2
        assert small in [row.entry.attributes.inode for row in rows(p)]


async def test_much_of_it_goes_in_steps(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_latest="0s") as p:
        c = await started(p)
        for first in range(0, 450, 50):
            numbers = range(c.first + first, c.first + first + 50)
            makes = [Make(1, b"%d" % at, at, b"tag", at, 1, 0o644, 0, 0, 0, b"head", 1) for at in numbers]
            await c.batch(*makes)
            await c.batch(*(Unlink(1, b"%d" % at, at, False, 2) for at in numbers))
        await c.pass_time(2 * KEPT_S)
        steps = 0
        while await worker(p).work() is Progress.BUSY:
            steps += 1
        assert steps == -(-450 // STEP)
        assert kept(p) == 0


async def test_delays_are_times_and_a_volume_without_them_keeps_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await started(p, trash_s=0.0)
        await c.store(1, [1, 2, 3])
        await c.unlink(1)
        assert kept(p) == 0


async def test_what_was_removed_first_stays_first_when_every_delay_begins_anew(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await started(p)
        for number in (2, 1):
            await c.store(number, [1, 2, 3])
            await c.unlink(number)
            await c.pass_time(10)
        before = {row.entry.attributes.inode: row.removed_s for row in rows(p)}
        await c.pass_time(100)
        now_s = p.clock.time()
        p.database.write_now(lambda d: trash.restart(d, now_s=now_s))
        after = {row.entry.attributes.inode: row.removed_s for row in rows(p)}
        assert sorted(after, key=after.__getitem__) == sorted(before, key=before.__getitem__)
        assert max(after.values()) == now_s
        assert {row.purge_s for row in rows(p)} == {now_s + KEPT_S}
