"""Operations on names: make, link, unlink, rename, restore. POSIX's rules about links, times and loops are here;
permissions were checked by the kernel of the mount.
"""

from typing import Final

from p2pfs.errors import (
    Conflict,
    Exists,
    Invalid,
    IsDirectory,
    Loop,
    Misuse,
    NameTooLong,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooLarge,
    TooManyLinks,
)
from p2pfs.meta import inodes, keywords, trash
from p2pfs.meta.inodes import InodeRow
from p2pfs.meta.trash import Lost
from p2pfs.meta.work import Work
from p2pfs.types import ROOT_INODE, Kind, head_limit
from p2pfs.wire.leases import PurgeTrash, Reason, Restore
from p2pfs.wire.namespace import (
    FIRST_CHANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Link,
    Make,
    Rename,
    Unlink,
)

SHORTEST_AGAIN_S: Final = 86400.0
"""For at least so long what had expired is kept once it is back."""
MAX_LINKS: Final = 65_000
MAX_SEALED_NAME_BYTES: Final = 512
MAX_SEALED_TARGET_BYTES: Final = 8192
MAX_TAG_BYTES: Final = 64

_KINDS: Final = frozenset(Kind)


def make(work: Work, operation: Make) -> None:
    """A new inode under a new name."""
    _check_new(operation)
    parent = work.directory(operation.parent)
    is_directory = operation.kind == Kind.DIRECTORY
    time_ns = operation.time_ns
    row = InodeRow(
        inode=operation.inode,
        kind=operation.kind,
        mode=operation.mode & 0o7777,
        uid=operation.uid,
        gid=operation.gid,
        rdev=operation.rdev,
        links=2 if is_directory else 1,
        size=0,
        change=FIRST_CHANGE,
        attr_change=0,
        atime_ns=time_ns,
        mtime_ns=time_ns,
        ctime_ns=time_ns,
        parent=parent.inode if is_directory else 0,
        inline=int(operation.target is not None),
        head=operation.head,
        expires_s=parent.expires_s
        if parent.expires_s * 1_000_000_000 > time_ns
        else 0,  # what is over is not passed on
    )
    _name(work, parent, operation.name, dentry=operation.dentry, inode=row.inode, tag=operation.dentry_tag)
    work.add(row)
    parent.entries_changed(time_ns)
    if is_directory:
        _add_link(parent)
    if operation.target is not None:
        inodes.put_data(work.connection, work.volume, row.inode, data=operation.target)
    if operation.opened:
        work.hold(row.inode)


def link(work: Work, operation: Link) -> None:
    """Another name."""
    _check_name(operation.name, operation.dentry_tag)
    parent = work.directory(operation.parent)
    row = work.inode(operation.inode)
    if row.is_directory:
        raise IsDirectory("a directory has one name only")
    if row.links == 0:
        raise NotFound("the file has no name any more")
    _name(work, parent, operation.name, dentry=operation.dentry, inode=row.inode, tag=operation.dentry_tag)
    _add_link(row)
    row.changed(operation.time_ns)
    parent.entries_changed(operation.time_ns)


def unlink(work: Work, operation: Unlink, *, reason: Reason = Reason.REMOVED) -> None:
    """One name less."""
    parent = work.directory(operation.parent)
    dentry, inode, tag = _existing(work, operation.parent, operation.name, operation.inode)
    row = work.inode(inode)
    if operation.directory:
        if not row.is_directory:
            raise NotDirectory("this is not a directory")
        _check_empty(work, row)
        parent.links -= 1
    elif row.is_directory:
        raise IsDirectory("this is a directory")
    work.drop_name(parent.inode, dentry)
    parent.entries_changed(operation.time_ns)
    work.lose_name(row, Lost(parent.inode, dentry, operation.name, tag), operation.time_ns, reason)


def rename(work: Work, operation: Rename) -> None:
    """Move, replace or exchange."""
    if operation.flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        raise Invalid("these flags of rename do not go together")
    _check_name(operation.new_name, operation.dentry_tag)
    parent, new_parent = work.directory(operation.parent), work.directory(operation.new_parent)
    dentry, inode, _ = _existing(work, operation.parent, operation.name, operation.inode)
    target = work.find(operation.new_parent, operation.new_name)
    if target is not None and operation.flags == RENAME_NOREPLACE:
        raise Exists("the new name is taken")
    if target is None and operation.flags == RENAME_EXCHANGE:
        raise NotFound("there is nothing to exchange with")
    if (target[1] if target else 0) != operation.replaced:
        raise Conflict("the new name leads elsewhere now")
    moved = work.inode(inode)
    if target is not None and target[1] == inode:
        work.mention(moved)  # two names of one file: POSIX says to do nothing
        return
    _check_loop(work, moved, parent, new_parent)
    if operation.flags == RENAME_EXCHANGE and target is not None:
        other = work.inode(target[1])
        _check_loop(work, other, new_parent, parent)
        _repoint(work, parent.inode, dentry, inode=other.inode, tag=operation.back_tag)
        _repoint(work, new_parent.inode, target[0], inode=inode, tag=operation.dentry_tag)
        keywords.exchange_names(work.connection, work.volume, (dentry, inode), (target[0], other.inode))
        _moved(other, new_parent, parent, operation.time_ns)
    else:
        if target is not None:
            lost = Lost(new_parent.inode, target[0], operation.new_name, target[2])
            _replace(work, moved, new_parent, target[1], lost, operation.time_ns)
        work.drop_name(parent.inode, dentry)
        keywords.drop_name(work.connection, work.volume, inode, dentry=dentry)
        _name(
            work,
            new_parent,
            operation.new_name,
            dentry=operation.dentry,
            inode=inode,
            tag=operation.dentry_tag,
        )
    _moved(moved, parent, new_parent, operation.time_ns)
    parent.entries_changed(operation.time_ns)
    if new_parent is not parent:
        new_parent.entries_changed(operation.time_ns)


