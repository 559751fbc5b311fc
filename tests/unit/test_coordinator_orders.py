"""Who was given what, and what peers may do to that: repeat, contradict, hoard, lie."""

import sqlite3
from pathlib import Path

import pytest
import trio
import trio.testing
from careful import VOLUME, careful, chunk_id
from coordination import pool
from plugins.checklogs import Claims

from p2pfs.coordinator.upkeep import deletions as deletions_module
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.noticed import LATE_S
from p2pfs.coordinator.upkeep.orders import LONGEST_S, MOST_IN_HAND
from p2pfs.errors import Misuse, Unavailable
from p2pfs.format import inventory as format_inventory
from p2pfs.meta import chunks_index, inventory, members, void_copies
from p2pfs.types import ChunkId, Role
from p2pfs.wire.namespace import AddReplicas, NewChunk
from p2pfs.wire.orders import (
    MOST_RESULTS,
    Audit,
    Audited,
    Deleted,
    Digest,
    Digested,
    Entry,
    Failed,
    List,
    Listed,
    Order,
    Report,
    Result,
    Stored,
    Transfer,
)

pytestmark = [pytest.mark.l2, pytest.mark.trio]


async def test_a_result_told_twice_at_once_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    """The first report waits for the disk; its peer gives up waiting and tells the same again."""
    claim_logs("differed: 1 chunks lost", count=1)
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])
        peer = c.peers[1]
        del peer.chunks[chunk]  # so that there is something to list, and to mend
        while not any(isinstance(order, List) for order in peer.seen):
            await c.exchange(peer)
        write, go_on = p.database.write, trio.Event()

        async def slow(change: object, **more: object) -> object:
            await go_on.wait()
            return await write(change, **more)  # type: ignore[arg-type]

        report = Report(list(peer.results), [], 12)
        caller = p.identity(peer.node, [Role.PEER])
        monkeypatch.setattr(p.database, "write", slow)
        given = []
        async with trio.open_nursery() as nursery:

            async def tell() -> None:
                given.extend((await p.services.orders.exchange(caller, report)).orders)

            nursery.start_soon(tell)
            nursery.start_soon(tell)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        monkeypatch.setattr(p.database, "write", write)
        assert not [order for order in given if isinstance(order, List)]
        assert c.holders(chunk) == {2}


async def test_a_result_that_could_not_be_committed_is_taken_when_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])
        await c.pass_time(30)
        await c.work()
        target = c.peers[3]
        while not any(isinstance(order, Transfer) for order in await c.exchange(target)):
            pass
        results, write = list(target.results), p.database.write

        async def full(*_: object, **__: object) -> None:
            raise Unavailable("the disk is full")

        monkeypatch.setattr(p.database, "write", full)
        with pytest.raises(Unavailable):
            await c.exchange(target)
        monkeypatch.setattr(p.database, "write", write)
        assert c.holders(chunk) == {1, 2}
        target.results = results
        await c.exchange(target)
        assert c.holders(chunk) == {1, 2, 3}


async def test_deletions_are_given_while_earlier_ones_are_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions_module, "AT_ONCE", 2)
    async with pool(tmp_path) as p:
        c = await careful(p, 1)
        slow = c.peers[1]
        await c.settle()

        def void(connection: sqlite3.Connection) -> None:
            for number in range(5):
                void_copies.add(
                    connection, slow.number, volume=VOLUME, chunk=chunk_id(number), put_seq=1, pending=True, now_s=0
                )

        p.database.write_now(void)
        desk = next(desk for desk in p.services.orders._desks if isinstance(desk, Deletions))
        desk.added({slow.number: 5})
        given: list[int] = []
        for _ in range(4):
            report = Report([], slow.working, 0)
            orders = (await p.services.orders.exchange(p.identity(slow.node, [Role.PEER]), report)).orders
            slow.working += [order.order for order in orders]
            given.append(len(orders))
        assert given == [2, 2, 1, 0]


