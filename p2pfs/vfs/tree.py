"""Names: looking up, making, linking, removing, renaming, listing. Every change is one synchronous batch.

Names go out sealed and come back checked: a dentry whose tag does not fit its parent, name and inode is Corrupt, never
shown. What a change builds on is named in it; when another mount was faster, it is looked up again and retried.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Final, NamedTuple

import trio

from p2pfs.errors import Conflict, Corrupt, Invalid, NameTooLong, NotFound, Unavailable
from p2pfs.format.heads import Head, seal_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import check_tag, dentry_tag, open_name, seal_name
from p2pfs.format.values import ValueKind, open_value, seal_value
from p2pfs.format.xattrs import sealed_xattr
from p2pfs.meta.protocol import Namespace
from p2pfs.types import MAX_TARGET_BYTES, DentryId, InodeId, Kind, VolumeId
from p2pfs.vfs.glimpses import Glimpse
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.keeping import Keeper
from p2pfs.vfs.known_names import Child, KnownNames, check_name
from p2pfs.vfs.listings import Listed, Listings, OpenedAhead
from p2pfs.vfs.patience import OPEN_S, Patience
from p2pfs.wire.namespace import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Applied,
    Attributes,
    DirectoryPage,
    Entry,
    Link,
    Make,
    Operation,
    Rename,
    Unlink,
)

MOST_CONFLICTS: Final = 10
_KINDS: Final = {int(kind): kind for kind in Kind}
AHEAD_AT_ONCE: Final = 200
"""Entries opened ahead before others get their turn, two milliseconds: about what the kernel takes in one answer."""
MOST_AHEAD: Final = 2
"""Directories whose next page is opened ahead."""
REMEMBERED_SEALS: Final = 8192
"""Sealed names, opened names and verified tags each: about 2 MiB."""


class Owner(NamedTuple):
    """Who makes an inode, as the kernel says."""

    uid: int
    gid: int


class Tree:
    """The names of one volume as one mount sees and changes them."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        table: InodeTable,
        keeper: Keeper,
        *,
        now_ns: Callable[[], int],
        deleted: Callable[[Inode], None],
        holds: Callable[[], bool] = lambda: False,
        indexed: Callable[[InodeId, int, bytes], list[Operation]] = lambda *_: [],
    ) -> None:
        """`holds` as of `Surroundings`; `indexed`: what goes with a new name (its inode, dentry) to have it found."""
        self._indexed = indexed
        self._keys, self._volume, self._deleted, self._holds = keys, volume, deleted, holds
        self._namespace, self._table, self._keeper, self._now_ns = namespace, table, keeper, now_ns
        self.patience = Patience()
        self._names = KnownNames()
        self._listings = Listings()
        self._ahead: dict[InodeId, OpenedAhead] = {}  # of directories; the newest is last
        # what was sealed, opened or verified comes again soon: a lookup before a create, a second listing
        self._seal = lru_cache(REMEMBERED_SEALS)(partial(seal_name, keys, volume))
        self._open = lru_cache(REMEMBERED_SEALS)(partial(open_name, keys, volume))
        self._check_tag = lru_cache(REMEMBERED_SEALS)(partial(check_tag, keys, volume))

    # ---- attributes

    async def inode(self, number: InodeId) -> Inode:
        """The inode with attributes asked for now.

        Raises:
            NotFound: It is gone.
            Corrupt: The coordinator serves an older state of it than it did before, or another inode.
        """
        for _ in range(3):
            change = _change(self._table.get(number))
            attributes = await self._namespace.attributes(number)
            if attributes.inode != number:
                raise Corrupt(f"inode {number}: the coordinator serves another one in its place")
            inode, is_new_enough = self._table.take(attributes)
            if is_new_enough or attributes.change >= change:  # what was known when we asked: only overtaken
                return inode
        raise Corrupt(f"inode {number}: the coordinator serves an older state than it did before")

    def took(self, applied: Applied, changed: Inode | None = None) -> None:
        """Take in what a batch says of inodes this mount knows, and of the one that it `changed`, which may have left
        memory meanwhile."""
        for attributes in applied.attributes:
            if self._table.get(InodeId(attributes.inode)) is not None:
                self._table.take(attributes)
            if changed is not None and changed.id == attributes.inode:
                changed.refresh(attributes)

    # ---- names

    async def lookup(self, parent: InodeId, name: bytes) -> Inode:
        """As the coordinator has it now, or as it was known when the coordinator is away.

        Raises:
            NotFound, NotDirectory, NameTooLong (name), Corrupt, CoordinatorAway.
        """
        check_name(name)
        sealed = self._seal(parent, name)

        async def ask() -> Entry:
            return await self._namespace.lookup(parent, sealed)

        for _ in range(3):
            known = self.known(parent, name)
            change = _change(known)
            try:
                if known is None:
                    entry = await ask()
                elif (answer := await self.patience.ask(ask, OPEN_S)) is not None:
                    entry = answer
                else:
                    return known
            except NotFound:
                self._names.drop((parent, name))
                raise
            inode, is_new_enough = self._checked(parent, name, entry)
            if is_new_enough or (inode is known and entry.attributes.change >= change):
                return inode
        raise Corrupt(f"inode {entry.attributes.inode}: the coordinator serves an older state than it did before")

    def known(self, parent: InodeId, name: bytes) -> Inode | None:
        """What the name led to when it was last seen, if that is still in memory: reads go on from it."""
        child = self._names.get((parent, name))
        return self._table.get(child.inode) if child is not None else None

    def parent(self, directory: InodeId) -> InodeId | None:
        """Where a directory was when it was last seen."""
        return self._names.parent(directory)

    def _checked(self, parent: InodeId, name: bytes, entry: Entry) -> tuple[Inode, bool]:
        self._names.put((parent, name), self._verified(parent, name, entry))
        return self._table.take(entry.attributes)

    async def _child(self, parent: InodeId, name: bytes) -> Child:
        """What the name leads to, from memory if it was seen: the change that builds on it is checked."""
        known = self._names.get((parent, name))
        if known is not None:
            return known
        inode = await self.lookup(parent, name)
        return Child(inode.id, inode.kind)

    async def directory(self, number: InodeId, after: DentryId, limit: int) -> tuple[list[Listed], bool]:
        """Up to `limit` entries behind a cookie, and whether that was all. Raises NotFound, NotDirectory, Corrupt."""
        page = await self._namespace.directory(number, after, limit)
        known = self._listings.get((number, after), page)
        if known is not None and all(self._table.glimpse(inode.id) is inode for _, _, inode in known):
            return known, page.complete
        ahead = self._ahead.pop(number, None)
        opened = ahead.entries if ahead is not None and ahead.page is page else []
        listed = []
        for at, entry in enumerate(page.entries):
            name, child, ready = opened[at] if at < len(opened) else (*self._opened(number, entry), None)
            self._names.put((number, name), child)
            inode, is_new_enough = self._table.take_listed(entry.attributes, ready)
            if not is_new_enough and self._table.get(inode.id) is None:
                inode = await self.inode(inode.id)  # an older state than was seen before it was forgotten
            listed.append(Listed(name, DentryId(entry.dentry), inode))
        if self._holds():  # else the same page never comes again
            self._listings.put((number, after), page, listed)
        return listed, page.complete

    def open_ahead(self, number: InodeId, page: DirectoryPage) -> None:
        """Open and verify AHEAD_AT_ONCE more entries of a page that `directory` will be asked for next. It takes
        them only while the same page is the same object. No checkpoint. Raises Corrupt."""
        ahead = self._ahead.pop(number, None)
        if ahead is None or ahead.page is not page:
            ahead = OpenedAhead(page, [])
        self._ahead[number] = ahead
        if len(self._ahead) > MOST_AHEAD:
            del self._ahead[next(iter(self._ahead))]
        begin = len(ahead.entries)
        for entry in page.entries[begin : begin + AHEAD_AT_ONCE]:
            ahead.entries.append((*self._opened(number, entry), self._table.glimpse_of(entry.attributes)))

    def _opened(self, directory: InodeId, entry: Entry) -> tuple[bytes, Child]:
        """The name of a listed entry and what it leads to, verified; nothing is taken in. Raises Corrupt."""
        name = self._open(directory, entry.name)
        return name, self._verified(directory, name, entry)

    def _verified(self, parent: InodeId, name: bytes, entry: Entry) -> Child:
        child = Child(InodeId(entry.attributes.inode), _kind(entry.attributes))
        self._check_tag(parent, name, child.inode, child.kind, entry.tag)
        return child

    def current(self, directory: InodeId, listed: Listed) -> Inode | Glimpse | None:
        """What an entry that was listed before leads to, with all that this mount changed since. None if it leads
        elsewhere by now, or that is not known: list it again."""
        child = self._names.get((directory, listed.name))
        return self._table.glimpse(child.inode) if child is not None and child.inode == listed.inode.id else None

    def changed_elsewhere(self, parent: InodeId, sealed: bytes) -> bytes:
        """Another mount changed what this name leads to: forget it. The name. Raises Corrupt."""
        name = self._open(parent, sealed)
        child = self._names.drop((parent, name))
        if child is not None:
            self._table.lost_name(child.inode)
        return name

    def forget_names(self) -> None:
        """Anything may have changed."""
        self._names.clear()

    # ---- making

    async def make(
        self,
        parent: InodeId,
        name: bytes,
        kind: Kind,
        mode: int,
        owner: Owner,
        *,
        rdev: int = 0,
        target: bytes | None = None,
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> Inode:
        """A new inode under a new name, with extended attributes. Raises Exists, NotFound, NotDirectory,
        NameTooLong."""
        check_name(name)
        if target is not None and not 0 < len(target) <= MAX_TARGET_BYTES:
            raise NameTooLong(f"a symbolic link's target has 1 to {MAX_TARGET_BYTES} bytes")
        mode, owner = await self._inherited(parent, kind, mode, owner)
        ids = await self._namespace.new_ids(2)
        number, dentry = InodeId(ids[0]), ids[1]
        size = len(target) if target is not None else 0
        sealed_target = (
            None if target is None else seal_value(self._keys, ValueKind.TARGET, self._volume, number, target)
        )
        time_ns = self._now_ns()
        operations: list[Operation] = [
            Make(
                parent=parent,
                name=self._seal(parent, name),
                dentry=dentry,
                dentry_tag=dentry_tag(self._keys, self._volume, parent, name, number, kind),
                inode=number,
                kind=kind,
                mode=mode,
                uid=owner.uid,
                gid=owner.gid,
                rdev=rdev,
                head=seal_head(self._keys, self._volume, number, Head(0, size, kind)),
                time_ns=time_ns,
                target=sealed_target,
            ),
            *(
                sealed_xattr(self._keys, self._volume, number, key, value, time_ns=time_ns)
                for key, value in (xattrs or {}).items()
            ),
            *self._indexed(number, dentry, name),
        ]
        async with self._keeper.opening(number):  # another mount may take the name before we have the answer
            applied = await self._namespace.apply(operations)
        above = self._table.get(parent)
        if above is not None:
            above.keep_xattrs(_row(applied, parent).attr_change)
        self.took(applied)
        self._names.put((parent, name), Child(number, kind))
        row = _row(applied, number)
        inode = self._table.take(row)[0]
        inode.xattrs_change = row.attr_change
        return inode

    async def _inherited(self, parent: InodeId, kind: Kind, mode: int, owner: Owner) -> tuple[int, Owner]:
        """What is made in a set-gid directory takes its group, and a directory the bit too, as on local disks."""
        above = self._table.get(parent) or await self.inode(parent)
        if not above.attributes.mode & 0o2000:
            return mode, owner
        return mode | 0o2000 if kind is Kind.DIRECTORY else mode, Owner(owner.uid, above.attributes.gid)

    async def link(self, number: InodeId, parent: InodeId, name: bytes) -> Inode:
        """Another name for an inode. Raises Exists, NotFound, IsDirectory."""
        check_name(name)
        inode = self._table.get(number) or await self.inode(number)
        (dentry,) = await self._namespace.new_ids(1)
        tag = dentry_tag(self._keys, self._volume, parent, name, number, inode.kind)
        sealed = self._seal(parent, name)
        link = Link(parent, sealed, dentry, tag, number, self._now_ns())
        applied = await self._namespace.apply([link, *self._indexed(number, dentry, name)])
        self.took(applied)
        self._names.put((parent, name), Child(number, inode.kind))
        return self._table.take(_row(applied, number))[0]

    def target(self, inode: Inode) -> bytes:
        """Where a symbolic link points. Raises Invalid, Corrupt."""
        if inode.kind is not Kind.SYMLINK:
            raise Invalid("not a symbolic link")
        if inode.attributes.target is None:
            raise Corrupt(f"inode {inode.id}: its target is missing")
        return open_value(self._keys, ValueKind.TARGET, self._volume, inode.id, inode.attributes.target)

    # ---- removing and moving

    async def remove(self, parent: InodeId, name: bytes, *, directory: bool) -> None:
        """unlink or rmdir. An inode this mount has open lives on without a name until its last handle is closed."""
        check_name(name)
        sealed = self._seal(parent, name)
        for _ in range(MOST_CONFLICTS):
            child = await self._child(parent, name)
            operation = Unlink(parent, sealed, child.inode, directory, self._now_ns())
            try:
                await self._take_name(child.inode, operation)
            except Conflict:
                self._names.drop((parent, name))
                await trio.lowlevel.checkpoint()
                continue
            except NotFound:
                self._names.drop((parent, name))
                raise
            self._names.drop((parent, name))
            return
        raise Unavailable("the name keeps changing")

    async def _take_name(self, number: InodeId, *operations: Operation) -> Applied:
        """Make a change that takes a name of the inode, perhaps its last."""
        async with self._keeper.removing(number) as keep:
            applied = await self._namespace.apply([*keep, *operations])
            self.took(applied)
            for gone in applied.removed:
                known = self._table.get(InodeId(gone))
                if known is not None:
                    self._deleted(known)
                    self._table.removed(known.id)
            inode = self._table.get(number)
            if inode is not None and not inode.attributes.links and not self._table.is_in_use(number):
                self._deleted(inode)  # another mount may have it open
        return applied

    async def rename(self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, flags: int) -> None:
        """rename(2) with RENAME_NOREPLACE and RENAME_EXCHANGE. Atomic, whatever other mounts do meanwhile."""
        check_name(name)
        check_name(new_name)
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise Invalid("these rename flags are not known")
        for _ in range(MOST_CONFLICTS):
            is_remembered = bool(self._names.get((parent, name)) or self._names.get((new_parent, new_name)))
            child = await self._child(parent, name)
            # whether a name is free is not for memory to say: the coordinator raises Exists
            replaced = None if flags & RENAME_NOREPLACE else await self._replaced(new_parent, new_name)
            if replaced is None and flags & RENAME_EXCHANGE:
                raise NotFound("there is nothing to exchange with")
            operation = await self._rename(parent, name, child, new_parent, new_name, replaced, flags)
            # of exchanged names the coordinator knows which words they are found by
            words = [] if flags & RENAME_EXCHANGE else self._indexed(child.inode, operation.dentry, new_name)
            try:
                if replaced is None or flags & RENAME_EXCHANGE:
                    self.took(await self._namespace.apply([operation, *words]))
                else:
                    await self._take_name(replaced.inode, operation, *words)
            except (Conflict, NotFound) as error:
                self._names.drop((parent, name))
                self._names.drop((new_parent, new_name))
                if isinstance(error, NotFound) and not is_remembered:
                    raise
                await trio.lowlevel.checkpoint()
                continue
            exchanged = replaced if flags & RENAME_EXCHANGE else None
            self._names.renamed((parent, name), (new_parent, new_name), child, exchanged)
            return
        raise Unavailable("the name keeps changing")

    async def _replaced(self, parent: InodeId, name: bytes) -> Child | None:
        try:
            return await self._child(parent, name)
        except NotFound:
            return None

    async def _rename(
        self, parent: InodeId, name: bytes, child: Child, new_parent: InodeId, new_name: bytes, replaced: Child | None,
        flags: int,
    ) -> Rename:  # fmt: skip
        keys, volume = self._keys, self._volume
        back_tag, dentry = b"", 0
        if flags & RENAME_EXCHANGE and replaced is not None:
            back_tag = dentry_tag(keys, volume, parent, name, replaced.inode, replaced.kind)
        else:
            (dentry,) = await self._namespace.new_ids(1)
        return Rename(
            parent=parent,
            name=self._seal(parent, name),
            inode=child.inode,
            new_parent=new_parent,
            new_name=self._seal(new_parent, new_name),
            dentry=dentry,
            dentry_tag=dentry_tag(keys, volume, new_parent, new_name, child.inode, child.kind),
            replaced=replaced.inode if replaced else 0,
            flags=flags,
            time_ns=self._now_ns(),
            back_tag=back_tag,
        )


def _change(known: Inode | None) -> float:
    """The newest change seen; above every other for an inode that is not known, whose changes prove nothing."""
    return math.inf if known is None else known.head.change


def _kind(attributes: Attributes) -> Kind:
    kind = _KINDS.get(attributes.kind)
    if kind is None:
        raise Corrupt(f"inode {attributes.inode}: an unknown kind {attributes.kind}")
    return kind


def _row(applied: Applied, number: InodeId) -> Attributes:
    for row in applied.attributes:
        if row.inode == number:
            return row
    raise Corrupt(f"inode {number}: the coordinator does not tell of what was just made")
