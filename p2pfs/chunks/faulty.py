"""A chunk store that fails as told: for tests and simulations, never in a real pool.

A plan, asked at every call, says what goes wrong; without a fault the call passes through.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from p2pfs.chunks.protocol import Asking, Blocks, Check, PeerStore, Released
from p2pfs.errors import PoolError
from p2pfs.net.watch import Watch
from p2pfs.types import Buffer, ChunkId, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call, in the order of the fields."""

    flow_bytes: int = 0  # moves a second, while it is delayed
    delay_s: float = 0.0
    hang: bool = False  # until cancelled, like a stopped process
    refuse: PoolError | None = None  # instead of doing it
    change: Callable[[bytes], bytes] | None = None  # of the bytes a get returns: flip, cut, swap
    lose_answer: PoolError | None = None  # it was done, but the caller is told this


Plan = Callable[[str, VolumeId, ChunkId], Fault | None]
"""("put" | "fetch" | "get" | "has" | "delete", volume, chunk) → what goes wrong."""


class FaultyStore:
    """`inner`, but. It can be asked without a task if it `asks`."""

    asks = False

    def __init__(self, inner: PeerStore, plan: Plan) -> None:
        self._inner = inner
        self.plan = plan

    async def put(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        parts: Sequence[Buffer],
        *,
        released: Released | None = None,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        try:
            fault = await self._before("put", volume, chunk, watch)
            receipts = await self._inner.put(volume, chunk, parts)
            _after(fault)
            return receipts
        finally:
            if released is not None:
                released()

    async def get(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        blocks: Blocks,
        *,
        check: Check | None = None,
        watch: Watch | None = None,
    ) -> memoryview:
        fault = self._begin("get", volume, chunk, watch)
        view = await self._got(fault, trio.current_time(), volume, chunk, size, blocks)
        if check is not None:
            check(view)
        return view

    async def fetch(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        sources: Sequence[PeerNumber],
        *,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        fault = await self._before("fetch", volume, chunk, watch)
        receipts = await self._inner.fetch(volume, chunk, size, sources)
        _after(fault)
        return receipts

    def ask(self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, watch: Watch) -> Asking | None:
        if not self.asks:
            return None
        fault = self._begin("get", volume, chunk, watch)
        return _Asking(partial(self._got, fault, trio.current_time(), volume, chunk, size, blocks))

    async def _got(
        self, fault: Fault | None, since_s: float, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks
    ) -> memoryview:
        await _suffer(fault, since_s)
        view = await self._inner.get(volume, chunk, size, blocks)
        _after(fault)
        if fault is not None and fault.change is not None:
            view = memoryview(fault.change(bytes(view)))
        return view

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        fault = await self._before("has", volume, chunk)
        found = await self._inner.has(volume, chunk)
        _after(fault)
        return found

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        fault = await self._before("delete", volume, chunk)
        await self._inner.delete(volume, chunk, put_seq)
        _after(fault)

    async def _before(self, call: str, volume: VolumeId, chunk: ChunkId, watch: Watch | None = None) -> Fault | None:
        fault = self._begin(call, volume, chunk, watch)
        await _suffer(fault, trio.current_time())
        return fault

    def _begin(self, call: str, volume: VolumeId, chunk: ChunkId, watch: Watch | None) -> Fault | None:
        fault = self.plan(call, volume, chunk)
        if fault is not None and watch is not None and fault.flow_bytes:
            watch.follow(partial(_flowed, fault, trio.current_time()))
        return fault


@dataclass(frozen=True, slots=True)
class _Asking:
    sealed: Callable[[], Coroutine[Any, Any, memoryview]]

    async def aclose(self) -> None:
        return


async def _suffer(fault: Fault | None, since_s: float) -> None:
    if fault is None:
        return
    if fault.delay_s:
        await trio.sleep_until(since_s + fault.delay_s)
    if fault.hang:
        await trio.sleep_forever()
    if fault.refuse is not None:
        raise fault.refuse


def _flowed(fault: Fault, since_s: float) -> int:
    return int(fault.flow_bytes * min(fault.delay_s, trio.current_time() - since_s))


def _after(fault: Fault | None) -> None:
    if fault is not None and fault.lose_answer is not None:
        raise fault.lose_answer
