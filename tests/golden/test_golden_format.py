"""Frozen vectors: what format 1 wrote once, every later version seals the same and opens.

If one of these fails, data that people have stored would become unreadable: change the code, not the vectors.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from p2pfs.format import acl, phrases
from p2pfs.format.chunk import open_blocks, seal, verify
from p2pfs.format.extents import Extent, open_extent, seal_extent
from p2pfs.format.heads import Head, add, inline_digest, open_head, row_digest, seal_head
from p2pfs.format.indexing import Indexing, check_indexing, seal_indexing
from p2pfs.format.invites import Invite, decode_invite, encode_invite
from p2pfs.format.keys import VolumeKeys, guard_hash, slot_id, unwrap
from p2pfs.format.names import check_tag, dentry_tag, open_name, open_xattr_name, seal_name, seal_xattr_name
from p2pfs.format.search import (
    Content,
    Label,
    content_token,
    open_label,
    prefix_token,
    prefixes,
    seal_label,
    word_token,
    words,
)
from p2pfs.format.values import ValueKind, open_value, seal_value
from p2pfs.placement.candidates import Candidate
from p2pfs.placement.rendezvous import order
from p2pfs.types import ChunkId, ChunkKey, Kind
from p2pfs.wire.namespace import ExtentRow
from p2pfs.wire.volumes import KeySlot

pytestmark = pytest.mark.l0

Vector = dict[str, Any]
VECTORS: Vector = json.loads((Path(__file__).parent / "format.json").read_text())
KEYS = VolumeKeys.derive(bytes.fromhex(VECTORS["keys"]["master"]))


def some(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[kind])


def unhex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def test_sub_keys() -> None:
    for name in ("check", "content", "digest", "tag", "guard", "search", "settings"):
        assert getattr(KEYS, name).hex() == VECTORS["keys"][name]
    assert guard_hash(KEYS.guard).hex() == VECTORS["keys"]["guard_hash"]


@some("chunks")
def test_chunks(vector: Vector) -> None:
    plain = blake3(bytes.fromhex(vector["seed"])).digest(vector["length"])
    sealed = seal(KEYS, [plain])
    assert (sealed.key.hex(), sealed.id.hex()) == (vector["key"], vector["id"])
    assert blake3(sealed.data).hexdigest() == vector["sealed_blake3"]
    if "sealed" in vector:
        stored = bytes.fromhex(vector["sealed"])
        verify(ChunkId(bytes.fromhex(vector["id"])), stored)
        assert open_blocks(ChunkKey(bytes.fromhex(vector["key"])), stored, first=0, size=len(stored)) == plain


@some("extents")
def test_extents(vector: Vector) -> None:
    volume, inode = vector["volume"], vector["inode"]
    row = ExtentRow(vector["index"], vector["seq"], unhex(vector["chunk"]), bytes.fromhex(vector["sealed"]))
    extent = open_extent(KEYS, volume, inode, row)
    assert (extent.off, extent.length, extent.chunk_off) == (vector["off"], vector["length"], vector["chunk_off"])
    assert extent.key == unhex(vector["key"])
    assert seal_extent(KEYS, volume, inode, extent) == row
    assert f"{row_digest(KEYS, volume, inode, row):064x}" == vector["digest"]
    assert isinstance(extent, Extent)


def test_a_digest_of_several_extents() -> None:
    total = 0
    for vector in VECTORS["extents"]:
        total = add(total, int(vector["digest"], 16))
    assert f"{total:064x}" == VECTORS["digest_of_all_extents"]


@some("heads")
def test_heads(vector: Vector) -> None:
    digests = tuple(int(digest, 16) for digest in vector["digests"])
    head = Head(vector["change"], vector["size"], Kind(vector["kind"]), digests)
    sealed = bytes.fromhex(vector["sealed"])
    assert open_head(KEYS, vector["volume"], vector["inode"], sealed) == head
    assert seal_head(KEYS, vector["volume"], vector["inode"], head) == sealed


@some("names")
def test_names_and_tags(vector: Vector) -> None:
    volume, parent, inode, kind = vector["volume"], vector["parent"], vector["inode"], Kind(vector["kind"])
    name, sealed, tag = (bytes.fromhex(vector[key]) for key in ("name", "sealed", "tag"))
    assert open_name(KEYS, volume, parent, sealed) == name
    assert seal_name(KEYS, volume, parent, name) == sealed
    check_tag(KEYS, volume, parent, name, inode, kind, tag)
    assert dentry_tag(KEYS, volume, parent, name, inode, kind) == tag


@some("xattr_names")
def test_names_of_extended_attributes(vector: Vector) -> None:
    volume, inode = vector["volume"], vector["inode"]
    name, sealed = bytes.fromhex(vector["name"]), bytes.fromhex(vector["sealed"])
    assert open_xattr_name(KEYS, volume, inode, sealed) == name
    assert seal_xattr_name(KEYS, volume, inode, name) == sealed


@some("acls")
def test_access_control_lists(vector: Vector) -> None:
    entries = tuple(acl.Entry(*entry) for entry in vector["entries"])
    data = bytes.fromhex(vector["data"])
    assert acl.decode(data) == entries
    assert acl.encode(entries) == data


@some("values")
def test_values(vector: Vector) -> None:
    volume, inode, kind = vector["volume"], vector["inode"], ValueKind(vector["kind"])
    data, name, sealed = (bytes.fromhex(vector[key]) for key in ("data", "name", "sealed"))
    assert open_value(KEYS, kind, volume, inode, sealed, name) == data
    assert seal_value(KEYS, kind, volume, inode, data, name) == sealed
    if "inline_digest" in vector:
        assert f"{inline_digest(KEYS, volume, inode, sealed):064x}" == vector["inline_digest"]


@some("words")
def test_words(vector: Vector) -> None:
    assert words(vector["text"]) == vector["words"]


@some("tokens")
def test_tokens(vector: Vector) -> None:
    volume, word = vector["volume"], vector["word"]
    assert word_token(KEYS, volume, word).hex() == vector["token"]
    assert prefixes(word) == vector["prefixes"]
    assert [prefix_token(KEYS, volume, prefix).hex() for prefix in prefixes(word)] == vector["prefix_tokens"]


@some("contents")
def test_tokens_of_contents(vector: Vector) -> None:
    assert content_token(KEYS, vector["volume"], bytes.fromhex(vector["blake3"])).hex() == vector["token"]


@some("labels")
def test_labels(vector: Vector) -> None:
    volume, inode, sealed = vector["volume"], vector["inode"], bytes.fromhex(vector["sealed"])
    content = None if vector["content"] is None else Content(bytes.fromhex(vector["content"][0]), vector["content"][1])
    label = Label(tuple(vector["tags"]), vector["note"], content)
    assert open_label(KEYS, volume, inode, sealed) == label
    assert seal_label(KEYS, volume, inode, label) == sealed


@some("indexing")
def test_seals_of_what_is_indexed(vector: Vector) -> None:
    volume, names, prefixes, seal = vector["volume"], vector["names"], vector["prefixes"], bytes.fromhex(vector["seal"])
    indexing = Indexing(names, prefixes, vector["counter"])
    assert check_indexing(KEYS, volume, names=names, prefixes=prefixes, seal=seal) == indexing
    assert seal_indexing(KEYS, volume, indexing) == seal


@some("slots")
def test_key_slots(vector: Vector) -> None:
    slot = KeySlot(vector["kind"], bytes.fromhex(vector["wrapped"]))
    assert unwrap(slot, vector["secret"], floor_kib=vector["floor_kib"]).hex() == VECTORS["keys"]["master"]
    assert slot_id(slot) == vector["id"]


@some("phrases")
def test_recovery_phrases(vector: Vector) -> None:
    assert phrases.encode(bytes.fromhex(vector["secret"])) == vector["phrase"]
    assert phrases.decode(vector["phrase"]).hex() == vector["secret"]


@some("invites")
def test_invites(vector: Vector) -> None:
    invite = Invite(
        pool=vector["pool"],
        addresses=tuple(vector["addresses"]),
        ca_key=bytes.fromhex(vector["ca_key"]),
        coordinator=vector["coordinator"],
        secret=bytes.fromhex(vector["secret"]),
        expires_s=vector["expires_s"],
    )
    assert decode_invite(vector["text"]) == invite
    assert encode_invite(invite) == vector["text"]


def test_placement() -> None:
    peers = [Candidate(**peer) for peer in VECTORS["placement"]["peers"]]
    for vector in VECTORS["placement"]["orders"]:
        assert list(order(peers, vector["group"])) == vector["order"]
