"""Whose copy is sent next where the uplink is thin: a bound on the bytes on their way, which follows the uplink.

Not a bound on memory, which chunks.limited sets, and none where the uplink is not what holds PUTs up. In order of
arrival, so that one chunk after another is stored instead of all of them at the very end. Decides only; who was
refused a turn is woken. No I/O.
"""

from collections.abc import Callable
from typing import Final

from p2pfs.types import CHUNK_BYTES

LEAST_BYTES: Final = CHUNK_BYTES + CHUNK_BYTES // 2
"""While less is on its way another PUT may begin: at least two chunks at once, so that the uplink goes on being
measured, and one peer that is slow itself leaves it to the others."""

Wake = Callable[[], None]


class Turns:
    """`most` says how many bytes may be on their way now. Whoever asks is known by the `wake` it is called by."""

    def __init__(self, most: Callable[[], float]) -> None:
        self._most = most
        self._waiting: dict[Wake, None] = {}
        self._taken = 0

    def __repr__(self) -> str:
        return f"Turns({self._taken} bytes on their way, {len(self._waiting)} waiting)"

    def take(self, size: int, wake: Wake) -> bool:
        """Whether a PUT of `size` bytes may begin now. If not `wake` is called when it is to ask again, and it keeps
        its place until it has called `leave`."""
        if next(iter(self._waiting), wake) == wake and (self._taken < LEAST_BYTES or self._taken < self._most()):
            self._taken += size
            return True
        self._waiting[wake] = None
        return False

    def leave(self, wake: Wake) -> None:
        """It wants no turn any more. Again is fine."""
        if wake in self._waiting:
            del self._waiting[wake]
            self._wake_first()

    def give(self, size: int) -> None:
        """So many bytes of those taken are not on their way any more, or nobody waits for them."""
        self._taken -= size
        self._wake_first()

    def _wake_first(self) -> None:
        wake = next(iter(self._waiting), None)
        if wake is not None:
            wake()
