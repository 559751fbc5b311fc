"""A volume in one process for tests: a `Filesystem` over any namespace and store, with known keys."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from p2pfs.chunks.protocol import ChunkStore
from p2pfs.format.heads import Head, seal_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import Namespace
from p2pfs.types import ROOT_INODE, Kind, VolumeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.limits import Limits
from p2pfs.vfs.places import Places
from p2pfs.vfs.space import EndlessSpace, Space
from p2pfs.vfs.surroundings import Surroundings

VOLUME = VolumeId(0x0123456789ABCDEF)
KEYS = VolumeKeys.derive(bytes(range(32)))
ROOT_HEAD = seal_head(KEYS, VOLUME, ROOT_INODE, Head(0, 0, Kind.DIRECTORY))


def ticking(start: int = 10**18) -> Callable[[], int]:
    """A clock in nanoseconds that never says the same twice."""
    ticks = itertools.count(start, 1000)
    return lambda: next(ticks)


@asynccontextmanager
async def filesystem(
    namespace: Namespace,
    store: ChunkStore,
    *,
    limits: Limits | None = None,
    space: Space | None = None,
    now_ns: Callable[[], int] | None = None,
    **around: Any,  # noqa: ANN401 - what `Surroundings` takes
) -> AsyncIterator[Filesystem]:
    """A file system on these; nothing is settled at the end."""
    async with Filesystem.serve(
        KEYS,
        VOLUME,
        namespace,
        store,
        Places(namespace),
        space or EndlessSpace(),
        limits=limits or Limits(),
        now_ns=now_ns or ticking(),
        around=Surroundings(**around),
    ) as served:
        yield served
