"""How long to wait before trying again: growing, capped, spread by chance.

Only the numbers; whether trying again makes sense, and until when, is the caller's to know.
"""

import random
from collections.abc import Iterator


def backoff(
    first_s: float = 0.1, cap_s: float = 10.0, *, factor: float = 2.0, chance: random.Random | None = None
) -> Iterator[float]:
    """Endless pauses in seconds. Each lies between half of and the whole of its step, so that a thousand clients that
    lost the same server do not return at the same instant, and none returns at once.
    """
    draw = (chance or random).random
    step = first_s
    while True:
        yield min(step, cap_s) * (0.5 + draw() / 2)
        step = min(step * factor, cap_s)
