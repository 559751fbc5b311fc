"""A pool of each kind there is of a Namespace, and one session of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from namespaces import KINDS, Hand, World, world


@pytest.fixture
def trash_s() -> float:
    """How long removed files can be brought back."""
    return 0.0


@pytest.fixture(params=KINDS)
async def pool(request: pytest.FixtureRequest, tmp_path: Path, trash_s: float) -> AsyncIterator[World]:
    async with world(request.param, tmp_path, trash_s=trash_s) as made:
        yield made


@pytest.fixture
async def hand(pool: World) -> Hand:
    return Hand(await pool.mount())
