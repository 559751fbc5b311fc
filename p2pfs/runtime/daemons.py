"""From a daemon's trio to its exit status. Called by the coordinator and the peer."""

from collections.abc import Awaitable, Callable

import trio

from p2pfs import exitcodes
from p2pfs.errors import PoolError, UserError


def run_daemon(main: Callable[[], Awaitable[object]]) -> int:
    """Run it until it ends by itself; the exit status. What ends it otherwise is one sentence for a person where it is
    an error of this project, and raised as it is where it is not.

    Raises:
        UserError: It cannot start, or can no longer work.
    """
    try:
        trio.run(main)
    except (PoolError, BaseExceptionGroup) as caught:
        error = _first(caught)
        if isinstance(error, PoolError) and not isinstance(error, UserError):
            raise UserError(str(error), exitcodes.FAILED) from error
        raise error from None
    return exitcodes.OK


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
