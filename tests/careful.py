"""A pool in one process whose peers do what they are ordered, or something worse: for tests of who looks after chunks.

`Peer` answers orders from what it holds; what it holds is only a set. Everything else is the real coordinator's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from coordination import Pool, volume_message

from p2pfs.coordinator.upkeep.audits import Audits
from p2pfs.coordinator.upkeep.care import Care
from p2pfs.coordinator.upkeep.leaving import Leaving
from p2pfs.coordinator.upkeep.purge import Purge
from p2pfs.format import chunk as chunks
from p2pfs.format import inventory
from p2pfs.meta import chunks_index, survey, void_copies
from p2pfs.runtime.worker import Progress
from p2pfs.types import ChunkId, PeerNumber, Role, SessionId, VolumeId
from p2pfs.wire.namespace import Batch, Commit, ExtentRow, Make, NewChunk, Operation, Unlink
from p2pfs.wire.orders import (
    Audit,
    Audited,
    Delete,
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
from p2pfs.wire.volumes import OpenSession

VOLUME = VolumeId(7)
SIZE = 1000


def content(number: int) -> bytes:
    """The sealed bytes of a chunk; whether they open is nobody's business here."""
    return (b"%d," % number * SIZE)[:SIZE]


def chunk_id(number: int) -> ChunkId:
    return chunks.chunk_id(chunks.block_hashes(content(number)))


Does = Callable[[Order], Result | None]


@dataclass
class Peer:
    """One peer as it really is. `does` answers an order otherwise; None from it: as always. It is `working` on what
    `hangs`."""

    at: int  # 1, 2, …: its place in Careful.peers
    node: str
    number: PeerNumber
    chunks: dict[ChunkId, int] = field(default_factory=dict)  # → put_seq
    put_seq: int = 100
    does: Does = lambda _: None
    hangs: Callable[[Order], bool] = lambda _: False
    results: list[Result] = field(default_factory=list)
    working: list[int] = field(default_factory=list)
    seen: list[Order] = field(default_factory=list)

    def put(self, chunk: ChunkId) -> int:
        self.put_seq += 1
        self.chunks[chunk] = self.put_seq
        return self.put_seq


