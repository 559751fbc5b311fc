"""The namespace on the wire: what a mount asks about a volume's tree and the operations that change it.

Operations are data: a batch is a list of them and is applied in one transaction, all or nothing. Names, targets, inline
data and extents are sealed by the mount; the coordinator sees structure only. These structs are also what
`meta.protocol.Namespace` takes and returns, so that nothing is translated twice.

Structs are arrays on the wire: new fields go to the end, with a default, so that versions N and N-1 understand each
other.
"""

from typing import Final

import msgspec

from p2pfs.wire.chunks import Receipt
from p2pfs.wire.fsck import Adopt, DropDangling, ReadDangling, ReadInodes, Recount, Reseal
from p2pfs.wire.leases import PurgeTrash, ReadExpiring, ReadNames, ReadTrash, Restore, SetLease
from p2pfs.wire.search import Find, FindContent, IndexName, ReadLabels, SetLabel
from p2pfs.wire.usage import ReadFileUsage, ReadUsage

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
FIRST_CHANGE: Final = 0
"""`change` of a new inode, and inside the head that comes with it; each commit adds one."""
UNTOLD: Final = b""
"""In place of the inline data of a file: there is some, which was not asked for. Sealed data is never empty."""


class Attributes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An inode's row. `size` is what the coordinator counts with; a mount trusts only the size inside `head`.

    A mount keeps very many of these; nothing in them can refer back, so the garbage collector need not look."""

    inode: int
    kind: int  # types.Kind
    mode: int  # permission bits 07777
    uid: int
    gid: int
    rdev: int
    links: int
    size: int  # bytes
    change: int  # content version, one higher with every commit
    attr_change: int  # version of what is outside the head
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    head: bytes  # sealed format.heads.Head
    inline: bytes | None = None  # sealed content of a small file, or UNTOLD
    target: bytes | None = None  # sealed symlink target
    expires_s: int = 0  # UTC: the lease; 0: for ever


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A dentry with the attributes of its inode."""

    dentry: int  # also the readdir cookie
    name: bytes  # sealed
    tag: bytes  # format.names.dentry_tag
    attributes: Attributes


class DirectoryPage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Entries in ascending dentry number; `complete` when none follow."""

    entries: list[Entry]
    complete: bool


class ExtentRow(msgspec.Struct, frozen=True, array_like=True):
    """One extent as stored. `chunk` is None for a hole (a punched or truncated range)."""

    index: int  # which MiB of the file
    seq: int
    chunk: bytes | None
    sealed: bytes  # format.extents.seal_extent


class ChunkPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where copies of a chunk are said to be; a hint, never trusted for content."""

    chunk: bytes
    size: int  # sealed bytes
    holders: list[int]  # peer numbers


class ExtentPage(msgspec.Struct, frozen=True, array_like=True):
    """All extents of one 256 MiB range, with the attributes they belong to, read in one snapshot."""

    attributes: Attributes
    extents: list[ExtentRow]
    places: list[ChunkPlace]  # of the chunks named, each once


class Xattr(msgspec.Struct, frozen=True, array_like=True):
    """One extended attribute as stored."""

    name: bytes  # format.names.seal_xattr_name; equal names of one inode seal equally
    value: bytes  # format.values.seal_value


class XattrPage(msgspec.Struct, frozen=True, array_like=True):
    """All extended attributes of an inode in no order, with the attributes they belong to, read in one snapshot."""

    attributes: Attributes
    xattrs: list[Xattr]


class Space(msgspec.Struct, frozen=True, array_like=True):
    """What statfs needs: bytes a user can still write after replication, and what the volume holds."""

    total: int  # bytes, after replication
    free: int  # bytes, after replication
    inodes: int  # inodes of the volume
    trash: int = 0  # content bytes that the volume's trash holds
    used: int = 0  # content bytes of the volume
    quota_bytes: int = 0  # most of those; 0: no limit
    quota_files: int = 0  # most inodes


class Named(msgspec.Struct, frozen=True, array_like=True):
    """An inode with one of its names and where that is."""

    parent: int
    entry: Entry


class TrashRow(msgspec.Struct, frozen=True, array_like=True):
    """An inode in the trash with the last name it had, sealed for the directory it was in."""

    parent: int
    entry: Entry
    reason: int  # wire.leases.Reason
    removed_s: float  # UTC
    purge_s: float  # UTC: kept until then


class TrashPage(msgspec.Struct, frozen=True, array_like=True):
    """Rows by inode number; `complete` when none follow."""

    rows: list[TrashRow]
    complete: bool


class ExpiringPage(msgspec.Struct, frozen=True, array_like=True):
    """Inodes by the end of their lease, each with one of its names; `complete` when none follow."""

    rows: list[Named]
    complete: bool


# ---- operations -----------------------------------------------------------------------------------------------------


