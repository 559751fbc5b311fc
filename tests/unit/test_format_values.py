"""Inline content, targets and extended attributes: sealed for one inode and one use."""

import pytest
from bits import flipped
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Corrupt
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import seal_row
from p2pfs.format.values import VALUE_OVERHEAD, ValueKind, open_value, seal_value
from p2pfs.types import InodeId, VolumeId

pytestmark = pytest.mark.l0

KEYS = VolumeKeys.derive(bytes(range(32)))
VOLUME, INODE = VolumeId(12), InodeId(77)


@given(st.sampled_from(ValueKind), st.binary(max_size=20000), st.binary(max_size=255))
def test_what_is_sealed_opens(kind: ValueKind, data: bytes, name: bytes) -> None:
    sealed = seal_value(KEYS, kind, VOLUME, INODE, data, name)
    assert len(sealed) == len(data) + VALUE_OVERHEAD
    assert open_value(KEYS, kind, VOLUME, INODE, sealed, name) == data


@pytest.mark.parametrize("data", [b"", b"content"])
def test_every_single_bit_matters(data: bytes) -> None:
    sealed = seal_value(KEYS, ValueKind.INLINE, VOLUME, INODE, data)
    for bit in range(len(sealed) * 8):
        with pytest.raises(Corrupt):
            open_value(KEYS, ValueKind.INLINE, VOLUME, INODE, flipped(sealed, bit))
    for bit in range(63):
        with pytest.raises(Corrupt):
            open_value(KEYS, ValueKind.INLINE, VolumeId(VOLUME ^ 1 << bit), INODE, sealed)
        with pytest.raises(Corrupt):
            open_value(KEYS, ValueKind.INLINE, VOLUME, InodeId(INODE ^ 1 << bit), sealed)
    for length in range(len(sealed)):
        with pytest.raises(Corrupt):
            open_value(KEYS, ValueKind.INLINE, VOLUME, INODE, sealed[:length])


def test_a_value_of_one_kind_or_attribute_is_not_another() -> None:
    sealed = seal_value(KEYS, ValueKind.XATTR, VOLUME, INODE, b"data", b"user.one")
    for kind, name in (
        (ValueKind.XATTR, b"user.two"),
        (ValueKind.XATTR, b""),
        (ValueKind.INLINE, b"user.one"),
        (ValueKind.TARGET, b"user.one"),
    ):
        with pytest.raises(Corrupt):
            open_value(KEYS, kind, VOLUME, INODE, sealed, name)


def test_the_kind_inside_is_checked_too() -> None:
    context = b"\x01" + VOLUME.to_bytes(8, "big") + INODE.to_bytes(8, "big")
    with pytest.raises(Corrupt):
        open_value(KEYS, ValueKind.INLINE, VOLUME, INODE, seal_row(KEYS.values, KEYS.prefix, b"\x02data", context))
