"""Access control lists as bytes, against the mode, and inherited."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Invalid
from p2pfs.format.acl import (
    GROUP,
    MASK,
    OTHERS,
    OWNER,
    OWNING_GROUP,
    USER,
    Entry,
    decode,
    encode,
    inherited,
    is_minimal,
    mode_of,
    with_mode,
)

pytestmark = pytest.mark.l0

MINIMAL = (Entry(OWNER, 6), Entry(OWNING_GROUP, 4), Entry(OTHERS, 0))
NAMED = (
    Entry(OWNER, 7),
    Entry(USER, 7, 1000),
    Entry(OWNING_GROUP, 5),
    Entry(GROUP, 6, 12),
    Entry(MASK, 6),
    Entry(OTHERS, 1),
)
permissions = st.integers(0, 7)
modes = st.integers(0, 0o777)


@st.composite
def acls(draw: st.DrawFn) -> tuple[Entry, ...]:
    named = [
        Entry(tag, draw(permissions), number)
        for tag in (USER, GROUP)
        for number in draw(st.sets(st.integers(0, 2**32 - 2), max_size=3))
    ]
    if named or draw(st.booleans()):
        named.append(Entry(MASK, draw(permissions)))
    return tuple(sorted([*named, *(Entry(tag, draw(permissions)) for tag in (OWNER, OWNING_GROUP, OTHERS))]))


@given(acls())
def test_what_is_encoded_decodes(acl: tuple[Entry, ...]) -> None:
    assert decode(encode(acl)) == acl


@given(acls(), modes)
def test_a_list_shows_the_mode_that_was_set(acl: tuple[Entry, ...], mode: int) -> None:
    changed = with_mode(acl, mode)
    assert mode_of(changed) == mode
    assert [(entry.tag, entry.id) for entry in changed] == [(entry.tag, entry.id) for entry in acl]


@given(acls(), modes)
def test_what_is_inherited_allows_no_more_than_list_and_mode(acl: tuple[Entry, ...], mode: int) -> None:
    assert mode_of(inherited(acl, mode)) == mode & mode_of(acl)


def test_the_mask_stands_in_for_the_group_and_named_entries_stay() -> None:
    assert mode_of(NAMED) == 0o761
    assert with_mode(NAMED, 0o640) == (
        Entry(OWNER, 6), Entry(USER, 7, 1000), Entry(OWNING_GROUP, 5), Entry(GROUP, 6, 12), Entry(MASK, 4),
        Entry(OTHERS, 0),
    )  # fmt: skip
    assert with_mode(MINIMAL, 0o751) == (Entry(OWNER, 7), Entry(OWNING_GROUP, 5), Entry(OTHERS, 1))
    assert (is_minimal(MINIMAL), is_minimal(NAMED)) == (True, False)
    assert not is_minimal((*MINIMAL[:2], Entry(MASK, 4), MINIMAL[2]))


def test_entries_in_any_order_are_one_list() -> None:
    assert decode(encode(NAMED[::-1])) == NAMED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\2\0\0",
        encode(MINIMAL)[:-1],
        b"\3" + encode(MINIMAL)[1:],
        encode(()),
        encode(MINIMAL[1:]),
        encode((*MINIMAL, Entry(OTHERS, 1))),
        encode((*MINIMAL, Entry(USER, 7, 1000))),  # no mask
        encode((*NAMED, Entry(USER, 1, 1000))),
        encode((*NAMED, Entry(MASK, 1))),
        encode((*MINIMAL[:2], Entry(OTHERS, 8))),
        encode((*MINIMAL, Entry(0x40, 1))),
    ],
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode(data)
