"""Events at the coordinator: when they are told, what ends the waiting, and what a restart leaves of it."""

from pathlib import Path

import pytest
import trio
from coordination import FakeClock, Pool, live, pool, volume_message
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked

from p2pfs.coordinator.sessions import GRACE, HELD, MAX_SESSIONS, Expiry
from p2pfs.errors import CoordinatorAway, Fenced
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.runtime.worker import Progress
from p2pfs.types import ROOT_INODE, Kind, Role, SessionId, VolumeId
from p2pfs.wire import codec
from p2pfs.wire.events import ChangedName, Events, WaitEvents
from p2pfs.wire.namespace import Applied, Batch, Make, Opened, Operation, Released, SetAttributes, Unlink
from p2pfs.wire.volumes import OpenSession, VolumeInfo

pytestmark = pytest.mark.l0

VOLUME = VolumeId(7)


class Mount:
    """A session, and what its mount remembers of the events it was told."""

    def __init__(self, p: Pool, node: str, session: str, first_id: int) -> None:
        self.p, self.node, self.session, self.next = p, node, SessionId(session), first_id
        self.seq = self.stream = self.last = 0

    async def apply(self, *operations: Operation, seq: int = 0) -> Applied:
        self.seq += 1
        batch = Batch(seq or self.seq, 0, list(operations))
        return codec.decode(await self.p.services.sessions.apply(self.session, batch), Applied)

    async def events(self, wait_s: float = 0.0) -> Events:
        asked = WaitEvents(self.stream, self.last, wait_s)
        told = await self.p.services.sessions.events(self.session, asked)
        self.stream, self.last = told.stream, told.last
        return told

    def held(self) -> list[int]:
        return list(self.p.services.sessions.held(self.session))

    async def make(self, name: bytes) -> int:
        self.next += 2
        dentry, inode = self.next - 2, self.next - 1
        await self.apply(Make(ROOT_INODE, name, dentry, b"tag", inode, Kind.FILE, 0o644, 0, 0, 0, b"head", 1))
        return inode

    async def unlink(self, name: bytes, inode: int) -> list[int]:
        return (await self.apply(Unlink(ROOT_INODE, name, inode, False, 2))).removed


async def mount(p: Pool, node: str) -> Mount:
    grant = await p.services.sessions.open(p.identity(node, [Role.CLIENT]), VOLUME, OpenSession())
    return Mount(p, node, grant.session, grant.first_id)


async def two_mounts(p: Pool) -> tuple[Mount, Mount]:
    """Of two nodes of one owner."""
    nodes = [(await p.join(name, Role.CLIENT)).node for name in ("anna@laptop", "anna@desk")]
    await p.services.volumes.create(p.identity(nodes[0]), volume_message(VOLUME))
    return await mount(p, nodes[0]), await mount(p, nodes[1])


async def fenced(mount: Mount) -> None:
    with pytest.raises(Fenced):
        await mount.events(19.0)


