"""What no path leads to, and what counts wrongly: all inodes and names of the volume, as the coordinator's rows are.

After a walk from the root. Each answer is one state; what contradicts the walk, which was before, is looked at again.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from p2pfs.errors import Corrupt, NotFound
from p2pfs.format.heads import open_head
from p2pfs.format.names import open_name
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.fsck.asking import Asked
from p2pfs.vfs.fsck.findings import Code, Finding, Findings, Remedy, Spot
from p2pfs.vfs.fsck.walk import Walk
from p2pfs.wire.fsck import TRASHED, Dangling, DanglingPage, InodeFacts, InodePage, ReadDangling, ReadInodes
from p2pfs.wire.leases import ReadNames
from p2pfs.wire.namespace import Named
from p2pfs.wire.volumes import VolumeInfo

PAGE: Final = 500
_TRIES: Final = 3
_FIRST: Final = -(1 << 63)
"""Before every number that a row can have."""


class Survey:
    """One look at all rows. `info` asks what the volume counts."""

    def __init__(self, asked: Asked, findings: Findings, walk: Walk, info: Callable[[], Awaitable[VolumeInfo]]) -> None:
        self._asked, self._findings, self._walk, self._info = asked, findings, walk, info
        self._strays: list[InodeId] = []  # directories that the walk did not meet
        self._circles: set[InodeId] = set()
        self._orphans: dict[InodeId, Finding] = {}

    async def run(self) -> None:
        """Raises Misuse where the coordinator is of a version that cannot tell."""
        await self._count(self._look)
        for stray in self._strays:
            await self._look_above(stray)
        await self._dangling()

    # ---- inodes

    async def _inodes(self) -> AsyncIterator[InodeFacts]:
        after, complete = _FIRST, False
        while not complete:
            page = await self._asked.ask(ReadInodes(after, PAGE), InodePage)
            for row in page.rows:
                after = row.inode
                yield row
            complete = page.complete or not page.rows

    async def _count(self, look: Callable[[InodeFacts], None]) -> None:
        """Whether the volume counts as many inodes and bytes as it has, if nobody changes it meanwhile."""
        before = _counted(await self._info())
        for _ in range(_TRIES):
            sums = [0, 0, 0, 0]
            async for row in self._inodes():
                is_trash = row.kept == TRASHED
                sums[2 * is_trash] += 1
                sums[2 * is_trash + 1] += row.size
                look(row)
            look = _ignore
            now = _counted(await self._info())
            if now == tuple(sums):
                return
            if now == before:
                message = f"the volume counts {_said(now)} and has {_said(sums)}"
                self._findings.add(Finding(Code.COUNTERS, b"", message, Remedy.RECOUNT))
                return
            before = now
        self._findings.notes.append("the volume's counters were not checked: it changes all the time")

    def _look(self, row: InodeFacts) -> None:
        inode, is_directory = InodeId(row.inode), row.kind == Kind.DIRECTORY
        if inode == ROOT_INODE:
            return
        if not row.names:
            self._nameless(row)
        elif row.kept & TRASHED:
            self._find(Code.LINKS, inode, "it has a name and is in the trash, which would purge it", Remedy.RECOUNT)
        elif is_directory:
            if row.names > 1:
                self._find(Code.PLACE, inode, f"this directory has {row.names} names, and can have one")
            elif row.parent != row.named_in:
                message = f"its row says that it is in directory {row.parent}, and its name is in {row.named_in}"
                self._find(Code.PLACE, inode, message, Remedy.RECOUNT)
            if inode not in self._walk.directories:
                self._strays.append(inode)
        elif row.links and row.links != row.names:  # without any the walk has told of it
            self._find(Code.LINKS, inode, f"it counts {row.links} links and has {row.names}", Remedy.RECOUNT)

    def _nameless(self, row: InodeFacts) -> None:
        """In the trash, open somewhere, or an orphan."""
        inode, kind = InodeId(row.inode), None
        if inode < ROOT_INODE:
            self._find(Code.ORPHAN, inode, "no inode has such a number")
            return
        try:
            kind = open_head(self._asked.keys, self._asked.volume, inode, row.head).kind
        except Corrupt as error:
            where = "in the trash" if row.kept & TRASHED else "without a name"
            self._find(Code.HEAD, inode, f"the head of an inode {where} does not authenticate ({error})")
        if row.kept:
            return
        why = "no name leads to it, or none in a directory that is there, and neither the trash nor a mount keeps it"
        remedy = Remedy.ADOPT if kind else Remedy.NONE
        self._orphans[inode] = self._find(Code.ORPHAN, inode, why, remedy, kind=kind)

    # ---- directories that are somewhere, but not below the root

    async def _look_above(self, stray: InodeId) -> None:
        """Up to the root, to a directory that the walk met, or round in a circle."""
        above: list[InodeId] = []
        at = stray
        while at != ROOT_INODE and at not in self._walk.directories:
            if at in above:
                await self._circle(above[above.index(at) :])
                return
            above.append(at)
            named = await self._named(at)
            if named is None:  # made and removed meanwhile, or below an orphan, which is told of itself
                return
            at = InodeId(named.parent)

    async def _circle(self, members: list[InodeId]) -> None:
        inode = min(members)
        named = await self._named(inode)
        if inode in self._circles or named is None or not await self._is_circle(members):
            return
        self._circles.add(inode)
        entry, parent = named.entry, InodeId(named.parent)
        try:
            name = open_name(self._asked.keys, self._asked.volume, parent, entry.name)
        except Corrupt:
            name = b""
        message = f"{len(members)} directories are each below the other, and not below the root"
        finding = self._find(Code.UNREACHABLE, inode, message, Remedy.MOVE, kind=Kind.DIRECTORY)
        finding.spot = Spot(parent, entry.dentry, entry.name, name)

    async def _is_circle(self, members: list[InodeId]) -> bool:
        """Once more: renames between the questions can look like one."""
        for at, above in zip(members, [*members[1:], members[0]], strict=True):
            named = await self._named(at)
            if named is None or named.parent != above:
                return False
        return True

    async def _named(self, inode: InodeId) -> Named | None:
        try:
            found = await self._asked.ask(ReadNames(inode), list[Named])
        except NotFound:
            return None
        return found[0] if found else None

    # ---- names

    async def _dangling(self) -> None:
        after = (0, 0)
        while True:
            page = await self._asked.ask(ReadDangling(after), DanglingPage)
            for row in page.rows:
                self._look_at_name(row)
            after = page.after
            if after == (0, 0):
                return

    def _look_at_name(self, row: Dangling) -> None:
        parent, inode = InodeId(row.parent), InodeId(row.inode)
        try:
            name = open_name(self._asked.keys, self._asked.volume, parent, row.name) if parent >= ROOT_INODE else b""
        except Corrupt:
            name = b""
        spot = Spot(parent, row.dentry, row.name, name)
        orphan = self._orphans.get(inode)
        if orphan is not None:  # to be adopted, and then rid of this name
            orphan.spot = spot
            return
        nowhere = "is in no directory that is there, and it has another"
        message = f"a name of inode {inode} {nowhere if row.leads else 'is there, and the inode is not'}"
        directory = b"" if parent == ROOT_INODE else self._walk.paths.get(parent, b"#%d" % parent)
        path = directory + b"/" + (name or b"?%d" % row.dentry)
        self._findings.add(Finding(Code.DANGLING, path, message, Remedy.DROP, inode=inode, spot=spot))

    def _find(
        self, code: Code, inode: InodeId, message: str, remedy: Remedy = Remedy.NONE, *, kind: Kind | None = None
    ) -> Finding:
        """The path is filled in later."""
        finding = Finding(code, self._walk.paths.get(inode, b""), message, remedy, inode=inode, kind=kind)
        self._findings.add(finding)
        return finding


def _ignore(_row: InodeFacts) -> None:
    """Seen already."""


def _counted(info: VolumeInfo) -> tuple[int, int, int, int]:
    return info.files, info.bytes, info.trash_files, info.trash_bytes


def _said(counted: "tuple[int, ...] | list[int]") -> str:
    files, size, trash_files, trash_bytes = counted
    return f"{files} inodes with {size} bytes (in the trash {trash_files} with {trash_bytes})"