@dataclass
class Careful:
    """A pool and its peers."""

    pool: Pool
    peers: dict[int, Peer] = field(default_factory=dict)
    session: SessionId = field(default_factory=lambda: SessionId(""))
    first: int = 0
    seq: int = 0
    contents: dict[ChunkId, bytes] = field(default_factory=dict)

    # ---- the pool's workers -----------------------------------------------------------------------------------------

    def worker(self, kind: type) -> object:
        return next(one for one in self.pool.services.workers if isinstance(one, kind))

    @property
    def care(self) -> Care:
        found = self.worker(Care)
        assert isinstance(found, Care)
        return found

    @property
    def purge(self) -> Purge:
        found = self.worker(Purge)
        assert isinstance(found, Purge)
        return found

    @property
    def leaving(self) -> Leaving:
        found = self.worker(Leaving)
        assert isinstance(found, Leaving)
        return found

    @property
    def audits(self) -> Audits:
        found = self.worker(Audits)
        assert isinstance(found, Audits)
        return found

    async def work(self) -> int:
        """Let care and leaving come to rest; how many steps care took."""
        for step in range(1, 1000):
            progress = await self.care.work()
            if progress is Progress.IDLE and await self.leaving.work() is Progress.IDLE:
                return step
        raise AssertionError("care does not come to rest")

    # ---- peers ------------------------------------------------------------------------------------------------------

    async def exchange(self, peer: Peer, *, room: int = 12) -> list[Order]:
        """One report of what was done, and doing what is ordered."""
        told, peer.results = peer.results, []
        report = Report(told, peer.working, room)
        given = (await self.pool.services.orders.exchange(self.pool.identity(peer.node, [Role.PEER]), report)).orders
        peer.seen += given
        for order in given:
            if peer.hangs(order):
                peer.working.append(order.order)
                continue
            result = peer.does(order) or self.done(peer, order)
            if result is not None:
                peer.results.append(result)
        return list(given)

    def done(self, peer: Peer, order: Order) -> Result | None:
        """What an honest peer does."""
        match order:
            case Transfer():
                chunk = ChunkId(order.chunk)
                having = [one for one in self.peers.values() if one.number in order.sources and chunk in one.chunks]
                if not having:
                    return Failed(order.order, "NotFound", "nobody has it", list(order.sources))
                put_seq = peer.put(chunk)
                receipt = self.pool.receipt(peer.number, order.volume, chunk, size=order.size, put_seq=put_seq)
                return Stored(order.order, order.volume, chunk, order.size, receipt)
            case Delete():
                if peer.chunks.get(ChunkId(order.chunk), 1 << 62) <= order.put_seq:
                    del peer.chunks[ChunkId(order.chunk)]
                return Deleted(order.order, order.volume, order.chunk, order.put_seq)
            case Audit():
                if ChunkId(order.chunk) not in peer.chunks:
                    return Failed(order.order, "NotFound", "no such chunk")
                data = self.contents[ChunkId(order.chunk)]
                return Audited(order.order, chunks.block_hashes(data), data)
            case Digest():
                return Digested(order.order, self.digests(peer))
            case List():
                return Listed(order.order, peer.put_seq, self.entries(peer, order.bucket), more=False)
        return None

    def digests(self, peer: Peer) -> list[bytes]:
        found = [inventory.EMPTY] * inventory.BUCKETS
        for chunk in peer.chunks:
            bucket = inventory.bucket_of(chunk)
            found[bucket] = inventory.digest([(VOLUME, chunk)], found[bucket])
        return found

    def entries(self, peer: Peer, bucket: int) -> list[Entry]:
        stored_s = int(self.pool.clock.time())
        return [
            Entry(VOLUME, chunk, SIZE, put_seq, stored_s)
            for chunk, put_seq in sorted(peer.chunks.items())
            if inventory.bucket_of(chunk) == bucket
        ]

    async def settle(self, *, rounds: int = 60) -> int:
        """Let everybody work until nothing is left to do; how many orders that took."""
        count = sum([len(await self.exchange(peer)) for peer in self.peers.values() if self.is_up(peer)])
        for _ in range(rounds):
            await self.work()
            told = any(peer.results for peer in self.peers.values() if self.is_up(peer))
            given = [order for peer in self.peers.values() if self.is_up(peer) for order in await self.exchange(peer)]
            count += len(given)
            if not given and not told:
                return count
        raise AssertionError(f"no end of orders: {given}")

    def is_up(self, peer: Peer) -> bool:
        return self.pool.services.roster.peers[peer.number].is_reachable

    async def beat(self, *silent: int) -> None:
        """A heartbeat of all peers but these, and what follows for those."""
        for peer in self.peers.values():
            if peer.at not in silent:
                await self.pool.beat(peer.node, put_seq=peer.put_seq)
        await self.pool.services.pulse.work()

    async def pass_time(self, seconds: float, *silent: int) -> None:
        """Time passes while these are silent."""
        left = seconds
        while left > 0:
            self.pool.clock.advance(min(left, 10.0))
            left -= 10.0
            await self.beat(*silent)

    # ---- chunks -----------------------------------------------------------------------------------------------------

    async def store(self, number: int, peers: Iterable[int]) -> ChunkId:
        """A file of one chunk on these peers."""
        new = self.put(number, peers)
        await self.commit(number, new)
        return ChunkId(new.chunk)

    def put(self, number: int, peers: Iterable[int]) -> NewChunk:
        """A chunk on these peers that nothing names yet."""
        chunk = chunk_id(number)
        puts = {self.peers[at].number: self.peers[at].put(chunk) for at in peers}
        self.contents[chunk] = content(number)
        receipts = [self.pool.receipt(peer, VOLUME, chunk, size=SIZE, put_seq=seq) for peer, seq in puts.items()]
        return NewChunk(chunk, SIZE, receipts)

    async def commit(self, number: int, new: NewChunk) -> None:
        """A file of that chunk."""
        chunk, inode = new.chunk, self.first + number
        make = Make(1, b"name%d" % number, inode, b"tag", inode, 1, 0o644, 0, 0, 0, b"head", 1)
        commit = Commit(inode, 0, SIZE, b"head", 2, extents=[ExtentRow(0, 1, chunk, b"sealed")], chunks=[new])
        await self.batch(make, commit)

    async def batch(self, *operations: Operation) -> None:
        self.seq += 1
        await self.pool.services.sessions.apply(self.session, Batch(self.seq, 0, list(operations)))

    async def unlink(self, number: int) -> None:
        """The file goes, and what only it named is doomed."""
        await self.batch(Unlink(1, b"name%d" % number, self.first + number, False, 3))
        while await self.pool.services.sessions.reap():
            pass

    def holders(self, chunk: ChunkId) -> set[int]:
        """Whom the index says to hold it."""
        read = self.pool.database.read
        numbers = read(lambda connection: chunks_index.holders(connection, VOLUME, chunk=chunk))
        return {at for at, peer in self.peers.items() if peer.number in numbers}

    def having(self, chunk: ChunkId) -> set[int]:
        """Who really holds it."""
        return {at for at, peer in self.peers.items() if chunk in peer.chunks}

    def proved(self, chunk: ChunkId) -> dict[int, int]:
        """How often each had appeared when its copy was proved."""
        (number,) = self.pool.database.read(lambda connection: survey.numbers_of(connection, [(VOLUME, chunk)]))
        (found,) = self.pool.database.read(lambda connection: survey.these(connection, [number]))
        return {at: copy.proved for at, peer in self.peers.items() for copy in found.copies if copy.peer == peer.number}

    async def restart(self, peer: Peer, run: int, *lost: ChunkId) -> None:
        """Its daemon begins anew, on a disk without these. Numbers of PUTs are above those of before."""
        peer.put_seq += 1000
        for chunk in lost:
            del peer.chunks[chunk]
        await self.pool.beat(peer.node, run=run, put_seq=peer.put_seq)

    def pending(self) -> dict[PeerNumber, int]:
        """Copies that have yet to be deleted."""
        return self.pool.database.read(void_copies.peers_pending)

    def jobs(self) -> dict[str, str]:
        """kind → state, of jobs that go on or were the last of their kind."""
        return {job.kind: job.state for job in reversed(self.pool.services.jobs.listed())}


async def careful(pool: Pool, count: int) -> Careful:
    """So many peers that hold nothing yet, each of an owner of its own, and a session to store with."""
    found = Careful(pool)
    for at, answer in enumerate(await pool.peers(count), 1):
        found.peers[at] = Peer(at, answer.node, PeerNumber(answer.peer))
    owner = pool.identity(found.peers[1].node, [Role.CLIENT])
    await pool.services.volumes.create(owner, volume_message(VOLUME))
    grant = await pool.services.sessions.open(owner, VOLUME, OpenSession())
    found.session, found.first = SessionId(grant.session), grant.first_id
    return found
