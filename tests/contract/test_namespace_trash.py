"""What every Namespace does with leases and with what lost its last name while its volume keeps trash."""

import msgspec
import pytest
from namespaces import Hand, World, new_chunk
from namespaces import extent as extent_of

from p2pfs.errors import Exists, Misuse, NotDirectory, NotFound
from p2pfs.types import ROOT_INODE, DentryId, InodeId, Kind
from p2pfs.wire.leases import PurgeTrash, Reason, Restore, SetLease
from p2pfs.wire.namespace import Attributes, Opened, Released, SetXattr, TrashRow, Unlink

pytestmark = pytest.mark.l1


@pytest.fixture
def trash_s() -> float:
    return 3600.0


async def trash(hand: Hand, parent: int = 0) -> dict[int, TrashRow]:
    page = await hand.namespace.trash(0, 100, parent)
    assert page.complete
    return {row.entry.attributes.inode: row for row in page.rows}


async def remove(
    hand: Hand, name: bytes, inode: int, *, parent: int = ROOT_INODE, directory: bool = False
) -> list[int]:
    """Once it is committed: what a batch makes and removes leaves nothing."""
    await hand.namespace.settle()
    return await hand.unlink(name, inode, parent=parent, directory=directory)


async def is_gone(hand: Hand, inode: int) -> bool:
    try:
        await hand.namespace.attributes(InodeId(inode))
    except NotFound:
        return True
    return False


async def restore(hand: Hand, row: TrashRow, **more: int | bytes) -> Attributes:
    """To where it was, or elsewhere."""
    inode = row.entry.attributes.inode
    fields = {"parent": row.parent, "name": row.entry.name} | more
    operation = Restore(
        inode,
        fields["parent"],
        fields["name"],
        row.entry.dentry,
        row.entry.tag,
        hand.now(),  # type: ignore[arg-type]
    )
    applied = await hand.namespace.apply([operation])
    return next(found for found in applied.attributes if found.inode == inode)


async def test_what_loses_its_last_name_is_in_the_trash_and_otherwise_gone(hand: Hand) -> None:
    inode = await hand.make(b"file")
    before = await hand.namespace.space()
    (entry,) = await hand.entries()
    assert await remove(hand, b"file", inode) == [inode]
    assert await is_gone(hand, inode)
    assert await hand.names() == []
    row = (await trash(hand))[inode]
    assert (row.parent, row.reason) == (ROOT_INODE, Reason.REMOVED)
    assert (row.entry.name, row.entry.dentry, row.entry.tag) == (b"file", entry.dentry, entry.tag)
    assert row.purge_s - row.removed_s == 3600.0
    assert (await hand.namespace.space()).inodes == before.inodes - 1
    for question in (hand.namespace.extents(InodeId(inode), 0), hand.namespace.xattrs(InodeId(inode))):
        with pytest.raises(NotFound):
            await question
    with pytest.raises(NotFound):
        await hand.namespace.apply([Opened(inode)])


async def test_it_comes_back_with_all_it_had(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, size=2000, extents=[extent_of(0, 1, 7)], chunks=[new_chunk(7)])
    await hand.namespace.apply([SetXattr(inode, b"sealed name", b"value", 0, hand.now())])
    await hand.namespace.apply([SetLease(inode, 1 << 40)])
    before = await hand.namespace.attributes(InodeId(inode))
    pages = await hand.namespace.extents(InodeId(inode), 0), await hand.namespace.xattrs(InodeId(inode))
    entries = await hand.entries()
    await remove(hand, b"file", inode)
    assert (await hand.namespace.space()).trash == 2000
    row = await restore(hand, (await trash(hand))[inode])
    assert (row.links, row.size, row.change, row.head) == (1, 2000, before.change, before.head)
    assert row.expires_s == 1 << 40
    assert row.attr_change > before.attr_change
    assert [entry.dentry for entry in await hand.entries()] == [entry.dentry for entry in entries]
    assert (await hand.namespace.extents(InodeId(inode), 0)).extents == pages[0].extents
    assert (await hand.namespace.xattrs(InodeId(inode))).xattrs == pages[1].xattrs
    assert await trash(hand) == {}
    assert (await hand.namespace.space()).trash == 0
    await hand.commit(inode, before.change, size=0, clear_inline=True)


