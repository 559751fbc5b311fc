"""A handler's contract with pyfuse3, which ends the mount on any exception but FUSEError and interrupts no handler.

So every handler is `@guarded`: it has a deadline, errors of the project become an errno, and anything unexpected is one
logged EIO. What it took is counted (`meter`).
"""

import errno
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from p2pfs.errors import PoolError
from p2pfs_mount.errno import errno_of, errno_of_number
from p2pfs_mount.meter import Meter
from p2pfs_mount.owners import Fixed, Unmapped
from p2pfs_mount.pending import Pending

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]


class Guarded(Protocol):
    """Whose handlers are guarded. `unexpected` counts exceptions that nobody thought of."""

    pending: Pending
    meter: Meter
    unexpected: int


def guarded(handler: Handler[P, R]) -> Handler[P, R]:
    """The contract with pyfuse3: only FUSEError leaves, and in time. For handlers that are told names."""
    return _guarded(_timed(handler), errno_of)


def guarded_number(handler: Handler[P, R]) -> Handler[P, R]:
    """As `guarded`, for handlers that are told an inode's number, or a handle: that it is gone says nothing of the name
    it was found by, which may have been given to another since."""
    return _guarded(_timed(handler), errno_of_number)


def prompt_number(handler: Handler[P, R]) -> Handler[P, R]:
    """As `guarded_number`, for handlers that wait for nothing, or only within `pending`: a deadline costs 5 µs."""
    return _guarded(handler, errno_of_number)


def _timed(handler: Handler[P, R]) -> Handler[P, R]:
    @functools.wraps(handler)
    async def handle(self: Guarded, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.pending.one():
            return await handler(self, *args, **kwargs)

    return handle  # type: ignore[return-value]  # functools.wraps narrows the type of self


def _guarded(handler: Handler[P, R], code: Callable[[PoolError], int]) -> Handler[P, R]:
    operation = "view" if handler.__name__.startswith("_") else handler.__name__

    @functools.wraps(handler)
    async def handle(self: Guarded, *args: P.args, **kwargs: P.kwargs) -> R:
        access, inode = self.meter.access, None
        if access.is_read:
            inode = access.inode_of(operation, args)  # `release` forgets it
        began_ns, number = time.perf_counter_ns(), 0
        try:
            return await handler(self, *args, **kwargs)
        except trio.Cancelled:
            number = errno.EINTR
            raise
        except Unmapped:
            number = errno.EOVERFLOW  # as a kernel that maps ids says it
            raise pyfuse3.FUSEError(number) from None
        except Fixed:
            number = errno.EPERM  # as one that knows no owners
            raise pyfuse3.FUSEError(number) from None
        except PoolError as error:
            log.debug("%s: %s", handler.__name__, error)
            number = code(error)
            raise pyfuse3.FUSEError(number) from None
        except trio.TooSlowError:
            log.error("%s was given up: it did not end in time, or the mount is ending", handler.__name__)
            number = errno.EIO
            raise pyfuse3.FUSEError(number) from None
        except pyfuse3.FUSEError as error:
            number = error.errno
            raise
        except Exception:
            self.unexpected += 1
            log.exception("%s failed unexpectedly", handler.__name__)
            number = errno.EIO
            raise pyfuse3.FUSEError(number) from None
        finally:
            took_ns = time.perf_counter_ns() - began_ns
            self.meter.note(operation, took_ns, number)
            if access.is_read:
                access.note(operation, args, took_ns, number, inode)

    return handle  # type: ignore[return-value]  # functools.wraps narrows the type of self