async def test_nobody_hoards_orders(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        for number in range(80):
            await c.store(number, [1, 2])
        await c.pass_time(30)
        await c.work()
        greedy = c.peers[3]
        greedy.does = lambda order: None
        held: list[Order] = []
        for _ in range(30):
            report = Report([], [order.order for order in held], 64)
            held += (await p.services.orders.exchange(p.identity(greedy.node, [Role.PEER]), report)).orders
        assert sum(isinstance(order, Transfer) for order in held) == 64
        assert len(held) < MOST_IN_HAND + 100
        p.clock.advance(LONGEST_S + 1)
        await c.beat()
        report = Report([], [order.order for order in held], 64)
        again = (await p.services.orders.exchange(p.identity(greedy.node, [Role.PEER]), report)).orders
        assert not {order.order for order in again} & {order.order for order in held}


@pytest.mark.parametrize(
    "report", [Report([Failed(1, "x", "")] * (MOST_RESULTS + 1), [], 0), Report([], [], 65), Report([], [], -1)]
)
async def test_a_report_has_limits(tmp_path: Path, report: Report) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 1)
        with pytest.raises(Misuse):
            await p.services.orders.exchange(p.identity(c.peers[1].node, [Role.PEER]), report)


async def test_a_result_of_another_kind_does_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])

        def confused(order: Order) -> Result | None:
            if isinstance(order, Transfer):
                return Deleted(order.order, VOLUME, chunk, 1 << 60)
            if isinstance(order, Digest):
                return Failed(order.order, "Unavailable", "")
            return Digested(order.order, [])

        for peer in c.peers.values():
            peer.does = confused
        await c.pass_time(30)
        await c.settle()
        assert c.holders(chunk) == c.having(chunk) == {1, 2}


async def test_audits_find_who_lies_and_do_not_accuse_who_was_told_to_delete(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("has not got 1 chunks", count=1)
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])
        await c.settle()
        honest, liar = (c.peers[at] for at in sorted(c.holders(chunk)))
        before = p.services.roster.peers[honest.number].appearances
        await c.audits.work()
        while not any(isinstance(order, Audit) for order in honest.seen):
            await c.exchange(honest)
        # While it shows the copy, the copy is taken off the index and the peer deletes it.
        audit = next(order for order in honest.seen if isinstance(order, Audit))
        await p.database.write(
            lambda connection: chunks_index.drop_replica(connection, VOLUME, chunk=chunk, peer=honest.number, now_s=1.0)
        )
        honest.results = [Failed(audit.order, "NotFound", "deleted")]
        await c.exchange(honest)
        assert p.services.roster.peers[honest.number].appearances == before
        liar.chunks.clear()
        await c.exchange(liar)
        await c.exchange(liar)
        assert c.holders(chunk) == set()
        assert p.services.roster.peers[liar.number].appearances == before + 1


async def test_an_audit_that_failed_says_nothing_of_a_copy_that_came_since(tmp_path: Path) -> None:
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 2)
        chunk = await c.store(1, [1, 2])
        await c.settle()
        peer = c.peers[1]
        await c.audits.work()
        while not any(isinstance(order, Audit) for order in peer.seen):
            await c.exchange(peer)
        audit = next(order for order in peer.seen if isinstance(order, Audit))
        new = p.receipt(peer.number, VOLUME, chunk, size=1000, put_seq=peer.put(chunk))
        await c.batch(AddReplicas([NewChunk(chunk, 1000, [new])]))
        peer.results = [Failed(audit.order, "NotFound", "it was not here then")]
        await c.exchange(peer)
        assert c.holders(chunk) == {1, 2}


async def test_what_a_peer_showed_before_it_appeared_once_more_says_nothing_of_afterwards(tmp_path: Path) -> None:
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 2)
        chunk, peer = await c.store(1, [1, 2]), c.peers[1]
        await c.restart(peer, 1)
        c.audits.ask(peer.number, VOLUME, chunk, size=1000)
        while not any(isinstance(result, Audited) for result in peer.results):
            await c.exchange(peer)
        await c.restart(peer, 2)
        await c.exchange(peer)
        assert c.audits.shown == 1
        assert (c.proved(chunk)[1], p.services.roster.peers[peer.number].appearances) == (0, 1)


