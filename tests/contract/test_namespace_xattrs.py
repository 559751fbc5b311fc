"""What every Namespace does with extended attributes: one suite over all of them."""

import pytest
from msgspec.structs import replace
from namespaces import Hand, World

from p2pfs.errors import (
    AttributeTooLarge,
    Denied,
    Exists,
    Invalid,
    Misuse,
    NoAttribute,
    NoSpace,
    NotFound,
)
from p2pfs.types import (
    KIB,
    MIB,
    ROOT_INODE,
    InodeId,
)
from p2pfs.wire.namespace import (
    XATTR_CREATE,
    XATTR_REPLACE,
    Released,
    RemoveXattr,
    SetAttributes,
    SetXattr,
)

pytestmark = pytest.mark.l1


async def attributes(hand: Hand, inode: int):  # noqa: ANN201
    return await hand.namespace.attributes(InodeId(inode))


async def xattrs(hand: Hand, inode: int) -> dict[bytes, bytes]:
    page = await hand.namespace.xattrs(InodeId(inode))
    assert page.attributes == await attributes(hand, inode)
    found = {xattr.name: xattr.value for xattr in page.xattrs}
    assert len(found) == len(page.xattrs)
    return found


async def set_xattr(hand: Hand, inode: int, name: bytes, value: bytes, flags: int = 0):  # noqa: ANN201
    applied = await hand.namespace.apply([SetXattr(inode, name, value, flags, hand.now())])
    (row,) = applied.attributes
    return row


async def test_extended_attributes_are_set_replaced_and_removed(hand: Hand) -> None:
    inode, other = await hand.make(b"file"), await hand.directory(b"directory")
    assert await xattrs(hand, inode) == {}
    before = await attributes(hand, inode)
    await set_xattr(hand, inode, b"one", b"1")
    await set_xattr(hand, inode, b"two", b"")
    after = await set_xattr(hand, inode, b"one", b"other")
    await set_xattr(hand, other, b"one", b"of the directory")
    assert await xattrs(hand, inode) == {b"one": b"other", b"two": b""}
    assert after.attr_change > before.attr_change
    assert after.ctime_ns > before.ctime_ns
    assert (after.mtime_ns, after.change, after.size) == (before.mtime_ns, before.change, before.size)
    applied = await hand.namespace.apply([RemoveXattr(inode, b"one", hand.now())])
    assert [row.attr_change > after.attr_change for row in applied.attributes] == [True]
    assert await xattrs(hand, inode) == {b"two": b""}
    assert await xattrs(hand, other) == {b"one": b"of the directory"}


async def test_an_inode_can_be_made_with_extended_attributes(hand: Hand) -> None:
    make = await hand.make_operation(b"file")
    applied = await hand.namespace.apply([make, SetXattr(make.inode, b"name", b"value", 0, make.time_ns)])
    assert {row.inode for row in applied.attributes} == {make.inode, ROOT_INODE}
    assert await xattrs(hand, make.inode) == {b"name": b"value"}


async def test_setting_can_demand_that_the_attribute_is_new_or_there(hand: Hand) -> None:
    inode = await hand.make(b"file")
    with pytest.raises(NoAttribute):
        await set_xattr(hand, inode, b"name", b"1", XATTR_REPLACE)
    await set_xattr(hand, inode, b"name", b"2", XATTR_CREATE)
    with pytest.raises(Exists):
        await set_xattr(hand, inode, b"name", b"3", XATTR_CREATE)
    await set_xattr(hand, inode, b"name", b"4", XATTR_REPLACE)
    assert await xattrs(hand, inode) == {b"name": b"4"}
    with pytest.raises(NoAttribute):
        await hand.namespace.apply([RemoveXattr(inode, b"another", hand.now())])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"inode": 999_999}, NotFound),
        ({"name": b""}, Misuse),
        ({"name": bytes(513)}, Misuse),
        ({"value": bytes(64 * KIB + 65)}, AttributeTooLarge),
        ({"flags": XATTR_CREATE | XATTR_REPLACE}, Invalid),
        ({"flags": -1}, Invalid),
    ],
)
async def test_impossible_attributes_are_refused(hand: Hand, change: dict[str, object], error: type[Exception]) -> None:
    inode = await hand.make(b"file")
    with pytest.raises(error):
        await hand.namespace.apply([replace(SetXattr(inode, b"name", b"value", 0, hand.now()), **change)])
    assert await xattrs(hand, inode) == {}
    with pytest.raises(NotFound):
        await hand.namespace.xattrs(InodeId(999_999))
    with pytest.raises(NotFound):
        await hand.namespace.apply([RemoveXattr(999_999, b"name", hand.now())])


