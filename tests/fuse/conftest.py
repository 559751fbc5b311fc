"""One pool for all tests of real mounts; each test gets a directory of its own in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("fuse")) as started:
        yield started


@pytest.fixture
def mounted(pool: DemoPool, request: pytest.FixtureRequest) -> Path:
    """A fresh directory in the mount."""
    directory = pool.mount / request.node.name.replace("/", "_")
    directory.mkdir()
    return directory
