"""Whether one inode is what members sealed: head, content, target, attributes, lease. Pure; called by `walk`."""

from collections.abc import Iterator

from p2pfs.errors import Corrupt
from p2pfs.format.extents import open_extent
from p2pfs.format.heads import Head, add, inline_digest, open_head, row_digest
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import open_xattr_name
from p2pfs.format.values import ValueKind, open_value
from p2pfs.types import DIGEST_RANGE_BYTES, INDICES_PER_RANGE, MIB, ROOT_INODE, InodeId, Kind, VolumeId
from p2pfs.wire.namespace import Attributes, ExtentPage, XattrPage

LATEST_LEASE_S = 1 << 62


class Inspector:
    """The keys of one volume. Every method yields or returns what is wrong, in words."""

    def __init__(self, keys: VolumeKeys, volume: VolumeId) -> None:
        self._keys, self._volume = keys, volume

    def head(self, attributes: Attributes) -> Head | str:
        """The head, or why there is none."""
        if attributes.inode < ROOT_INODE:
            return "no inode has such a number"
        try:
            head = open_head(self._keys, self._volume, InodeId(attributes.inode), attributes.head)
        except Corrupt as error:
            return f"its head does not authenticate ({error})"
        if head.kind != attributes.kind or head.change != attributes.change:
            return "its row says another kind or change than its sealed head"
        return head

    def inline(self, attributes: Attributes, head: Head) -> str | None:
        """Of a file whose content is inline."""
        sealed, inode = attributes.inline, InodeId(attributes.inode)
        assert sealed is not None
        try:
            plain = open_value(self._keys, ValueKind.INLINE, self._volume, inode, sealed)
        except Corrupt as error:
            return f"its content does not authenticate ({error})"
        if inline_digest(self._keys, self._volume, inode, sealed) != head.digest(0) or len(head.digests) > 1:
            return "its content is another than its head vouches for"
        if len(plain) > head.size:
            return "it has more content than its head says"
        return None

    def target(self, attributes: Attributes) -> str | None:
        if attributes.target is None:
            return "its target is missing"
        try:
            open_value(self._keys, ValueKind.TARGET, self._volume, InodeId(attributes.inode), attributes.target)
        except Corrupt as error:
            return f"its target does not authenticate ({error})"
        return None

    def extents(self, page: ExtentPage, head: Head, number: int) -> str | None:
        """Of one 256 MiB range."""
        inode, digest = InodeId(page.attributes.inode), 0
        first, known = number * INDICES_PER_RANGE, {place.chunk for place in page.places}
        where = f"from {number * DIGEST_RANGE_BYTES // MIB} MiB on" if number else "from the beginning on"
        try:
            for row in page.extents:
                if not first <= row.index < first + INDICES_PER_RANGE:
                    return f"{where} an extent of another place is in the way"
                digest = add(digest, row_digest(self._keys, self._volume, inode, row))
        except Corrupt as error:
            return f"{where} an extent is no extent ({error})"
        if digest != head.digest(number):
            return f"{where} its extents are not those that its head vouches for: some are missing, altered or too many"
        for row in page.extents:
            try:
                open_extent(self._keys, self._volume, inode, row)
            except Corrupt as error:
                return f"{where} an extent does not open ({error})"
            if row.chunk is not None and row.chunk not in known:
                return f"{where} nobody says where a chunk is"
        return None

    def xattrs(self, page: XattrPage) -> Iterator[str]:
        inode = InodeId(page.attributes.inode)
        for one in page.xattrs:
            try:
                name = open_xattr_name(self._keys, self._volume, inode, one.name)
                open_value(self._keys, ValueKind.XATTR, self._volume, inode, one.value, name)
            except Corrupt as error:
                yield f"an extended attribute does not authenticate ({error})"

    @staticmethod
    def lease(attributes: Attributes) -> str | None:
        if 0 <= attributes.expires_s <= LATEST_LEASE_S:
            return None
        return f"its lease ends at {attributes.expires_s} s, which no lease does"


def ranges(attributes: Attributes, head: Head) -> range:
    """Numbers of the 256 MiB ranges of a file that has extents."""
    if attributes.inline is not None or head.kind is not Kind.FILE:
        return range(0)
    return range(max(len(head.digests), -(-head.size // DIGEST_RANGE_BYTES)))
