"""The part of a volume's tree that the holder of its delegation knows: nobody else changes it meanwhile.

The rules of operations are those of `meta.memory_rules`, over dictionaries that hold only what was asked for: `need`
says what an operation rests on that is not there yet, `take_*` puts answers in. What is known always outdates an
answer: it may have been asked for before a change that the coordinator has not heard of. No I/O, no checkpoints.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Exists, NotFound
from p2pfs.meta.memory_state import BatchLog, Name
from p2pfs.types import ROOT_INODE, Kind
from p2pfs.vfs.delegation.known_pages import KnownPages
from p2pfs.wire.leases import Restore
from p2pfs.wire.namespace import (
    RENAME_EXCHANGE,
    UNTOLD,
    Accessed,
    Applied,
    Attributes,
    Commit,
    DirectoryPage,
    Entry,
    Link,
    Make,
    Opened,
    Operation,
    Released,
    Rename,
    SetAttributes,
    Unlink,
)
from p2pfs.wire.search import IndexName

_SESSION: Final = 1
_ROW_COST: Final = 700
"""Bytes of memory for an inode's row besides its head, content and target; measured."""
_NAME_COST: Final = 600
_UNTOLD_COST: Final = 200
_GONE_COST: Final = 100
_ANY_NUMBER: Final = 1 << 63
_LOCAL: Final = (Make, Link, Unlink, Rename, SetAttributes, Opened, Released, Accessed, IndexName)
_PATHS: Final = 0
"""Stands for where directories are, among inodes: two renames at once could put each into the other."""


@dataclass(frozen=True, slots=True)
class NeedRow:
    """An inode's attributes."""

    inode: int


@dataclass(frozen=True, slots=True)
class NeedName:
    """What a name leads to, if to anything."""

    parent: int
    name: bytes


@dataclass(frozen=True, slots=True)
class NeedListing:
    """Whether a directory is empty."""

    directory: int


Need = NeedRow | NeedName | NeedListing


