"""The volume's quota as a mount keeps it: what would make the volume too large is refused before it is taken in.

The coordinator says what the limits are and what is committed; this adds what this mount has taken in since. Near the
limit it counts anew before it refuses. Other mounts' growth is known from then: the coordinator, which refuses the
commit, has the last word (`meta.quotas`). Called by `vfs.filesystem` and `vfs.attribute_changes`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from p2pfs.errors import OverQuota, PoolError
from p2pfs.meta.protocol import Namespace

FOLLOW_S: Final = 5.0
"""So often a mount asks how much of the quota others have used."""
UNLIMITED_S: Final = 30.0
"""So often, whether there is a quota now: seldom, as a mount with the delegation first sends all that waits. What grows
meanwhile the coordinator refuses, or takes and recalls the delegation."""
SETTLE_S: Final = 5.0
"""So long it waits, before it refuses, for the coordinator to count what was removed."""


class VolumeQuota:
    """`unsaved` says by how many bytes files are larger here than as they are committed."""

    def __init__(self, namespace: Namespace, unsaved: Callable[[], int], hurry: Callable[[], None]) -> None:
        self._namespace, self._unsaved, self._hurry = namespace, unsaved, hurry
        self._most_bytes = self._most_files = 0
        self._bytes = self._files = 0  # as counted last
        self._more_bytes = self._more_files = 0  # taken in since
        self._counting = trio.Lock()

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to be asked."""
        return bool(self._most_bytes or self._most_files)

    async def grow(self, more_bytes: int) -> None:
        """Files become so much larger. Raises OverQuota: they must not."""
        if self._most_bytes and more_bytes > 0:
            await self._require(lambda: self._fits(more_bytes), "bytes")
            self._more_bytes += more_bytes

    async def add_file(self) -> None:
        """One inode more. Raises OverQuota."""
        if self._most_files:
            await self._require(lambda: self._fits(0, 1), "files")
            self._more_files += 1

    async def follow(self) -> None:
        """Hear of limits that are set, and of what others use; until cancelled."""
        while True:
            with suppress(PoolError):  # who needs to know will ask again
                await self._count()
            await trio.sleep(FOLLOW_S if self.is_limited else UNLIMITED_S)

    def _fits(self, more_bytes: int, more_files: int = 0) -> bool:
        bytes_, files = self._bytes + self._more_bytes + more_bytes, self._files + self._more_files + more_files
        return (not more_bytes or bytes_ <= (self._most_bytes or bytes_)) and (
            not more_files or files <= (self._most_files or files)
        )

    async def _require(self, fits: Callable[[], bool], what: str) -> None:
        if fits():
            return
        async with self._counting:
            if not fits():
                await self._count_exactly()
        if not fits():
            raise OverQuota(f"the volume's quota of {what} is used up")

    async def _count_exactly(self) -> None:
        """What nobody tells in time stays as it was."""
        with trio.move_on_after(SETTLE_S), suppress(PoolError):
            self._hurry()
            await self._count()

    async def _count(self) -> None:
        unsaved, bytes_, files = self._unsaved(), self._more_bytes, self._more_files
        space = await self._namespace.space()  # what was acknowledged here before is committed, and counted
        # What was committed between the two counts twice, until it is counted again: never too little.
        self._most_bytes, self._most_files = space.quota_bytes, space.quota_files
        self._bytes, self._files = space.used + unsaved, space.inodes
        self._more_bytes -= bytes_
        self._more_files -= files
