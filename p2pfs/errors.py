"""One tree of errors. Callers catch by meaning; the edge that owns a library maps its exceptions to these.

errno, HTTP statuses and exit codes are *not* here: they live in p2pfs_mount.errno, p2pfs.wire.failures and
p2pfs.exitcodes.
"""

from typing import TypeVar

E = TypeVar("E", bound=Exception)


class PoolError(Exception):
    """Anything this project raises on purpose. `str(error)` is one sentence for a person."""


class Semantic(PoolError):
    """The request was understood and refused; trying again unchanged gives the same answer."""


class NotFound(Semantic):
    """No such inode, dentry, chunk, volume or node."""


class Exists(Semantic):
    """The name, volume or node is already there."""


class Busy(Semantic):
    """Another mount has the volume, and one of the two wants it for itself alone."""


class NotDirectory(Semantic):
    """A directory was needed."""


class IsDirectory(Semantic):
    """Something other than a directory was needed."""


class NotEmpty(Semantic):
    """The directory has entries."""


class Loop(Semantic):
    """A directory would be moved below itself."""


class TooLarge(Semantic):
    """Beyond a limit of the format: file size, head, inline data."""


class NameTooLong(TooLarge):
    """A name or a symbolic link's target is longer than the format allows."""


class TooManyLinks(TooLarge):
    """The inode has as many names as it can."""


class AttributeTooLarge(TooLarge):
    """An extended attribute's value is longer than 64 KiB."""


class NoAttribute(Semantic):
    """The inode has no extended attribute of this name."""


class Unsupported(Semantic):
    """This file system has nothing of the kind: extended attributes outside its name spaces."""


class Denied(Semantic):
    """The caller's certificate, role or membership does not allow this."""


class Invalid(Semantic):
    """Arguments that cannot be meant: bad flags, a rename that makes no sense."""


class NoSpace(Semantic):
    """No peers have room for another `min_replicas` copies."""


class OverQuota(Semantic):
    """The owner's share is used up."""


class Conflict(Semantic):
    """The state the change builds on is no longer the state; fetch again and retry."""


class Gone(Semantic):
    """The chunk is being purged: put it again."""


class Unavailable(PoolError):
    """Nobody who could answer did, within the deadline. Retriable."""


class CoordinatorAway(Unavailable):
    """The coordinator does not answer; reads may go on from caches and peers."""


class Recalling(Unavailable):
    """Another mount holds the volume's delegation and is being asked to return it: try again soon."""


class Corrupt(PoolError):
    """Bytes that do not authenticate: never shown, counted, reported, repaired."""


class Fenced(PoolError):
    """The session, epoch or incarnation is no longer valid; its holder must not write any more."""


class Overruled(Fenced):
    """The delegation under which it was decided is over; the session itself may live on."""


class Misuse(PoolError):
    """A message or call that breaks the protocol: a bug or an attack, never weather."""


class UserError(PoolError):
    """A mistake of the person at the command line: one sentence that says what to do, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def bare(error: E) -> E:
    """The error without what led to it, to be kept or raised once more: a traceback keeps what all its frames had, a
    chunk of a MiB perhaps, and every raise adds to it."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
