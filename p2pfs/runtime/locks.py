"""One lock a key, made when first wanted and forgotten when nobody holds or awaits it.

Not for threads and not re-entrant. `vfs`, `meta` and `chunks` use it for "one at a time for this inode, chunk, node".
"""

from collections.abc import Hashable
from types import TracebackType
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class _Slot:
    """A lock and how many hold or await it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0


class _Hold(Generic[K]):
    """What `async with` enters; leaving it never awaits, so a cancelled holder always gives the key back."""

    __slots__ = ("_key", "_slots")

    def __init__(self, slots: dict[K, _Slot], key: K) -> None:
        self._slots = slots
        self._key = key

    async def __aenter__(self) -> None:
        slot = self._slots.get(self._key)
        if slot is None:
            slot = self._slots[self._key] = _Slot()
        slot.users += 1
        try:
            await slot.lock.acquire()
        except BaseException:
            self._leave(slot)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        slot = self._slots[self._key]
        slot.lock.release()
        self._leave(slot)

    def _leave(self, slot: _Slot) -> None:
        slot.users -= 1
        if not slot.users:
            del self._slots[self._key]


class KeyedLocks(Generic[K]):
    """`async with locks(key):` excludes every other holder of an equal key; waiters go in order of arrival.

    Cancellation: a cancelled waiter leaves the queue; release is synchronous and cannot be cancelled.
    """

    def __init__(self) -> None:
        self._slots: dict[K, _Slot] = {}

    def __call__(self, key: K) -> _Hold[K]:
        return _Hold(self._slots, key)

    def is_held(self, key: K) -> bool:
        """Whether somebody holds `key` now."""
        slot = self._slots.get(key)
        return slot is not None and slot.lock.locked()

    def __len__(self) -> int:
        """Keys held or awaited."""
        return len(self._slots)
