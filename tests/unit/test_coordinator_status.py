"""How often the copies of all chunks are counted for those who ask."""

from pathlib import Path
from typing import Any

import pytest
from coordination import pool

from p2pfs.coordinator import status

pytestmark = pytest.mark.l1


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
