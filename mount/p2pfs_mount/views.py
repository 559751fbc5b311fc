"""Handlers of what a mount shows beside its volume (`p2pfs.vfs.views`): a read-only tree at `.p2pfs` in its root.

Numbers say which it is; everything else goes on to the handlers of the volume. Changes there are EROFS.
"""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    XAttrNameT,
)

from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.inodes import Stat
from p2pfs.vfs.views import FIRST, NAME, SearchView
from p2pfs_mount.entries import dot, dots, entry_of
from p2pfs_mount.guard import guarded, guarded_number
from p2pfs_mount.operations import Operations
from p2pfs_mount.xattrs import XattrOperations

_BELIEVED_S: Final = 1.0


class ViewOperations(Operations):
    """A volume, and what was found in it."""

    def __init__(self, filesystem: Filesystem, **options: Any) -> None:  # noqa: ANN401 - those of Operations
        super().__init__(filesystem, **options)
        owner = os.geteuid(), os.getegid()
        self._view = SearchView(
            lambda query, limit: filesystem.search.find(query, limit=limit), owner=owner, now_ns=time.time_ns
        )
        self._listed: dict[int, list[tuple[bytes, Stat]]] = {}  # by handle
        self._at: dict[int, InodeId] = {}

    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        if parent >= FIRST:
            return await self._found(parent, name)
        if name != NAME or parent != ROOT_INODE:
            return await super().lookup(parent, name, ctx)
        try:
            entry = await super().lookup(parent, name, ctx)
        except pyfuse3.FUSEError as error:
            if error.errno != errno.ENOENT:
                raise
            return await self._found(parent, name)
        return entry if entry.st_ino else await self._found(parent, name)

    @guarded
    async def _found(self, parent: InodeT, name: FileNameT) -> EntryAttributes:
        return _entry(await self._view.lookup(InodeId(parent), name))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        await super().forget([(number, count) for number, count in inode_list if number < FIRST])

    async def getattr(self, number: InodeT, ctx: RequestContext) -> EntryAttributes:
        return await (self._shown(number) if number >= FIRST else super().getattr(number, ctx))

    @guarded_number
    async def _shown(self, number: InodeT) -> EntryAttributes:
        return _entry(self._view.stat(InodeId(number)))

    async def readlink(self, number: InodeT, ctx: RequestContext) -> FileNameT:
        return await (self._target(number) if number >= FIRST else super().readlink(number, ctx))

    @guarded_number
    async def _target(self, number: InodeT) -> FileNameT:
        return FileNameT(self._view.target(InodeId(number)))

    # ---- directories

    async def opendir(self, number: InodeT, ctx: RequestContext) -> FileHandleT:
        return await (self._open_listing(number) if number >= FIRST else super().opendir(number, ctx))

    @guarded_number
    async def _open_listing(self, number: InodeT) -> FileHandleT:
        listed = await self._view.listing(InodeId(number))
        fh = self._new_handle()
        self._listed[fh], self._at[fh] = listed, InodeId(number)
        return fh

    async def readdir(self, fh: FileHandleT, start: int, token: ReaddirToken) -> None:
        if fh not in self._listed:
            return await super().readdir(fh, start, token)
        at = self._at[fh]
        entries = [(b"." * cookie, dot(number)) for cookie, number in dots(at, self._view.parent(at))]
        entries += [(name, _entry(row)) for name, row in self._listed[fh]]
        for cookie, (name, entry) in enumerate(entries[start:], start + 1):
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, cookie):
                return None
        return None

    async def releasedir(self, fh: FileHandleT) -> None:
        if self._listed.pop(fh, None) is None:
            return await super().releasedir(fh)
        del self._at[fh]
        return None

    # ---- what changes something

    async def setattr(
        self, number: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        return await super().setattr(_real(number), attr, fields, fh, ctx)

    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return await super().mknod(_real(parent), name, mode, rdev, ctx)

    async def mkdir(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        return await super().mkdir(_real(parent), name, mode, ctx)

    async def symlink(self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return await super().symlink(_real(parent), name, target, ctx)

    async def link(self, number: InodeT, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return await super().link(_real(number), _real(parent), name, ctx)

    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        return await super().create(_real(parent), name, mode, flags, ctx)

    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        with _lasting(parent, name):
            await super().unlink(_real(parent), name, ctx)

    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        with _lasting(parent, name):
            await super().rmdir(_real(parent), name, ctx)

    async def rename(
        self,
        parent: InodeT,
        name: FileNameT,
        new_parent: InodeT,
        new_name: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        with _lasting(parent, name):
            await super().rename(_real(parent), name, _real(new_parent), new_name, flags, ctx)

    async def open(self, number: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return await super().open(_real(number), flags, ctx)

    # ---- extended attributes: there are none; without -o xattr the volume has no handlers for them either

    async def getxattr(self, number: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if number >= FIRST and self.enable_acl:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return await super().getxattr(number, name, ctx)

    async def listxattr(self, number: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        if number >= FIRST and self.enable_acl:
            return []
        return await super().listxattr(number, ctx)

    async def setxattr(self, number: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        await super().setxattr(_real(number), name, value, ctx)

    async def removexattr(self, number: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await super().removexattr(_real(number), name, ctx)


class ViewXattrOperations(ViewOperations, XattrOperations):
    """The same with extended attributes."""


def _entry(row: Stat) -> EntryAttributes:
    entry = entry_of(row)
    entry.entry_timeout = entry.attr_timeout = _BELIEVED_S
    return entry


def _real(number: InodeT) -> InodeT:
    """Of an inode of the volume; raises EROFS for others."""
    if number >= FIRST:
        raise pyfuse3.FUSEError(errno.EROFS)
    return number


@contextmanager
def _lasting(parent: int, name: bytes) -> Iterator[None]:
    """That the view is no name of the volume does not mean that it is not there: EROFS instead of ENOENT."""
    try:
        yield
    except pyfuse3.FUSEError as error:
        if parent == ROOT_INODE and name == NAME and error.errno == errno.ENOENT:
            raise pyfuse3.FUSEError(errno.EROFS) from None
        raise
