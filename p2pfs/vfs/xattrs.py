"""Extended attributes and access control lists of inodes, over the Namespace.

All attributes of an inode are asked for at once and remembered while its `attr_change` stays the same, for as long as
the kernel may answer from its own memory. What an access list says of owner, mask and others is never believed: the
inode's mode says it, so that a chmod cannot leave a list that contradicts it. Who may do what, the kernel decides.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import trio

from p2pfs.errors import AttributeTooLarge, Corrupt, Denied, Invalid, NoAttribute, Unavailable, Unsupported
from p2pfs.format import acl
from p2pfs.format.acl import ACCESS, DEFAULT, Acl
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import open_xattr_name, seal_xattr_name
from p2pfs.format.values import ValueKind, open_value
from p2pfs.format.xattrs import sealed_xattr
from p2pfs.meta.protocol import Namespace
from p2pfs.types import MAX_XATTR_BYTES, MIB, InodeId, Kind, VolumeId
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.patience import STAT_S
from p2pfs.vfs.tree import MOST_CONFLICTS, Tree
from p2pfs.wire.namespace import Operation, RemoveXattr, SetAttributes, SetXattr, XattrPage

KNOWN_S: Final = 1.0
"""How long attributes are answered from memory: no other mount's change is hidden longer (P9)."""
KNOWN_BYTES: Final = 4 * MIB
_ENTRY_BYTES: Final = 200  # what remembering an inode costs beside names and values

_SPACES: Final = (b"user.", b"trusted.", b"security.")
_LISTS: Final = (ACCESS, DEFAULT)


class Known(NamedTuple):
    """Attributes in the clear, as of `asked_s` on trio's clock."""

    asked_s: float
    values: Mapping[bytes, bytes]

    @property
    def weight(self) -> int:
        return _ENTRY_BYTES + sum(len(name) + len(value) for name, value in self.values.items())


