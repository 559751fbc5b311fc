"""Errors → one sentence on stderr and an exit code. The only place that maps `p2pfs.errors` to `p2pfs.exitcodes`."""

import errno
from collections.abc import Iterator
from typing import Final

from p2pfs import errors, exitcodes

_CODES: Final[dict[type[errors.PoolError], int]] = {
    errors.NotFound: exitcodes.NOT_FOUND,
    errors.Exists: exitcodes.EXISTS,
    errors.Busy: exitcodes.BUSY,
    errors.Denied: exitcodes.DENIED,
    errors.Invalid: exitcodes.USAGE,
    errors.NoSpace: exitcodes.POOL_FULL,
    errors.OverQuota: exitcodes.POOL_FULL,
    errors.Unavailable: exitcodes.UNREACHABLE,
    errors.PoolError: exitcodes.FAILED,
}


def exit_code_of(error: errors.PoolError) -> int:
    """The exit status that stands for `error`: its own, or that of its nearest ancestor in the table."""
    if isinstance(error, errors.UserError):
        return error.exit_code
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def expected(error: BaseException) -> errors.PoolError | None:
    """The error meant for a person inside `error`, which may be a group as nurseries raise it; None for bugs.

    A group counts as expected only when everything in it is: a bug beside a refusal must not be hidden by it.
    """
    leaves = list(_leaves(error))
    if not all(isinstance(leaf, errors.PoolError) or _is_disk_full(leaf) for leaf in leaves):
        return None
    known = [leaf for leaf in leaves if isinstance(leaf, errors.PoolError)]
    # A mistake of the person explains more than what followed from it.
    known.sort(key=lambda leaf: not isinstance(leaf, errors.UserError))
    return known[0] if known else errors.NoSpace("no space left on this machine's disk: free some and try again")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
