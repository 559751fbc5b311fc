"""Whether the kernel thinks that this machine's clock is right: it knows whether somebody sets it (adjtimex(2))."""

import ctypes
from typing import Final

_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 256  # struct timex has 208 on 64 bits


def machine_clock_error() -> bool | None:
    """True: nobody sets it by NTP or the like; None: the kernel does not tell. Changes nothing."""
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else bool(answer == _TIME_ERROR)
