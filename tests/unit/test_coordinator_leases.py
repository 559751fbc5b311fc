"""What has a lease goes to the trash when it is over: with all its names, the empty directories it leaves, told to
mounts, never behind the holder of a delegation and never by a clock that is wrong (P6)."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from broken_rows import broken_invariants
from careful import VOLUME, Careful, careful
from coordination import Pool, pool
from plugins.checklogs import Claims

from p2pfs.coordinator.upkeep.leases import RECALL_EVERY_S, WINDOW_S, LeaseExpiry
from p2pfs.errors import Fenced, NotFound
from p2pfs.meta import engine, leases, trash
from p2pfs.runtime.clocks import FakeClock
from p2pfs.runtime.worker import Progress
from p2pfs.types import ROOT_INODE, Kind, Role, SessionId
from p2pfs.wire.delegations import ReturnDelegation
from p2pfs.wire.events import WaitEvents
from p2pfs.wire.leases import ReadTrash, Reason, Restore, SetLease
from p2pfs.wire.namespace import Attributes, GetAttributes, Link, Make, Opened, Released, TrashRow
from p2pfs.wire.volumes import OpenSession, VolumeSettings

pytestmark = [pytest.mark.l2, pytest.mark.trio]

DAY_S = 86400.0
YEAR_S = 365 * DAY_S


@dataclass
class Leased:
    """A pool whose volume has trash, and files with leases."""

    pool: Pool
    careful: Careful
    numbers: count  # type: ignore[type-arg]

    @property
    def now_s(self) -> int:
        return int(self.pool.clock.time())

    async def make(
        self, name: bytes, left_s: float | None = None, *, parent: int = ROOT_INODE, kind: Kind = Kind.FILE
    ) -> int:
        """A new inode that is kept for so long, else as its directory is."""
        inode = next(self.numbers)
        await self.careful.batch(Make(parent, name, inode, b"tag", inode, kind, 0o755, 0, 0, 0, b"head", 5))
        if left_s is not None:
            await self.lease(inode, left_s)
        return inode

    async def lease(self, inode: int, left_s: float) -> None:
        await self.careful.batch(SetLease(inode, int(self.now_s + left_s)))

    def find(self, inode: int) -> Attributes | None:
        try:
            found: Attributes = self.pool.database.read(lambda c: engine.answer(c, VOLUME, GetAttributes(inode)))
        except NotFound:
            return None
        return found

    def trash(self) -> dict[int, TrashRow]:
        rows = self.pool.database.read(lambda c: trash.page(c, VOLUME, ReadTrash(0, 500))).rows
        return {row.entry.attributes.inode: row for row in rows}

    @property
    def worker(self) -> LeaseExpiry:
        return next(one for one in self.pool.services.workers if isinstance(one, LeaseExpiry))

    async def rest(self) -> None:
        while await self.worker.work() is Progress.BUSY:
            assert self.pool.database.read(broken_invariants) == []

    async def let_pass(self, seconds: float) -> None:
        """A long time, of which peers tell the same."""
        self.pool.clock.advance(seconds)
        await self.careful.beat()


async def leased(p: Pool, *, trash_s: float = 7 * DAY_S) -> Leased:
    c = await careful(p, 3)
    settings = VolumeSettings(trash_removed_s=DAY_S, trash_expired_s=trash_s, guard=b"g" * 32)
    await p.services.volumes.configure(VOLUME, settings)
    return Leased(p, c, count(c.first))


async def test_a_file_goes_with_all_its_names_when_its_lease_is_over(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        directory = await has.make(b"directory", kind=Kind.DIRECTORY)
        inode, other = await has.make(b"file", DAY_S), await has.make(b"other", 2 * DAY_S)
        number = next(has.numbers)
        await has.careful.batch(Link(directory, b"second", number, b"tag", inode, 6))
        await has.let_pass(DAY_S - 10)
        await has.rest()
        assert has.find(inode) is not None
        await has.let_pass(20)
        await has.rest()
        assert has.find(inode) is None
        assert has.find(other) is not None
        row = has.trash()[inode]
        assert (row.reason, row.purge_s - row.removed_s) == (Reason.EXPIRED, 7 * DAY_S)
        above = has.find(directory)
        assert above is not None
        assert above.mtime_ns == above.ctime_ns == int(p.clock.time() * 1e9)
        assert above.links == 2


async def test_one_transaction_takes_so_many_names_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MOST_AT_ONCE", 3)
    async with pool(tmp_path) as p:
        has = await leased(p)
        files = [await has.make(b"file %d" % number, DAY_S) for number in range(3)]
        for inode in files:
            await has.careful.batch(Link(ROOT_INODE, b"more %d" % inode, next(has.numbers), b"tag", inode, 6))
        await has.let_pass(DAY_S + 10)
        news = await p.database.write(
            lambda connection: leases.expire(connection, VOLUME, files, rules=has.worker._rules(), fences=0)
        )
        assert len(news.operations) == 3
        await has.rest()
        assert all(has.find(inode) is None for inode in files)
        assert set(files) == set(has.trash())


async def test_a_directory_lives_as_long_as_anything_in_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        top = await has.make(b"top", DAY_S, kind=Kind.DIRECTORY)
        sub = await has.make(b"sub", parent=top, kind=Kind.DIRECTORY)
        short, long = await has.make(b"short", parent=sub), await has.make(b"long", 3 * DAY_S, parent=sub)
        await has.let_pass(2 * DAY_S)
        await has.rest()
        assert has.trash().keys() == {short}
        await has.let_pass(2 * DAY_S)
        await has.rest()
        assert has.trash().keys() == {top, sub, short, long}
        root = has.find(ROOT_INODE)
        assert root is not None
        assert root.links == 2


async def test_what_is_kept_for_ever_keeps_the_directories_it_is_in(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        top = await has.make(b"top", DAY_S, kind=Kind.DIRECTORY)
        inode = await has.make(b"file", parent=top)
        await has.careful.batch(SetLease(inode, 0))
        await has.let_pass(100 * YEAR_S)
        await has.rest()
        assert has.trash() == {}


async def test_the_root_stays_and_a_hundred_years_are_a_hundred_years(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        await has.lease(ROOT_INODE, 100 * YEAR_S)
        inode = await has.make(b"file")
        await has.let_pass(100 * YEAR_S - DAY_S)
        await has.rest()
        assert has.trash() == {}
        await has.let_pass(2 * DAY_S)
        await has.rest()
        assert has.trash().keys() == {inode}
        assert has.find(ROOT_INODE) is not None


async def test_what_expired_comes_back_with_a_new_lease(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        inode = await has.make(b"file", DAY_S)
        await has.let_pass(2 * DAY_S)
        await has.rest()
        row = has.trash()[inode]
        await has.careful.batch(Restore(inode, row.parent, row.entry.name, row.entry.dentry, row.entry.tag, 9))
        await has.rest()
        found = has.find(inode)
        assert found is not None
        assert found.expires_s > has.now_s + DAY_S - 1


async def test_without_a_trash_for_it_it_is_gone_at_once(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p, trash_s=0.0)
        inode = await has.make(b"file", DAY_S)
        await has.let_pass(2 * DAY_S)
        await has.rest()
        assert has.find(inode) is None
        assert has.trash() == {}


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("skew_s", [10 * YEAR_S, 7200.0])
async def test_a_clock_that_was_set_expires_nothing(
    tmp_path: Path, claim_logs: Claims, heard: bool, skew_s: float
) -> None:
    """Ten years at once, or two hours: until an admin says that it is right, or peers do."""
    if heard:
        claim_logs("nothing is purged", count=1)
    async with pool(tmp_path) as p:
        has = await leased(p)
        inode = await has.make(b"file", 3600)
        right_s = p.clock.time()
        p.clock.set_time(right_s + skew_s)
        if heard:
            for peer in has.careful.peers.values():
                await p.beat(peer.node, clock_s=right_s)
        await has.rest()
        assert has.find(inode) is not None
        if heard:
            await p.services.pool_clock.confirm()
            await has.rest()
        await has.careful.pass_time(61)
        await has.rest()
        assert has.trash().keys() == {inode}


async def test_a_clock_that_went_back_keeps_what_it_would_have_let_go(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("nothing is purged", count=1)
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        has = await leased(p)
        inode = await has.make(b"file", 10)
        await has.rest()
        p.clock.set_time(p.clock.time() - 2 * 3600)
        await has.let_pass(60)
        await has.rest()
        assert has.find(inode) is not None


async def test_what_a_mount_has_open_stays_open_and_it_is_told(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        inode = await has.make(b"file", 3600)
        owner = p.identity(has.careful.peers[1].node, [Role.CLIENT])
        other = SessionId((await p.services.sessions.open(owner, VOLUME, OpenSession("h", "/mnt"))).session)
        await has.careful.batch(Opened(inode))
        await has.careful.pass_time(3700)
        await p.services.sessions.renew(other)
        await p.services.sessions.renew(has.careful.session)
        before = await p.services.sessions.events(other, WaitEvents(0, 0, 0.0))
        await has.rest()
        found = has.find(inode)
        assert found is not None
        assert found.links == 0
        told = await p.services.sessions.events(other, WaitEvents(before.stream, before.last, 0.0))
        assert [name.name for name in told.names] == [b"file"]
        assert {changed.inode for changed in told.inodes} == {ROOT_INODE, inode}
        assert inode in told.held
        await has.careful.batch(Released(inode))
        p.clock.advance(200)
        while await p.services.sessions.lapse():
            pass
        assert has.find(inode) is None
        assert has.trash().keys() == {inode}


async def test_a_delegated_volume_is_asked_back_first(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        inode = await has.make(b"file", 3600)
        owner = p.identity(has.careful.peers[1].node, [Role.CLIENT])
        holder = SessionId((await p.services.sessions.open(owner, VOLUME, OpenSession("h", "/mnt"))).session)
        await has.careful.pass_time(3700)
        told = await p.services.delegations.ask(holder, 0)
        assert told.epoch
        await has.rest()
        assert has.find(inode) is not None
        assert (await p.services.sessions.events(holder, WaitEvents(0, 0, 0.0))).recall == told.epoch
        await p.services.delegations.give_back(holder, ReturnDelegation(told.epoch, 0.0))
        assert (await p.services.delegations.ask(holder, 0)).epoch == 0  # not before the worker had its turn
        await has.rest()
        assert has.find(inode) is None or has.find(inode).links == 0  # type: ignore[union-attr]


async def test_a_holder_that_is_silent_is_waited_for_as_long_as_its_session_lasts(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        inode = await has.make(b"file", 3600)
        owner = p.identity(has.careful.peers[1].node, [Role.CLIENT])
        holder = SessionId((await p.services.sessions.open(owner, VOLUME, OpenSession("h", "/mnt"))).session)
        await has.careful.pass_time(3700)
        epoch = (await p.services.delegations.ask(holder, 0)).epoch
        await has.rest()
        assert has.find(inode) is not None
        await has.careful.pass_time(40)
        await has.rest()
        assert has.find(inode) is not None
        assert p.services.delegations.is_held(VOLUME)  # what it has not sent is not lost
        await has.let_pass(DAY_S)
        await p.services.sessions.expire()
        await has.rest()
        assert inode in has.trash()
        with pytest.raises(Fenced):
            await p.services.delegations.ask(holder, epoch)


async def test_a_volume_is_not_asked_back_all_the_time(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        has = await leased(p)
        first, second = await has.make(b"first", 600), await has.make(b"second", 900)
        owner = p.identity(has.careful.peers[1].node, [Role.CLIENT])
        holder = SessionId((await p.services.sessions.open(owner, VOLUME, OpenSession("h", "/mnt"))).session)

        async def hold(seconds: float, epoch: int = 0) -> int:
            """Renewed all the time."""
            for _ in range(int(seconds / 10)):
                await has.careful.pass_time(10)
                epoch = (await p.services.delegations.ask(holder, epoch)).epoch or epoch
            return epoch

        epoch = await hold(610)
        await has.rest()
        await p.services.delegations.give_back(holder, ReturnDelegation(epoch, 0.0))
        await has.rest()
        assert first in has.trash()
        epoch = await hold(max(WINDOW_S, 300) + 10)
        assert p.services.delegations.is_held(VOLUME)
        await has.rest()
        assert (await p.services.delegations.ask(holder, epoch)).epoch == epoch  # nobody recalled it
        assert second not in has.trash()
        epoch = await hold(RECALL_EVERY_S - 310 + 20, epoch)
        await has.rest()
        await p.services.delegations.give_back(holder, ReturnDelegation(epoch, 0.0))
        await has.rest()
        assert second in has.trash()
