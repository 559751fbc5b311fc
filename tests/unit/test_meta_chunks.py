"""The index of chunks: references, doom, purging, replicas, and the reaper."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from msgspec.structs import replace
from namespaces import VOLUME as V
from namespaces import Hand, SqlWorld, broken_invariants, chunk_id, extent, new_chunk

from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.errors import Gone
from p2pfs.format.inventory import bucket_of, digest
from p2pfs.meta import chunks_index, inventory, members, reaper, survey, void_copies
from p2pfs.meta.database import InlineDatabase
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import ChunkId, NodeId, PeerNumber, VolumeId
from p2pfs.wire.namespace import NewChunk

pytestmark = pytest.mark.l0


@pytest.fixture
def database() -> Iterator[InlineDatabase]:
    database = InlineDatabase()
    yield database
    assert database.read(broken_invariants) == []
    database.close()


@pytest.fixture
async def hand(database: InlineDatabase) -> Hand:
    world = SqlWorld(database)
    await world.prepare()
    return Hand(await world.mount())


def refs(database: InlineDatabase) -> dict[int, tuple[int, float | None]]:
    """Chunk → (refs, doomed_s)."""
    rows = database.read(lambda c: c.execute("SELECT id, refs, doomed_s FROM chunk").fetchall())
    return {int.from_bytes(row[0], "big"): (row[1], row[2]) for row in rows}


def reap(database: InlineDatabase, now_s: float = 100.0, limit: int = 1000) -> int:
    return database.write_now(lambda c: reaper.reap(c, now_s=now_s, limit=limit))


def peers(*numbers: int) -> list[PeerNumber]:
    return [PeerNumber(number) for number in numbers]


async def test_a_chunk_is_doomed_with_its_last_reference(database: InlineDatabase, hand: Hand) -> None:
    one, two = await hand.make(b"1"), await hand.make(b"2")
    await hand.commit(one, 0, extents=[extent(0, 1, 1), extent(1, 1, 1)], chunks=[new_chunk(1)])
    await hand.commit(two, 0, extents=[extent(0, 1, 1)])
    assert refs(database) == {1: (3, None)}
    await hand.commit(one, 1, drop=[(0, 1), (1, 1)])
    assert refs(database) == {1: (1, None)}
    await hand.unlink(b"2", two)
    assert refs(database) == {1: (1, None)}
    while reap(database):
        pass
    assert refs(database) == {1: (0, 100.0)}
    await hand.commit(one, 2, extents=[extent(0, 5, 1)], chunks=[new_chunk(1)])
    assert refs(database) == {1: (1, None)}


async def test_a_chunk_that_moves_within_a_commit_is_never_doomed(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)])
    database.write_now(lambda c: chunks_index.drop_replica(c, V, chunk=chunk_id(1), peer=PeerNumber(1), now_s=1))
    await hand.commit(inode, 1, extents=[extent(0, 2, 1)], drop=[(0, 1)])  # a doomed one would need proof again
    assert refs(database) == {1: (1, None)}


async def test_removing_is_one_row_and_reaping_is_bounded(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"big")
    await hand.commit(
        inode, 0, size=7, extents=[extent(i, 1, i) for i in range(25)], chunks=[new_chunk(i) for i in range(25)]
    )
    await hand.unlink(b"big", inode)
    rows = lambda table: database.read(lambda c: c.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: E731
    assert (rows("cut"), rows("extent")) == (1, 25)
    assert reap(database, limit=10) <= 11
    assert 15 <= rows("extent") < 25
    steps = 0
    while reap(database, limit=10):
        steps += 1
    assert steps <= 4
    assert (rows("cut"), rows("extent")) == (0, 0)
    assert {value[0] for value in refs(database).values()} == {0}
    assert reap(database) == 0


def purge(database: InlineDatabase, before: float = 1e12) -> chunks_index.Purged:
    return database.write_now(lambda c: chunks_index.purge(c, doomed_before_s=before, now_s=200.0))


def pending(
    database: InlineDatabase, peer: int, readable: tuple[int, ...] = (), wanted: int = 0
) -> list[tuple[int, bytes, int]]:
    """What the peer may be told to delete while these can be read."""
    found, behind = look(database, peer, void_copies.FIRST, look_at=1000, readable=readable, wanted=wanted)
    assert behind == void_copies.FIRST
    return found


def look(
    database: InlineDatabase,
    peer: int,
    after: tuple[int, bytes],
    *,
    look_at: int,
    readable: tuple[int, ...],
    wanted: int,
) -> tuple[list[tuple[VolumeId, ChunkId, int]], tuple[int, bytes]]:
    """One step of that."""
    return database.read(
        lambda c: void_copies.pending(
            c, PeerNumber(peer), after=after, limit=10, look_at=look_at, readable=peers(*readable), wanted=wanted
        )
    )


async def test_a_purged_chunk_must_be_stored_again(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1), extent(1, 1, 2)], chunks=[new_chunk(1), new_chunk(2)])
    await hand.commit(inode, 1, drop=[(0, 1)])
    assert purge(database, 0.0).chunks == 0
    purged = purge(database)
    assert (purged.chunks, purged.bytes, purged.copies) == (1, 2000, {1: 1, 2: 1})
    assert purge(database).chunks == 0
    assert set(refs(database)) == {2}
    assert pending(database, 1) == [(V, chunk_id(1), 1)]
    for chunks in ([], [new_chunk(1)]):  # by a mount that knew it, and with receipts from before
        with pytest.raises(Gone):
            await hand.commit(inode, 2, extents=[extent(0, 3, 1)], chunks=chunks)
    assert not database.write_now(lambda c: chunks_index.add_replicas(c, V, new=new_chunk(1, 3)))
    again = replace(new_chunk(1), receipts=[replace(receipt, put_seq=2) for receipt in new_chunk(1).receipts])
    await hand.commit(inode, 2, extents=[extent(0, 3, 1)], chunks=[again])
    assert database.read(lambda c: chunks_index.holders(c, V, chunk=chunk_id(1))) == {1: 2, 2: 2}
    assert pending(database, 1) == [(V, chunk_id(1), 1)]  # which the peers will find void


async def test_a_revived_chunk_is_not_purged(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)])
    await hand.commit(inode, 1, drop=[(0, 1)])
    await hand.commit(inode, 2, extents=[extent(0, 2, 1)])
    assert purge(database).chunks == 0
    assert refs(database) == {1: (1, None)}


async def test_a_deletion_ends_with_the_put_seq_it_named(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)])
    await hand.commit(inode, 1, drop=[(0, 1)])
    purge(database)
    done = lambda put_seq: database.write_now(  # noqa: E731
        lambda c: void_copies.deleted(
            c, PeerNumber(1), volume=V, chunk=ChunkId(chunk_id(1)), put_seq=put_seq, now_s=300.0
        )
    )
    done(0)  # of an earlier order
    assert len(pending(database, 1)) == 1
    done(1)
    assert pending(database, 1) == []
    assert database.read(void_copies.peers_pending) == {2: 1}
    with pytest.raises(Gone):
        await hand.commit(inode, 2, extents=[extent(0, 3, 1)], chunks=[new_chunk(1)])


async def test_a_surplus_copy_is_taken_off_only_while_enough_others_are_proved(
    database: InlineDatabase, hand: Hand
) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2, 3)])
    (chunk,) = database.read(lambda c: survey.after(c, 0))
    assert [(copy.peer, copy.put_seq, copy.proved) for copy in chunk.copies] == [(1, 1, 0), (2, 1, 0), (3, 1, 0)]
    take_off = lambda keep: database.write_now(  # noqa: E731
        lambda c: survey.take_off(c, chunk.number, peer=PeerNumber(3), keep=keep, wanted=2, now_s=5.0)
    )
    assert not take_off({1: 0})  # 2 is not there
    assert not take_off({1: 0, 2: 1})  # 2 has appeared since
    database.write_now(lambda c: members.appear(c, PeerNumber(2)))
    prove = lambda appearances: database.write_now(  # noqa: E731
        lambda c: chunks_index.prove(c, V, chunk=ChunkId(chunk_id(1)), peer=PeerNumber(2), appearances=appearances)
    )
    assert prove(0)  # shown before it appeared: that says nothing of now
    assert not take_off({1: 0, 2: 1, 3: 0})
    assert prove(1)
    assert take_off({1: 0, 2: 1, 3: 0})
    assert pending(database, 3) == [(V, chunk_id(1), 1)]
    assert not take_off({1: 0, 2: 1, 3: 0})


async def test_a_copy_off_the_index_stays_while_others_are_missing(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2, 3)])
    keep = {PeerNumber(1): 0, PeerNumber(2): 0}
    assert database.write_now(lambda c: survey.take_off(c, 1, peer=PeerNumber(3), keep=keep, wanted=2, now_s=5.0))
    assert pending(database, 3, readable=(1, 2, 3), wanted=2) == [(V, chunk_id(1), 1)]
    assert pending(database, 3, readable=(1, 3), wanted=2) == []  # 2 is silent
    found, behind = look(database, 3, void_copies.FIRST, look_at=1, readable=(1, 3), wanted=2)
    assert (found, behind) == ([], (V, chunk_id(1)))  # however many are held back, each step is short
    assert look(database, 3, behind, look_at=1, readable=(1, 3), wanted=2) == ([], void_copies.FIRST)
    database.write_now(
        lambda c: chunks_index.drop_replica(c, V, chunk=ChunkId(chunk_id(1)), peer=PeerNumber(2), now_s=6.0)
    )
    assert pending(database, 3, readable=(1, 2, 3), wanted=2) == []  # 2 has lost it
    await hand.unlink(b"1", inode)
    while reap(database):
        pass
    assert pending(database, 3, readable=(1,), wanted=2) == [(V, chunk_id(1), 1)]  # nobody names it


async def test_a_copy_that_nobody_was_told_to_delete_counts_again(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2, 3)])
    keep = {PeerNumber(1): 0, PeerNumber(2): 0}
    database.write_now(lambda c: survey.take_off(c, 1, peer=PeerNumber(3), keep=keep, wanted=2, now_s=5.0))
    found = database.read(lambda c: void_copies.pending_of(c, [(V, ChunkId(chunk_id(1)))], peers=peers(1, 3)))
    assert found == [(3, V, chunk_id(1), 1)]
    revive = lambda put_seq: database.write_now(  # noqa: E731
        lambda c: survey.revive(c, PeerNumber(3), volume=V, chunk=ChunkId(chunk_id(1)), put_seq=put_seq)
    )
    assert not revive(2)
    assert revive(1)
    assert not revive(1)
    (chunk,) = database.read(lambda c: survey.after(c, 0))
    assert [(copy.peer, copy.proved) for copy in chunk.copies] == [(1, 0), (2, 0), (3, -1)]
    assert pending(database, 3) == []


@pytest.mark.parametrize("at_once", [1, 2, 100_000])
async def test_chunks_are_counted_by_their_live_copies(
    database: InlineDatabase, hand: Hand, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(chunks_index, "COUNTED", at_once)
    inode = await hand.make(b"1")
    chunks = [new_chunk(1, 1, 2, 3), new_chunk(2, 1, 2), new_chunk(3, 2, 3), new_chunk(4, 1, 2)]
    await hand.commit(inode, 0, extents=[extent(i, 1, i + 1) for i in range(4)], chunks=chunks)
    await hand.commit(inode, 1, drop=[(3, 1)])
    count = lambda *live: database.read(lambda c: chunks_index.counts(c, peers(*live)))  # noqa: E731
    assert count(1, 2, 3) == {3: 1, 2: 2}
    assert count(1) == {1: 2, 0: 1}
    assert count() == {0: 3}
    assert database.read(lambda c: chunks_index.used_by(c, PeerNumber(3))) == (2, 2000)


async def test_a_copy_that_is_held_and_to_be_deleted_is_in_the_digest_once(
    database: InlineDatabase, hand: Hand
) -> None:
    inode = await hand.make(b"1")
    chunks = [new_chunk(1, 1, 2), new_chunk(2, 1, 2)]
    await hand.commit(inode, 0, extents=[extent(i, 1, i + 1) for i in range(2)], chunks=chunks)
    expected = database.read(lambda c: inventory.digests(c, PeerNumber(1)))
    for number, put_seq in ((1, 0), (3, 1)):  # an older copy of what it holds, and one of what nobody names any more
        database.write_now(
            lambda c, number=number, put_seq=put_seq: void_copies.add(
                c, 1, volume=V, chunk=chunk_id(number), put_seq=put_seq, pending=True, now_s=1.0
            )
        )
    third = ChunkId(chunk_id(3))
    expected[bucket_of(third)] = digest([(V, third)], expected[bucket_of(third)])
    assert database.read(lambda c: inventory.digests(c, PeerNumber(1))) == expected


async def test_copies_are_dropped_one_by_one_or_with_their_peer(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    chunks = [new_chunk(1, 1, 2, 3), new_chunk(2, 1, 2)]
    await hand.commit(inode, 0, extents=[extent(0, 1, 1), extent(1, 1, 2)], chunks=chunks)
    drop = lambda chunk, peer: database.write_now(  # noqa: E731
        lambda c: chunks_index.drop_replica(c, V, chunk=ChunkId(chunk_id(chunk)), peer=PeerNumber(peer), now_s=1)
    )
    assert drop(1, 3)
    assert not drop(1, 3)
    assert not drop(9, 1)
    holders = lambda chunk: set(database.read(lambda c: chunks_index.holders(c, V, chunk=chunk_id(chunk))))  # noqa: E731
    assert holders(1) == {1, 2}
    assert database.write_now(lambda c: chunks_index.drop_replicas_of(c, PeerNumber(2), limit=1)) == 1
    assert database.write_now(lambda c: chunks_index.drop_replicas_of(c, PeerNumber(2))) == 1
    assert (holders(1), holders(2)) == ({1}, {1})


async def test_the_newest_receipt_counts(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2)])
    newer = replace(new_chunk(1, 1), receipts=[replace(new_chunk(1).receipts[0], put_seq=9)])
    database.write_now(lambda c: chunks_index.add_replicas(c, V, new=newer))
    database.write_now(lambda c: chunks_index.add_replicas(c, V, new=new_chunk(1, 1)))
    assert database.read(lambda c: chunks_index.holders(c, V, chunk=chunk_id(1))) == {1: 9, 2: 1}


def newer_chunk(number: int, peer: int, put_seq: int) -> NewChunk:
    (receipt,) = new_chunk(number, peer).receipts
    return replace(new_chunk(number), receipts=[replace(receipt, put_seq=put_seq)])


async def test_an_old_receipt_does_not_bring_a_damaged_copy_back(database: InlineDatabase, hand: Hand) -> None:
    holders = lambda: database.read(lambda c: chunks_index.holders(c, V, chunk=chunk_id(1)))  # noqa: E731
    add = lambda new: database.write_now(lambda c: chunks_index.add_replicas(c, V, new=new))  # noqa: E731
    drop = lambda: database.write_now(  # noqa: E731
        lambda c: chunks_index.drop_replica(c, V, chunk=chunk_id(1), peer=PeerNumber(2), now_s=1)
    )
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2)])
    add(newer_chunk(1, 2, 5))
    assert drop()
    for put_seq in (1, 5):
        add(newer_chunk(1, 2, put_seq))
        assert holders() == {1: 1}
    with pytest.raises(Gone, match="on 1 peers"):
        await hand.commit(inode, 1, extents=[extent(0, 2, 1)], chunks=[new_chunk(1, 1, 2)])
    add(newer_chunk(1, 2, 6))
    assert holders() == {1: 1, 2: 6}
    assert drop()
    assert not drop()
    add(newer_chunk(1, 2, 6))
    assert holders() == {1: 1}
    await hand.commit(inode, 1, drop=[(0, 1)])
    assert purge(database).chunks == 1
    add(newer_chunk(1, 2, 6))
    assert holders() == {}
    assert database.write_now(lambda c: void_copies.forget(c, before_s=1e12)) == 1  # the other is still to be deleted


async def test_a_receipt_of_before_its_peer_appeared_proves_nothing(database: InlineDatabase, hand: Hand) -> None:
    def proved() -> dict[int, int]:
        (found,) = database.read(lambda c: survey.after(c, 0))
        return {copy.peer: copy.proved for copy in found.copies}

    def appear(peer: int, put_seq: int) -> None:
        database.write_now(lambda c: members.appear(c, PeerNumber(peer), put_seq=put_seq))

    def add(peer: int, put_seq: int) -> None:
        database.write_now(lambda c: chunks_index.add_replicas(c, V, new=newer_chunk(1, peer, put_seq)))

    inode = await hand.make(b"1")
    appear(1, 5)
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2)])
    assert proved() == {1: -1, 2: 0}
    assert not database.read(lambda c: chunks_index.is_settled(c, V, chunk=chunk_id(1), copies=2))
    add(1, 5)
    assert proved() == {1: -1, 2: 0}
    add(1, 6)
    assert proved() == {1: 1, 2: 0}
    assert database.read(lambda c: chunks_index.is_settled(c, V, chunk=chunk_id(1), copies=2))
    appear(1, 3)  # a clock that went back: receipts up to the former number are none of now all the same
    database.write_now(lambda c: chunks_index.prove(c, V, chunk=chunk_id(1), peer=PeerNumber(1), appearances=2))
    appear(2, 9)
    add(2, 9)
    assert proved() == {1: 2, 2: 0}
    appear(1, 20)
    database.write_now(lambda c: chunks_index.prove(c, V, chunk=chunk_id(1), peer=PeerNumber(1), appearances=3))
    add(1, 20)  # late; what was shown since stays shown
    assert proved() == {1: 3, 2: 0}


async def test_copies_on_revoked_peers_are_none(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2)])
    node = NodeId(f"{1:032x}")  # of peer 2
    database.write_now(lambda c: members.revoke_node(c, node, now_s=1.0))
    (place,) = await hand.namespace.locate([chunk_id(1)])
    assert place.holders == [1]
    page = await hand.namespace.extents(inode, 0)  # type: ignore[arg-type]
    assert [place.holders for place in page.places] == [[1]]
    with pytest.raises(Gone, match="on 1 peers"):
        await hand.commit(inode, 1, extents=[extent(0, 2, 1)], chunks=[new_chunk(1, 1)])
    with pytest.raises(Gone, match="on 1 peers"):  # revoked while its receipts were already checked
        await hand.commit(inode, 1, extents=[extent(0, 2, 2)], chunks=[new_chunk(2, 1, 2)])
    await hand.commit(inode, 1, extents=[extent(0, 2, 1)], chunks=[new_chunk(1, 3)])
    assert sorted((await hand.namespace.locate([chunk_id(1)]))[0].holders) == [1, 3]


async def test_copies_on_a_peer_that_leaves_do_not_count_for_commits(database: InlineDatabase, hand: Hand) -> None:
    inode = await hand.make(b"1")
    database.write_now(lambda c: members.set_leaving(c, PeerNumber(2), leaving=True))
    with pytest.raises(Gone, match="on 1 peers"):
        await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2)])
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2, 3)])
    assert database.read(lambda c: chunks_index.holders(c, V, chunk=chunk_id(1))) == {1: 1, 2: 1, 3: 1}


async def test_what_a_wrong_clock_doomed_waits_its_time_once_the_clock_is_confirmed(
    database: InlineDatabase, hand: Hand
) -> None:
    one = await hand.make(b"1")
    await hand.commit(one, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)])
    await hand.unlink(b"1", one)
    while reap(database, now_s=-400 * 86400.0):
        pass
    clock = FakeClock(1000.0)
    await PoolClock(database, cast("Roster", SimpleNamespace(members=list)), clock).confirm()

    assert purge(database, 1000.0).chunks == 0
    assert purge(database, 1000.5).chunks == 1
