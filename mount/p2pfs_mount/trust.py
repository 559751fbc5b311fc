"""How long the kernel may answer from its own memory, and how it is made to forget when that may change.

While nobody else can change the volume (it is delegated to this mount), the kernel need not ask again: what it was told
is remembered here, so that all of it can be taken back. Called by `operations` for each answer; `withdraw` by whoever
returns the delegation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs_mount.invalidation import KernelCache

KERNEL_CACHE_S: Final = 1.0
"""How long the kernel may answer from its own memory when others may change what it knows: names and attributes are at
most this stale (P9)."""
LONGEST_S: Final = 30.0
DELIVERY_S: Final = 1.0
"""The kernel counts from when it takes an answer in, which is later than when it was given."""
GENERATION_S: Final = LONGEST_S + DELIVERY_S
MOST_TRUSTED: Final = 50_000
"""Names and inodes remembered, about 10 MiB; beyond that the kernel asks again after `KERNEL_CACHE_S`."""
PORTION: Final = 2000
"""Taken back at once: a part of what the queue of notifications holds, which others use too."""


class KernelTrust:
    """What the kernel was given for longer than `KERNEL_CACHE_S`.

    Two generations of `GENERATION_S` each: when the younger is that old the older is forgotten, as by then everything
    in it has run out.
    """

    def __init__(self, trust: Callable[[], float], *, most: int = MOST_TRUSTED) -> None:
        """`trust` says for how long an answer given now stays right: see `Filesystem.trust`."""
        self._trust, self._most = trust, most
        self._young: set[int | tuple[int, bytes]] = set()  # inodes, and names as (directory, name)
        self._old: set[int | tuple[int, bytes]] = set()
        self._since = 0.0  # when the younger began
        self._until = 0.0  # when the last timeout given runs out
        self._ends = 0.0  # when one runs out that is given now

    def __repr__(self) -> str:
        return f"KernelTrust({len(self)} trusted, {self.longest_s():.0f} s)"

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def inode_s(self, number: int) -> float:
        """For how long the kernel may believe the attributes of an inode."""
        return self.note(number, self.seconds())

    def name_s(self, parent: int, name: bytes) -> float:
        """For how long it may believe what a name leads to, or that it leads nowhere."""
        return self.note((parent, name), self.seconds())

    def seconds(self) -> float:
        """For how long the kernel may believe what it is told before the next checkpoint, if it is noted."""
        seconds = min(LONGEST_S, self._trust())
        if seconds <= KERNEL_CACHE_S:
            return KERNEL_CACHE_S
        now = trio.current_time()
        if now >= self._since + GENERATION_S:
            is_over = now >= self._since + 2 * GENERATION_S
            self._old, self._young, self._since = set() if is_over else self._young, set(), now
        self._ends = now + seconds + DELIVERY_S
        return seconds

    def note(self, what: int | tuple[int, bytes], seconds: float) -> float:
        """An inode, or a directory and a name in it, is told for `seconds`; for how long it may be."""
        if seconds <= KERNEL_CACHE_S:
            return KERNEL_CACHE_S
        if what not in self._young:
            if len(self._young) + len(self._old) >= self._most:
                return KERNEL_CACHE_S
            self._young.add(what)
        if self._until < self._ends:
            self._until = self._ends
        return seconds

    def longest_s(self) -> float:
        """For how long the kernel may still answer from what it was given and not made to forget."""
        return max(0.0, self._until - trio.current_time())

    async def withdraw(self, kernel: KernelCache) -> None:
        """Make the kernel forget all of it: when this returns it has, and `longest_s` is 0. To be called when `trust`
        says 0 already.

        Takes as long as the kernel does: a program that holds a directory keeps it from forgetting names there.
        Cancellation: the rest stays to be withdrawn, or to run out.
        """
        until = self._until
        given = self._young | self._old
        inodes = [what for what in given if isinstance(what, int)]
        # names first: that waits for lookups on their way, which may tell of inodes the kernel does not know yet
        for waiting in (list(given.difference(inodes)), inodes):
            for at in range(0, len(waiting), PORTION):
                portion = waiting[at : at + PORTION]
                await _forget(kernel, portion)
                self._young.difference_update(portion)
                self._old.difference_update(portion)
        if self._until == until:
            self._until = 0.0


@dataclass(frozen=True, slots=True)
class Believed:
    """What one kernel believes, for whoever holds the delegation: see `vfs.delegation.holding.KernelTrust`."""

    trust: KernelTrust
    kernel: KernelCache

    def longest_s(self) -> float:
        """For how long the kernel may still answer by itself."""
        return self.trust.longest_s()

    async def withdraw(self) -> None:
        """On return it has forgotten."""
        await self.trust.withdraw(self.kernel)


async def _forget(kernel: KernelCache, portion: Sequence[int | tuple[int, bytes]]) -> None:
    is_done = False
    while not is_done:
        overflows = kernel.overflows
        for what in portion:
            if isinstance(what, int):
                kernel.stale_inode(what, content=False)
            else:
                kernel.stale_name(*what)
        await kernel.idle()
        is_done = kernel.overflows == overflows
