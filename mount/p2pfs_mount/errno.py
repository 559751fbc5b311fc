"""Errors ⇄ errno: the only place that knows errno (docs/posix.md tells users what each means)."""

import errno

from p2pfs import errors

_ERRNO: dict[type[errors.PoolError], int] = {
    errors.NotFound: errno.ENOENT,
    errors.Exists: errno.EEXIST,
    errors.Busy: errno.EBUSY,
    errors.NotDirectory: errno.ENOTDIR,
    errors.IsDirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.Loop: errno.EINVAL,  # rename(2): a directory below itself
    errors.TooLarge: errno.EFBIG,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.TooManyLinks: errno.EMLINK,
    errors.AttributeTooLarge: errno.E2BIG,
    errors.NoAttribute: errno.ENODATA,
    errors.Unsupported: errno.ENOTSUP,
    errors.Denied: errno.EACCES,
    errors.Invalid: errno.EINVAL,
    errors.NoSpace: errno.ENOSPC,
    errors.OverQuota: errno.EDQUOT,
    errors.CoordinatorAway: errno.EROFS,
    errors.Unavailable: errno.EIO,
    errors.Corrupt: errno.EIO,
    errors.Fenced: errno.ESTALE,
}


def errno_of(error: errors.PoolError) -> int:
    """The errno of an error: that of its nearest ancestor in the table, else EIO."""
    for kind in type(error).__mro__:
        number = _ERRNO.get(kind)
        if number is not None:
            return number
    return errno.EIO


def errno_of_number(error: errors.PoolError) -> int:
    """The errno where the kernel asked about an inode by its number. If that is gone ESTALE makes it look the name up
    again, once: another mount may have put another file in its place."""
    return errno.ESTALE if isinstance(error, errors.NotFound) else errno_of(error)
