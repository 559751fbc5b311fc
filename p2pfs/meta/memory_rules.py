"""The rules of the namespace over dictionaries, written apart from the SQL engine's: one method an operation.

For the model that tests compare with (`meta.memory`), and for the holder of a delegation, who judges by them
(`vfs.delegation.known`).
"""

import math
from typing import Any

from msgspec.structs import replace

from p2pfs.errors import (
    AttributeTooLarge,
    Conflict,
    Exists,
    Gone,
    Invalid,
    IsDirectory,
    Loop,
    Misuse,
    NameTooLong,
    NoAttribute,
    NoSpace,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooLarge,
    TooManyLinks,
)
from p2pfs.meta.memory_search import MemorySearch
from p2pfs.meta.memory_state import BatchLog, ChunkState, Lost, Name
from p2pfs.types import DIGEST_RANGE_BYTES, MAX_FILE_BYTES, MAX_HEAD_BYTES, MIB, Kind
from p2pfs.wire.leases import PurgeTrash, Reason, Restore, SetLease
from p2pfs.wire.namespace import (
    FIRST_CHANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    XATTR_CREATE,
    XATTR_REPLACE,
    Accessed,
    AddReplicas,
    Attributes,
    Commit,
    Link,
    Make,
    NewChunk,
    Opened,
    Operation,
    Released,
    RemoveXattr,
    Rename,
    SetAttributes,
    SetXattr,
    Unlink,
)
from p2pfs.wire.search import IndexName, SetLabel