class KnownTree(KnownPages):
    """`generation` rises with every `clear`: an answer asked for in an earlier one is not to be taken. `moment` rises
    with every `forget`: what is said of a forgotten inode is not taken if it was asked before."""

    def __init__(self) -> None:
        super().__init__()
        self._next_id = _ANY_NUMBER  # the coordinator checks which were granted
        self.generation = self.moment = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything but what this session holds open. Only while no change waits to be sent."""
        self.generation += 1
        self.bytes = 0
        self._inodes, self._names, self._up = {}, {}, {ROOT_INODE: ROOT_INODE}
        self._absent: dict[int, set[bytes]] = {}
        self._gone: dict[int, bool] = {}
        self._forgotten: dict[int, int] = {}
        self._untold: dict[int, tuple[int, int]] = {}  # where in which directory a file was listed without its content
        self.clear_pages()

    # ---- what is known

    def row(self, inode: int) -> Attributes | None:
        """None if it is not known. Raises NotFound when it is known to be gone."""
        if inode in self._gone:
            raise NotFound("there is no such inode")
        return self._inodes.get(inode)

    def entry(self, parent: int, name: bytes) -> Entry | None:
        """None if it is not known. Raises NotFound, NotDirectory when that is what is known."""
        names = self._names.get(parent)
        if names is not None:
            found = names.get(name)
            if found is not None:
                row = self._inodes.get(found.inode)
                return None if row is None else Entry(found.dentry, name, found.tag, row)
            if self._is_absent(parent, name):
                raise NotFound("there is no such name")
        if parent in self._gone:
            raise NotFound("the directory was removed")
        if parent in self._inodes:
            self.require_directory(parent, removed_too=True)
        return None

    def _is_absent(self, parent: int, name: bytes) -> bool:
        return self._covered.get(parent) == math.inf or name in self._absent.get(parent, ())

    # ---- answers

    def is_overtaken(self, inode: int, asked: int) -> bool:
        """Whether what was asked at that moment of an inode, or of names in it, may not be so any more."""
        return self._forgotten.get(inode, 0) > asked

    def take_row(self, row: Attributes, asked: int) -> None:
        """Attributes that were asked for."""
        if row.inode in self._inodes or row.inode in self._gone or self.is_overtaken(row.inode, asked):
            return
        self._inodes[row.inode] = row
        self.bytes += _ROW_COST + len(row.head) + len(row.inline or b"") + len(row.target or b"")
        if row.kind == Kind.DIRECTORY:
            self._names.setdefault(row.inode, {})

    def take_gone(self, inode: int, asked: int) -> None:
        """There is no such inode, it was said."""
        if inode not in self._inodes and not self.is_overtaken(inode, asked):
            self._gone[inode] = True
            self.bytes += _GONE_COST

    def take_entry(self, parent: int, entry: Entry, asked: int) -> None:
        """A name that was asked for."""
        if not self.is_overtaken(parent, asked) and self._take_entry(parent, entry, asked):
            self._order.pop(parent, None)

    def _take_entry(self, parent: int, entry: Entry, asked: int) -> bool:
        """Whether it is a name more."""
        names = self._names.setdefault(parent, {})
        known = names.get(entry.name)
        if known is None and (self._is_absent(parent, entry.name) or entry.attributes.inode in self._gone):
            return False
        if known is None or known.inode == entry.attributes.inode:
            self.take_row(entry.attributes, asked)
        if known is not None:
            return False
        names[entry.name] = Name(entry.dentry, entry.tag, entry.attributes.inode)
        self.bytes += _NAME_COST
        if entry.attributes.kind == Kind.DIRECTORY:
            self._up.setdefault(entry.attributes.inode, parent)
            self._place[entry.attributes.inode] = entry.dentry
        elif entry.attributes.inline == UNTOLD:
            self._untold[entry.attributes.inode] = parent, entry.dentry
            self.bytes += _UNTOLD_COST
        return True

    def place_of_untold(self, inode: int) -> tuple[int, int] | None:
        """The directory that a file was listed in without its content, and its dentry's number there; it may have been
        moved since."""
        return self._untold.get(inode)

    def take_absent(self, parent: int, name: bytes, asked: int) -> None:
        """There is no such name, it was said."""
        if name not in self._names.get(parent, {}) and not self.is_overtaken(parent, asked):
            self._absent.setdefault(parent, set()).add(name)
            self.bytes += _NAME_COST // 4

    def take_page(self, directory: int, after: int, page: DirectoryPage, asked: int) -> float:
        """Dentries behind `after` that were asked for; up to which number they were told, 0 if that is overtaken."""
        if self.is_overtaken(directory, asked):
            return 0
        self._names.setdefault(directory, {})
        new = [(entry.dentry, entry.name) for entry in page.entries if self._take_entry(directory, entry, asked)]
        self._put_in_order(directory, new)
        upto = math.inf if page.complete else max((entry.dentry for entry in page.entries), default=after)
        if after <= self.covered(directory):
            self._covered[directory] = max(upto, self.covered(directory))
            if upto == math.inf:
                self._absent.pop(directory, None)
        return upto

    def forget(self, inodes: Iterable[int]) -> None:
        """What these are, and which names they have as directories. None of it waits to be sent."""
        self.moment += 1
        for inode in inodes:
            if inode not in self._forgotten:
                self.bytes += _GONE_COST
            self._forgotten[inode] = self.moment
            self._inodes.pop(inode, None)
            self._gone.pop(inode, None)  # the trash may have given it back
            self._absent.pop(inode, None)
            self.forget_pages(inode)
            if inode in self._names:
                self._names[inode] = {}
            if inode != ROOT_INODE:
                self._up.pop(inode, None)

    def note_opened(self, operations: Iterable[Operation]) -> None:
        """These were done without this."""
        for operation in operations:
            if isinstance(operation, Opened):
                self._open[operation.inode, _SESSION] = True
            elif isinstance(operation, Released):
                self._open.pop((operation.inode, _SESSION), None)

    # ---- operations

    def needs(self, operations: Sequence[Operation]) -> Need | None:
        """The first thing that must be known before a batch can be judged. What operations before one of it make is
        known then."""
        made: set[int] = set()
        for operation in operations:
            if made.isdisjoint(concerns(operation)):
                need = self.need(operation)
                if need is not None:
                    return need
            if isinstance(operation, Make):
                made.add(operation.inode)
        return None

    def need(self, operation: Operation) -> Need | None:
        """The first thing that must be known before the operation can be judged."""
        match operation:
            case Make():
                return self._need_names((operation.parent, operation.name))
            case Link():
                return self._need_names((operation.parent, operation.name)) or self._need_rows(operation.inode)
            case Unlink():
                return self._need_names((operation.parent, operation.name)) or self._need_target(operation.inode)
            case Rename():
                old, new = (operation.parent, operation.name), (operation.new_parent, operation.new_name)
                inodes = [inode for inode in (operation.inode, operation.replaced) if inode]
                return self._need_names(old, new) or self._need_rows(*inodes) or self._need_target(operation.replaced)
            case SetAttributes() | Opened() | Commit():
                return self._need_rows(operation.inode)
            case Released():
                return self._need_rows(operation.inode) if (operation.inode, _SESSION) in self._open else None
        return None

    def _need_rows(self, *inodes: int) -> Need | None:
        return next((NeedRow(inode) for inode in inodes if not self._is_judged(inode)), None)

    def _is_judged(self, inode: int) -> bool:
        return inode in self._inodes or inode in self._gone

    def _need_names(self, *places: tuple[int, bytes]) -> Need | None:
        need = self._need_rows(*(parent for parent, _ in places))
        if need is not None:
            return need
        for parent, name in places:
            row = self._inodes.get(parent)
            if row is None or row.kind != Kind.DIRECTORY:
                continue  # which the rules refuse
            found = self._names[parent].get(name)
            if found is None and not self._is_absent(parent, name):
                return NeedName(parent, name)
            if found is not None and not self._is_judged(found.inode):
                return NeedRow(found.inode)
        return None

    def _need_target(self, inode: int) -> Need | None:
        """What removing an inode rests on."""
        row = self._inodes.get(inode)
        if row is None or row.kind != Kind.DIRECTORY or self._names[inode] or self.covered(inode) == math.inf:
            return None
        return NeedListing(inode)

    def can_judge(self, operation: Operation) -> bool:
        """Whether it is known enough for the rules: that a moved directory does not come below itself, what releasing
        an inode does that was not opened by this session's own word, whether there still is what was read."""
        if isinstance(operation, Accessed):
            return self._is_judged(operation.inode)
        if isinstance(operation, Released):
            return (operation.inode, _SESSION) in self._open
        if not isinstance(operation, Rename):
            return True
        ends = [operation.new_parent, operation.parent] if operation.flags & RENAME_EXCHANGE else [operation.new_parent]
        moved = [self._inodes.get(inode) for inode in (operation.inode, operation.replaced)]
        if not any(row is not None and row.kind == Kind.DIRECTORY for row in moved):
            return True
        return all(self._has_path(directory) for directory in ends)

    def _has_path(self, directory: int) -> bool:
        seen = set[int]()
        while directory != ROOT_INODE:
            above = self._up.get(directory)
            if above is None or above in seen:  # a circle is for the coordinator to judge
                return False
            seen.add(above)
            directory = above
        return True

    def apply(self, operations: Sequence[Operation]) -> Applied:
        """Do all or none. Raises Semantic."""
        batch = BatchLog(_SESSION)
        try:
            for operation in operations:
                self.do(batch, operation)
        except BaseException:
            for take_back in reversed(batch.undo):
                take_back()
            self._order.clear()
            raise
        return Applied([self._inodes[inode] for inode in batch.touched if inode in self._inodes], batch.removed)

    # ---- the rules' parts, over what is known

    def add_name(self, batch: BatchLog, parent: int, name: bytes, new: Name) -> None:
        names = self._names[parent]
        if name in names:
            raise Exists("the name is taken")
        self.put(batch, names, name, value=new)
        self.bytes += _NAME_COST + _ROW_COST
        absent = self._absent.get(parent)
        if absent is not None and name in absent:
            absent.discard(name)
            batch.undo.append(lambda: absent.add(name))
        order = self._order.get(parent)
        if order is not None and (not order or order[-1][0] < new.dentry):
            order.append((new.dentry, name))
        else:
            self._order.pop(parent, None)

    def drop_name(self, batch: BatchLog, parent: int, name: bytes) -> None:
        super().drop_name(batch, parent, name)
        self._order.pop(parent, None)
        if self.covered(parent) < math.inf:
            absent = self._absent.setdefault(parent, set())
            absent.add(name)
            batch.undo.append(lambda: absent.discard(name))

    def _make(self, batch: BatchLog, op: Make) -> None:
        super()._make(batch, op)
        if op.kind == Kind.DIRECTORY:
            self.put(batch, self._covered, op.inode, value=math.inf)

    def index_name(self, batch: BatchLog, op: IndexName) -> None:
        """Nothing that is known here rests on tokens."""

    def _name_chunks(self, batch: BatchLog, op: Commit) -> None:
        """Where chunks are is not known here."""

    def _lay(self, batch: BatchLog, op: Commit) -> None:
        """Extents are not kept here."""
        self.bytes += len(op.inline or b"")

    def settle(self, batch: BatchLog, inode: int) -> None:
        row = self._inodes.get(inode)
        if row is None or row.links > 0 or (inode, _SESSION) in self._open:
            return
        self.drop(batch, self._inodes, inode)
        self.drop(batch, self._up, inode)
        self.drop(batch, self._names, inode)
        self.put(batch, self._gone, inode, value=True)
        self.bytes += _GONE_COST
        batch.removed.append(inode)


