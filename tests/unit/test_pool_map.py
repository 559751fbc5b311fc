"""The map of the pool as a mount has it: of several answers under way at once the newest counts."""

from typing import Any

import pytest
import trio

from p2pfs.net.client import Endpoint
from p2pfs.types import NodeId, Role
from p2pfs.vfs.pool import Pool
from p2pfs.wire.membership import PoolMap

pytestmark = pytest.mark.l0


class Coordinator:
    """A client of a coordinator whose first answer takes longer than the second."""

    def __init__(self) -> None:
        self.asked = 0
        self._second = trio.Event()

    async def call(self, *_: object, **__: object) -> Any:  # noqa: ANN401
        self.asked += 1
        version = self.asked
        if version == 1:
            await self._second.wait()
        self._second.set()
        return PoolMap("", version, 1, 2, 2, [])


async def test_a_map_that_was_overtaken_is_not_taken_over() -> None:
    pool = Pool(Coordinator(), Endpoint(NodeId("a" * 32), Role.COORDINATOR, ()), 1.0)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(_fetch, pool)
        await pool.fetch_map()
    assert pool.map.version == 2


async def _fetch(pool: Pool, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await pool.fetch_map()
