"""Peers as processes: killed at any instant they lose nothing they acknowledged, stopped ones are read around."""

import random
import signal
import statistics
from pathlib import Path

import pytest
import trio
from peer_processes import Processes, peer_processes
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.peers import PeerStores
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.errors import PoolError
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt

pytestmark = pytest.mark.l5

PEER = PeerNumber(1)
NOISE_S = 0.5
"""What a busy machine may add to a single read."""
NOISY_READS = 2
"""Reads that may be slow only because the machine was."""


class Load:
    """PUTs without end, from several tasks; remembers what was acknowledged."""

    def __init__(self, processes: Processes) -> None:
        self._stores = PeerStores(processes.client, lambda: processes.map, processes.token)
        self.acknowledged: list[tuple[Sealed, Receipt]] = []
        self.under_way = 0
        self._seed = 0
        self._happened = trio.Event()

    async def put_for_ever(self) -> None:
        while True:
            self._seed += 1
            chunk = sealed(self._seed, random.Random(self._seed).randint(1, 1 << 20))
            store = self._stores(PEER)
            assert store is not None
            self.under_way += 1
            self._happened.set()
            try:
                (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
            except PoolError:
                await trio.sleep(0.01)  # it was killed
            else:
                self.acknowledged.append((chunk, receipt))
            finally:
                self.under_way -= 1

    async def reach(self, count: int) -> None:
        """Wait until so many PUTs were acknowledged and others are under way."""
        with trio.fail_after(60):
            while len(self.acknowledged) < count or not self.under_way:
                self._happened = trio.Event()
                await self._happened.wait()

    async def lost(self) -> list[str]:
        store = self._stores(PEER)
        assert store is not None
        lost = []
        for chunk, _ in self.acknowledged:
            try:
                view = await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
            except PoolError as error:
                lost.append(f"{chunk.id.hex()}: {error}")
            else:
                assert view == chunk.data
        return lost


async def test_no_acknowledged_chunk_is_lost_by_kill_9(tmp_path: Path) -> None:
    async with peer_processes(tmp_path, 1) as processes:
        load = Load(processes)
        peer = processes.peers[PEER]
        interrupted = 0
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(load.put_for_ever)
            for round_number in range(1, 9):
                await load.reach(12 * round_number)
                interrupted += load.under_way
                peer.end()
                await processes.restart(PEER)
            nursery.cancel_scope.cancel()
        assert interrupted >= 8, "nothing was in flight: the run does not count"
        assert await load.lost() == []
        seqs = [receipt.put_seq for _, receipt in load.acknowledged]
        assert len(set(seqs)) == len(seqs)
        peer.end()
        await processes.restart(PEER)
        assert list((peer.home.path / "chunks" / "temp").iterdir()) == []
        assert list((peer.home.path / "chunks" / "quarantine").iterdir()) == []
        assert await load.lost() == []
        await processes.counted(PEER, len(load.acknowledged))


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
async def test_reads_go_on_around_a_peer_that_is_gone(how: signal.Signals, tmp_path: Path) -> None:
    """P2 with real processes and real time; what the machine itself takes is measured first."""
    async with peer_processes(tmp_path, 2) as processes, trio.open_nursery() as nursery:
        holders: dict[ChunkId, list[PeerNumber]] = {}

        async def locate(_volume: VolumeId, chunk: ChunkId) -> list[PeerNumber]:
            await trio.lowlevel.checkpoint()
            return holders[chunk]

        stores = PeerStores(processes.client, lambda: processes.map, processes.token)
        store = ReplicatedStore(stores, map=lambda: processes.map, locate=locate, nursery=nursery)
        chunks = [sealed(seed) for seed in range(40)]
        for chunk in chunks:
            receipts = await store.put(VOLUME, chunk.id, [chunk.data])
            holders[chunk.id] = [PeerNumber(receipt.peer) for receipt in receipts]
            assert len(holders[chunk.id]) == 2

        async def timed(chunk: Sealed) -> float:
            began = trio.current_time()
            assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data
            return trio.current_time() - began

        usual = [await timed(chunk) for chunk in chunks[:20]]
        victim = processes.peers[PEER]
        victim.send(how)
        times = [await timed(chunk) for chunk in chunks * 2]
        slow = [took for took in times if took > max(usual) + 0.05]
        assert len(slow) <= 1 + NOISY_READS, times
        assert max(times) <= max(usual) + 1.0 + NOISE_S, times
        assert statistics.median(times) <= statistics.median(usual) + 0.05
        nursery.cancel_scope.cancel()


async def test_sigterm_ends_it_in_time_though_somebody_does_not_read(tmp_path: Path) -> None:
    async with peer_processes(tmp_path, 1) as processes:
        peer = processes.peers[PEER]
        (address,) = processes.heartbeats[PEER].addresses
        host, _, port = address.rpartition(":")
        stuck = await trio.open_tcp_stream(host, int(port))
        async with stuck:
            peer.send(signal.SIGTERM)
            assert peer.process is not None
            assert await trio.to_thread.run_sync(peer.process.wait, 10) == 0
        assert "Traceback" not in peer.log


async def test_a_second_daemon_on_the_same_home_is_refused(tmp_path: Path) -> None:
    async with peer_processes(tmp_path, 1) as processes:
        peer = processes.peers[PEER]
        first, peer.process = peer.process, None
        peer.start()
        second = peer.process
        assert second is not None
        assert await trio.to_thread.run_sync(second.wait, 20) != 0
        peer.process = first
        assert "another peer process already uses" in peer.log
