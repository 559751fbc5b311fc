"""Names acknowledged by a mount that died, finished by the next: each once, in order, or kept aside."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from namespaces import VOLUME, Hand, RemoteWorld, served
from plugins.checklogs import Claims
from volumes import KEYS

from p2pfs.coordinator.delegations import MARGIN_S
from p2pfs.errors import CoordinatorAway
from p2pfs.format.journal import Frames, open_frames
from p2pfs.meta import sessions
from p2pfs.meta.calls import CoordinatorCalls
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.types import MIB, ROOT_INODE, Kind
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.journal.records import Queued, Record, State
from p2pfs.vfs.journal.recovery import Send, recovering
from p2pfs.wire import codec
from p2pfs.wire.namespace import Applied, Batch, Make, SetAttributes, SetXattr
from p2pfs.wire.volumes import OpenSession

pytestmark = pytest.mark.l3

LASTS_S = 30.0


class Mortal(RemoteNamespace):
    """A session whose requests stop reaching the coordinator, or whose answers stop coming."""

    unheard_from: Callable[[], bool] = staticmethod(lambda: False)
    unanswered_from: Callable[[], bool] = staticmethod(lambda: False)

    async def _send(self, batch: Batch) -> Applied:
        if batch.epoch and self.unheard_from():
            await trio.sleep_forever()
        applied = await super()._send(batch)
        if batch.epoch and self.unanswered_from():
            await trio.sleep_forever()
        return applied


Seen = dict[bytes, tuple[int, int, int, bytes | None]]


async def look(namespace: Delegated | RemoteNamespace) -> Seen:
    entries = await Hand(namespace).entries(content=isinstance(namespace, RemoteNamespace))  # the other one knows it
    return {
        entry.name: (entry.attributes.inode, entry.attributes.mode, entry.attributes.links, entry.attributes.inline)
        for entry in entries
    }


def send_to(world: RemoteWorld) -> Send:
    async def send(session: str, batch: Batch) -> Applied:
        calls = CoordinatorCalls(world.client, world.coordinator, io_timeout_s=5.0)
        return await calls.ask("POST", f"/sessions/{session}/batches", batch, Applied)

    return send


def recovery(world: RemoteWorld, home: Path, send: Send | None = None):  # type: ignore[no-untyped-def]  # noqa: ANN201
    async def end(session: str) -> None:
        calls = CoordinatorCalls(world.client, world.coordinator, io_timeout_s=5.0)
        await calls.tell("DELETE", f"/sessions/{session}")

    @asynccontextmanager
    async def open_namespace() -> AsyncIterator[RemoteNamespace]:
        namespace = await world.mount()
        assert isinstance(namespace, RemoteNamespace)
        yield namespace
        await namespace.aclose()

    return recovering(
        home, KEYS, VOLUME,
        keeps=True, budget_bytes=MIB, send=send or send_to(world), end=end, open_namespace=open_namespace,
    )  # fmt: skip


async def work(hand: Hand) -> None:
    """Names that leave no trace, names made again, a change that goes through, inline content."""
    gone = await hand.make(b"t")
    old = await hand.make(b"f", opened=True)
    await hand.rename(b"t", gone, b"f", replaced=old)
    new = await hand.make(b"t")
    await hand.rename(b"t", new, b"f", replaced=gone)
    await hand.unlink(b"f", new)
    directory = await hand.directory(b"d")
    again = await hand.make(b"f")
    await hand.link(again, b"linked")
    await hand.namespace.apply([SetAttributes(again, hand.now(), mode=0o600)])
    await hand.commit(again, 0, inline=b"content", size=7)
    await hand.commit(again, 1, inline=b"more content", size=12)
    await hand.unlink(b"d", directory, directory=True)
    await hand.make(b"s", kind=Kind.SYMLINK)


async def make_two_directories(hand: Hand) -> None:
    directory = await hand.directory(b"d")
    await hand.directory(b"e")
    await hand.make(b"in", parent=directory)


async def die(
    world: RemoteWorld,
    home: Path,
    fate: str,
    settled: int,
    doing: Callable[[Hand], Awaitable[None]] = work,
    session: type[Mortal] = Mortal,
) -> Seen:
    """A mount works and dies; `settled` of its rounds were committed before. What it had acknowledged; the journal as
    it was is in `home`/dead."""
    async with recovery(world, home / "alive") as own, trio.open_nursery() as nursery:
        inner = await session.open(
            world.client, world.coordinator, VOLUME,
            request=OpenSession("host", "/mnt"), io_timeout_s=10.0, on_batch=own.journal.sending,
        )  # fmt: skip
        assert isinstance(inner, Mortal)
        own.journal.opened(inner.session)
        delegated = Delegated(inner, now=trio.current_time, io_timeout_s=10.0, journal=own.journal)
        await delegated.hold((await inner.delegate(0)).epoch, trio.current_time() + LASTS_S)
        nursery.start_soon(delegated.changes.run)
        hand = Hand(delegated)
        await hand.make(b"first")
        for number in range(settled):
            other = await hand.make(b"round %d" % number)
            await delegated.apply([SetXattr(other, b"name", b"value", 0, hand.now())])  # takes a number of its own
            await work(hand)
            await hand.unlink(b"f", (await delegated.lookup(1, b"f")).attributes.inode)  # type: ignore[arg-type]
            await hand.unlink(b"linked", (await delegated.lookup(1, b"linked")).attributes.inode)  # type: ignore[arg-type]
            await hand.unlink(b"s", (await delegated.lookup(1, b"s")).attributes.inode)  # type: ignore[arg-type]
            await delegated.settle()
        if fate == "unheard":
            inner.unheard_from = lambda: True
        elif fate == "unanswered":
            inner.unanswered_from = lambda: True
        await doing(hand)
        if fate == "half":
            await delegated.settle()
            inner.unheard_from = lambda: True
        if fate == "answered":
            await delegated.settle()
        else:
            await trio.testing.wait_all_tasks_blocked(0.05)
            await hand.make(b"behind")
        acknowledged = await look(delegated)
        shutil.copytree(home / "alive" / "journal", home / "dead" / "journal")
        nursery.cancel_scope.cancel()
    return acknowledged


async def seen(world: RemoteWorld) -> Seen:
    namespace = await world.mount()
    assert isinstance(namespace, RemoteNamespace)
    return await look(namespace)


@pytest.mark.parametrize("settled", [0, 2])
@pytest.mark.parametrize("fate", ["unheard", "unanswered", "answered"])
async def test_what_a_dead_mount_acknowledged_is_there_in_the_end(tmp_path: Path, fate: str, settled: int) -> None:
    with trio.fail_after(60):
        async with served(tmp_path) as world:
            acknowledged = await die(world, tmp_path, fate, settled)
            assert (await seen(world) == acknowledged) is (fate == "answered")
            async with recovery(world, tmp_path / "dead") as found:
                assert await seen(world) == acknowledged
                assert found.journal.rejected == 0


@pytest.mark.parametrize("fate", ["unheard", "unanswered"])
async def test_a_recovery_that_dies_anywhere_is_begun_again(tmp_path: Path, fate: str) -> None:
    with trio.fail_after(60):
        async with served(tmp_path) as world:
            acknowledged = await die(world, tmp_path, fate, 1)
            real = send_to(world)
            for sent in (0, 1, 1):

                async def dying(session: str, batch: Batch, left: list[int] = [sent]) -> Applied:  # noqa: B006
                    if not left[0]:
                        raise CoordinatorAway("it died")
                    left[0] -= 1
                    return await real(session, batch)

                with pytest.raises(CoordinatorAway):
                    async with recovery(world, tmp_path / "dead", dying):
                        pass
            async with recovery(world, tmp_path / "dead") as found:
                assert await seen(world) == acknowledged
                shutil.copytree(tmp_path / "dead", tmp_path / "again")
            async with recovery(world, tmp_path / "again") as found:
                assert await seen(world) == acknowledged
                assert found.journal.rejected == 0


@pytest.mark.parametrize("fate", ["unheard", "unanswered"])
@pytest.mark.parametrize("ending", ["overruled", "expired"])
async def test_what_nobody_contradicts_is_done_though_the_delegation_or_the_session_is_over(
    tmp_path: Path, ending: str, fate: str
) -> None:
    with trio.fail_after(60):
        async with served(tmp_path) as world:
            acknowledged = await die(world, tmp_path, fate, 0)
            if ending == "overruled":
                world.clock.advance(LASTS_S + MARGIN_S)
            else:
                await world.database.write(lambda c: sessions.expire_sessions(c, now_s=float("inf")))
            await Hand(await world.mount()).make(b"theirs")
            shutil.copytree(tmp_path / "dead", tmp_path / "again")
            for home in ("dead", "again", "dead"):  # the second time all is done already
                async with recovery(world, tmp_path / home) as found:
                    there = await seen(world)
                    assert there.pop(b"theirs")
                    assert there == acknowledged
                    assert found.journal.rejected == 0


async def test_what_is_in_conflict_is_not_done_and_nothing_that_rests_on_it(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("2 of 5 changes acknowledged before a crash are in conflict", count=1)
    with trio.fail_after(60):
        async with served(tmp_path) as world:
            await die(world, tmp_path, "unheard", 0, doing=make_two_directories)
            world.clock.advance(LASTS_S + MARGIN_S)
            theirs = await Hand(await world.mount()).make(b"d")
            async with recovery(world, tmp_path / "dead") as found:
                there = await seen(world)
                assert (there[b"d"][0], b"e" in there, b"behind" in there) == (theirs, True, True)
                assert found.journal.rejected == 2


LATER = 10**18


async def set_mode_and_move(hand: Hand) -> None:
    for name in (b"set", b"moved", b"alone"):
        await hand.make(name)
    await hand.namespace.settle()
    for name in (b"set", b"alone"):
        inode = (await hand.namespace.lookup(ROOT_INODE, name)).attributes.inode
        await hand.namespace.apply([SetAttributes(inode, hand.now(), mode=0o600)])
        await hand.namespace.apply([SetAttributes(inode, hand.now(), uid=77)])
    moved = (await hand.namespace.lookup(ROOT_INODE, b"moved")).attributes.inode
    await hand.rename(b"moved", moved, b"elsewhere")


class Deaf(Mortal):
    """Hears nothing of changes but of makings."""

    async def _send(self, batch: Batch) -> Applied:
        if not all(isinstance(operation, Make) for operation in batch.operations):
            await trio.sleep_forever()
        return await super()._send(batch)


@pytest.mark.parametrize("ending", ["overruled", "expired"])
async def test_what_others_did_to_a_file_since_is_not_overwritten_by_its_attributes_or_name(
    tmp_path: Path, claim_logs: Claims, ending: str
) -> None:
    claim_logs("3 of 6 changes acknowledged before a crash are in conflict", count=1)
    with trio.fail_after(60):
        async with served(tmp_path) as world:
            await die(world, tmp_path, "", 0, doing=set_mode_and_move, session=Deaf)
            if ending == "overruled":
                world.clock.advance(LASTS_S + MARGIN_S)
            else:
                await world.database.write(lambda c: sessions.expire_sessions(c, now_s=float("inf")))
            theirs = await world.mount()
            for name in (b"set", b"moved"):
                inode = (await theirs.lookup(ROOT_INODE, name)).attributes.inode
                await theirs.apply([SetAttributes(inode, LATER, mode=0o640)])
            shutil.copytree(tmp_path / "dead", tmp_path / "again")
            async with recovery(world, tmp_path / "dead") as found:
                there = await seen(world)
                modes = {name: row[1] & 0o777 for name, row in there.items()}
                assert modes == {
                    b"first": 0o644, b"set": 0o640, b"moved": 0o640, b"alone": 0o600, b"behind": 0o644,
                }  # fmt: skip
                assert found.journal.rejected == 3
            async with recovery(world, tmp_path / "again"):  # it died before it could forget them
                assert await seen(world) == there


async def test_a_file_that_others_removed_is_not_made_again_while_the_trash_knows_it(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("2 of 4 changes acknowledged before a crash are in conflict", count=1)

    async def make_one(hand: Hand) -> None:
        await hand.commit(await hand.make(b"f"), 0, size=7)

    with trio.fail_after(60):
        async with served(tmp_path, trash_s=86400.0) as world:
            await die(world, tmp_path, "unanswered", 0, doing=make_one)
            world.clock.advance(LASTS_S + MARGIN_S)
            theirs = await world.mount()
            await Hand(theirs).unlink(b"f", (await theirs.lookup(ROOT_INODE, b"f")).attributes.inode)
            await world.database.write(lambda c: sessions.expire_sessions(c, now_s=float("inf")))
            async with recovery(world, tmp_path / "dead") as found:
                assert sorted(await seen(world)) == [b"behind", b"first"]
                assert found.journal.rejected == 2


async def test_a_number_that_the_journal_lost_with_the_power_is_given_to_no_other_batch(tmp_path: Path) -> None:
    """Else that batch's answer would be taken for the answer to what nobody ever heard of."""

    async def half_heard(hand: Hand) -> None:
        await hand.make(b"heard")

    with trio.fail_after(60):
        async with served(tmp_path) as world:
            acknowledged = await die(world, tmp_path, "half", 0, doing=half_heard)
            without_states(tmp_path / "dead")
            assert b"behind" not in await seen(world)
            async with recovery(world, tmp_path / "dead") as found:
                assert await seen(world) == acknowledged
                assert found.journal.rejected == 0


def without_states(home: Path) -> None:
    """The journal as if only the operations and under which delegation they were done had got to the disk."""
    (path,) = (home / "journal").glob("*/*.journal")
    frames = Frames(KEYS, VOLUME)
    records = [codec.decode(frame, Record) for frame in open_frames(KEYS, VOLUME, path.read_bytes())[0]]  # type: ignore[arg-type]
    state = [record for record in records if isinstance(record, State) and not record.seq][-1]
    kept = [state, *(record for record in records if isinstance(record, Queued))]
    path.write_bytes(frames.header + b"".join(frames.seal(codec.encode(record)) for record in kept))


async def test_two_mounts_of_a_node_do_not_share_a_journal(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("another mount of this node keeps the journal", count=1)
    async with (
        served(tmp_path) as world,
        recovery(world, tmp_path / "home") as first,
        recovery(world, tmp_path / "home") as second,
    ):
        assert (first.journal.keeps, second.journal.keeps) == (True, False)


async def test_nothing_is_left_behind_where_nothing_is_unfinished(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        async with recovery(world, tmp_path / "home"):
            assert len(list((tmp_path / "home" / "journal").glob("*/*.journal"))) == 1
        assert list((tmp_path / "home" / "journal").glob("*/*.journal")) == []
