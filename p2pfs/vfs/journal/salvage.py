"""A file beside one in conflict: what a dead mount wrote and cannot be laid over what others made of it since."""

import logging
import time
from collections.abc import Sequence
from typing import Final

import trio

from p2pfs.errors import Exists, Fenced, NotDirectory, NotFound, PoolError
from p2pfs.runtime.retry import backoff
from p2pfs.types import MAX_NAME_BYTES, ROOT_INODE, Buffer, InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.journal.records import Named
from p2pfs.vfs.tree import Owner

log = logging.getLogger(__name__)

_MOST: Final = 1000
"""Files of one name and day."""
_PIECE_BYTES: Final = 1 << 20


async def give_back(
    filesystem: Filesystem, inode: int, named: Named | None, runs: Sequence[tuple[int, Buffer]]
) -> None:
    """A new file NAME.recovered-DATE with these bytes (by offset, later ones over earlier ones), and holes where there
    are none; in the directory of the other or, if that is not to be had, in the root. Stored on return, however long
    that takes, also while the pool is full.

    Raises:
        Fenced: The session is over.
        NotFound: Somebody removed it meanwhile.
        PoolError: It cannot be made or written now; nothing of it is there.
    """
    named = named or Named(inode, ROOT_INODE, b"inode-%d" % inode, 0o600, 0, 0)
    parent = InodeId(named.parent)
    try:
        handle, name = await _create(filesystem, parent, named)
    except (NotFound, NotDirectory):
        parent = ROOT_INODE
        handle, name = await _create(filesystem, parent, named)
    try:
        try:
            size = await _write(filesystem, handle, runs)
        except PoolError:
            await filesystem.remove(parent, name, directory=False)
            raise
        await _store(filesystem, handle)
    finally:
        await filesystem.release(handle)
    log.warning(
        "inode %d: %d bytes written before a crash are in conflict with what others did since: they are in inode %d,"
        " whose name ends in .recovered-%s", inode, size, handle.inode.id, _today(),
    )  # fmt: skip


async def _create(filesystem: Filesystem, parent: InodeId, named: Named) -> tuple[Handle, bytes]:
    for number in range(1, _MOST):
        ending = f".recovered-{_today()}{'' if number == 1 else f'-{number}'}".encode()
        name = named.name[: MAX_NAME_BYTES - len(ending)] + ending
        try:
            return await filesystem.create(parent, name, named.mode & 0o777, Owner(named.uid, named.gid)), name
        except Exists:
            continue
    raise Exists("too many files were recovered today")


async def _write(filesystem: Filesystem, handle: Handle, runs: Sequence[tuple[int, Buffer]]) -> int:
    size = 0
    for offset, data in runs:
        for at in range(0, len(data), _PIECE_BYTES):
            size += await filesystem.write(handle, offset + at, memoryview(data)[at : at + _PIECE_BYTES])
    return size


async def _store(filesystem: Filesystem, handle: Handle) -> None:
    for pause_s in backoff(1.0, 60.0):
        try:
            return await filesystem.fsync(handle)
        except (Fenced, NotFound):
            raise
        except PoolError as error:  # it stays dirty, and another file would fare no better
            log.info("inode %d: what a crash left in the journal is not stored yet: %s", handle.inode.id, error)
        await trio.sleep(pause_s)


def _today() -> str:
    return time.strftime("%Y-%m-%d")