def restore(work: Work, operation: Restore) -> None:
    """A name again for what is in the trash."""
    _check_name(operation.name, operation.dentry_tag)
    parent = work.directory(operation.parent)
    row = _from_trash(work, operation.inode)
    _name(work, parent, operation.name, dentry=operation.dentry, inode=row.inode, tag=operation.dentry_tag)
    row.links = 2 if row.is_directory else 1
    row.changed(operation.time_ns)
    parent.entries_changed(operation.time_ns)
    if row.is_directory:
        row.parent = parent.inode
        _add_link(parent)
    if 0 < row.expires_s <= work.rules.now_s:
        work.set_lease(row, int(work.rules.now_s + max(_expired_delay_s(work), SHORTEST_AGAIN_S)))


def _expired_delay_s(work: Work) -> float:
    row = work.connection.execute("SELECT trash_expired_s FROM volume WHERE id = ?", (work.volume,)).fetchone()
    return float(row[0])


def purge_trash(work: Work, operation: PurgeTrash) -> None:
    """Let go what only the trash keeps; what is open, once it is closed."""
    work.settle(_from_trash(work, operation.inode))


def _from_trash(work: Work, inode: int) -> InodeRow:
    if trash.take(work.connection, work.volume, inode) is None:
        raise NotFound("this is not in the trash")
    row = work.kept(inode)
    work.unsettle(row)
    return row


# ---- parts ----------------------------------------------------------------------------------------------------------


def _check_new(operation: Make) -> None:
    if len(operation.head) > head_limit(0):
        raise TooLarge("this is more head than a new inode has")
    _check_name(operation.name, operation.dentry_tag)
    if operation.kind not in _KINDS:
        raise Misuse(f"there is no kind {operation.kind} of inode")
    if (operation.target is not None) != (operation.kind == Kind.SYMLINK):
        raise Misuse("a symlink, and nothing else, is made with a target")
    if operation.target is not None and len(operation.target) > MAX_SEALED_TARGET_BYTES:
        raise NameTooLong("the target of the symlink is too long")


def _check_name(name: bytes, tag: bytes) -> None:
    if len(name) > MAX_SEALED_NAME_BYTES:
        raise NameTooLong("the name is too long")
    if not name or len(tag) > MAX_TAG_BYTES:
        raise Misuse("this is no sealed name")


def _name(work: Work, parent: InodeRow, name: bytes, *, dentry: int, inode: int, tag: bytes) -> None:
    if not work.add_name(parent.inode, name, dentry=dentry, inode=inode, tag=tag):
        raise Exists("the name is taken")


def _existing(work: Work, parent: int, name: bytes, inode: int) -> tuple[int, int, bytes]:
    """(dentry, inode, tag) of a name that must lead to `inode`."""
    found = work.find(parent, name)
    if found is None:
        raise NotFound("there is no such name")
    if found[1] != inode:
        raise Conflict("the name leads elsewhere now")
    return found


def _add_link(row: InodeRow) -> None:
    if row.links >= MAX_LINKS and not row.is_directory:
        raise TooManyLinks("the file has as many names as it can have")
    row.links += 1


def _check_empty(work: Work, row: InodeRow) -> None:
    entry = work.connection.execute(
        "SELECT 1 FROM dentry WHERE volume = ? AND parent = ? LIMIT 1", (work.volume, row.inode)
    ).fetchone()
    if entry is not None:
        raise NotEmpty("the directory is not empty")


def is_below(work: Work, directory: InodeRow, ancestor: int) -> bool:
    """Whether a directory is `ancestor` or in it. Raises NotFound (one above it is gone), and Loop: they go round in a
    circle, as after damage."""
    seen = set[int]()
    while directory.inode not in (ROOT_INODE, ancestor):
        if directory.inode in seen:
            raise Loop("the directories above this one go round in a circle: see `p2pfs fsck`")
        seen.add(directory.inode)
        directory = work.inode(directory.parent)
    return directory.inode == ancestor


def _check_loop(work: Work, moved: InodeRow, source: InodeRow, target: InodeRow) -> None:
    """A directory must not be moved below itself."""
    if moved.is_directory and source is not target and is_below(work, target, moved.inode):
        raise Loop("a directory cannot be moved below itself")


def _replace(work: Work, moved: InodeRow, new_parent: InodeRow, inode: int, lost: Lost, time_ns: int) -> None:
    """Take the name away from what has it now."""
    other = work.inode(inode)
    if moved.is_directory and not other.is_directory:
        raise NotDirectory("a directory cannot replace what is none")
    if other.is_directory:
        if not moved.is_directory:
            raise IsDirectory("only a directory can replace a directory")
        _check_empty(work, other)
        new_parent.links -= 1
    work.drop_name(new_parent.inode, lost.dentry)
    work.lose_name(other, lost, time_ns, Reason.REPLACED)


def _repoint(work: Work, parent: int, dentry: int, *, inode: int, tag: bytes) -> None:
    work.connection.execute(
        "UPDATE dentry SET inode = ?, tag = ? WHERE volume = ? AND parent = ? AND dentry = ?",
        (inode, tag, work.volume, parent, dentry),
    )


def _moved(row: InodeRow, source: InodeRow, target: InodeRow, time_ns: int) -> None:
    """An inode's name is in another directory now, perhaps."""
    row.changed(time_ns)
    if row.is_directory and source is not target:
        row.parent = target.inode
        source.links -= 1
        _add_link(target)
