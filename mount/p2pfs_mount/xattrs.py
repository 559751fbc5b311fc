"""The handlers of a mount with `-o xattr`: extended attributes, and with them access control lists.

Without the option pyfuse3's own handlers answer ENOSYS, and the kernel stops asking: else it would ask for
security.capability before each write. With it the kernel checks permissions by access lists too; that they and the mode
agree is the vfs's business. An inode's lease shows as one more attribute, which is not stored as such.
"""

import stat
import time
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import InodeT, RequestContext, XAttrNameT

from p2pfs.format.acl import ACCESS, DEFAULT
from p2pfs.types import InodeId
from p2pfs.vfs.leases import EXPIRES, FOR_EVER, parsed, written
from p2pfs_mount.guard import guarded_number
from p2pfs_mount.operations import Operations


class XattrOperations(Operations):
    """Everything, and extended attributes."""

    enable_acl = True

    @guarded_number
    async def getxattr(self, number: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if name == EXPIRES:
            return written((await self._fs.inode(InodeId(number))).attributes.expires_s)
        value = await self._fs.xattrs.get(InodeId(number), name)
        return self.owners.shown_acl(value) if self._is_translated(name) else value

    @guarded_number
    async def setxattr(self, number: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        if name == EXPIRES:
            return await self._fs.leases.set_one(InodeId(number), parsed(value, time.time()))
        if self._is_translated(name):
            value = self.owners.stored_acl(value)
        # XATTR_CREATE and XATTR_REPLACE are pyfuse3's: it asks for the attribute first and does not pass them on
        keeps = name != ACCESS or await self._keeps_set_gid(InodeId(number), ctx)
        return await self._fs.xattrs.set(InodeId(number), name, value, keeps_set_gid=keeps)

    async def _keeps_set_gid(self, number: InodeId, ctx: RequestContext) -> bool:
        """chmod's rule, which the kernel leaves to us here: who is not of the group clears the bit."""
        row = await self._fs.stat(number)
        group = self.owners.groups.shown(row.gid)
        if not row.mode & stat.S_ISGID or ctx.uid == 0 or ctx.gid == group:
            return True
        return group in pyfuse3.get_sup_groups(ctx.pid)

    def _is_translated(self, name: bytes) -> bool:
        return name in (ACCESS, DEFAULT) and not self.owners.are_plain

    @guarded_number
    async def listxattr(self, number: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        names = list(await self._fs.xattrs.names(InodeId(number)))
        if (await self._fs.inode(InodeId(number))).attributes.expires_s:
            names.append(EXPIRES)
        # the kernel guards the values of trusted.*, and leaves it to us to hide the names
        return [XAttrNameT(name) for name in names if ctx.uid == 0 or not name.startswith(b"trusted.")]

    @guarded_number
    async def removexattr(self, number: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        if name == EXPIRES:
            return await self._fs.leases.set_one(InodeId(number), FOR_EVER)
        return await self._fs.xattrs.remove(InodeId(number), name)
