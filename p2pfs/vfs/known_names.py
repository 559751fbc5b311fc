"""What names led to when this mount saw them last: enough to build changes on, which the coordinator checks."""

from collections import OrderedDict
from typing import Final, NamedTuple

from p2pfs.errors import Invalid, NameTooLong
from p2pfs.types import MAX_NAME_BYTES, InodeId, Kind

REMEMBERED_NAMES: Final = 20_000

Place = tuple[InodeId, bytes]
"""A directory and a name in it."""


class Child(NamedTuple):
    """What a name led to."""

    inode: InodeId
    kind: Kind


class KnownNames:
    """The names seen last, a bounded number of them."""

    def __init__(self) -> None:
        self._children: OrderedDict[Place, Child] = OrderedDict()
        self._parents: OrderedDict[InodeId, InodeId] = OrderedDict()

    def get(self, place: Place) -> Child | None:
        return self._children.get(place)

    def put(self, place: Place, child: Child) -> None:
        if place in self._children:
            self._children.move_to_end(place)
        self._children[place] = child
        if len(self._children) > REMEMBERED_NAMES:
            self._children.popitem(last=False)
        if child.kind is Kind.DIRECTORY:
            self._parents[child.inode] = place[0]
            self._parents.move_to_end(child.inode)
            if len(self._parents) > REMEMBERED_NAMES:
                self._parents.popitem(last=False)

    def parent(self, directory: InodeId) -> InodeId | None:
        """Where a directory was last seen."""
        return self._parents.get(directory)

    def drop(self, place: Place) -> Child | None:
        """Forget it; what was known."""
        return self._children.pop(place, None)

    def clear(self) -> None:
        self._children.clear()

    def renamed(self, old: Place, new: Place, child: Child, exchanged: Child | None) -> None:
        """`child` was moved; with an exchange, what was there before is at its old place now."""
        self.drop(old)
        if exchanged is not None:
            self.put(old, exchanged)
        self.put(new, child)


def check_name(name: bytes) -> None:
    """Raises NameTooLong, Invalid."""
    if len(name) > MAX_NAME_BYTES:
        raise NameTooLong(f"a name has at most {MAX_NAME_BYTES} bytes")
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise Invalid("this cannot be a name")
