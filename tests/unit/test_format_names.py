"""Names: found again when sealed again, useless elsewhere; tags tie a name to one inode."""

import pytest
from bits import flipped
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Corrupt, Invalid, TooLarge
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import check_tag, dentry_tag, open_name, open_xattr_name, seal_name, seal_xattr_name
from p2pfs.format.rows import seal_row
from p2pfs.types import InodeId, Kind, VolumeId

pytestmark = pytest.mark.l0

KEYS = VolumeKeys.derive(bytes(range(32)))
VOLUME, PARENT = VolumeId(12), InodeId(77)
NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@given(NAMES)
def test_what_is_sealed_opens_and_is_found_again(name: bytes) -> None:
    sealed = seal_name(KEYS, VOLUME, PARENT, name)
    assert open_name(KEYS, VOLUME, PARENT, sealed) == name
    assert seal_name(KEYS, VOLUME, PARENT, name) == sealed


def test_lengths_show_only_in_steps_of_32() -> None:
    lengths = {size: len(seal_name(KEYS, VOLUME, PARENT, b"n" * size)) for size in range(1, 256)}
    assert {length - 19 for length in lengths.values()} == set(range(32, 257, 32))
    assert lengths[1] == lengths[31] != lengths[32] == lengths[63]
    assert max(lengths.values()) == 275


def test_one_name_in_two_directories_or_volumes_looks_different() -> None:
    made = {
        seal_name(KEYS, VOLUME, PARENT, b"name"),
        seal_name(KEYS, VOLUME, InodeId(78), b"name"),
        seal_name(KEYS, VolumeId(13), PARENT, b"name"),
        seal_name(VolumeKeys.derive(bytes(32)), VOLUME, PARENT, b"name"),
    }
    assert len(made) == 4


def test_every_single_bit_of_a_sealed_name_matters() -> None:
    sealed = seal_name(KEYS, VOLUME, PARENT, b"name")
    for bit in range(len(sealed) * 8):
        with pytest.raises(Corrupt):
            open_name(KEYS, VOLUME, PARENT, flipped(sealed, bit))
    for bit in range(63):
        with pytest.raises(Corrupt):
            open_name(KEYS, VOLUME, InodeId(PARENT ^ 1 << bit), sealed)
        with pytest.raises(Corrupt):
            open_name(KEYS, VolumeId(VOLUME ^ 1 << bit), PARENT, sealed)
    for length in range(len(sealed)):
        with pytest.raises(Corrupt):
            open_name(KEYS, VOLUME, PARENT, sealed[:length])


def test_names_no_file_can_have_are_refused() -> None:
    with pytest.raises(TooLarge):
        seal_name(KEYS, VOLUME, PARENT, b"n" * 256)
    for name in (b"", b".", b"..", b"a/b", b"a\0"):
        with pytest.raises(Invalid):
            seal_name(KEYS, VOLUME, PARENT, name)


@pytest.mark.parametrize(
    "plain",
    [
        bytes(32),  # no name
        b"\x02ab" + bytes(28),  # 31 bytes
        b"\x02ab" + bytes(28) + b"x",  # something in the padding
        b"\x20" + b"n" * 31,  # says more than there is
        b"\x02.." + bytes(29),
        b"\x03a/b" + bytes(28),
    ],
)
def test_a_sealed_name_that_is_none_is_corrupt(plain: bytes) -> None:
    """Only a member could seal these: a path that leaves the mount, say."""
    context = VOLUME.to_bytes(8, "big") + PARENT.to_bytes(8, "big")
    with pytest.raises(Corrupt):
        open_name(KEYS, VOLUME, PARENT, seal_row(KEYS.names, KEYS.prefix, plain, context))


def test_a_tag_holds_for_its_dentry_and_no_other() -> None:
    inode = InodeId(5)
    tag = dentry_tag(KEYS, VOLUME, PARENT, b"name", inode, Kind.FILE)
    assert len(tag) == 16
    check_tag(KEYS, VOLUME, PARENT, b"name", inode, Kind.FILE, tag)
    for bit in range(128):
        with pytest.raises(Corrupt):
            check_tag(KEYS, VOLUME, PARENT, b"name", inode, Kind.FILE, flipped(tag, bit))
    with pytest.raises(Corrupt):
        check_tag(KEYS, VolumeId(13), PARENT, b"name", inode, Kind.FILE, tag)
    with pytest.raises(Corrupt):
        check_tag(KEYS, VOLUME, InodeId(78), b"name", inode, Kind.FILE, tag)
    with pytest.raises(Corrupt):
        check_tag(KEYS, VOLUME, PARENT, b"names", inode, Kind.FILE, tag)
    with pytest.raises(Corrupt):
        check_tag(KEYS, VOLUME, PARENT, b"name", InodeId(6), Kind.FILE, tag)
    with pytest.raises(Corrupt):
        check_tag(KEYS, VOLUME, PARENT, b"name", inode, Kind.SYMLINK, tag)
    with pytest.raises(Corrupt):
        check_tag(VolumeKeys.derive(bytes(32)), VOLUME, PARENT, b"name", inode, Kind.FILE, tag)
    for wrong in (b"", tag[:15], tag + b"\0"):
        with pytest.raises(Corrupt):
            check_tag(KEYS, VOLUME, PARENT, b"name", inode, Kind.FILE, wrong)


@given(st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name))
def test_the_name_of_an_attribute_opens_for_its_inode_only(name: bytes) -> None:
    sealed = seal_xattr_name(KEYS, VOLUME, PARENT, name)
    assert open_xattr_name(KEYS, VOLUME, PARENT, sealed) == name
    assert seal_xattr_name(KEYS, VOLUME, PARENT, name) == sealed
    assert len(sealed) == 19 + -(-(len(name) + 1) // 32) * 32
    with pytest.raises(Corrupt):
        open_xattr_name(KEYS, VOLUME, InodeId(PARENT + 1), sealed)
    with pytest.raises(Corrupt):
        open_xattr_name(KEYS, VolumeId(VOLUME + 1), PARENT, sealed)


def test_names_of_attributes_and_of_files_are_not_each_other() -> None:
    with pytest.raises(Corrupt):
        open_name(KEYS, VOLUME, PARENT, seal_xattr_name(KEYS, VOLUME, PARENT, b"user.name"))
    with pytest.raises(Corrupt):
        open_xattr_name(KEYS, VOLUME, PARENT, seal_name(KEYS, VOLUME, PARENT, b"user.name"))


def test_every_bit_of_an_attributes_name_matters() -> None:
    sealed = seal_xattr_name(KEYS, VOLUME, PARENT, b"user.name")
    for bit in range(len(sealed) * 8):
        with pytest.raises(Corrupt):
            open_xattr_name(KEYS, VOLUME, PARENT, flipped(sealed, bit))


def test_names_no_attribute_can_have_are_refused() -> None:
    with pytest.raises(TooLarge):
        seal_xattr_name(KEYS, VOLUME, PARENT, b"n" * 256)
    for name in (b"", b"user.a\0"):
        with pytest.raises(Invalid):
            seal_xattr_name(KEYS, VOLUME, PARENT, name)
    for plain in (bytes(32), b"\x02ab" + bytes(28) + b"x", b"\x02a\0" + bytes(29)):
        context = b"\3" + VOLUME.to_bytes(8, "big") + PARENT.to_bytes(8, "big")
        with pytest.raises(Corrupt):
            open_xattr_name(KEYS, VOLUME, PARENT, seal_row(KEYS.names, KEYS.prefix, plain, context))
