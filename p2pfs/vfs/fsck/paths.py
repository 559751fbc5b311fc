"""What an inode is called, found from below: for findings that are about inodes, not names."""

from p2pfs.errors import Corrupt, PoolError
from p2pfs.format.names import open_name
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.fsck.asking import Asked
from p2pfs.wire.leases import ReadNames
from p2pfs.wire.namespace import Named


class Names:
    """`known` are directories whose path is known already."""

    def __init__(self, asked: Asked, known: dict[InodeId, bytes]) -> None:
        self._asked, self._known = asked, known

    async def of(self, inode: InodeId) -> bytes:
        """One of its paths from the root; `#NUMBER` for what has none."""
        if inode == ROOT_INODE:
            return b"/"
        below: list[bytes] = []
        at, seen = inode, set[InodeId]()
        while at != ROOT_INODE and at not in self._known:
            named = await self._name(at)
            if named is None or at in seen:
                return b"/".join([b"#%d" % at, *reversed(below)])
            seen.add(at)
            parent = InodeId(named.parent)
            try:
                below.append(open_name(self._asked.keys, self._asked.volume, parent, named.entry.name))
            except Corrupt:
                below.append(b"?%d" % named.entry.dentry)
            at = parent
        return b"/".join([b"" if at == ROOT_INODE else self._known[at], *reversed(below)])

    async def _name(self, inode: InodeId) -> Named | None:
        try:
            found = await self._asked.ask(ReadNames(inode), list[Named])
        except PoolError:
            return None
        return found[0] if found else None
