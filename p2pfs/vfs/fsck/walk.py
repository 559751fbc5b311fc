"""Down the tree from a directory: every name and tag, every inode's head, content, attributes, label and lease.

A mount may change the volume meanwhile. So what one answer holds is compared with itself only; what two answers say is
asked for once more before it counts. What is gone by then is passed over.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Corrupt, Misuse, NotDirectory, NotFound, PoolError
from p2pfs.format.heads import Head
from p2pfs.format.names import check_tag, open_name, seal_name
from p2pfs.format.search import open_label
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.fsck.asking import Asked
from p2pfs.vfs.fsck.content import Inspector, ranges
from p2pfs.vfs.fsck.findings import Code, Finding, Findings, Remedy, Spot
from p2pfs.wire.found import LabelPage
from p2pfs.wire.namespace import (
    Attributes,
    DirectoryPage,
    Entry,
    ExtentPage,
    GetAttributes,
    GetXattrs,
    Lookup,
    ReadDirectory,
    ReadExtents,
    XattrPage,
)
from p2pfs.wire.search import ReadLabels

PAGE: Final = 1000
AT_ONCE: Final = 8
"""Directories listed with one request."""
LABELS: Final = 100
_TRIES: Final = 3
_GONE: Final = (NotFound, NotDirectory)

Extents = Callable[["Item", Head, ExtentPage], None]
"""Hears of every page of extents that is what it should be."""


@dataclass(frozen=True, slots=True)
class Item:
    """An inode with the name by which it was met. `trouble` says why there is no `head`."""

    path: bytes
    attributes: Attributes
    spot: Spot | None  # None: the root
    head: Head | None
    trouble: str = ""

    @property
    def inode(self) -> InodeId:
        return InodeId(self.attributes.inode)


class Walk:
    """One walk. `directories` has each directory that was met, with the one it is in."""

    def __init__(
        self, asked: Asked, findings: Findings, extents: Extents, relief: Callable[[], Awaitable[None]]
    ) -> None:
        """`relief` is awaited now and then, so that what `extents` heard of can be worked off."""
        self._asked, self._findings, self._extents, self._relief = asked, findings, extents, relief
        self._inspector = Inspector(asked.keys, asked.volume)
        self.directories: dict[InodeId, InodeId] = {}
        self.links: dict[InodeId, int] = {}  # of directories, as their rows said
        self.paths: dict[InodeId, bytes] = {}  # of directories
        self._met_often: set[InodeId] = set()  # files with several names

    async def run(self, path: bytes) -> None:
        """Check `path` and what is below it. Raises NotFound, and Corrupt if a name on the way there is damaged."""
        try:
            root = await self._asked.ask(GetAttributes(ROOT_INODE), Attributes)
        except NotFound:
            message = "the volume's root directory is not there, or counts no link"
            self._findings.add(Finding(Code.ROOT, b"/", message, Remedy.RECOUNT, inode=ROOT_INODE))
            return
        top = await self._start(root, path)
        self._judge(top, "")
        await self._check([top])
        waiting = [top] if self._enters(top, ROOT_INODE) else []
        while waiting:
            some, waiting = waiting[-AT_ONCE:], waiting[:-AT_ONCE]
            waiting += await self._list(some)

    # ---- where it begins

    async def _start(self, root: Attributes, path: bytes) -> Item:
        item = self._item(b"", root, None)
        for name in filter(None, path.split(b"/")):
            sealed = seal_name(self._asked.keys, self._asked.volume, item.inode, name)
            entry = await self._asked.ask(Lookup(item.inode, sealed), Entry)
            check_tag(
                self._asked.keys, self._asked.volume, item.inode, name, InodeId(entry.attributes.inode),
                Kind(entry.attributes.kind), entry.tag,
            )  # fmt: skip
            spot = Spot(item.inode, entry.dentry, entry.name, name)
            item = self._item(_joined(item.path, name), entry.attributes, spot)
        return item

    # ---- directories

    async def _list(self, directories: Sequence[Item]) -> list[Item]:
        """Check what is in these; the directories among it."""
        found: list[Item] = []
        pages = await self._asked.ask_all([ReadDirectory(one.inode, 0, PAGE) for one in directories], DirectoryPage)
        for directory, page in zip(directories, pages, strict=True):
            subdirectories = 0
            while not isinstance(page, PoolError):
                items = [self._entry(directory, entry) for entry in page.entries]
                await self._check(items)
                below = [one for one in items if one.attributes.kind == Kind.DIRECTORY]
                subdirectories += len(below)
                found += [one for one in below if self._enters(one, directory.inode)]
                if page.complete or not page.entries:
                    break
                after = page.entries[-1].dentry
                (page,) = await self._asked.ask_all([ReadDirectory(directory.inode, after, PAGE)], DirectoryPage)
            if isinstance(page, PoolError):
                if not isinstance(page, _GONE):
                    raise page
            elif self.links[directory.inode] != 2 + subdirectories:
                await self._check_links(directory)
        return found

    def _enters(self, item: Item, parent: InodeId) -> bool:
        """Whether it is a directory that was not met before: two names of one would make the walk endless."""
        if item.attributes.kind != Kind.DIRECTORY or item.inode in self.directories:
            return False
        self.directories[item.inode] = item.spot.parent if item.spot else parent
        self.paths[item.inode] = item.path
        self.links[item.inode] = item.attributes.links
        self._findings.tally.directories += 1
        return True

    async def _check_links(self, directory: Item) -> None:
        """Its links are not 2 and one more for each subdirectory: once more, if nobody changes it meanwhile."""
        for _ in range(_TRIES):
            try:
                before = await self._asked.ask(GetAttributes(directory.inode), Attributes)
                links, after, complete = 2, 0, False
                while not complete:
                    page = await self._asked.ask(ReadDirectory(directory.inode, after, PAGE), DirectoryPage)
                    links += sum(entry.attributes.kind == Kind.DIRECTORY for entry in page.entries)
                    after, complete = page.entries[-1].dentry if page.entries else after, page.complete
                now = await self._asked.ask(GetAttributes(directory.inode), Attributes)
            except _GONE:
                return
            if now.links == links:
                return
            if now.attr_change == before.attr_change:
                message = f"it counts {now.links} links and has {links}"
                self._find(Code.LINKS, directory, message, Remedy.RECOUNT)
                return

    # ---- entries

    def _entry(self, directory: Item, entry: Entry) -> Item:
        keys, volume, parent = self._asked.keys, self._asked.volume, directory.inode
        try:
            name = open_name(keys, volume, parent, entry.name)
            wrong = ""
        except Corrupt as error:
            name, wrong = b"", f"the name does not authenticate ({error})"
        shown = name or f"?{entry.dentry}".encode()
        spot = Spot(parent, entry.dentry, entry.name, name)
        item = self._item(_joined(directory.path, shown), entry.attributes, spot)
        if name and not self._is_vouched(item, name, entry.tag):
            wrong = "the name leads to another inode than a member said"
        self._judge(item, wrong)
        return item

    def _judge(self, item: Item, wrong: str) -> None:
        """What is to be said of its name (`wrong`) and of its head. That of a directory can be made anew as long as its
        name vouches for the kind; that of a file says what its content is."""
        is_file = item.attributes.kind == Kind.FILE and item.spot is not None
        if wrong:
            self._find(Code.NAME, item, wrong, Remedy.MOVE if item.head else Remedy.NONE)
        if item.head is None:
            is_told = item.spot is not None or item.attributes.kind == Kind.DIRECTORY
            other = Remedy.RESEAL if is_told and not wrong else Remedy.NONE
            self._find(Code.HEAD, item, item.trouble, Remedy.SALVAGE if is_file else other)

    def _is_vouched(self, item: Item, name: bytes, tag: bytes) -> bool:
        kind = item.head.kind if item.head else item.attributes.kind
        assert item.spot is not None
        try:
            check_tag(self._asked.keys, self._asked.volume, item.spot.parent, name, item.inode, Kind(kind), tag)
        except (Corrupt, ValueError):
            return False
        return True

    def _item(self, path: bytes, attributes: Attributes, spot: Spot | None) -> Item:
        head = self._inspector.head(attributes)
        return (
            Item(path, attributes, spot, head) if isinstance(head, Head) else Item(path, attributes, spot, None, head)
        )

    async def _check(self, items: Sequence[Item]) -> None:
        """Everything that hangs on these inodes."""
        fresh = [item for item in items if self._is_fresh(item)]
        await self._check_content([item for item in fresh if item.head is not None])
        numbered = [item for item in fresh if item.inode >= ROOT_INODE]
        await self._check_xattrs(numbered)
        await self._check_labels(numbered)
        self._findings.tally.inodes += len(fresh)
        await self._relief()

    def _is_fresh(self, item: Item) -> bool:
        """Whether it was not checked by another name."""
        if item.attributes.links < 2 or item.attributes.kind == Kind.DIRECTORY:
            return item.inode not in self.directories
        is_fresh = item.inode not in self._met_often
        self._met_often.add(item.inode)
        return is_fresh

    async def _check_content(self, items: Iterable[Item]) -> None:
        asked: list[tuple[Item, int]] = []
        for item in items:
            head, attributes = item.head, item.attributes
            assert head is not None
            if wrong := self._inspector.lease(attributes):
                self._find(Code.LEASE, item, wrong)
            if not attributes.links and head.kind is not Kind.DIRECTORY:  # by its number nobody would find its path
                self._find(Code.LINKS, item, "it has a name and counts none", Remedy.RECOUNT)
            if attributes.size != head.size and head.kind is not Kind.SYMLINK:
                message = f"it counts as {attributes.size} bytes and has {head.size}"
                self._find(Code.SIZE, item, message, Remedy.RESIZE if head.kind is Kind.FILE else Remedy.NONE)
            if head.kind is Kind.SYMLINK and (wrong := self._inspector.target(attributes)):
                self._find(Code.TARGET, item, wrong)
            elif attributes.inline is not None and (wrong := self._inspector.inline(attributes, head)):
                self._find(Code.CONTENT, item, wrong, Remedy.SALVAGE)
            asked += [(item, number) for number in ranges(attributes, head)]
        # a file that another mount writes shows one state in each answer
        pages = await self._asked.ask_all([ReadExtents(item.inode, number) for item, number in asked], ExtentPage)
        wrong_ones: set[InodeId] = set()
        for (item, number), page in zip(asked, pages, strict=True):
            wrong = self._range(item, number, page)
            if wrong and item.inode not in wrong_ones:
                wrong_ones.add(item.inode)
                self._find(Code.CONTENT, item, wrong, Remedy.SALVAGE)

    def _range(self, item: Item, number: int, page: ExtentPage | PoolError) -> str | None:
        if isinstance(page, PoolError):
            return None if isinstance(page, _GONE) else f"its extents cannot be told ({page})"
        if page.attributes.inode != item.inode:
            return "another inode is told of in its place"
        head = self._inspector.head(page.attributes)
        if not isinstance(head, Head):
            return head
        if page.attributes.inline is not None:
            return self._inspector.inline(page.attributes, head)
        wrong = self._inspector.extents(page, head, number)
        if wrong is None:
            self._extents(item, head, page)
        return wrong

    async def _check_xattrs(self, items: Sequence[Item]) -> None:
        pages = await self._asked.ask_all([GetXattrs(item.inode) for item in items], XattrPage)
        for item, page in zip(items, pages, strict=True):
            if isinstance(page, XattrPage):
                for wrong in self._inspector.xattrs(page):
                    self._find(Code.XATTR, item, wrong)

    async def _check_labels(self, items: Sequence[Item]) -> None:
        by_inode = {item.inode: item for item in items if item.spot is not None}
        left = list(by_inode)
        while left:
            try:
                page = await self._asked.ask(ReadLabels(list(map(int, left[:LABELS]))), LabelPage)
            except Misuse:  # a coordinator that knows no labels has none
                return
            for row in page.rows:
                item = by_inode.get(InodeId(row.attributes.inode))
                if item is None or not row.sealed:
                    continue
                try:
                    open_label(self._asked.keys, self._asked.volume, item.inode, row.sealed)
                except Corrupt as error:
                    self._find(Code.LABEL, item, f"its tags and note do not authenticate ({error})")
            left = left[max(1, page.done) :]

    def _find(self, code: Code, item: Item, message: str, remedy: Remedy = Remedy.NONE) -> None:
        kind = item.head.kind if item.head else None
        self._findings.add(
            Finding(code, item.path or b"/", message, remedy, inode=item.inode, kind=kind, spot=item.spot)
        )


def _joined(above: bytes, name: bytes) -> bytes:
    return above + b"/" + name
