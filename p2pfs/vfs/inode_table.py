"""The inodes of one mount by number: which stay in memory, who uses them, what is known of others.

Memory is bounded by what is open or unsaved and by the budgets here, not by what the kernel has seen.
"""

from collections import Counter, OrderedDict
from typing import Final

import msgspec

from p2pfs.errors import NotFound
from p2pfs.format.keys import VolumeKeys
from p2pfs.types import MIB, ROOT_INODE, InodeId, Kind, VolumeId
from p2pfs.vfs.glimpses import Glimpse
from p2pfs.vfs.inodes import Inode
from p2pfs.wire.namespace import Attributes

REMEMBERED_CHANGES: Final = 100_000
"""Forgotten inodes whose newest seen `change` is kept, so that an older one is still refused."""
IDLE_INODES: Final = 8192
"""Inodes without handles that stay known, so that looking again costs no new object. Of others the kernel refers to,
only the count of its references is kept: they are asked for again."""
INLINE_BYTES: Final = 16 * MIB
"""Sealed inline data kept for inodes nobody has open, in all."""


class InodeTable:
    """Inodes by number, who opens each, how often the kernel refers to it, and the newest change of those forgotten."""

    def __init__(self, keys: VolumeKeys, volume: VolumeId) -> None:
        self._keys, self._volume = keys, volume
        self._inodes: dict[InodeId, Inode] = {}
        self._glimpses: dict[InodeId, Glimpse] = {}  # of others, files that were only listed
        self._references: dict[InodeId, int] = {ROOT_INODE: 1}  # which no lookup tells of
        self._used_by_reference: set[InodeId] = set()  # of these, what is no file
        self._opening: Counter[InodeId] = Counter()  # opens under way
        self._seen: OrderedDict[InodeId, int] = OrderedDict()
        self._idle: OrderedDict[InodeId, None] = OrderedDict()
        self._misnamed: set[InodeId] = set()  # of those the kernel refers to, whose name another mount took
        self._inline: OrderedDict[InodeId, int] = OrderedDict()  # bytes kept, oldest first
        self._inline_bytes = 0

    def __len__(self) -> int:
        return len(self._inodes) + len(self._glimpses)

    def get(self, inode: InodeId) -> Inode | None:
        return self._inodes.get(inode) or (self._looked_at(inode) if inode in self._glimpses else None)

    def glimpse(self, inode: InodeId) -> Inode | Glimpse | None:
        """As `get`, for those who want no more than `stat`."""
        return self._inodes.get(inode) or self._glimpses.get(inode)

    def all(self) -> list[Inode]:
        """Those that were not only listed."""
        return list(self._inodes.values())

    # ---- who uses them

    def refer(self, inode: Inode | Glimpse) -> None:
        """The kernel was told of it once more."""
        self._references[inode.id] = self._references.get(inode.id, 0) + 1
        if inode.kind is not Kind.FILE:
            self._used_by_reference.add(inode.id)

    def forget(self, inode: InodeId, count: int) -> None:
        """The kernel gave `count` references back."""
        if inode == ROOT_INODE:
            return
        left = self._references.pop(inode, 0) - count
        if left > 0:
            self._references[inode] = left
        else:
            self._used_by_reference.discard(inode)
            known, is_misnamed = self.glimpse(inode), inode in self._misnamed
            self._misnamed.discard(inode)
            if known is not None and (self._is_gone(known) or (is_misnamed and not self._must_stay(known))):
                self._let_go(known)

    def references(self, inode: InodeId) -> int:
        """How often the kernel was told of it and has not given it back."""
        return self._references.get(inode, 0)

    def is_referenced(self, inode: InodeId) -> bool:
        """Whether the kernel may remember it."""
        return inode in self._references

    def referenced(self) -> list[InodeId]:
        """All the kernel may remember."""
        return list(self._references)

    def begin_opening(self, inode: InodeId) -> None:
        """Somebody opens it, and is not done yet: once it is in memory, it stays there."""
        self._opening[inode] += 1

    def end_opening(self, inode: InodeId) -> None:
        """It has a handle now, or was not opened."""
        self._opening[inode] -= 1
        if not self._opening[inode]:
            del self._opening[inode]
        known = self.glimpse(inode)
        if known is not None and not known.handles:
            self.drop_unused(known)

    def is_in_use(self, inode: InodeId) -> bool:
        """Whether a program of this machine can use the inode without a name. Of files we know; whoever opens a pipe or
        stands in a directory does not tell us, so there all counts that the kernel refers to."""
        known = self._inodes.get(inode)
        has_handles = known is not None and known.handles > 0
        return has_handles or inode in self._opening or inode in self._used_by_reference

    def named_or_used(self, inode: Inode) -> Inode:
        """The inode, if the kernel may be told of it. The coordinator may keep for this mount what another one
        replaced: a kernel that is told so links it no more, by whichever name it remembers of it; told that it is gone,
        it looks the name up again. Raises NotFound."""
        if not inode.attributes.links and not self.is_in_use(inode.id):
            raise NotFound("the file has no name any more, and nobody here has it open")
        return inode

    # ---- inodes

    def take(self, attributes: Attributes) -> tuple[Inode, bool]:
        """The inode with these attributes taken in, and whether they were new enough."""
        inode = self.get(InodeId(attributes.inode))
        if inode is not None:
            is_new_enough = inode.refresh(attributes)
            self._weigh(inode)
            return inode, is_new_enough
        inode = Inode(self._keys, self._volume, attributes)
        if attributes.change < self._seen.get(inode.id, 0):
            return inode, False
        self._seen.pop(inode.id, None)
        self._inodes[inode.id] = inode
        self._rest(inode)
        return inode, True

    def glimpse_of(self, attributes: Attributes) -> Glimpse | None:
        """What `take_listed` would make of them, not taken in; None if that is nothing new. Raises Corrupt."""
        number = InodeId(attributes.inode)
        if number in self._glimpses or number in self._inodes or attributes.kind != Kind.FILE:
            return None
        return Glimpse(self._keys, self._volume, attributes)

    def take_listed(self, attributes: Attributes, ready: Glimpse | None = None) -> tuple[Inode | Glimpse, bool]:
        """As `take`; of a file not known otherwise there is only a glimpse then, `ready` if there is one of these
        attributes."""
        number = InodeId(attributes.inode)
        known = self._glimpses.get(number)
        if known is not None and known.attributes == attributes:
            return known, True
        if known is not None or number in self._inodes or attributes.kind != Kind.FILE:
            return self.take(attributes)
        glimpse = Glimpse(self._keys, self._volume, attributes) if ready is None else ready
        if attributes.change < self._seen.get(number, 0):
            return glimpse, False
        self._seen.pop(number, None)
        self._glimpses[number] = glimpse
        self._rest(glimpse)
        return glimpse, True

    def _looked_at(self, number: InodeId) -> Inode:
        inode = self._inodes[number] = self._glimpses.pop(number).inode(self._keys, self._volume)
        self._idle[number] = None
        self._idle.move_to_end(number)
        return inode

    def _weigh(self, inode: Inode | Glimpse) -> None:
        """Keep inline data within its budget: what came first goes first, unless it is in use."""
        sealed = inode.attributes.inline
        if self._inline:
            self._inline_bytes -= self._inline.pop(inode.id, 0)
        if not sealed:
            return
        self._inline[inode.id] = len(sealed)
        self._inline_bytes += len(sealed)
        while self._inline_bytes > INLINE_BYTES and self._inline:
            oldest, size = self._inline.popitem(last=False)
            self._inline_bytes -= size
            candidate = self.glimpse(oldest)
            if candidate is not None and not candidate.handles and not candidate.is_dirty:
                candidate.let_go()

    def drop_unused(self, inode: Inode | Glimpse) -> None:
        """Let go of an inode nobody refers to and that has nothing unsaved: not at once, but before many others; at
        once if it has no name either."""
        if self.glimpse(inode.id) is not inode:
            return  # it was let go, and its number may be another object's by now
        if self._is_gone(inode):
            self._let_go(inode)
        else:
            self._rest(inode)

    def removed(self, number: InodeId) -> None:
        """It lost its last name, and the coordinator keeps nothing of it."""
        known = self.glimpse(number)
        if known is not None:
            known.attributes = msgspec.structs.replace(known.attributes, links=0)
            self.drop_unused(known)

    def lost_name(self, number: InodeId) -> None:
        """Another mount took a name of it, perhaps its last: the kernel is about to forget it, and then nobody may want
        it any more."""
        if number in self._references:
            self._misnamed.add(number)
        elif (known := self.glimpse(number)) is not None and not self._must_stay(known):
            self._let_go(known)

    def _rest(self, inode: Inode | Glimpse) -> None:
        self._weigh(inode)
        if inode.id in self._idle:
            self._idle.move_to_end(inode.id)
        self._idle[inode.id] = None
        if isinstance(inode, Inode) and not inode.handles and not inode.is_dirty and len(inode.pages) > 0:
            inode.let_go_pages()
        while len(self._idle) > IDLE_INODES:
            oldest, _ = self._idle.popitem(last=False)
            candidate = self.glimpse(oldest)
            if candidate is not None and not self._must_stay(candidate):
                self._let_go(candidate)

    def _is_gone(self, inode: Inode | Glimpse) -> bool:
        """Whether nobody finds it again."""
        return not (inode.attributes.links or inode.id in self._references or self._must_stay(inode))

    def _must_stay(self, inode: Inode | Glimpse) -> bool:
        lacks_times = isinstance(inode, Inode) and inode.times_of_pages is not None
        return inode.handles > 0 or inode.is_dirty or lacks_times or inode.id in self._opening

    def _let_go(self, inode: Inode | Glimpse) -> None:
        number = inode.id
        self._idle.pop(number, None)
        self._inline_bytes -= self._inline.pop(number, 0)
        (self._inodes if number in self._inodes else self._glimpses).pop(number, None)
        self._remember_change(inode)

    def _remember_change(self, inode: Inode | Glimpse) -> None:
        self._seen[inode.id] = inode.head.change
        if len(self._seen) > REMEMBERED_CHANGES:
            self._seen.popitem(last=False)