async def test_an_audit_that_was_given_up_when_it_was_committed_is_known(tmp_path: Path) -> None:
    """Behind the database, nothing that the peer shows would ever count."""
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 2)
        chunk, peer = await c.store(1, [1, 2]), c.peers[1]
        peer.chunks.clear()
        c.audits.ask(peer.number, VOLUME, chunk, size=1000, is_random=True)
        while not any(isinstance(result, Failed) for result in peer.results):
            await c.exchange(peer)
        await p.give_up(lambda: c.exchange(peer))
        kept = p.database.read(lambda connection: members.peer(connection, peer.number))
        assert p.services.roster.peers[peer.number].appearances == kept.appearances == 1


# ---- receipts that come late ----------------------------------------------------------------------------------------


async def test_a_receipt_held_back_while_its_peer_was_started_anew_proves_nothing(
    tmp_path: Path, claim_logs: Claims
) -> None:
    """The disk may be an older one, without the copy; an inventory that would tell is over when the commit comes."""
    claim_logs("has not got 1 chunks", count=1)
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 3)
        await c.restart(c.peers[1], 1)
        new = c.put(1, [1, 2])
        chunk = ChunkId(new.chunk)
        await c.restart(c.peers[1], 2, chunk)
        await c.settle()
        await c.commit(1, new)
        assert c.proved(chunk) == {1: -1, 2: 0}
        p.clock.advance(LATE_S)
        await c.settle()
        assert c.holders(chunk) == c.having(chunk)
        assert len(c.having(chunk)) == 2


async def test_a_transfer_told_of_after_its_peer_was_started_anew_proves_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        await c.restart(c.peers[3], 1)
        chunk, peer = await c.store(1, [1, 2]), c.peers[3]
        p.clock.advance(LATE_S)
        while not any(isinstance(result, Stored) for result in peer.results):
            await c.work()
            await c.exchange(peer)
        await c.restart(peer, 2)  # the coordinator was stopped, and takes this up before what the former run reports
        await c.exchange(peer)
        assert c.proved(chunk) == {1: 0, 2: 0, 3: -1}
        await c.settle()
        assert c.proved(chunk) == {1: 0, 2: 0, 3: 1}


# ---- inventory ------------------------------------------------------------------------------------------------------


async def test_an_inventory_finds_what_was_lost_and_what_nobody_needs(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("differed: 1 chunks lost, 0 found, 1 orphans", count=1)
    async with pool(tmp_path, orphan_grace="1h") as p:
        c = await careful(p, 3)
        chunks = [await c.store(number, [1, 2, 3]) for number in range(5)]
        await c.settle()
        peer = c.peers[1]
        del peer.chunks[chunks[0]]
        orphan = chunk_id(99)
        peer.chunks[orphan] = 1

        def old(order: Order) -> Result | None:
            if not isinstance(order, List):
                return None
            entries = [Entry(VOLUME, one.chunk, 1000, one.put_seq, 0) for one in c.entries(peer, order.bucket)]
            return Listed(order.order, peer.put_seq, entries, more=False)

        peer.does = old
        p.clock.advance(86400.0)
        await c.beat()
        await c.settle()
        assert orphan not in peer.chunks
        assert all(c.having(chunk) == c.holders(chunk) == {1, 2, 3} for chunk in chunks)


async def test_a_chunk_put_while_it_was_listed_is_not_lost(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2, 3])
        seq = c.peers[1].put_seq
        number = c.peers[1].number
        part = inventory.Part(chunk[0], None, None, settled_seq=seq - 1)

        def reconcile(settled: inventory.Part, entries: list[Entry] | None = None) -> inventory.Differences:
            return inventory.reconcile(
                p.database._connection, number, part=settled, entries=entries or [], orphaned_before_s=1e12, now_s=1.0
            )

        assert reconcile(part).lost == []
        assert reconcile(inventory.Part(chunk[0], (VOLUME, chunk), None, seq)).lost == []
        assert reconcile(inventory.Part(chunk[0], None, (VOLUME, bytes([chunk[0]])), seq)).lost == []
        assert reconcile(inventory.Part((chunk[0] + 1) % 256, None, None, seq)).lost == []
        assert reconcile(inventory.Part(chunk[0], None, None, seq)).lost == [(VOLUME, chunk)]
        # Listed before it was found to be lost: the listing brings nothing back, a newer PUT does.
        assert reconcile(part, [Entry(VOLUME, chunk, 1000, seq, 0)]).adopted == []
        assert reconcile(part, [Entry(VOLUME, chunk, 999, seq + 1, 0)]).adopted == []
        p.database._connection.execute("DELETE FROM void_copy")
        assert reconcile(part, [Entry(VOLUME, chunk, 1000, seq + 1, 0)]).adopted == [(VOLUME, chunk)]


