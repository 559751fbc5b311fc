"""The inodes this mount knows: their last attributes and head, loaded extents, unsaved bytes, handles and errors.

Pure state with synchronous methods; the reader, writer and tree await around it. An inode stays known while a handle
refers to it or unsaved bytes exist.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import trio

from p2pfs.errors import Corrupt, PoolError, bare
from p2pfs.format.extents import Extent, open_extent
from p2pfs.format.heads import Head, add, inline_digest, open_head, row_digest
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import InDoubt
from p2pfs.types import INDICES_PER_RANGE, ChunkId, InodeId, Kind, VolumeId
from p2pfs.vfs.appending import Appended, KernelSize
from p2pfs.vfs.dirty import ChunkPlan, DirtyMib
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import UNTOLD, Applied, Attributes, ExtentPage, ExtentRow

MOST_PAGES: Final = 16
"""Ranges of one inode whose extents are kept: 4 GiB of a file."""
KEPT_ROWS: Final = 64
"""Extents kept of an inode nobody has open any more."""


class Stat(NamedTuple):
    """What a program sees of an inode, unsaved writes included."""

    inode: InodeId
    kind: Kind
    mode: int
    links: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    change: int


class Page:
    """The verified extents of one 256 MiB range, opened one MiB at a time when first read."""

    def __init__(self, rows: list[ExtentRow], sizes: dict[ChunkId, int]) -> None:
        self.rows: dict[int, list[ExtentRow]] = {}
        self.sizes = sizes
        self._opened: dict[int, list[Extent]] = {}
        for row in rows:
            self.rows.setdefault(row.index, []).append(row)

    def layers(self, keys: VolumeKeys, volume: VolumeId, inode: InodeId, index: int) -> list[Extent]:
        """The extents of one MiB. Raises Corrupt."""
        opened = self._opened.get(index)
        if opened is None:
            opened = [open_extent(keys, volume, inode, row) for row in self.rows.get(index, ())]
            self._opened[index] = opened
        return opened

    def change(self, added: list[ExtentRow], dropped: set[tuple[int, int]]) -> None:
        """Follow this mount's own commit."""
        for index in {row.index for row in added} | {index for index, _ in dropped}:
            self._opened.pop(index, None)
            kept = [row for row in self.rows.get(index, ()) if (index, row.seq) not in dropped]
            kept += [row for row in added if row.index == index]
            self.rows[index] = kept


@dataclass(slots=True, eq=False)
class Upload:
    """One chunk of a freeze: its plan, and once sealed and stored, its identity and receipts."""

    plan: ChunkPlan
    chunk: ChunkId | None = None
    key: bytes = b""
    size: int = 0
    receipts: list[Receipt] = field(default_factory=list)
    early: list[Receipt] = field(default_factory=list)  # beyond those the put returned with, before it returned

    @property
    def is_stored(self) -> bool:
        return bool(self.receipts)


@dataclass(slots=True, eq=False)
class Freeze:
    """Unsaved bytes that no write changes any more, on their way to peers and coordinator.

    frozen ──seal, put──▶ stored (every upload has receipts) ──commit, in freeze order──▶ gone from the inode
       ▲                     │
       └──retry with back-off on failure (the error is raised once by the next write, fsync or close)
    """

    number: int  # rises, across files
    since: float  # when the first of them was written, in trio's time
    mibs: dict[int, DirtyMib]
    uploads: list[Upload]
    end: int  # file size these bytes imply
    mtime_ns: int  # 0: a program has set the time since
    bytes: int
    cost: int  # what it takes of the writer's budget
    runs: int
    inline: bool
    uploading: trio.CancelScope | None = None

    @property
    def is_stored(self) -> bool:
        return self.inline or (bool(self.uploads) and all(upload.is_stored for upload in self.uploads))


def opened_head(keys: VolumeKeys, volume: VolumeId, attributes: Attributes) -> Head:
    """Raises Corrupt."""
    head = open_head(keys, volume, InodeId(attributes.inode), attributes.head)
    if head.kind != attributes.kind or head.change != attributes.change:
        raise Corrupt(f"inode {attributes.inode}: its attributes contradict its sealed head")
    return head


@dataclass(frozen=True, slots=True)
class Doubt:
    """A commit nobody answered: `done` follows what asking again brings."""

    commit: InDoubt
    done: Callable[[Applied], None]


