"""Keeps the coordinator's backups: sealed parts that this peer can neither read nor make, below `backups/` in its home.

They count in what the owner offers, have at most a share of it, and go only when the coordinator says what superseded
them. Handlers of four of `wire.routes.PEER_ROUTES`; made by `composition`.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import trio

from p2pfs.errors import Misuse, NoSpace
from p2pfs.format.backups import decode_part
from p2pfs.net.server import Handler, Request, Response
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.parts import PartFiles, newest_whole
from p2pfs.types import PoolId
from p2pfs.wire import failures
from p2pfs.wire.backups import Held, Superseded, generation_name

SHARE: Final = 0.25
"""Of what is offered, the most that backups take."""
ALWAYS_KEPT: Final = 2
"""Generations that can be restored and stay whole whatever anybody says."""
SETTLED_S: Final = 86400.0
"""The newest generation that began so long ago stays whole, too: a coordinator gone bad can make two others at once."""
_GENERATION: Final = re.compile(r"[0-9a-f]{16}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


class Backups:
    """The handlers, and what they keep. `offered` is what the owner offers now, in bytes."""

    def __init__(self, root: Path, pool: PoolId, *, offered: Callable[[], int], reserve: int, clock: Clock) -> None:
        """Blocking. Raises Unavailable."""
        self._clock = clock
        self._root = root
        self._pool = pool
        self._offered = offered
        self._reserve = reserve
        self._files = PartFiles(root)
        self._one_by_one = trio.CapacityLimiter(1)

    @property
    def bytes(self) -> int:
        """What they take of the disk."""
        return self._files.bytes

    def handlers(self) -> Mapping[str, Handler]:
        """By route name."""
        return {
            "put_backup": self.put,
            "get_backup": self.get,
            "backups": self.tell,
            "superseded": self.supersede,
        }

    async def put(self, request: Request) -> Response:
        """Keep a part. Durability: on stable storage when answered."""
        generation, number = _named(request)
        data = bytes(await request.body())
        part = decode_part(data)
        if (part.pool, part.generation, part.number) != (self._pool, generation, number):
            raise Misuse("this part of a backup belongs elsewhere")
        self._expect_room(len(data))
        await trio.to_thread.run_sync(
            lambda: self._files.keep(generation, number, data, is_state=part.is_state), limiter=self._one_by_one
        )
        return Response()

    async def get(self, request: Request) -> Response:
        """A part as it was put."""
        generation, number = _named(request)
        data = await trio.to_thread.run_sync(self._files.read, generation, number)
        return Response(failures.OK, data, "application/octet-stream")

    async def tell(self, _request: Request) -> Response:
        """What is here."""
        return Response.of(self._held())

    async def supersede(self, request: Request) -> Response:
        """Let go of what the coordinator does not need any more."""
        message = await request.message(Superseded)
        stay = await trio.to_thread.run_sync(self._stay)
        for generation, parts in message.keep:
            if generation not in stay:
                await trio.to_thread.run_sync(self._files.cut, generation, max(0, parts), limiter=self._one_by_one)
        return Response.of(self._held())

    def _stay(self) -> Collection[int]:
        """Generations that stay whole. Blocking."""
        rows, before_s = self._files.rows(), self._clock.time() - SETTLED_S
        whole = newest_whole(rows, len(rows))
        settled = next((one for one in whole if self._files.begun_s(one) <= before_s), None)
        return {*whole[:ALWAYS_KEPT], *(() if settled is None else (settled,))}

    def _held(self) -> list[Held]:
        return [
            Held(generation, len(row.sizes), row.last_state, row.bytes)
            for generation, row in self._files.rows().items()
        ]

    def _expect_room(self, size: int) -> None:
        if self._files.bytes + size > SHARE * self._offered():
            raise NoSpace("backups have taken their share of what this peer offers")
        disk = os.statvfs(self._root if self._root.is_dir() else self._root.parent)
        if disk.f_bavail * disk.f_frsize < self._reserve + size:
            raise NoSpace("the disk of this peer has no room for backups beyond its reserve")


def _named(request: Request) -> tuple[int, int]:
    generation, number = request.parameters["generation"], request.parameters["number"]
    if not _GENERATION.fullmatch(generation) or not _NUMBER.fullmatch(number):
        raise Misuse(f"a part of a backup is named as {generation_name(0)}/0")
    return int(generation, 16), int(number)