class MemoryRules(MemorySearch):
    """Does operations; whoever calls takes the log back when one is refused."""

    def do(self, batch: BatchLog, operation: Operation) -> None:
        match operation:
            case Make():
                self._make(batch, operation)
            case Link():
                self._link(batch, operation)
            case Unlink():
                self._unlink(batch, operation)
            case Rename():
                self._rename(batch, operation)
            case SetAttributes():
                self._set(batch, operation)
            case SetXattr():
                self._set_xattr(batch, operation)
            case RemoveXattr():
                self.attributes(operation.inode)
                if operation.name not in self._xattrs.get(operation.inode, {}):
                    raise NoAttribute("nothing to remove")
                self.drop(batch, self._xattrs[operation.inode], operation.name)
                self.edit(batch, operation.inode, ctime_ns=operation.time_ns)
            case Commit():
                self._commit(batch, operation)
            case AddReplicas():
                for new in operation.chunks:
                    self._verify(new)
                    if new.chunk in self._chunks and new.chunk not in self.purging:
                        self._add_holders(batch, new)
            case Opened():
                self.attributes(operation.inode)
                self.open(batch, operation.inode)
                batch.touched[operation.inode] = None
            case Accessed():
                row = self._inodes.get(operation.inode)
                if row is not None and row.atime_ns < operation.atime_ns:
                    later = replace(row, atime_ns=operation.atime_ns)
                    self.put(batch, self._inodes, operation.inode, value=later)
            case Released():
                if (operation.inode, batch.session) in self._open:
                    self.drop(batch, self._open, (operation.inode, batch.session))
                    self.settle(batch, operation.inode)
            case Restore():
                self._restore(batch, operation)
            case PurgeTrash():
                self.unsettle(batch, operation.inode)
                self.settle(batch, operation.inode)
            case SetLease():
                self.attributes(operation.inode)
                if not 0 <= operation.expires_s <= 1 << 62:
                    raise Misuse("no lease ends then")
                self.edit(batch, operation.inode, expires_s=operation.expires_s)
            case SetLabel():
                self.set_label(batch, operation)
            case IndexName():
                self.index_name(batch, operation)

    def _make(self, batch: BatchLog, op: Make) -> None:
        _check_name(op.name)
        if op.kind not in set(Kind) or (op.target is not None) != (op.kind == Kind.SYMLINK):
            raise Misuse("this is no inode")
        _check_head(op.head, 0)
        above = self.require_directory(op.parent)
        self.add_name(batch, op.parent, op.name, Name(op.dentry, op.dentry_tag, op.inode))
        self.check_number(op.inode)
        if op.inode in self._inodes or op.inode in batch.removed:
            raise Misuse("the inode number is in use")
        is_directory = op.kind == Kind.DIRECTORY
        is_over = above.expires_s * 10**9 <= op.time_ns
        row = Attributes(
            op.inode, op.kind, op.mode & 0o7777, op.uid, op.gid, op.rdev, 2 if is_directory else 1, 0, FIRST_CHANGE, 0,
            op.time_ns, op.time_ns, op.time_ns, op.head, None, op.target, 0 if is_over else above.expires_s,
        )  # fmt: skip
        self.put(batch, self._inodes, op.inode, value=row)
        batch.made.add(op.inode)
        batch.touched[op.inode] = None
        if is_directory:
            self.put(batch, self._up, op.inode, value=op.parent)
            self.put(batch, self._names, op.inode, value={})
        self.touch_parent(batch, op.parent, op.time_ns, links=int(is_directory))
        if op.opened:
            self.open(batch, op.inode)

    def _link(self, batch: BatchLog, op: Link) -> None:
        _check_name(op.name)
        self.require_directory(op.parent)
        row = self.attributes(op.inode)
        if row.kind == Kind.DIRECTORY:
            raise IsDirectory("a directory has one name")
        if row.links == 0:
            raise NotFound("the file has no name")
        self.add_name(batch, op.parent, op.name, Name(op.dentry, op.dentry_tag, op.inode))
        if row.links >= 65_000:
            raise TooManyLinks("too many names")
        self.edit(batch, op.inode, links=row.links + 1, ctime_ns=op.time_ns)
        self.touch_parent(batch, op.parent, op.time_ns)

    def _unlink(self, batch: BatchLog, op: Unlink) -> None:
        self.require_directory(op.parent)
        known = self.require_name(op.parent, op.name, op.inode)
        is_directory = self._inodes[op.inode].kind == Kind.DIRECTORY
        if op.directory and not is_directory:
            raise NotDirectory("this is not a directory")
        if is_directory and not op.directory:
            raise IsDirectory("this is a directory")
        if op.directory and self._names[op.inode]:
            raise NotEmpty("the directory is not empty")
        self.drop_name(batch, op.parent, op.name)
        self.touch_parent(batch, op.parent, op.time_ns, links=-1 if op.directory else 0)
        self.lose_name(batch, op.inode, op.time_ns, Lost(op.parent, op.name, known, Reason.REMOVED))

    def _restore(self, batch: BatchLog, op: Restore) -> None:
        _check_name(op.name)
        self.require_directory(op.parent)
        self.unsettle(batch, op.inode)
        self.add_name(batch, op.parent, op.name, Name(op.dentry, op.dentry_tag, op.inode))
        row = self._inodes[op.inode]
        is_directory = row.kind == Kind.DIRECTORY
        again_s = int(self.now_s + max(self.trash_s, 86400.0))
        kept_s = again_s if 0 < row.expires_s <= self.now_s else row.expires_s
        self.edit(batch, op.inode, links=2 if is_directory else 1, ctime_ns=op.time_ns, expires_s=kept_s)
        if is_directory:
            self.put(batch, self._up, op.inode, value=op.parent)
        self.touch_parent(batch, op.parent, op.time_ns, links=int(is_directory))

    def _rename(self, batch: BatchLog, op: Rename) -> None:
        if op.flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise Invalid("these flags do not go together")
        _check_name(op.new_name)
        self.require_directory(op.parent)
        self.require_directory(op.new_parent)
        source = self.require_name(op.parent, op.name, op.inode)
        target = self._names[op.new_parent].get(op.new_name)
        if op.flags == RENAME_NOREPLACE and target is not None:
            raise Exists("the new name is taken")
        if op.flags == RENAME_EXCHANGE and target is None:
            raise NotFound("there is nothing to exchange with")
        if op.replaced != (target.inode if target else 0):
            raise Conflict("the new name leads elsewhere")
        if target is not None and target.inode == op.inode:
            batch.touched[op.inode] = None
            return
        self._check_loop(op.inode, op.new_parent)
        if op.flags == RENAME_EXCHANGE and target is not None:
            self._check_loop(target.inode, op.parent)
            self.put(batch, self._names[op.parent], op.name, value=Name(source.dentry, op.back_tag, target.inode))
            self.put(batch, self._names[op.new_parent], op.new_name, value=Name(target.dentry, op.dentry_tag, op.inode))
            self.exchange_names(batch, source, target)
            self._move(batch, target.inode, op.new_parent, op.parent, op.time_ns)
        else:
            if target is not None:
                self._replace(batch, op, target)
            self.drop_name(batch, op.parent, op.name)
            self.drop_words(batch, op.inode, source.dentry)
            self.add_name(batch, op.new_parent, op.new_name, Name(op.dentry, op.dentry_tag, op.inode))
        self._move(batch, op.inode, op.parent, op.new_parent, op.time_ns)
        self.touch_parent(batch, op.parent, op.time_ns)
        if op.parent != op.new_parent:
            self.touch_parent(batch, op.new_parent, op.time_ns)

    def _check_loop(self, moved: int, into: int) -> None:
        if self._inodes[moved].kind == Kind.DIRECTORY and self.is_below(into, moved):
            raise Loop("a directory cannot be moved below itself")

    def _replace(self, batch: BatchLog, op: Rename, target: Name) -> None:
        moved, other = self._inodes[op.inode], self._inodes[target.inode]
        if moved.kind == Kind.DIRECTORY and other.kind != Kind.DIRECTORY:
            raise NotDirectory("a directory cannot replace what is none")
        if moved.kind != Kind.DIRECTORY and other.kind == Kind.DIRECTORY:
            raise IsDirectory("only a directory can replace one")
        if other.kind == Kind.DIRECTORY and self._names[other.inode]:
            raise NotEmpty("the directory is not empty")
        self.drop_name(batch, op.new_parent, op.new_name)
        if other.kind == Kind.DIRECTORY:
            self.touch_parent(batch, op.new_parent, op.time_ns, links=-1)
        self.lose_name(batch, other.inode, op.time_ns, Lost(op.new_parent, op.new_name, target, Reason.REPLACED))

    def _move(self, batch: BatchLog, inode: int, source: int, target: int, time_ns: int) -> None:
        self.edit(batch, inode, ctime_ns=time_ns)
        if self._inodes[inode].kind == Kind.DIRECTORY and source != target:
            self.put(batch, self._up, inode, value=target)
            self.touch_parent(batch, source, time_ns, links=-1)
            self.touch_parent(batch, target, time_ns, links=1)

    def _set(self, batch: BatchLog, op: SetAttributes) -> None:
        self.attributes(op.inode)
        given = {
            "mode": None if op.mode is None else op.mode & 0o7777,
            "uid": op.uid,
            "gid": op.gid,
            "atime_ns": op.atime_ns,
            "mtime_ns": op.mtime_ns,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        self.edit(batch, op.inode, ctime_ns=op.ctime_ns, **fields)

    def _set_xattr(self, batch: BatchLog, op: SetXattr) -> None:
        if not 0 < len(op.name) <= 512:
            raise Misuse("this is no sealed name")
        if len(op.value) > (64 << 10) + 64:
            raise AttributeTooLarge("the value is too long")
        if op.flags not in (0, XATTR_CREATE, XATTR_REPLACE):
            raise Invalid("these flags do not go together")
        self.attributes(op.inode)
        if op.inode not in self._xattrs:
            self.put(batch, self._xattrs, op.inode, value={})
        there = self._xattrs[op.inode]
        if op.name in there and op.flags == XATTR_CREATE:
            raise Exists("the attribute is there")
        if op.name not in there and op.flags == XATTR_REPLACE:
            raise NoAttribute("nothing to replace")
        self.put(batch, there, op.name, value=op.value)
        if len(there) > 1000 or sum(len(name) + len(value) for name, value in there.items()) > MIB:
            raise NoSpace("too many attributes")
        self.edit(batch, op.inode, ctime_ns=op.time_ns)

    # ---- content ----------------------------------------------------------------------------------------------------

    def _commit(self, batch: BatchLog, op: Commit) -> None:
        row = self.attributes(op.inode)
        if row.kind == Kind.DIRECTORY:
            raise IsDirectory("a directory has no content")
        if row.kind != Kind.FILE:
            raise Invalid("only a file has content")
        if row.change != op.base_change:
            raise Conflict("the file changed")
        if op.size > MAX_FILE_BYTES:
            raise TooLarge("the file would be too large")
        _check_head(op.head, op.size)
        if op.size < 0 or (op.inline is not None and op.clear_inline):
            raise Misuse("this commit contradicts itself")
        self._name_chunks(batch, op)
        self._lay(batch, op)
        inline = op.inline if op.inline is not None else None if op.clear_inline else row.inline
        if inline is not None and len(inline) > op.size + 1024:
            raise Misuse("there is more inline than the file is long")
        fields: dict[str, Any] = {"mode": op.mode & 0o7777} if op.mode is not None else {}
        if op.time_ns:
            fields["mtime_ns"] = op.time_ns
        self.edit(
            batch,
            op.inode,
            size=op.size,
            head=op.head,
            change=row.change + 1,
            inline=inline,
            ctime_ns=max(op.time_ns, row.ctime_ns),
            **fields,
        )

    def _name_chunks(self, batch: BatchLog, op: Commit) -> None:
        named = {extent.chunk for extent in op.extents if extent.chunk is not None}
        for new in op.chunks:
            self._verify(new)
            if new.chunk not in named:
                raise Misuse("no extent names this chunk")
        fresh = {new.chunk: new for new in op.chunks}
        for chunk in named:
            if chunk in self.purging:
                raise Gone("the chunk is being deleted")
            if chunk in fresh:
                self._add_holders(batch, fresh[chunk])
                if len(self._chunks[chunk].holders) < self.wanted_min:
                    raise Gone("too few peers hold the chunk")
            elif chunk not in self._chunks:
                raise Gone("the chunk is not stored")

    def _lay(self, batch: BatchLog, op: Commit) -> None:
        if op.inode not in self._extents:
            self.put(batch, self._extents, op.inode, value={})
        layers = self._extents[op.inode]
        cuts = self._cuts.get(op.inode, ())
        if op.cut_index >= 0:
            cuts += ((op.cut_index, op.cut_seq),)
        for extent in op.extents:
            place = extent.index, extent.seq
            if extent.index < 0 or place in layers or any(i <= place[0] and place[1] < s for i, s in cuts):
                raise Misuse("this extent cannot be")
            self.put(batch, layers, place, value=extent)
        gone = [(i, s) for i, s in layers if i >= op.cut_index >= 0 and s < op.cut_seq]
        for place in [*op.drop, *gone]:
            self.drop(batch, layers, place)
        self.put(batch, self._cuts, op.inode, value=cuts)

    def _verify(self, new: NewChunk) -> None:
        if self.verify is not None:
            self.verify(self.volume, new)

    def _add_holders(self, batch: BatchLog, new: NewChunk) -> None:
        known = self._chunks.get(new.chunk, ChunkState(new.size, frozenset()))
        if known.size != new.size:
            raise Misuse("the chunk has another size")
        holders = known.holders | {receipt.peer for receipt in new.receipts}
        self.put(batch, self._chunks, new.chunk, value=ChunkState(new.size, holders))


def _check_head(head: bytes, size: int) -> None:
    ranges = max(1, math.ceil(size / DIGEST_RANGE_BYTES))
    if len(head) > min(64 + 32 * ranges, MAX_HEAD_BYTES):
        raise TooLarge("the head is too long")


def _check_name(name: bytes) -> None:
    if len(name) > 512:
        raise NameTooLong("the name is too long")
    if not name:
        raise Misuse("this is no sealed name")
