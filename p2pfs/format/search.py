"""Search: words as tokens that tell nothing without the key, and what a file is labelled with, sealed for its inode.

Equal words of one volume give equal tokens, which is what the coordinator searches by, and all it learns: which inodes
have a word in common. The label (tags, note, content) is sealed beside them, so that it can be shown, and so that a
mount believes no answer that the label does not bear out. Called by vfs.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final

import msgspec
from blake3 import blake3

from p2pfs.errors import Corrupt, Invalid
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import open_row, seal_row
from p2pfs.format.values import ValueKind
from p2pfs.types import InodeId, VolumeId

TOKEN_BYTES: Final = 16
DIGEST_BYTES: Final = 32
"""BLAKE3 of a content: who makes a token of it need not have the content, nor the other the key."""
MAX_WORD_LETTERS: Final = 64
"""Longer words are cut: equal ones stay equal."""
SHORTEST_PREFIX: Final = 2
LONGEST_PREFIX: Final = 8
"""Letters of the prefixes that have tokens. What is longer is looked for by its first eight, and told by the label."""
MAX_TAGS: Final = 64
MAX_NOTE_BYTES: Final = 4096
MAX_NOTE_WORDS: Final = 64
"""Words of a note that are found; the note itself is kept whole."""
_WORD, _PREFIX, _CONTENT = 1, 2, 3
_TOKEN: Final = Struct(">BBQ")  # version, what it is of, volume; the word or digest follows
_VERSION: Final = 1
_CONTEXT: Final = Struct(">BQQ")  # ValueKind.LABEL, volume, inode
_STEP: Final = 64


@dataclass(frozen=True, slots=True)
class Content:
    """What a file's content was when its change was this one."""

    token: bytes
    change: int


@dataclass(frozen=True, slots=True)
class Label:
    """What somebody said of a file: words without order or repetition, and a note."""

    tags: tuple[str, ...] = ()
    note: str = ""
    content: Content | None = None

    def __bool__(self) -> bool:
        return bool(self.tags or self.note or self.content)


def words(text: str) -> list[str]:
    """The words of a text as they are compared, each once, in their order: runs of letters and digits, whatever their
    case and way of writing."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # marks belong to the letter before them: scripts whose vowels are marks would fall apart
    parts = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in plain).split()
    return list(dict.fromkeys(part[:MAX_WORD_LETTERS] for part in parts))


def name_words(name: bytes) -> list[str]:
    """The words of a file's name; what is no UTF-8 separates."""
    return words(name.decode("utf-8", errors="replace"))


def prefixes(word: str) -> list[str]:
    """The beginnings of a word that have tokens of their own, the word itself among them if it is short."""
    return [word[:length] for length in range(SHORTEST_PREFIX, min(len(word), LONGEST_PREFIX) + 1)]


def word_token(keys: VolumeKeys, volume: VolumeId, word: str) -> bytes:
    """Of a word from `words`."""
    return _token(keys, volume, _WORD, word.encode())


def prefix_token(keys: VolumeKeys, volume: VolumeId, prefix: str) -> bytes:
    """Of a beginning from `prefixes`."""
    return _token(keys, volume, _PREFIX, prefix.encode())


def content_token(keys: VolumeKeys, volume: VolumeId, digest: bytes) -> bytes:
    """Of BLAKE3 of a whole content. Raises Invalid."""
    if len(digest) != DIGEST_BYTES:
        raise Invalid(f"BLAKE3 has {DIGEST_BYTES} bytes")
    return _token(keys, volume, _CONTENT, digest)


def tokens(keys: VolumeKeys, volume: VolumeId, found: Iterable[str], *, with_prefixes: bool) -> list[bytes]:
    """The tokens of words, each once, sorted: their order in a text is not told."""
    made = set()
    for word in found:
        made.add(word_token(keys, volume, word))
        if with_prefixes:
            made.update(prefix_token(keys, volume, prefix) for prefix in prefixes(word))
    return sorted(made)


def seal_label(keys: VolumeKeys, volume: VolumeId, inode: InodeId, label: Label) -> bytes:
    """The sealed label; its length shows in steps of 64 bytes. Raises Invalid."""
    if len(label.tags) > MAX_TAGS:
        raise Invalid(f"a file has at most {MAX_TAGS} tags")
    try:
        note_bytes = len(label.note.encode())
    except UnicodeEncodeError:
        raise Invalid("a note is text") from None
    if note_bytes > MAX_NOTE_BYTES:
        raise Invalid(f"a note has at most {MAX_NOTE_BYTES} bytes")
    content = None if label.content is None else [label.content.token, label.content.change]
    packed = msgspec.msgpack.encode([list(label.tags), label.note, content])
    plain = bytes((ValueKind.LABEL,)) + len(packed).to_bytes(4, "big") + packed
    plain += bytes(-len(plain) % _STEP)
    return seal_row(keys.values, keys.prefix, plain, _CONTEXT.pack(ValueKind.LABEL, volume, inode))


def open_label(keys: VolumeKeys, volume: VolumeId, inode: InodeId, sealed: bytes) -> Label:
    """The label.

    Raises:
        Corrupt: It was not sealed as the label of this inode.
    """
    plain = open_row(keys.values, keys.prefix, sealed, _CONTEXT.pack(ValueKind.LABEL, volume, inode))
    packed = plain[5 : 5 + int.from_bytes(plain[1:5], "big")]
    try:
        tags, note, content = msgspec.msgpack.decode(packed, type=tuple[list[str], str, tuple[bytes, int] | None])
    except msgspec.DecodeError:
        raise Corrupt("a sealed label is malformed") from None
    if plain[0] != ValueKind.LABEL:
        raise Corrupt("a sealed label is of another kind")
    return Label(tuple(tags), note, None if content is None else Content(*content))


def _token(keys: VolumeKeys, volume: VolumeId, of: int, data: bytes) -> bytes:
    return blake3(_TOKEN.pack(_VERSION, of, volume) + data, key=keys.search).digest(TOKEN_BYTES)