def is_local(operation: Operation) -> bool:
    """Whether nothing but the tree decides about it: no receipts of peers, no rows that are not kept here."""
    if isinstance(operation, Commit):
        return not (operation.extents or operation.chunks or operation.drop) and operation.cut_index < 0
    return isinstance(operation, _LOCAL)


def new_numbers(operation: Operation) -> tuple[int, ...]:
    """The inode and dentry numbers an operation uses up."""
    if isinstance(operation, Make):
        return operation.inode, operation.dentry
    is_named = isinstance(operation, Link) or (isinstance(operation, Rename) and operation.flags != RENAME_EXCHANGE)
    return (operation.dentry,) if is_named else ()  # type: ignore[union-attr]


def concerns(operation: Operation) -> tuple[int, ...]:
    """The inodes whose rows or names an operation uses or changes."""
    match operation:
        case Make():
            return operation.parent, operation.inode
        case Link() | Unlink() | Restore():
            return operation.parent, operation.inode
        case Rename():
            return operation.parent, operation.new_parent, operation.inode, operation.replaced, _PATHS
    inode: int | None = getattr(operation, "inode", None)
    return () if inode is None else (inode,)


def concerned(operations: Iterable[Operation]) -> set[int]:
    """The inodes that a batch concerns."""
    return {inode for operation in operations for inode in concerns(operation)}