async def test_a_batch_is_told_once_however_often_it_comes(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        a, b = await two_mounts(p)
        await a.make(b"name")
        assert (await b.events()).names == [ChangedName(ROOT_INODE, b"name")]
        await a.apply(SetAttributes(ROOT_INODE, 9, mode=0o700), seq=7)
        assert [row.inode for row in (await b.events()).inodes] == [ROOT_INODE]
        await a.apply(SetAttributes(ROOT_INODE, 9, mode=0o700), seq=7)
        assert (await b.events()).inodes == []


async def test_closing_expiring_and_revoking_a_session_ends_its_waiting(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked")
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        a, b = await two_mounts(p)
        c, d = await mount(p, a.node), await mount(p, a.node)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for one in (a, b, c):
                    nursery.start_soon(fenced, one)
                await wait_all_tasks_blocked()
                await p.services.sessions.close(a.session)
                await wait_all_tasks_blocked()
                assert len(nursery.child_tasks) == 2
                await p.services.membership.revoke(b.node)
                await wait_all_tasks_blocked()
                assert len(nursery.child_tasks) == 1
                clock.advance(p.services.sessions.kept_s - 1)
                await p.services.sessions.renew(d.session)
                clock.advance(2)
                await p.services.sessions.expire()
        assert repr(p.services.sessions._listeners) == "Listeners(1 sessions of 1 volumes)"


async def test_a_session_that_made_room_for_another_is_over(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        a, b = await two_mounts(p)
        for _ in range(MAX_SESSIONS - 1):
            await mount(p, a.node)
        clock.advance(4 * p.settings.session_lifetime)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fenced, a)
                await wait_all_tasks_blocked()
                await mount(p, a.node)
        assert repr(p.services.sessions._listeners) == f"Listeners({MAX_SESSIONS + 1} sessions of 1 volumes)"
        await b.make(b"name")


async def test_a_mount_counts_as_awake_for_one_lifetime(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        a, b = await two_mounts(p)
        first, second, third = [await a.make(name) for name in (b"1", b"2", b"3")]
        clock.advance(p.settings.session_lifetime)
        assert await a.unlink(b"1", first) == []
        assert ((await b.events()).held, b.held()) == ([first], [first])
        clock.advance(0.1)
        assert await a.unlink(b"2", second) == [second]
        assert ((await b.events()).held, b.held()) == ([], [first])
        await p.services.sessions.renew(b.session)
        assert await a.unlink(b"3", third) == []
        assert (await b.events()).held == [third]
        assert GRACE > 1  # else a session that is asleep would be over


async def test_a_restart_says_that_something_may_be_missed_and_keeps_what_was_held(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        a, b = await two_mounts(p)
        inode, later = await a.make(b"1"), await a.make(b"2")
        await a.unlink(b"1", inode)
        before = await b.events()
        assert before.held == [inode]
    async with pool(tmp_path) as p:
        a.p = b.p = p
        await a.unlink(b"2", later)
        told = await b.events()
        assert (told.lost, told.held) == (True, [])
        assert told.stream != before.stream
        assert b.held() == [inode, later]
        await a.make(b"3")
        assert (await b.events()).names == [ChangedName(ROOT_INODE, b"3")]
        assert (await b.apply(Released(inode), Released(later))).removed == [inode, later]
        fresh = await mount(p, b.node)
        assert not (await fresh.events()).lost


async def test_what_is_kept_for_a_mount_that_says_nothing_lapses(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        a, b = await two_mounts(p)
        said, unsaid = await a.make(b"1"), await a.make(b"2")
        await a.unlink(b"1", said)
        await a.unlink(b"2", unsaid)
        await b.apply(Opened(said))
        expiry = Expiry(p.services.sessions, p.services.reservations)
        clock.advance(HELD * p.settings.session_lifetime)
        assert await expiry.work() is Progress.IDLE
        assert b.held() == [said, unsaid]
    async with pool(tmp_path, clock=clock) as p:  # nobody could say anything while it was away
        a.p = b.p = p
        clock.advance(HELD * p.settings.session_lifetime)
        expiry = Expiry(p.services.sessions, p.services.reservations)
        assert await expiry.work() is Progress.IDLE
        assert b.held() == [said, unsaid]
        clock.advance(0.1)
        await p.services.sessions.renew(b.session)
        assert await expiry.work() is Progress.BUSY
        assert await expiry.work() is Progress.IDLE
        assert b.held() == [said]
        assert p.services.sessions.reapable.is_set()


# ---- over the network -----------------------------------------------------------------------------------------------


async def test_a_stopping_coordinator_lets_nobody_wait(tmp_path: Path) -> None:
    """`stop_timeout` is 2 s here; the request would wait 20."""
    answered: list[Events] = []

    async def wait(namespace: RemoteNamespace) -> None:
        answered.append(await namespace.events(20.0))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, live(tmp_path) as pool:
            _, credentials = await pool.join("anna@laptop", Role.CLIENT)
            client = pool.client(credentials)
            await client.call(pool.endpoint, "POST", "/volumes", volume_message(VOLUME), VolumeInfo)
            namespace = await RemoteNamespace.open(
                client, pool.endpoint, VOLUME, request=OpenSession(), io_timeout_s=5.0
            )
            assert (await namespace.events(0.0)).last == 0
            nursery.start_soon(wait, namespace)
            while "1 busy" not in repr(pool.running.server):
                await trio.lowlevel.checkpoint()
            stopping_s = trio.current_time()
    assert trio.current_time() - stopping_s < 1.5
    assert [(events.last, events.lost) for events in answered] == [(0, False)]
    with pytest.raises(CoordinatorAway):
        await namespace.events(0.0)
    assert not namespace.is_away  # this call says nothing about the others
    await client.aclose()