async def test_a_tree_comes_back_from_the_top(hand: Hand) -> None:
    top = await hand.directory(b"top")
    below = await hand.directory(b"below", parent=top)
    leaf = await hand.make(b"leaf", parent=below)
    await remove(hand, b"leaf", leaf, parent=below)
    await remove(hand, b"below", below, parent=top, directory=True)
    await remove(hand, b"top", top, directory=True)
    rows = await trash(hand)
    assert {inode: row.parent for inode, row in rows.items()} == {top: ROOT_INODE, below: top, leaf: below}
    assert (await trash(hand, top)).keys() == {below}
    with pytest.raises(NotFound):
        await restore(hand, rows[leaf])
    with pytest.raises(NotFound):
        await hand.namespace.directory(InodeId(top), DentryId(0), 10)
    assert (await restore(hand, rows[top])).links == 2
    assert (await restore(hand, rows[below])).links == 2
    await restore(hand, rows[leaf])
    assert (await hand.namespace.attributes(InodeId(top))).links == 3
    assert (await hand.namespace.attributes(ROOT_INODE)).links == 3
    assert await hand.names(below) == [b"leaf"]
    await hand.rename(b"leaf", leaf, b"moved", parent=below, new_parent=top)
    with pytest.raises(NotFound):
        await restore(hand, rows[leaf])


async def test_it_comes_back_elsewhere_and_under_another_name(hand: Hand) -> None:
    inode, other = await hand.make(b"file"), await hand.directory(b"other")
    await remove(hand, b"file", inode)
    taken = await hand.make(b"file")
    row = (await trash(hand))[inode]
    with pytest.raises(Exists):
        await restore(hand, row)
    with pytest.raises(NotDirectory):
        await restore(hand, row, parent=taken)
    assert await trash(hand) == {inode: row}
    await restore(hand, row, parent=other, name=b"again")
    assert await hand.names(other) == [b"again"]
    assert [(named.parent, named.entry.name) for named in await hand.namespace.names(InodeId(inode))] == [
        (other, b"again")
    ]


async def test_what_is_replaced_goes_there_too_and_what_has_another_name_does_not(hand: Hand) -> None:
    old, new = await hand.make(b"file"), await hand.make(b"new")
    await hand.link(old, b"second")
    await hand.rename(b"new", new, b"file", replaced=old)
    assert await trash(hand) == {}
    newer = await hand.make(b"newer")
    await hand.namespace.settle()
    await hand.rename(b"newer", newer, b"file", replaced=new)
    assert {inode: row.reason for inode, row in (await trash(hand)).items()} == {new: Reason.REPLACED}


async def test_what_the_batch_itself_made_leaves_nothing(hand: Hand) -> None:
    make = await hand.make_operation(b"brief")
    applied = await hand.namespace.apply([make, Unlink(ROOT_INODE, b"brief", make.inode, False, hand.now())])
    assert applied.removed == [make.inode]
    await hand.namespace.settle()
    assert await trash(hand) == {}


async def test_what_is_open_stays_open_and_is_left_to_the_trash_when_it_is_closed(hand: Hand) -> None:
    inode = await hand.make(b"file", opened=True)
    space = await hand.namespace.space()
    assert await remove(hand, b"file", inode) == []
    assert (await hand.commit(inode, 0, size=5, inline=b"inline")).links == 0
    assert (await trash(hand)).keys() == {inode}
    assert await hand.namespace.space() == msgspec.structs.replace(space, used=5)
    applied = await hand.namespace.apply([Released(inode)])
    assert applied.removed == [inode]
    assert await is_gone(hand, inode)
    after = await hand.namespace.space()
    assert (after.inodes, after.trash) == (space.inodes - 1, 5)
    row = await restore(hand, (await trash(hand))[inode])
    assert (row.inline, row.change) == (b"inline", 1)


async def test_what_is_let_go_before_its_time_is_gone_or_stays_while_it_is_open(pool: World, hand: Hand) -> None:
    closed, opened = await hand.make(b"closed"), await hand.make(b"opened", opened=True)
    await remove(hand, b"closed", closed)
    await remove(hand, b"opened", opened)
    await hand.namespace.apply([PurgeTrash(closed), PurgeTrash(opened)])
    await pool.reap()
    assert await trash(hand) == {}
    assert (await hand.namespace.attributes(InodeId(opened))).links == 0
    for inode in (closed, opened):
        with pytest.raises(NotFound):
            await hand.namespace.apply([PurgeTrash(inode)])
    await hand.namespace.apply([Released(opened)])
    assert await is_gone(hand, opened)
    assert await trash(hand) == {}


async def test_the_trash_is_told_page_by_page(hand: Hand) -> None:
    inodes = [await hand.make(b"%d" % at) for at in range(5)]
    for at, inode in enumerate(inodes):
        await remove(hand, b"%d" % at, inode)
    found: list[int] = []
    while True:
        page = await hand.namespace.trash(found[-1] if found else 0, 2)
        found += [row.entry.attributes.inode for row in page.rows]
        if page.complete:
            break
    assert found == inodes
    with pytest.raises(Misuse):
        await hand.namespace.trash(0, 0)


# ---- leases ---------------------------------------------------------------------------------------------------------