async def test_an_inode_has_at_most_a_thousand_attributes(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.namespace.apply([SetXattr(inode, b"%d" % n, b"", 0, hand.now()) for n in range(1000)])
    with pytest.raises(NoSpace):
        await set_xattr(hand, inode, b"one more", b"")
    await set_xattr(hand, inode, b"7", b"replaced")
    await hand.namespace.apply([RemoveXattr(inode, b"8", hand.now()), SetXattr(inode, b"other", b"", 0, hand.now())])
    assert len(await xattrs(hand, inode)) == 1000


async def test_attributes_of_an_inode_have_at_most_a_megabyte(hand: Hand) -> None:
    inode = await hand.make(b"file")
    names = [b"%02d" % n for n in range(16)]
    size = MIB // 16 - 2
    await hand.namespace.apply([SetXattr(inode, name, bytes(size), 0, hand.now()) for name in names])
    for name, value in ((b"more", b""), (b"07", bytes(size + 1))):
        with pytest.raises(NoSpace):
            await set_xattr(hand, inode, name, value)
    await set_xattr(hand, inode, b"07", b"x" * (size - 4))
    await set_xattr(hand, inode, b"more", b"")
    assert (await xattrs(hand, inode))[b"07"] == b"x" * (size - 4)


async def test_a_refused_batch_changes_no_attribute(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await set_xattr(hand, inode, b"kept", b"as it was")
    for last in (RemoveXattr(inode, b"nothing", 1), SetAttributes(999_999, 1, mode=0)):
        with pytest.raises((NoAttribute, NotFound)):
            await hand.namespace.apply(
                [SetXattr(inode, b"kept", b"x", 0, 1), SetXattr(inode, b"new", b"x", 0, 1), last]
            )
    assert await xattrs(hand, inode) == {b"kept": b"as it was"}


async def test_attributes_go_with_their_inode(pool: World, hand: Hand) -> None:
    kept, gone = await hand.make(b"kept"), await hand.make(b"gone", opened=True)
    for inode in (kept, gone):
        await set_xattr(hand, inode, b"name", b"value")
    await hand.link(kept, b"again")
    await hand.unlink(b"kept", kept)
    await hand.unlink(b"gone", gone)
    assert await xattrs(hand, gone) == {b"name": b"value"}
    await hand.namespace.apply([Released(gone)])
    with pytest.raises(NotFound):
        await hand.namespace.xattrs(InodeId(gone))
    other = await pool.mount()
    assert [xattr.value for xattr in (await other.xattrs(InodeId(kept))).xattrs] == [b"value"]


async def test_a_read_only_session_reads_attributes_and_sets_none(pool: World, hand: Hand) -> None:
    inode = await hand.make(b"file")
    await set_xattr(hand, inode, b"name", b"value")
    reader = Hand(await pool.mount(read_only=True))
    assert await xattrs(reader, inode) == {b"name": b"value"}
    for operation in (SetXattr(inode, b"name", b"x", 0, 1), RemoveXattr(inode, b"name", 1)):
        with pytest.raises(Denied):
            await reader.namespace.apply([operation])
