"""At which of several addresses a node is. Anybody may have named them, on a local network even strangers, so they are
tried side by side and all of them within one deadline: one that accepts and says nothing holds nobody up.

Called by those who look for a coordinator: `enrolment.join` and `p2pfs coordinator find`.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from p2pfs.errors import PoolError

AT_ONCE: Final = 32
"""What a network tells, 128 addresses at most, is tried in four rounds of a few seconds."""
WITHIN_S: Final = 30.0


async def first_that_answers(
    addresses: Iterable[str], try_one: Callable[[str], Awaitable[object]], *, within_s: float = WITHIN_S
) -> str | None:
    """The first address at which `try_one` raises no PoolError; None when it does at all, or time is up."""
    found: list[str] = []
    left = iter(dict.fromkeys(addresses))
    with trio.move_on_after(within_s):
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                for address in left:
                    try:
                        await try_one(address)
                    except PoolError:
                        continue
                    found.append(address)
                    nursery.cancel_scope.cancel()
                    return

            for _ in range(AT_ONCE):
                nursery.start_soon(work)
    return found[0] if found else None