async def test_what_is_made_takes_the_lease_of_its_directory(hand: Hand) -> None:
    assert (await hand.namespace.attributes(ROOT_INODE)).expires_s == 0
    top = await hand.directory(b"top")
    await hand.namespace.apply([SetLease(top, 5000)])
    below = await hand.directory(b"below", parent=top)
    leaf = await hand.make(b"leaf", parent=below)
    assert (await hand.namespace.attributes(InodeId(leaf))).expires_s == 5000
    await hand.rename(b"leaf", leaf, b"leaf", parent=below, new_parent=ROOT_INODE)
    await hand.namespace.apply([SetLease(below, 1 << 62)])
    assert (await hand.namespace.attributes(InodeId(leaf))).expires_s == 5000
    assert (await hand.namespace.attributes(InodeId(below))).expires_s == 1 << 62


async def test_a_lease_that_is_over_is_not_passed_on(hand: Hand) -> None:
    top = await hand.directory(b"top")
    await hand.namespace.apply([SetLease(top, 5000)])
    at_end = 5000 * 10**9
    leaf = await hand.make(b"leaf", parent=top, time_ns=at_end)
    assert (await hand.namespace.attributes(InodeId(leaf))).expires_s == 0
    before = await hand.make(b"before", parent=top, time_ns=at_end - 1)
    assert (await hand.namespace.attributes(InodeId(before))).expires_s == 5000


async def test_a_lease_changes_nothing_else_and_must_be_a_time(hand: Hand) -> None:
    inode = await hand.make(b"file")
    before = await hand.namespace.attributes(InodeId(inode))
    await hand.namespace.apply([SetLease(inode, 77)])
    after = await hand.namespace.attributes(InodeId(inode))
    assert (after.ctime_ns, after.mtime_ns, after.change) == (before.ctime_ns, before.mtime_ns, before.change)
    assert after.attr_change > before.attr_change
    for wrong in (-1, (1 << 62) + 1):
        with pytest.raises(Misuse):
            await hand.namespace.apply([SetLease(inode, wrong)])
    with pytest.raises(NotFound):
        await hand.namespace.apply([SetLease(1 << 40, 77)])


async def test_what_expires_first_is_told_first_with_one_of_its_names(hand: Hand) -> None:
    late, early, never, removed = [await hand.make(name) for name in (b"late", b"early", b"never", b"removed")]
    for inode, expires_s in ((late, 900), (early, 100), (removed, 50)):
        await hand.namespace.apply([SetLease(inode, expires_s)])
    await remove(hand, b"removed", removed)
    await hand.namespace.apply([SetLease(ROOT_INODE, 500)])
    found: list[tuple[int, int]] = [(0, 0)]
    names = []
    while True:
        page = await hand.namespace.expiring(1000, found[-1], 1)
        for row in page.rows:
            found.append((row.entry.attributes.expires_s, row.entry.attributes.inode))
            names.append((row.parent, row.entry.name))
        if page.complete:
            break
    assert found[1:] == [(100, early), (500, ROOT_INODE), (900, late)]
    assert names == [(ROOT_INODE, b"early"), (ROOT_INODE, b""), (ROOT_INODE, b"late")]
    assert (await hand.namespace.expiring(500, (0, 0), 10)).rows[-1].entry.attributes.inode == early
    assert never not in [inode for _, inode in found]


async def test_an_inode_has_all_its_names_and_the_root_has_none(hand: Hand) -> None:
    directory = await hand.make(b"directory", kind=Kind.DIRECTORY)
    inode = await hand.make(b"one")
    await hand.link(inode, b"two", parent=directory)
    found = await hand.namespace.names(InodeId(inode))
    assert {(named.parent, named.entry.name) for named in found} == {(ROOT_INODE, b"one"), (directory, b"two")}
    first = found[0]
    assert await hand.namespace.names(InodeId(inode), (first.parent, first.entry.dentry)) == found[1:]
    assert await hand.namespace.names(ROOT_INODE) == []
    with pytest.raises(NotFound):
        await hand.namespace.names(InodeId(1 << 40))


async def test_other_mounts_are_told_what_came_back_and_see_it(pool: World, hand: Hand) -> None:
    other = Hand(await pool.mount())
    inode = await hand.make(b"file")
    await hand.unlink(b"file", inode)
    await other.namespace.apply([Released(inode)])  # which was kept for it
    assert await other.names() == []
    await other.namespace.events(0.0)
    await other.namespace.events(0.0)
    await restore(hand, (await trash(other))[inode])
    told = await other.namespace.events(0.0)
    assert [(changed.parent, changed.name) for changed in told.names] == [(ROOT_INODE, b"file")]
    assert ROOT_INODE in {changed.inode for changed in told.inodes}
    assert await other.names() == [b"file"]
    assert (await other.namespace.attributes(InodeId(inode))).links == 1