def _with_inline(row: Attributes, other: Attributes) -> Attributes:
    """`row` with the inline data of another row of the same content, if only that one tells it."""
    return msgspec.structs.replace(row, inline=other.inline) if row.inline == UNTOLD and other.inline else row


class Signal:
    """Wakes everyone who waits, as often as it is pulsed."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: trio.Event | None = None  # made by who waits: mostly nobody does

    def pulse(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()


class Inode:
    """One inode. Locks: `content` orders commits and truncations; nothing else awaits while holding it except those."""

    def __init__(self, keys: VolumeKeys, volume: VolumeId, attributes: Attributes, head: Head | None = None) -> None:
        """`head` is that of the attributes, where it was opened before. Raises Corrupt."""
        self.id = InodeId(attributes.inode)
        self._keys, self._volume = keys, volume
        self.attributes = attributes
        self.head: Head = head or opened_head(keys, volume, attributes)
        self.pages: dict[int, Page] = {}
        self.inline: bytes | None = None  # opened on demand
        self.handles = 0
        self.cached_change = -1  # the change the kernel's cached pages are of
        self.xattrs_change = -1  # the attr_change that remembered extended attributes (vfs.xattrs) are of
        self.content = trio.Lock()
        self.active: dict[int, DirtyMib] = {}
        self.frozen: list[Freeze] = []
        self.appended: list[Appended] = []  # in the order of their places
        self.doubt: Doubt | None = None  # the last commit may have been done
        self.moves = 0  # how often appended bytes moved
        self.error: PoolError | None = None
        self.listeners = 0  # who waits for storing, and takes its error at once
        self.times_of_pages: tuple[int, int] | None = None  # mtime and ctime that are still to be set
        self.losses = 0  # how often something was lost that a program takes to be written
        self.loss: PoolError | None = None  # why, the last time; see `Handle.raise_loss`
        self.progress = Signal()
        self.kick = Signal()
        self.size = self.head.size  # with unsaved writes
        self.kernel_size = KernelSize()
        self.mtime_ns = 0  # of unsaved writes, 0 if none, or if a program has set the time since
        self.read_ns = 0  # when it was last read, if that counts and is newer than the attributes' atime
        self.freezes = 0  # the number of the last
        self.closed = 0  # and of the last that a close promised
        self.last_commit: tuple[bytes, int] | None = None  # for vfs.journal, as is
        self.place: tuple[InodeId, bytes] | None = None  # a name it had when this mount last looked
        self._stat: tuple[Attributes, Head, int, Stat] | None = None  # what was told last, and what it was made of
        self.changes = 0  # writes, settings and its making by programs of this mount
        self.settled = 0  # of these, how many are on stable storage for certain

    @property
    def kind(self) -> Kind:
        return self.head.kind

    @property
    def inline_is_known(self) -> bool:
        """Not while there is inline data that was not asked for, or was let go to save memory."""
        return self.attributes.inline != UNTOLD

    @property
    def is_inline(self) -> bool:
        """Whether the content is inline data, known or not."""
        return self.attributes.inline is not None

    @property
    def has_inline(self) -> bool:
        """Whether it is, and is known."""
        return bool(self.attributes.inline)

    @property
    def is_dirty(self) -> bool:
        return bool(self.active or self.frozen)

    def stat(self) -> Stat:
        """What the kernel is told now; the same object while it is the same and nothing is unsaved."""
        row = self.attributes
        self.kernel_size.tell(self.size, trio.current_time())
        if self.is_dirty:
            return self._stat_now()
        if self._stat is not None:
            of, head, read_ns, told = self._stat
            if of is row and head is self.head and read_ns == self.read_ns:
                return told
        told = self._stat_now()
        self._stat = row, self.head, self.read_ns, told
        return told

    def _stat_now(self) -> Stat:
        row = self.attributes
        mtime = (self.is_dirty and self.mtime_ns) or row.mtime_ns
        ctime = max(row.ctime_ns, self.mtime_ns) if self.is_dirty else row.ctime_ns
        return Stat(
            self.id, self.kind, row.mode & 0o7777, row.links, row.uid, row.gid, row.rdev, self.size,
            max(row.atime_ns, self.read_ns), mtime, ctime, self.head.change,
        )  # fmt: skip

    def refresh(self, attributes: Attributes) -> bool:
        """Take newer attributes in. False if they are older than what was seen: an answer overtaken on its way, or a
        coordinator that serves an old state; the caller asks again and then refuses."""
        if attributes is self.attributes:
            return True
        if attributes.change < self.head.change:
            return False
        is_same = attributes.change == self.head.change and attributes.head == self.attributes.head
        if not is_same:
            self.head = opened_head(self._keys, self._volume, attributes)
            self.pages.clear()
            self.inline = None
            self.resize()
        is_newer = attributes.attr_change >= self.attributes.attr_change or attributes.change > self.attributes.change
        newer, older = (attributes, self.attributes) if is_newer else (self.attributes, attributes)
        self.attributes = _with_inline(newer, older) if is_same else newer
        return True

    def committed(self, attributes: Attributes, head: Head) -> None:
        """Follow this mount's own commit without dropping what is loaded; the kernel has those bytes too."""
        if self.cached_change == self.head.change:
            self.cached_change = head.change
        self.keep_xattrs(attributes.attr_change)
        self.head = head
        self.attributes = attributes
        self.inline = None
        self.resize()

    def keep_xattrs(self, attr_change: int) -> None:
        """After a batch of this mount that changed the inode but no extended attribute, and left `attr_change`: what is
        remembered still holds, unless somebody else's change came between."""
        if self.xattrs_change == attr_change - 1:
            self.xattrs_change = attr_change

    def follow(self, added: list[ExtentRow], dropped: set[tuple[int, int]], sizes: dict[ChunkId, int]) -> None:
        """Change the loaded pages as this mount's own commit changed the rows."""
        for range_number, page in self.pages.items():
            mine = [row for row in added if row.index // INDICES_PER_RANGE == range_number]
            gone = {place for place in dropped if place[0] // INDICES_PER_RANGE == range_number}
            if mine or gone:
                page.change(mine, gone)
                used = {ChunkId(row.chunk) for row in mine if row.chunk is not None}
                page.sizes.update({chunk: size for chunk, size in sizes.items() if chunk in used})

    def after_commit(self) -> None:
        """Tell those who wait that something was stored."""
        if not self.is_dirty:
            self.mtime_ns = 0
        self.progress.pulse()

    def let_go(self) -> None:
        """Forget the inline data of an inode that is not in use; it is asked for again when it is."""
        if self.has_inline:
            self.attributes = msgspec.structs.replace(self.attributes, inline=UNTOLD)
        self.inline = None

    def let_go_pages(self) -> None:
        """Forget the extents of a large file nobody has open any more."""
        if sum(len(rows) for page in self.pages.values() for rows in page.rows.values()) > KEPT_ROWS:
            self.pages.clear()

    def resize(self) -> None:
        """Work the size out again, after unsaved bytes moved."""
        self.size = max(self.head.size, self.unsaved_end)

    @property
    def unsaved_end(self) -> int:
        """The size that unsaved bytes alone imply."""
        return max([0, *(freeze.end for freeze in self.frozen), *(mib.end for mib in self.active.values())])

    def take_page(self, page: ExtentPage, range_number: int) -> Page:
        """Verify and keep loaded extents. The head must be that of `page.attributes` already.

        Raises:
            Corrupt: A row is missing, added or changed.
        """
        total = 0
        for row in page.extents:
            if row.index // INDICES_PER_RANGE != range_number:
                raise Corrupt(f"inode {self.id}: an extent of another range")
            total = add(total, row_digest(self._keys, self._volume, self.id, row))
        if total != self.head.digest(range_number):
            raise Corrupt(f"inode {self.id}: the extents of range {range_number} are not those that were written")
        loaded = Page(page.extents, {ChunkId(place.chunk): place.size for place in page.places})
        self.pages[range_number] = loaded
        while len(self.pages) > MOST_PAGES:
            del self.pages[next(iter(self.pages))]
        return loaded

    def check_inline(self) -> bytes | None:
        """The sealed inline data, verified to be this change's; None if there is none, or if it is not known. Raises
        Corrupt."""
        sealed = self.attributes.inline or None
        if sealed is not None and inline_digest(self._keys, self._volume, self.id, sealed) != self.head.digest(0):
            raise Corrupt(f"inode {self.id}: its inline data is not what was written")
        return sealed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block somebody waits who calls `raise_error` at each `progress`."""
        self.listeners += 1
        try:
            yield
        finally:
            self.listeners -= 1

    def fail(self, error: PoolError) -> None:
        """Keep a background error for the next write, fsync or close."""
        self.error = bare(error)
        self.progress.pulse()

    def lose(self, error: PoolError) -> None:
        """Something was lost that a program takes to be written: every handle open now is to say so."""
        self.losses += 1
        self.loss = bare(error)

    def raise_error(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
