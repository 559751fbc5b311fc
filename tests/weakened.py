"""Readers with one check taken out, each: what they show must be caught by the tests of promise P3.

Every function takes pytest's monkeypatch. Test code only; the product has no switch for any of this.
"""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from volumes import KEYS

from p2pfs.format import extents, heads, names, values
from p2pfs.format import keys as format_keys
from p2pfs.format.heads import open_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.ranges import SEALED_BLOCK_BYTES
from p2pfs.format.rows import PREFIX_BYTES, SIV_BYTES
from p2pfs.types import TAG_BYTES, Buffer, ChunkId, ChunkKey, InodeId, VolumeId
from p2pfs.vfs import glimpses, inodes, reader, tree
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.inodes import Inode, Page
from p2pfs.wire.namespace import Attributes, ExtentPage

MASTER = bytes(range(32))


def blocks_open_without_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """AES-GCM as plain counter mode: bytes come out whatever went in."""

    def open_blocks(
        key: ChunkKey, sealed: Buffer, *, first: int, size: int, into: memoryview | None = None
    ) -> memoryview:
        plain = bytearray()
        for number, at in enumerate(range(0, len(sealed), SEALED_BLOCK_BYTES)):
            block = bytes(sealed[at : at + SEALED_BLOCK_BYTES])[:-TAG_BYTES]
            is_last = (first + number + 1) * SEALED_BLOCK_BYTES >= size
            nonce = bytes((is_last,)) + (first + number).to_bytes(11, "big")
            plain += _counter(key, nonce + b"\0\0\0\2", block)
        return memoryview(plain)

    monkeypatch.setattr(reader, "open_blocks", open_blocks)


def rows_open_without_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    """AES-SIV as plain counter mode, for heads, extents, names and values."""
    keys = {
        id(getattr(KEYS, label)): format_keys._sub_key(MASTER, label, 64)[32:]
        for label in ("extents", "heads", "names", "values")
    }

    def open_row(siv: AESSIV, start: bytes, sealed: bytes, context: bytes) -> bytes:
        iv = bytearray(sealed[PREFIX_BYTES : PREFIX_BYTES + SIV_BYTES].ljust(SIV_BYTES, b"\0"))
        iv[8] &= 0x7F
        iv[12] &= 0x7F
        return _counter(keys[id(siv)], bytes(iv), sealed[PREFIX_BYTES + SIV_BYTES :])

    for module in (extents, heads, names, values):
        monkeypatch.setattr(module, "open_row", open_row)


def extents_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rows come are the file: layers can be hidden, holes punched, older extents shown."""

    def take_page(self: Inode, page: ExtentPage, range_number: int) -> Page:
        loaded = Page(page.extents, {ChunkId(place.chunk): place.size for place in page.places})
        self.pages[range_number] = loaded
        return loaded

    monkeypatch.setattr(Inode, "take_page", take_page)


def inline_data_is_not_compared_with_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inode, "check_inline", lambda self: self.attributes.inline)


def heads_may_be_of_another_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head opens, but what stands beside it is believed: the change that tells old from new."""

    def opened_head(keys: VolumeKeys, volume: VolumeId, attributes: Attributes) -> heads.Head:
        return open_head(keys, volume, InodeId(attributes.inode), attributes.head)

    for module in (inodes, glimpses):
        monkeypatch.setattr(module, "opened_head", opened_head)


def tags_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name leads wherever the coordinator says."""
    monkeypatch.setattr(tree, "check_tag", lambda *arguments: None)


def older_states_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount forgets what it has seen."""

    def refresh(self: Inode, attributes: Attributes) -> bool:
        self.head = inodes.opened_head(self._keys, self._volume, attributes)
        self.pages.clear()
        self.inline, self.size, self.attributes = None, self.head.size, attributes
        return True

    monkeypatch.setattr(Inode, "refresh", refresh)


def forgotten_inodes_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only inodes in memory are known to have been newer."""
    monkeypatch.setattr(InodeTable, "_remember_change", lambda self, inode: None)


def another_inode_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes are not asked whose they are."""

    async def inode(self: tree.Tree, number: InodeId) -> Inode:
        return self._table.take(await self._namespace.attributes(number))[0]

    monkeypatch.setattr(tree.Tree, "inode", inode)


def _counter(key: bytes, start: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(start)).decryptor().update(data)
