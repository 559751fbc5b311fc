"""How long things took, counted in a few classes: cheap enough to note every request.

Not a library's histogram, whose every call costs microseconds: plain integers, which `metrics` and commands read.
"""

from typing import Final

_UNIT_BITS: Final = 14
"""The first class ends at 2¹⁴ ns, about 16 µs; each further one at four times as much."""
CLASSES: Final = 13
"""The last but one ends at about 69 s; the last has no end."""
BOUNDS_S: Final = tuple((1 << _UNIT_BITS + 2 * index) / 1e9 for index in range(CLASSES - 1))
"""Where each class but the last ends, in seconds."""


class Latency:
    """Counts of one kind of thing. `total_ns` adds up how long all took."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * CLASSES
        self.total_ns = 0

    def note(self, took_ns: int) -> None:
        """One took so long. For one thread at a time."""
        self.total_ns += took_ns
        index = ((took_ns >> _UNIT_BITS).bit_length() + 1) >> 1
        self.counts[index if index < CLASSES else CLASSES - 1] += 1

    @property
    def count(self) -> int:
        return sum(self.counts)
