"""What `GET /status` counts."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from careful import SIZE, VOLUME, careful, chunk_id
from coordination import pool

from p2pfs.coordinator import status
from p2pfs.coordinator.backup.state import Restored
from p2pfs.coordinator.ledger import CHUNK_OVERHEAD_BYTES
from p2pfs.meta import chunks_index, settings, void_copies
from p2pfs.types import PeerState

pytestmark = [pytest.mark.l2, pytest.mark.trio]

TAKEN = SIZE + CHUNK_OVERHEAD_BYTES


async def test_a_restore_lost_what_members_have_and_neither_the_index_nor_the_orders_to_delete(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        for number in (1, 2):
            await c.store(number, [1, 2, 3])
        one, two, purged = c.peers[1].number, c.peers[2].number, chunk_id(99)

        def restore(connection: sqlite3.Connection) -> None:
            chunks_index.drop_replica(connection, VOLUME, chunk=chunk_id(1), peer=one, now_s=1.0)
            for peer, chunk in ((one, chunk_id(1)), (one, purged), (two, chunk_id(2))):  # the last was put again since
                void_copies.add(connection, peer, volume=VOLUME, chunk=chunk, put_seq=1, pending=True, now_s=1.0)
            settings.write(connection, settings.ORPHANS_STAY, value=1)

        p.database.write_now(restore)
        p.services.status._backups.restored = Restored(1.0, 2.0, 1, 1)

        async def lost() -> tuple[int, int]:
            p.clock.advance(2.0)  # counts are kept for a second
            restored = (await p.services.status.report(p.identity())).restored
            assert restored is not None
            return restored.unknown_chunks, restored.unknown_bytes

        await p.beat(c.peers[1].node, chunks=3, used=2 * TAKEN)
        assert await lost() == (0, 0)
        await p.beat(c.peers[2].node, chunks=3, used=3 * TAKEN)
        await p.beat(c.peers[3].node, chunks=3, used=3 * TAKEN)
        assert await lost() == (2, 2 * TAKEN)
        gone = p.services.roster.peers[c.peers[3].number]
        p.services.roster.settle(gone, state=PeerState.LOST, is_leaving=False)
        assert await lost() == (1, TAKEN)


async def test_counting_a_large_pool_takes_a_tenth_of_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        count, counted = status.count, 0

        def slow(*arguments: Any) -> Any:  # noqa: ANN401 - as the original
            nonlocal counted
            counted += 1
            p.clock.advance(3.0)
            return count(*arguments)

        monkeypatch.setattr(status, "count", slow)

        async def ask() -> int:
            await p.services.status.report(p.identity())
            return counted

        assert await ask() == 1
        p.clock.advance(26.9)
        assert await ask() == 1
        p.clock.advance(0.1)
        assert await ask() == 2
        await p.peers(1)  # a peer that answers, or does not any more, is seen at once
        assert await ask() == 3
