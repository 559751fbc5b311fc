"""What a kernel that keeps written pages (`-o writeback_cache`) gives up because it was refused.

Programs were told that it is written. The kernel marks its pages clean all the same, so that they may be dropped and
read from us again, and tells only whoever syncs or closes the file first: perhaps a child that begins another program,
where nobody looks. So the inode keeps the loss, and every handle that was open tells it (`Handle.raise_loss`). Called
by `vfs.filesystem`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from p2pfs.errors import PoolError, Unavailable
from p2pfs.vfs.inodes import Inode

log = logging.getLogger(__name__)


@contextmanager
def given_up(inode: Inode) -> Iterator[None]:
    """What the block takes in is lost if it raises, a deadline included."""
    try:
        yield
    except BaseException as error:
        why = error if isinstance(error, PoolError) else Unavailable("what was written could not be taken in in time")
        if not inode.losses:
            log.warning("inode %d: the kernel gives up what was written to it: %s", inode.id, why)
        inode.lose(why)
        raise