class Make(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Make an inode and its first dentry, with the change FIRST_CHANGE. Raises Exists, NotFound or NotDirectory
    (parent)."""

    parent: int
    name: bytes
    dentry: int
    dentry_tag: bytes
    inode: int
    kind: int
    mode: int
    uid: int
    gid: int
    rdev: int
    head: bytes
    time_ns: int
    target: bytes | None = None
    opened: bool = False  # the session holds it open from the start


class Link(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Another name for an inode that is not a directory. Raises Exists, NotFound, IsDirectory, TooLarge (links)."""

    parent: int
    name: bytes
    dentry: int
    dentry_tag: bytes
    inode: int
    time_ns: int


class Unlink(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Remove a name; `directory` says rmdir. Raises NotFound, NotEmpty, IsDirectory, NotDirectory, and Conflict when
    the name leads to another inode than `inode`."""

    parent: int
    name: bytes
    inode: int
    directory: bool
    time_ns: int


class Rename(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Move a name, atomically replacing or exchanging. The mount re-seals name and tag for the new parent.

    `replaced` is the inode the mount saw under the new name, or 0 for none. Raises Conflict if either name leads
    elsewhere now, Exists (NOREPLACE), NotEmpty, NotDirectory, IsDirectory, Loop, NotFound. With RENAME_EXCHANGE the
    dentries keep their numbers, `dentry` is unused, and `back_tag` is the tag of `replaced` under the old name.
    """

    parent: int
    name: bytes
    inode: int
    new_parent: int
    new_name: bytes
    dentry: int
    dentry_tag: bytes
    replaced: int
    flags: int
    time_ns: int
    back_tag: bytes = b""


class SetAttributes(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Change what is not None. Raises NotFound."""

    inode: int
    ctime_ns: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class NewChunk(msgspec.Struct, frozen=True, array_like=True):
    """A chunk a commit refers to, with the receipts that prove where it is."""

    chunk: bytes
    size: int  # sealed bytes
    receipts: list[Receipt]


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """New content of one inode: extents added and dropped, inline data, size, head.

    The new change is `base_change + 1`. Raises Conflict when the inode's change is not `base_change`, Gone when a chunk
    is being purged, Misuse when a receipt does not verify or a new chunk has too few, NotFound.
    `time_ns` becomes mtime, and ctime if that is not later; 0 leaves them (compaction changes nothing a program sees).
    `inline` replaces inline data; with `clear_inline` there is none afterwards. `cut_index` ≥ 0 filters all older
    extents (seq < cut_seq) of index ≥ cut_index at once.
    """

    inode: int
    base_change: int
    size: int
    head: bytes
    time_ns: int
    extents: list[ExtentRow] = []
    chunks: list[NewChunk] = []
    drop: list[tuple[int, int]] = []  # (index, seq) of compacted extents
    inline: bytes | None = None
    clear_inline: bool = False
    cut_index: int = -1
    cut_seq: int = 0
    mode: int | None = None  # set-id bits cleared by a write


class AddReplicas(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Receipts that came after the commit. A chunk unknown by now is passed over."""

    chunks: list[NewChunk]


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The session holds the inode open: it outlives its last name. Raises NotFound, NoSpace (100 000 are open).

    What the coordinator told as held, or answers to `GET …/held`, it keeps for two lifetimes: a mount that has it open
    confirms it with this, as often as it likes, and releases what it does not have open.
    """

    inode: int


class Released(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The session's last handle of the inode is closed; an inode without names goes now."""

    inode: int


class SetXattr(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Give an inode an extended attribute, or another value of one it has. `flags`: XATTR_CREATE, XATTR_REPLACE or 0.

    Raises NotFound, Exists (CREATE), NoAttribute (REPLACE), AttributeTooLarge, and NoSpace when the inode would have
    more than 1 000 attributes, or 1 MiB of sealed names and values.
    """

    inode: int
    name: bytes
    value: bytes
    flags: int
    time_ns: int


class RemoveXattr(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Take an extended attribute away. Raises NotFound, NoAttribute."""

    inode: int
    name: bytes
    time_ns: int


class Accessed(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The inode was read then. Moves `atime_ns` forward and nothing else; an inode unknown by now is passed over. The
    answer does not tell of it."""

    inode: int
    atime_ns: int


Operation = (
    Make
    | Link
    | Unlink
    | Rename
    | SetAttributes
    | Commit
    | AddReplicas
    | Opened
    | Released
    | SetXattr
    | RemoveXattr
    | Accessed
    | Restore
    | PurgeTrash
    | SetLease
    | SetLabel
    | IndexName
    | Recount
    | Adopt
    | DropDangling
    | Reseal
)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """`POST /sessions/{session}/batches`. A repeated `seq` gets its old answer; results below `acked` are dropped.

    With an `epoch` it was decided under a delegation (wire.delegations): Overruled unless the session holds just that.
    """

    seq: int
    acked: int
    operations: list[Operation]
    epoch: int = 0


class Applied(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a batch: the attributes of every inode it touched, as they are after it, in no order."""

    attributes: list[Attributes]
    removed: list[int] = []  # inodes that went with their last name


# ---- questions ------------------------------------------------------------------------------------------------------


class Lookup(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """→ Entry. Raises NotFound, NotDirectory."""

    parent: int
    name: bytes


class GetAttributes(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """→ Attributes. Raises NotFound."""

    inode: int


class ReadDirectory(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """→ DirectoryPage of the dentries numbered above `after`. Without `content` the inline data of files is UNTOLD.
    Raises NotFound, NotDirectory."""

    inode: int
    after: int
    limit: int
    content: bool = True


class ReadExtents(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """→ ExtentPage of 256 MiB range number `range`. Raises NotFound."""

    inode: int
    range: int


class Locate(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """→ list[ChunkPlace]; unknown chunks are left out. At most 1 000."""

    chunks: list[bytes]


class GetSpace(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """→ Space."""


class GetXattrs(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """→ XattrPage. Raises NotFound."""

    inode: int


Question = (
    Lookup
    | GetAttributes
    | ReadDirectory
    | ReadExtents
    | Locate
    | GetSpace
    | GetXattrs
    | ReadTrash
    | ReadNames
    | ReadExpiring
    | Find
    | FindContent
    | ReadLabels
    | ReadInodes
    | ReadDangling
    | ReadUsage
    | ReadFileUsage
)