async def test_a_peer_that_lists_what_does_not_exist_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    claim_logs("recount of .* failed", count=2)
    monkeypatch.setattr(inventory, "MOST_VOID", 50)
    async with pool(tmp_path, orphan_grace="1h") as p:
        c = await careful(p, 2)
        liar, pages = c.peers[1], 0

        def lies(order: Order) -> Result | None:
            nonlocal pages
            if isinstance(order, Digest):
                return Digested(order.order, [bytes(31) + b"\1"] + [format_inventory.EMPTY] * 255)
            if not isinstance(order, List):
                return None
            pages += 1
            ids = [bytes([order.bucket, pages]) + at.to_bytes(30, "big") for at in range(100)]
            return Listed(order.order, 1, [Entry(VOLUME, one, 1000, 1, 0) for one in ids], more=True)

        liar.does = lies
        await c.settle()
        assert pages == 1
        await p.beat(liar.node, put_seq=1, run=77)  # as if it were started anew
        await c.settle()
        assert pages == 1
        await c.pass_time(610)
        await c.settle()
        assert pages == 2
        assert p.database.read(lambda connection: void_copies.count(connection, liar.number, most=999)) == 50


@pytest.mark.parametrize("how", ["order", "bucket", "length", "endless", "settled", "digests"])
async def test_a_listing_that_cannot_be_ends_the_round(tmp_path: Path, claim_logs: Claims, how: str) -> None:
    if how != "digests":  # it had not begun
        claim_logs("recount of .* failed", count=1)
    async with pool(tmp_path) as p:
        c = await careful(p, 2)
        liar, ask = c.peers[1], 0

        def lies(order: Order) -> Result | None:
            nonlocal ask
            if isinstance(order, Digest):
                ask += 1
                many = [format_inventory.EMPTY] * 255
                return Digested(order.order, many if how == "digests" else [*many, bytes(31) + b"\1"])
            if not isinstance(order, List):
                return None
            ids = {
                "order": [b"\xff" * 32, b"\xff" + bytes(31)],
                "bucket": [bytes(32)],
                "length": [b"\xff"],
                "endless": [],
                "settled": [],
            }[how]
            settled = 1 << 63 if how == "settled" else 1
            return Listed(order.order, settled, [Entry(VOLUME, one, 1000, 1, 0) for one in ids], more=how == "endless")

        liar.does = lies
        await c.settle()
        assert ask == 1
        await c.pass_time(590)
        await c.settle()
        assert ask == 1
        liar.does = lambda _: None
        await c.pass_time(20)
        await c.settle()
        assert [order for order in liar.seen if isinstance(order, Digest)][1:]


async def test_a_peer_whose_receipts_are_its_own_gets_no_say_over_others(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2, 3])
        await c.settle()
        (outsider,) = set(c.peers) - c.holders(chunk)
        peer = c.peers[outsider]
        await p.beat(peer.node, corrupt=[(VOLUME, chunk)])
        peer.results = [Stored(at, VOLUME, chunk, 1000, p.receipt(peer.number, VOLUME, chunk)) for at in range(100)]
        await c.exchange(peer)
        assert len(c.holders(chunk)) == 3
        assert outsider not in c.holders(chunk)
