"""What commands ask the peer daemon on its socket, and what it answers."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from sealed import VOLUME, sealed

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.runtime import mounts
from p2pfs.types import PeerNumber, PoolId
from p2pfs_peerd import control

pytestmark = pytest.mark.l0


async def _ask(path: Path, text: bytes) -> dict[str, object]:
    def ask() -> dict[str, object]:
        with mounts.dial(path, 20) as connection, connection.makefile("rb") as lines:
            connection.sendall(text + b"\n")
            answer: dict[str, object] = json.loads(lines.readline())
            return answer

    return await trio.to_thread.run_sync(ask)


async def test_the_trash_is_told_and_emptied_and_nonsense_refused(tmp_path: Path) -> None:
    key = ReceiptKey(PoolId("ab" * 16), PeerNumber(1), bytes(32))
    store = await DirectoryStore.open(tmp_path / "chunks", sign=key.sign, capacity=1 << 30, reserve=0)
    chunk, path = sealed(1, 50_000), tmp_path / "run" / "peer.sock"
    (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])

    async def share(request: Mapping[str, object]) -> dict[str, object]:
        return {"asked": request.get("set")}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.serve, path, store, lambda: {"leader": 7}, share)
        with trio.fail_after(20):
            while not path.exists():
                await trio.lowlevel.checkpoint()
        assert await _ask(path, b'{"op": "status"}') == {"leader": 7}
        assert await _ask(path, b'{"op": "trash"}') == {"trash": 0}
        assert await _ask(path, b'{"op": "share", "set": {"storage": "1G"}}') == {"asked": {"storage": "1G"}}
        await store.delete(VOLUME, chunk.id, receipt.put_seq)
        size = store.usage().trash
        assert size >= chunk.size
        assert await _ask(path, b'{"op": "trash"}') == {"trash": size}
        for nonsense in (b"", b"[]", b'{"op": ["share"]}', b'{"op": "rm"}', b"\xff", b"[" * 4090):
            assert "error" in await _ask(path, nonsense)
        assert store.usage().trash == size
        assert await _ask(path, b'{"op": "empty_trash"}') == {"removed": 1, "freed": size}
        assert store.usage().trash == 0
        nursery.cancel_scope.cancel()
    assert not path.exists()
