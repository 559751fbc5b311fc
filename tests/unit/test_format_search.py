"""Words, tokens and labels: what is the same word, what a token tells, and that a label belongs to its inode."""

import pytest
from bits import flipped
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Corrupt, Invalid
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.search import (
    LONGEST_PREFIX,
    MAX_NOTE_BYTES,
    MAX_TAGS,
    MAX_WORD_LETTERS,
    Content,
    Label,
    content_token,
    name_words,
    open_label,
    prefix_token,
    prefixes,
    seal_label,
    tokens,
    word_token,
    words,
)
from p2pfs.format.values import ValueKind, seal_value
from p2pfs.types import InodeId, VolumeId

pytestmark = pytest.mark.l0

KEYS, OTHERS = VolumeKeys.derive(bytes(range(32))), VolumeKeys.derive(bytes(32))
VOLUME, INODE = VolumeId(7), InodeId(8)
LABEL = Label(("invoice", "2026"), "paid in March", Content(bytes(16), 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Invoice 2026", ["invoice", "2026"]),
        ("invoice-2026_final.PDF", ["invoice", "2026", "final", "pdf"]),
        ("Cafe\u0301 CAFÉ", ["café"]),
        ("Straße STRASSE", ["strasse"]),
        ("ﬁle \uff21\uff22\uff23 ①", ["file", "abc", "1"]),
        ("हिन्दी", ["हिन्दी"]),
        ("--- !?", []),
        ("x" * 100, ["x" * MAX_WORD_LETTERS]),
    ],
)
def test_a_word_is_the_same_however_it_is_written(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(max_size=300))
def test_words_of_words_are_the_same(text: str) -> None:
    found = words(text)
    assert words(" ".join(found)) == found
    assert len(set(found)) == len(found)
    assert all(0 < len(word) <= MAX_WORD_LETTERS for word in found)


def test_names_that_are_no_text_have_words_too() -> None:
    assert name_words(b"Bill\xff2026.pdf") == ["bill", "2026", "pdf"]


def test_tokens_tell_apart_what_they_are_of() -> None:
    digest = b"word".ljust(32)
    made = {
        word_token(KEYS, VOLUME, "word"),
        word_token(OTHERS, VOLUME, "word"),
        word_token(KEYS, VolumeId(9), "word"),
        word_token(KEYS, VOLUME, "words"),
        prefix_token(KEYS, VOLUME, "word"),
        word_token(KEYS, VOLUME, digest.decode()),
        content_token(KEYS, VOLUME, digest),
    }
    assert len(made) == 7
    assert {len(token) for token in made} == {16}
    with pytest.raises(Invalid):
        content_token(KEYS, VOLUME, b"short")


def test_beginnings_have_tokens_only_where_that_is_wanted() -> None:
    assert prefixes("invoices2026") == ["in", "inv", "invo", "invoi", "invoic", "invoice", "invoices"]
    assert prefixes("ab") == ["ab"]
    assert prefixes("a") == []
    assert max(map(len, prefixes("x" * 99))) == LONGEST_PREFIX
    assert tokens(KEYS, VOLUME, ["b", "a", "b"], with_prefixes=False) == sorted(
        word_token(KEYS, VOLUME, word) for word in "ab"
    )
    assert len(tokens(KEYS, VOLUME, ["inv", "inx"], with_prefixes=True)) == 5  # "in" once


def test_a_label_comes_back_and_only_for_its_inode() -> None:
    sealed = seal_label(KEYS, VOLUME, INODE, LABEL)
    assert open_label(KEYS, VOLUME, INODE, sealed) == LABEL
    for keys, volume, inode in ((OTHERS, VOLUME, INODE), (KEYS, VolumeId(9), INODE), (KEYS, VOLUME, InodeId(9))):
        with pytest.raises(Corrupt):
            open_label(keys, volume, inode, sealed)
    for bit in range(8 * len(sealed)):
        with pytest.raises(Corrupt):
            open_label(KEYS, VOLUME, INODE, flipped(sealed, bit))


@pytest.mark.parametrize("kind", [ValueKind.INLINE, ValueKind.TARGET, ValueKind.XATTR])
def test_no_other_value_of_the_inode_is_its_label(kind: ValueKind) -> None:
    with pytest.raises(Corrupt):
        open_label(KEYS, VOLUME, INODE, seal_value(KEYS, kind, VOLUME, INODE, b"data"))


def test_the_length_of_a_label_shows_in_steps() -> None:
    lengths = {len(seal_label(KEYS, VOLUME, INODE, Label((), "x" * length))) for length in range(1, 130)}
    assert len(lengths) == 3


def test_what_is_too_much_is_refused() -> None:
    most = Label(tuple(f"{number:064d}" for number in range(MAX_TAGS)), "x" * MAX_NOTE_BYTES)
    assert len(seal_label(KEYS, VOLUME, INODE, most)) <= 32 << 10
    for label in (
        Label(tuple(map(str, range(MAX_TAGS + 1)))),
        Label((), "x" * (MAX_NOTE_BYTES + 1)),
        Label((), "\udcff"),
    ):
        with pytest.raises(Invalid):
            seal_label(KEYS, VOLUME, INODE, label)
