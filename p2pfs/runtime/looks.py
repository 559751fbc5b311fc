"""Whether a look that may be in vain is worth it, judged by what the last ones found. Pure."""

from typing import Final

_IN_VAIN: Final = 8


class Looks:
    """Behind some in a row that found nothing, only every few times is one due; one that finds brings them all back."""

    def __init__(self) -> None:
        self._in_vain = self._passed_over = 0

    def is_due(self) -> bool:
        """Ask once each time, and `note` what a look found."""
        if self._in_vain < _IN_VAIN:
            return True
        self._passed_over = (self._passed_over + 1) % _IN_VAIN
        return not self._passed_over

    def note(self, *, found: bool) -> None:
        self._in_vain = 0 if found else self._in_vain + 1