class Xattrs:
    """The extended attributes of one volume as one mount sees and changes them."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        table: InodeTable,
        tree: Tree,
        *,
        now_ns: Callable[[], int],
    ) -> None:
        self._keys, self._volume, self._namespace = keys, volume, namespace
        self._table, self._tree, self._now_ns = table, tree, now_ns
        self._known: OrderedDict[InodeId, Known] = OrderedDict()
        self._known_bytes = 0

    async def names(self, number: InodeId) -> list[bytes]:
        """What the inode has. Raises NotFound, Corrupt, CoordinatorAway."""
        return list(await self._values(number))

    async def get(self, number: InodeId, name: bytes) -> bytes:
        """One value. Raises NoAttribute, Unsupported, Invalid, and as `names`."""
        _check_space(name)
        value = (await self._values(number)).get(name)
        if value is None:
            raise NoAttribute("there is no such attribute")
        if name != ACCESS:
            return value
        return acl.encode(acl.with_mode(_decoded(number, value), (await self._inode(number)).attributes.mode))

    async def set(
        self, number: InodeId, name: bytes, value: bytes, flags: int = 0, *, keeps_set_gid: bool = True
    ) -> None:
        """setxattr(2); committed on return. An access list changes the mode too, in the same batch; without
        `keeps_set_gid` it also loses the set-gid bit: the caller is not of the inode's group.

        Raises:
            Exists, NoAttribute: The flags demand otherwise.
            AttributeTooLarge, NoSpace, Invalid (no access list), Unsupported, Denied (a default list of no directory).
        """
        _check_space(name)
        if len(value) > MAX_XATTR_BYTES:
            raise AttributeTooLarge(f"an extended attribute has at most {MAX_XATTR_BYTES} bytes")
        if name == ACCESS:
            await self._set_access(number, acl.decode(value), flags, keeps_set_gid)
            return
        if name == DEFAULT:
            acl.decode(value)
            if (await self._inode(number)).kind is not Kind.DIRECTORY:
                raise Denied("only a directory has a default access list")
        await self._apply(number, [self._setting(number, name, value, flags)])

    async def remove(self, number: InodeId, name: bytes) -> None:
        """removexattr(2); an access list that is not there is fine, as on local disks. Raises NoAttribute, NotFound."""
        _check_space(name)
        try:
            await self._apply(number, [self._removing(number, name)])
        except NoAttribute:
            if name not in _LISTS:
                raise

    # ---- inheriting

    async def inherited(self, parent: InodeId, kind: Kind, mode: int, umask: int) -> tuple[int, dict[bytes, bytes]]:
        """(mode, attributes) of what is made in a directory: by its default access list, else by the umask."""
        default = (await self._values(parent)).get(DEFAULT)
        if default is None:
            return mode & ~umask, {}
        access = acl.inherited(_decoded(parent, default), mode)
        values = {} if acl.is_minimal(access) else {ACCESS: acl.encode(access)}
        if kind is Kind.DIRECTORY:
            values[DEFAULT] = default
        return mode & ~0o777 | acl.mode_of(access), values

    def remember(self, number: InodeId, values: Mapping[bytes, bytes]) -> None:
        """What a new inode was made with, or what was just asked for."""
        self.forget(number)
        known = Known(trio.current_time(), values)
        self._known[number] = known
        self._known_bytes += known.weight
        while self._known_bytes > KNOWN_BYTES:
            self.forget(next(iter(self._known)))

    def forget(self, number: InodeId) -> None:
        """What is remembered of an inode."""
        known = self._known.pop(number, None)
        if known is not None:
            self._known_bytes -= known.weight

    # ---- asking

    async def _inode(self, number: InodeId) -> Inode:
        return self._table.get(number) or await self._tree.inode(number)

    async def _values(self, number: InodeId) -> Mapping[bytes, bytes]:
        """From memory if that is as good; when the coordinator is away, from memory as it is."""
        known, inode = self._known.get(number), self._table.get(number)
        if known is None or inode is None:
            return await self._ask(number)
        is_young = trio.current_time() - known.asked_s < KNOWN_S
        if is_young and inode.xattrs_change == inode.attributes.attr_change:
            self._known.move_to_end(number)
            return known.values
        asked = await self._tree.patience.ask(lambda: self._ask(number), STAT_S)
        return known.values if asked is None else asked

    async def _ask(self, number: InodeId) -> Mapping[bytes, bytes]:
        for _ in range(3):
            page = await self._namespace.xattrs(number)
            if page.attributes.inode != number:
                raise Corrupt(f"inode {number}: the coordinator serves another one in its place")
            inode, is_new_enough = self._table.take(page.attributes)
            if is_new_enough:
                values = self._opened(number, page)
                if page.attributes.attr_change >= inode.attributes.attr_change:  # else overtaken by a change of ours
                    inode.xattrs_change = page.attributes.attr_change
                    self.remember(number, values)
                return values
        raise Corrupt(f"inode {number}: the coordinator serves an older state than it did before")

    def _opened(self, number: InodeId, page: XattrPage) -> dict[bytes, bytes]:
        values = {}
        for xattr in page.xattrs:
            name = open_xattr_name(self._keys, self._volume, number, xattr.name)
            values[name] = open_value(self._keys, ValueKind.XATTR, self._volume, number, xattr.value, name)
        return values

    # ---- changing

    async def _set_access(self, number: InodeId, access: Acl, flags: int, keeps_set_gid: bool) -> None:
        for _ in range(MOST_CONFLICTS):
            there = await self._ask(number)  # what is remembered may hide a list or bits that another mount gave it
            kept = (await self._inode(number)).attributes.mode & (0o7000 if keeps_set_gid else 0o5000)
            operations: list[Operation] = [
                SetAttributes(number, self._now_ns(), mode=kept | acl.mode_of(access)),
            ]
            if not acl.is_minimal(access):
                operations.append(self._setting(number, ACCESS, acl.encode(access), flags))
                return await self._apply(number, operations)
            if ACCESS in there:
                operations.append(self._removing(number, ACCESS))
            try:
                return await self._apply(number, operations)
            except NoAttribute:  # another mount removed it meanwhile
                continue
        raise Unavailable("another mount keeps changing the access list")

    def _setting(self, number: InodeId, name: bytes, value: bytes, flags: int) -> SetXattr:
        return sealed_xattr(self._keys, self._volume, number, name, value, flags=flags, time_ns=self._now_ns())

    def _removing(self, number: InodeId, name: bytes) -> RemoveXattr:
        return RemoveXattr(number, seal_xattr_name(self._keys, self._volume, number, name), self._now_ns())

    async def _apply(self, number: InodeId, operations: list[Operation]) -> None:
        self._tree.took(await self._namespace.apply(operations))
        self.forget(number)


def _check_space(name: bytes) -> None:
    """Raises Unsupported, Invalid."""
    if name in _LISTS:
        return
    for space in _SPACES:
        if name.startswith(space):
            if name == space:
                raise Invalid("the name of an extended attribute has something behind its name space")
            return
    raise Unsupported("extended attributes are in the name spaces user, trusted and security")


def _decoded(number: InodeId, value: bytes) -> Acl:
    try:
        return acl.decode(value)
    except Invalid as error:
        raise Corrupt(f"inode {number}: {error}") from None
