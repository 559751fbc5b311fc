"""Memory kept to be used again, as much as is needed now and then: not what the busiest moment ever took."""

from typing import Final, Generic, TypeVar

from p2pfs.runtime import memory

T = TypeVar("T")

LOOK_EVERY: Final = 64
"""Takes. What none of so many needed goes: to be made again it costs 0.1–0.2 ms a MiB, once in so many."""


class Spares(Generic[T]):
    """At most `most` things, last in, first out. Thread-safe: nothing here takes more than one step of the interpreter
    where another thread's matters; a count that is one off costs or keeps one thing more."""

    def __init__(self, most: int) -> None:
        self._most, self._things = most, list[T]()
        self._takes, self._unneeded = 0, 0  # the fewest that were left since the last look
        memory.watch(self)

    def __len__(self) -> int:
        return len(self._things)

    def take(self) -> T | None:
        """One of them, or None: then make one."""
        try:
            thing = self._things.pop()
        except IndexError:
            thing = None
        self._unneeded = min(self._unneeded, len(self._things))
        self._takes += 1
        if self._takes >= LOOK_EVERY:
            self.look()
        return thing

    def look(self) -> None:
        """Let go of what nobody needed since the last look; also now and then, as nobody may take anything."""
        del self._things[: self._unneeded]
        self._takes, self._unneeded = 0, len(self._things)

    def put(self, thing: T) -> None:
        """It is not in use any more."""
        if len(self._things) < self._most:
            self._things.append(thing)
