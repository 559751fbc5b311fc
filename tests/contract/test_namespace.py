"""What every Namespace does: one suite over memory, SQL in the loop, SQL with group commit, and the network."""

import pytest
from msgspec.structs import replace
from namespaces import GENUINE, Hand, World, chunk_id, extent, new_chunk

from p2pfs.errors import (
    Busy,
    Conflict,
    Denied,
    Exists,
    Fenced,
    Gone,
    Invalid,
    IsDirectory,
    Loop,
    Misuse,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooLarge,
)
from p2pfs.meta.protocol import Namespace
from p2pfs.types import (
    CHUNK_BYTES,
    DIGEST_RANGE_BYTES,
    MAX_FILE_BYTES,
    MAX_HEAD_BYTES,
    MIB,
    ROOT_INODE,
    ChunkId,
    DentryId,
    InodeId,
    Kind,
    head_limit,
)
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import (
    FIRST_CHANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    UNTOLD,
    Accessed,
    AddReplicas,
    Commit,
    Link,
    NewChunk,
    Opened,
    Released,
    SetAttributes,
    Unlink,
)

pytestmark = pytest.mark.l1


async def attributes(hand: Hand, inode: int):  # noqa: ANN201
    return await hand.namespace.attributes(InodeId(inode))


async def lookup(hand: Hand, name: bytes, parent: int = ROOT_INODE):  # noqa: ANN201
    return await hand.namespace.lookup(InodeId(parent), name)


# ---- making and finding ---------------------------------------------------------------------------------------------


async def test_a_new_volume_has_an_empty_root(hand: Hand) -> None:
    root = await attributes(hand, ROOT_INODE)
    assert (root.kind, root.mode, root.uid, root.gid, root.links, root.head) == (2, 0o755, 1000, 1000, 2, b"root head")
    assert root.change == FIRST_CHANGE
    assert await hand.names() == []
    with pytest.raises(NotFound):
        await lookup(hand, b"anything")


async def test_what_is_made_is_found_as_it_was_made(hand: Hand) -> None:
    operation = await hand.make_operation(b"file", mode=0o104640, rdev=7)
    applied = await hand.namespace.apply([operation])
    entry = await lookup(hand, b"file")
    row = entry.attributes
    assert (entry.dentry, entry.name, entry.tag) == (operation.dentry, b"file", b"tag of file")
    assert (row.inode, row.kind, row.mode, row.uid, row.gid, row.rdev) == (operation.inode, Kind.FILE, 0o4640, 1, 2, 7)
    assert (row.links, row.size, row.change, row.head) == (1, 0, FIRST_CHANGE, b"head 0")
    assert row.atime_ns == row.mtime_ns == row.ctime_ns == operation.time_ns
    assert (row.inline, row.target) == (None, None)
    assert row == await attributes(hand, operation.inode)
    assert {told.inode: told for told in applied.attributes} == {
        operation.inode: row,
        ROOT_INODE: await attributes(hand, ROOT_INODE),
    }
    assert applied.removed == []


async def test_making_changes_the_times_of_the_directory_only(hand: Hand) -> None:
    before = await attributes(hand, ROOT_INODE)
    operation = await hand.make_operation(b"file")
    await hand.namespace.apply([operation])
    root = await attributes(hand, ROOT_INODE)
    assert (root.mtime_ns, root.ctime_ns, root.atime_ns) == (operation.time_ns, operation.time_ns, before.atime_ns)
    assert root.attr_change > before.attr_change
    assert (root.change, root.links) == (before.change, 2)


async def test_a_symlink_keeps_its_target_everywhere(hand: Hand) -> None:
    inode = await hand.make(b"link", kind=Kind.SYMLINK)
    applied = await hand.namespace.apply([SetAttributes(inode, hand.now(), uid=5)])
    (entry,) = await hand.entries()
    for row in (await attributes(hand, inode), (await lookup(hand, b"link")).attributes, entry.attributes):
        assert row.target == b"sealed target"
    assert [row.target for row in applied.attributes] == [b"sealed target"]


@pytest.mark.parametrize("kind", [Kind.FIFO, Kind.SOCKET, Kind.CHARACTER, Kind.BLOCK])
async def test_special_files_keep_their_kind(hand: Hand, kind: Kind) -> None:
    inode = await hand.make(b"special", kind=kind, rdev=0x1234)
    row = await attributes(hand, inode)
    assert (row.kind, row.rdev) == (kind, 0x1234)


async def test_a_name_is_taken_once_in_a_directory(hand: Hand) -> None:
    directory = await hand.directory(b"directory")
    inode = await hand.make(b"name")
    await hand.make(b"name", parent=directory)
    for kind in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK):
        with pytest.raises(Exists):
            await hand.make(b"name", kind=kind)
    assert (await lookup(hand, b"name")).attributes.inode == inode


async def test_making_needs_a_directory_that_is_there(hand: Hand) -> None:
    file = await hand.make(b"file")
    with pytest.raises(NotDirectory):
        await hand.make(b"below", parent=file)
    with pytest.raises(NotFound):
        await hand.make(b"below", parent=999_999)
    with pytest.raises(NotDirectory):
        await lookup(hand, b"below", file)
    with pytest.raises(NotFound):
        await lookup(hand, b"below", 999_999)
    with pytest.raises(NotFound):
        await attributes(hand, 999_999)


async def test_nothing_is_made_in_a_removed_directory_that_is_still_open(hand: Hand) -> None:
    directory = await hand.directory(b"directory")
    await hand.namespace.apply([Opened(directory)])
    await hand.unlink(b"directory", directory, directory=True)
    with pytest.raises(NotFound):
        await hand.make(b"below", parent=directory)
    assert await hand.names(directory) == []


async def test_numbers_must_be_granted_and_new(hand: Hand) -> None:
    operation = await hand.make_operation(b"one")
    await hand.namespace.apply([operation])
    again = await hand.make_operation(b"two")
    for wrong in (
        replace(again, inode=operation.inode),
        replace(again, inode=ROOT_INODE),
        replace(again, inode=1 << 62),
        replace(again, inode=-5),
        replace(again, dentry=operation.dentry),
        replace(again, dentry=1 << 62),
    ):
        with pytest.raises(Misuse):
            await hand.namespace.apply([wrong])
    assert await hand.names() == [b"one"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kind": 9}, Misuse),
        ({"kind": Kind.SYMLINK, "target": None}, Misuse),
        ({"kind": Kind.FILE, "target": b"x"}, Misuse),
        ({"name": b""}, Misuse),
        ({"name": b"n" * 600}, TooLarge),
        ({"head": bytes(head_limit(0) + 1)}, TooLarge),
    ],
)
async def test_impossible_inodes_are_refused(hand: Hand, change: dict[str, object], error: type[Exception]) -> None:
    operation = replace(await hand.make_operation(b"name"), **change)
    with pytest.raises(error):
        await hand.namespace.apply([operation])
    assert await hand.names() == []


# ---- directories ----------------------------------------------------------------------------------------------------


async def test_a_directory_counts_its_subdirectories(hand: Hand) -> None:
    parent = await hand.directory(b"parent")
    children = [await hand.directory(name, parent=parent) for name in (b"a", b"b")]
    await hand.make(b"file", parent=parent)
    assert (await attributes(hand, parent)).links == 4
    assert (await attributes(hand, children[0])).links == 2
    assert (await attributes(hand, ROOT_INODE)).links == 3
    await hand.unlink(b"a", children[0], parent=parent, directory=True)
    assert (await attributes(hand, parent)).links == 3


async def test_a_directory_is_removed_only_when_it_is_empty(hand: Hand) -> None:
    directory = await hand.directory(b"directory")
    file = await hand.make(b"file", parent=directory)
    with pytest.raises(NotEmpty):
        await hand.unlink(b"directory", directory, directory=True)
    await hand.unlink(b"file", file, parent=directory)
    assert await hand.unlink(b"directory", directory, directory=True) == [directory]
    assert (await attributes(hand, ROOT_INODE)).links == 2
    with pytest.raises(NotFound):
        await attributes(hand, directory)


async def test_pages_list_each_name_once_in_order_of_cookies(hand: Hand) -> None:
    for number in range(7):
        await hand.make(b"%d" % number)
    for limit in (1, 3, 7, 100):
        entries = await hand.entries(limit=limit)
        assert [entry.name for entry in entries] == [b"%d" % number for number in range(7)]
        assert [entry.dentry for entry in entries] == sorted(entry.dentry for entry in entries)
        for entry in entries:
            assert entry.attributes == await attributes(hand, entry.attributes.inode)
    page = await hand.namespace.directory(ROOT_INODE, entries[6].dentry, 10)
    assert (page.entries, page.complete) == ([], True)
    page = await hand.namespace.directory(ROOT_INODE, DentryId(0), 7)
    assert page.complete


async def test_a_listing_tells_of_content_that_there_is_some_unless_it_is_wanted(hand: Hand) -> None:
    small, empty = await hand.make(b"small"), await hand.make(b"empty")
    await hand.commit(small, FIRST_CHANGE, inline=b"content")
    bare = await hand.namespace.directory(ROOT_INODE, DentryId(0), 10)
    full = await hand.namespace.directory(ROOT_INODE, DentryId(0), 10, content=True)
    assert [entry.attributes.inode for entry in bare.entries] == [small, empty]
    assert bare.entries[0].attributes.inline in (UNTOLD, b"content")  # who knows it may tell it
    assert bare.entries[1].attributes.inline is None
    assert [entry.attributes.inline for entry in full.entries] == [b"content", None]
    for page in (bare, full):
        assert [replace(entry.attributes, inline=None) for entry in page.entries] == [
            replace(await attributes(hand, entry.attributes.inode), inline=None) for entry in page.entries
        ]
    assert (await hand.namespace.content(InodeId(small))).inline == b"content"
    assert (await hand.namespace.content(InodeId(empty))).inline is None


async def test_a_page_is_not_upset_by_names_that_went(hand: Hand) -> None:
    inodes = {name: await hand.make(name) for name in (b"a", b"b", b"c")}
    page = await hand.namespace.directory(ROOT_INODE, DentryId(0), 2)
    await hand.unlink(b"b", inodes[b"b"])
    rest = await hand.namespace.directory(ROOT_INODE, DentryId(page.entries[-1].dentry), 2)
    assert [entry.name for entry in rest.entries] == [b"c"]


async def test_only_directories_are_listed(hand: Hand) -> None:
    file = await hand.make(b"file")
    with pytest.raises(NotDirectory):
        await hand.names(file)
    with pytest.raises(NotFound):
        await hand.names(999_999)
    with pytest.raises(Misuse):
        await hand.namespace.directory(ROOT_INODE, DentryId(0), 0)


# ---- links and what goes with the last one --------------------------------------------------------------------------


async def test_a_file_lives_as_long_as_it_has_a_name(hand: Hand) -> None:
    inode = await hand.make(b"one")
    before = await attributes(hand, inode)
    await hand.link(inode, b"two")
    row = await attributes(hand, inode)
    assert row.links == 2
    assert row.ctime_ns > before.ctime_ns
    assert row.mtime_ns == before.mtime_ns
    assert row.attr_change > before.attr_change
    assert await hand.unlink(b"one", inode) == []
    assert (await attributes(hand, inode)).links == 1
    assert await hand.unlink(b"two", inode) == [inode]
    with pytest.raises(NotFound):
        await attributes(hand, inode)


async def test_what_cannot_be_linked(hand: Hand) -> None:
    directory, inode = await hand.directory(b"directory"), await hand.make(b"file")
    with pytest.raises(IsDirectory):
        await hand.link(directory, b"again")
    with pytest.raises(Exists):
        await hand.link(inode, b"directory")
    with pytest.raises(NotFound):
        await hand.link(999_999, b"again")
    with pytest.raises(NotDirectory):
        await hand.link(inode, b"again", parent=inode)
    await hand.namespace.apply([Opened(inode)])
    await hand.unlink(b"file", inode)
    with pytest.raises(NotFound):
        await hand.link(inode, b"back")


async def test_names_are_removed_only_as_what_they_are(hand: Hand) -> None:
    directory, inode = await hand.directory(b"directory"), await hand.make(b"file")
    with pytest.raises(IsDirectory):
        await hand.unlink(b"directory", directory)
    with pytest.raises(NotDirectory):
        await hand.unlink(b"file", inode, directory=True)
    with pytest.raises(Conflict):
        await hand.unlink(b"file", directory)
    with pytest.raises(NotFound):
        await hand.unlink(b"nothing", inode)
    assert await hand.names() == [b"directory", b"file"]


async def test_an_open_file_outlives_its_name(hand: Hand) -> None:
    inode = await hand.make(b"file", opened=True)
    assert await hand.unlink(b"file", inode) == []
    assert (await attributes(hand, inode)).links == 0
    await hand.commit(inode, FIRST_CHANGE, inline=b"still written", size=5)
    applied = await hand.namespace.apply([Released(inode)])
    assert applied.removed == [inode]
    with pytest.raises(NotFound):
        await attributes(hand, inode)


async def test_every_session_keeps_what_it_has_open(pool: World, hand: Hand) -> None:
    other = await pool.mount()
    inode = await hand.make(b"file", opened=True)
    told = await other.apply([Opened(inode)])
    assert [row.inode for row in told.attributes] == [inode]
    await hand.unlink(b"file", inode)
    assert (await hand.namespace.apply([Released(inode)])).removed == []
    assert (await other.attributes(InodeId(inode))).links == 0
    await other.apply([Opened(inode)])  # again: open marks do not count
    assert (await other.apply([Released(inode)])).removed == [inode]


async def test_the_end_of_a_session_lets_go_of_what_it_has_open(pool: World, hand: Hand) -> None:
    other = Hand(await pool.mount())
    nameless = await other.make(b"nameless", opened=True)
    await other.commit(nameless, FIRST_CHANGE, inline=b"x", size=1)
    await other.unlink(b"nameless", nameless)
    await hand.namespace.apply([Released(nameless)])
    named = await other.make(b"named", opened=True)
    assert (await hand.namespace.space()).inodes == 3
    await pool.end(other.namespace)
    with pytest.raises(NotFound):
        await attributes(hand, nameless)
    assert (await attributes(hand, named)).links == 1
    assert (await hand.namespace.space()).inodes == 2


async def test_releasing_what_is_gone_or_not_open_is_fine(hand: Hand) -> None:
    inode = await hand.make(b"file")
    assert (await hand.namespace.apply([Released(inode), Released(999_999)])).removed == []
    assert (await attributes(hand, inode)).links == 1
    with pytest.raises(NotFound):
        await hand.namespace.apply([Opened(999_999)])


# ---- rename ---------------------------------------------------------------------------------------------------------


async def test_a_renamed_file_is_the_same_under_another_name(hand: Hand) -> None:
    inode = await hand.make(b"old")
    before = await attributes(hand, inode)
    old = await lookup(hand, b"old")
    await hand.rename(b"old", inode, b"new")
    entry = await lookup(hand, b"new")
    assert entry.dentry > old.dentry
    assert entry.tag == b"moved new"
    row = entry.attributes
    assert (row.inode, row.links, row.change, row.mtime_ns) == (inode, 1, before.change, before.mtime_ns)
    root = await attributes(hand, ROOT_INODE)
    assert row.ctime_ns == root.mtime_ns == root.ctime_ns > before.ctime_ns
    assert await hand.names() == [b"new"]


async def test_a_rename_between_directories_moves_the_link_of_a_directory(hand: Hand) -> None:
    source, target = await hand.directory(b"source"), await hand.directory(b"target")
    moved = await hand.directory(b"moved", parent=source)
    await hand.rename(b"moved", moved, b"moved", parent=source, new_parent=target)
    assert (await attributes(hand, source)).links == 2
    assert (await attributes(hand, target)).links == 3
    assert await hand.names(target) == [b"moved"]
    for directory in (source, target):
        row = await attributes(hand, directory)
        assert row.mtime_ns == row.ctime_ns == (await attributes(hand, moved)).ctime_ns
    await hand.unlink(b"moved", moved, parent=target, directory=True)
    await hand.unlink(b"target", target, directory=True)


async def test_a_replaced_file_goes_unless_it_is_open(hand: Hand) -> None:
    first, second, third = [await hand.make(name) for name in (b"1", b"2", b"3")]
    assert await hand.rename(b"1", first, b"2", replaced=second) == [second]
    await hand.namespace.apply([Opened(third)])
    assert await hand.rename(b"2", first, b"3", replaced=third) == []
    assert (await attributes(hand, third)).links == 0
    assert (await lookup(hand, b"3")).attributes.inode == first
    assert await hand.names() == [b"3"]


async def test_a_replaced_file_with_another_name_stays(hand: Hand) -> None:
    first, second = await hand.make(b"1"), await hand.make(b"2")
    await hand.link(second, b"other")
    before = await attributes(hand, second)
    assert await hand.rename(b"1", first, b"2", replaced=second) == []
    row = await attributes(hand, second)
    assert row.links == 1
    assert row.ctime_ns > before.ctime_ns


async def test_a_directory_replaces_only_an_empty_directory(hand: Hand) -> None:
    moved, empty, full = [await hand.directory(name) for name in (b"moved", b"empty", b"full")]
    file = await hand.make(b"file", parent=full)
    with pytest.raises(NotEmpty):
        await hand.rename(b"moved", moved, b"full", replaced=full)
    with pytest.raises(NotDirectory):
        await hand.rename(b"moved", moved, b"file", new_parent=full, replaced=file)
    with pytest.raises(IsDirectory):
        await hand.rename(b"file", file, b"empty", parent=full, replaced=empty)
    assert await hand.rename(b"moved", moved, b"empty", replaced=empty) == [empty]
    assert (await attributes(hand, ROOT_INODE)).links == 4
    assert (await attributes(hand, moved)).links == 2


async def test_a_rename_builds_on_what_the_mount_saw(hand: Hand) -> None:
    first, second = await hand.make(b"1"), await hand.make(b"2")
    for replaced in (0, first):
        with pytest.raises(Conflict):
            await hand.rename(b"1", first, b"2", replaced=replaced)
    with pytest.raises(Conflict):
        await hand.rename(b"1", first, b"new", replaced=second)
    with pytest.raises(Conflict):
        await hand.rename(b"1", second, b"new")
    with pytest.raises(NotFound):
        await hand.rename(b"3", first, b"new")
    with pytest.raises(NotFound):
        await hand.rename(b"1", first, b"new", new_parent=999_999)
    with pytest.raises(NotDirectory):
        await hand.rename(b"1", first, b"new", new_parent=second)
    assert await hand.names() == [b"1", b"2"]


async def test_noreplace_never_replaces(hand: Hand) -> None:
    first, second = await hand.make(b"1"), await hand.make(b"2")
    with pytest.raises(Exists):
        await hand.rename(b"1", first, b"2", replaced=second, flags=RENAME_NOREPLACE)
    await hand.rename(b"1", first, b"3", flags=RENAME_NOREPLACE)
    assert await hand.names() == [b"2", b"3"]


async def test_flags_that_make_no_sense_are_refused(hand: Hand) -> None:
    inode = await hand.make(b"1")
    for flags in (3, 4, -1):
        with pytest.raises(Invalid):
            await hand.rename(b"1", inode, b"2", flags=flags)


async def test_exchange_swaps_a_file_and_a_directory_across_directories(hand: Hand) -> None:
    left, right = await hand.directory(b"left"), await hand.directory(b"right")
    file, directory = await hand.make(b"f", parent=left), await hand.directory(b"d", parent=right)
    cookies = [(await lookup(hand, b"f", left)).dentry, (await lookup(hand, b"d", right)).dentry]
    await hand.rename(b"f", file, b"d", parent=left, new_parent=right, replaced=directory, flags=RENAME_EXCHANGE)
    at_left, at_right = await lookup(hand, b"f", left), await lookup(hand, b"d", right)
    assert (at_left.attributes.inode, at_left.tag) == (directory, b"back f")
    assert (at_right.attributes.inode, at_right.tag) == (file, b"moved d")
    assert [at_left.dentry, at_right.dentry] == cookies
    assert (await attributes(hand, left)).links == 3
    assert (await attributes(hand, right)).links == 2
    assert at_left.attributes.ctime_ns == at_right.attributes.ctime_ns == (await attributes(hand, left)).mtime_ns
    # the directory knows where it is now
    with pytest.raises(Loop):
        await hand.rename(b"left", left, b"left", new_parent=directory)
    with pytest.raises(NotFound):
        await hand.rename(b"d", file, b"nothing", parent=right, flags=RENAME_EXCHANGE)


async def test_no_directory_gets_below_itself(hand: Hand) -> None:
    a = await hand.directory(b"a")
    b = await hand.directory(b"b", parent=a)
    c = await hand.directory(b"c", parent=b)
    for below in (a, b, c):
        with pytest.raises(Loop):
            await hand.rename(b"a", a, b"x", new_parent=below)
    with pytest.raises(Loop):
        await hand.rename(b"c", c, b"a", parent=b, replaced=a, flags=RENAME_EXCHANGE)
    await hand.rename(b"b", b, b"b", parent=a)
    await hand.rename(b"a", a, b"a", new_parent=c)
    assert await hand.names() == [b"b"]


async def test_a_rename_onto_the_same_inode_does_nothing(hand: Hand) -> None:
    inode = await hand.make(b"1")
    await hand.link(inode, b"2")
    before = await attributes(hand, inode)
    for flags in (0, RENAME_EXCHANGE):
        await hand.rename(b"1", inode, b"2", replaced=inode, flags=flags)
        await hand.rename(b"1", inode, b"1", replaced=inode, flags=flags)
    assert await hand.names() == [b"1", b"2"]
    assert await attributes(hand, inode) == before


# ---- attributes -----------------------------------------------------------------------------------------------------


async def test_attributes_change_one_by_one(hand: Hand) -> None:
    inode = await hand.make(b"file")
    before = await attributes(hand, inode)
    seen = before.attr_change
    for field, value in {"mode": 0o600, "uid": 7, "gid": 8, "atime_ns": 50, "mtime_ns": 60}.items():
        now = hand.now()
        (row,) = (await hand.namespace.apply([SetAttributes(inode, now, **{field: value})])).attributes
        assert (getattr(row, field), row.ctime_ns) == (value, now)
        assert row.attr_change > seen
        seen = row.attr_change
    row = await attributes(hand, inode)
    assert (row.mode, row.uid, row.gid, row.atime_ns, row.mtime_ns) == (0o600, 7, 8, 50, 60)
    assert (row.change, row.head, row.size) == (before.change, before.head, before.size)
    with pytest.raises(NotFound):
        await hand.namespace.apply([SetAttributes(999_999, 1, mode=0)])


async def test_an_access_time_moves_forward_and_nothing_else_does(hand: Hand) -> None:
    inode = await hand.make(b"file")
    before = await attributes(hand, inode)
    told = await hand.namespace.apply([Accessed(inode, before.atime_ns + 10), Accessed(999_999, 1)])
    assert told.attributes == []
    await hand.namespace.apply([Accessed(inode, before.atime_ns + 5)])
    assert await attributes(hand, inode) == replace(before, atime_ns=before.atime_ns + 10)


async def test_an_access_time_beside_another_change_of_the_inode_is_kept(hand: Hand) -> None:
    inode = await hand.make(b"file")
    later = (await attributes(hand, inode)).atime_ns + 10
    await hand.namespace.apply([SetAttributes(inode, hand.now(), mode=0o600), Accessed(inode, later)])
    row = await attributes(hand, inode)
    assert (row.mode, row.atime_ns) == (0o600, later)


# ---- content --------------------------------------------------------------------------------------------------------


async def test_a_commit_replaces_the_head_and_counts(hand: Hand) -> None:
    inode = await hand.make(b"file")
    now = hand.now()
    row = await hand.commit(inode, FIRST_CHANGE, size=10, inline=b"sealed inline", time_ns=now, mode=0o600)
    assert (row.change, row.size, row.head, row.inline) == (FIRST_CHANGE + 1, 10, b"head 1", b"sealed inline")
    assert (row.mtime_ns, row.ctime_ns, row.mode) == (now, now, 0o600)
    page = await hand.namespace.extents(InodeId(inode), 0)
    (entry,) = await hand.entries(content=True)
    assert page.attributes == row == await attributes(hand, inode) == entry.attributes
    assert (page.extents, page.places) == ([], [])


async def test_a_commit_with_time_zero_leaves_the_times(hand: Hand) -> None:
    inode = await hand.make(b"file")
    before = await attributes(hand, inode)
    row = await hand.commit(inode, FIRST_CHANGE, time_ns=0)
    assert (row.mtime_ns, row.ctime_ns) == (before.mtime_ns, before.ctime_ns)
    assert row.attr_change > before.attr_change


async def test_a_commit_of_earlier_writes_does_not_move_ctime_back(hand: Hand) -> None:
    inode = await hand.make(b"file")
    written, changed = hand.now(), hand.now()
    await hand.namespace.apply([SetAttributes(inode, changed, mode=0o600)])
    row = await hand.commit(inode, FIRST_CHANGE, time_ns=written)
    assert (row.mtime_ns, row.ctime_ns) == (written, changed)


async def test_inline_data_is_replaced_kept_and_cleared(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, inline=b"one")
    assert (await hand.commit(inode, 1, inline=b"two")).inline == b"two"
    assert (await hand.commit(inode, 2)).inline == b"two"
    assert (await hand.commit(inode, 3, clear_inline=True)).inline is None
    assert (await attributes(hand, inode)).inline is None
    with pytest.raises(Misuse):
        await hand.commit(inode, 4, inline=b"x", clear_inline=True)


async def test_what_is_inline_is_no_longer_than_the_file(hand: Hand) -> None:
    """Sealed it is a little longer. The size is what a volume is charged with."""
    inode = await hand.make(b"file")
    with pytest.raises(Misuse):
        await hand.commit(inode, 0, inline=b"x" * 5000, size=10)
    await hand.commit(inode, 0, inline=b"x" * 5000, size=4976)
    with pytest.raises(Misuse):
        await hand.commit(inode, 1, size=10)  # and keeps what is inline
    await hand.commit(inode, 1, size=9000)
    await hand.commit(inode, 2, size=10, clear_inline=True)
    assert (await attributes(hand, inode)).size == 10


async def test_a_commit_builds_on_one_change(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, inline=b"one", size=3)
    for base in (0, 2):
        with pytest.raises(Conflict):
            await hand.commit(inode, base, inline=b"two", size=4)
    row = await attributes(hand, inode)
    assert (row.change, row.inline, row.size) == (1, b"one", 3)


async def test_only_files_have_content(hand: Hand) -> None:
    with pytest.raises(IsDirectory):
        await hand.commit(ROOT_INODE, 0)
    with pytest.raises(Invalid):
        await hand.commit(await hand.make(b"link", kind=Kind.SYMLINK), 0)
    with pytest.raises(NotFound):
        await hand.commit(999_999, 0)
    inode = await hand.make(b"file")
    with pytest.raises(TooLarge):
        await hand.commit(inode, 0, size=MAX_FILE_BYTES + 1)
    with pytest.raises(Misuse):
        await hand.commit(inode, 0, size=-1)
    assert (await hand.commit(inode, 0, size=MAX_FILE_BYTES)).size == MAX_FILE_BYTES


@pytest.mark.parametrize("size", [0, 1, DIGEST_RANGE_BYTES, DIGEST_RANGE_BYTES + 1, 100 * DIGEST_RANGE_BYTES])
async def test_a_head_is_no_longer_than_the_size_needs(hand: Hand, size: int) -> None:
    inode = await hand.make(b"file")
    with pytest.raises(TooLarge):
        await hand.commit(inode, 0, size=size, head=bytes(head_limit(size) + 1))
    head = bytes(head_limit(size))
    assert (await hand.commit(inode, 0, size=size, head=head)).head == head


async def test_a_head_fits_into_a_batch_and_an_answer_whatever_the_size(hand: Hand) -> None:
    inode = await hand.make(b"file")
    assert head_limit(MAX_FILE_BYTES) == MAX_HEAD_BYTES < 9 * MIB
    with pytest.raises(TooLarge):
        await hand.commit(inode, 0, size=MAX_FILE_BYTES, head=bytes(MAX_HEAD_BYTES + 1))
    assert (await hand.commit(inode, 0, size=MAX_FILE_BYTES, head=bytes(MAX_HEAD_BYTES))).change == 1


async def test_extents_come_back_with_the_places_of_their_chunks(hand: Hand) -> None:
    inode = await hand.make(b"file")
    rows = [extent(1, 11, 2), extent(0, 10, 1), extent(1, 12, None), extent(0, 13, 2)]
    await hand.commit(inode, 0, extents=rows, chunks=[new_chunk(1, 1, 2), new_chunk(2, 3, 2, size=500)])
    page = await hand.namespace.extents(InodeId(inode), 0)
    assert page.extents == [rows[1], rows[3], rows[0], rows[2]]
    assert page.attributes == await attributes(hand, inode)
    places = {place.chunk: (place.size, sorted(place.holders)) for place in page.places}
    assert places == {chunk_id(1): (1000, [1, 2]), chunk_id(2): (500, [2, 3])}
    assert len(page.places) == 2
    located = await hand.namespace.locate([chunk_id(2), chunk_id(9)])
    assert [(place.chunk, place.size, sorted(place.holders)) for place in located] == [(chunk_id(2), 500, [2, 3])]


async def test_a_page_holds_one_range(hand: Hand) -> None:
    inode = await hand.make(b"file")
    rows = [extent(index, 1, None) for index in (0, 255, 256, 511, 512)]
    await hand.commit(inode, 0, extents=rows)
    assert [await hand.layers(inode, number) for number in range(4)] == [
        [(0, 1), (255, 1)],
        [(256, 1), (511, 1)],
        [(512, 1)],
        [],
    ]
    with pytest.raises(NotFound):
        await hand.namespace.extents(InodeId(999_999), 0)


async def test_dropped_extents_are_gone(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1), extent(0, 2, 2)], chunks=[new_chunk(1), new_chunk(2)])
    await hand.commit(inode, 1, extents=[extent(0, 3, 3)], chunks=[new_chunk(3)], drop=[(0, 1), (0, 2), (5, 5)])
    assert await hand.layers(inode) == [(0, 3)]


async def test_a_cut_hides_what_is_behind_and_older_for_ever(pool: World, hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, extents=[extent(index, 1, None) for index in range(6)])
    await hand.commit(inode, 1, cut_index=3, cut_seq=10, extents=[extent(2, 10, None)])
    assert await hand.layers(inode) == [(0, 1), (1, 1), (2, 1), (2, 10)]
    await hand.commit(inode, 2, extents=[extent(4, 20, None)])
    assert await hand.layers(inode) == [(0, 1), (1, 1), (2, 1), (2, 10), (4, 20)]
    await hand.commit(inode, 3, cut_index=1, cut_seq=15)
    assert await hand.layers(inode) == [(0, 1), (4, 20)]
    await hand.commit(inode, 4, cut_index=5, cut_seq=30)
    assert await hand.layers(inode) == [(0, 1), (4, 20)]
    await pool.reap()
    assert await hand.layers(inode) == [(0, 1), (4, 20)]
    await hand.commit(inode, 5, cut_index=0, cut_seq=40, extents=[extent(0, 40, None)])
    assert await hand.layers(inode) == [(0, 40)]
    await pool.reap()
    assert await hand.layers(inode) == [(0, 40)]


async def test_an_extent_that_could_never_be_seen_is_refused(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, extents=[extent(0, 5, None)])
    with pytest.raises(Misuse):
        await hand.commit(inode, 1, extents=[extent(0, 5, None)])
    with pytest.raises(Misuse):
        await hand.commit(inode, 1, extents=[extent(3, 9, None)], cut_index=2, cut_seq=10)
    await hand.commit(inode, 1, cut_index=2, cut_seq=10)
    with pytest.raises(Misuse):
        await hand.commit(inode, 2, extents=[extent(3, 9, None)])
    with pytest.raises(Misuse):
        await hand.commit(inode, 2, extents=[extent(-1, 9, None)])
    assert await hand.layers(inode) == [(0, 5)]


async def test_a_chunk_must_be_proved_to_be_on_enough_peers(hand: Hand) -> None:
    inode = await hand.make(b"file")
    rows = [extent(0, 1, 1)]
    forged = NewChunk(chunk_id(1), 1000, [Receipt(1, 1, GENUINE), Receipt(2, 1, b"forged")])
    twice = NewChunk(chunk_id(1), 1000, [Receipt(1, 1, GENUINE), Receipt(1, 2, GENUINE)])
    for chunks in ([forged], [new_chunk(1), new_chunk(2)]):
        with pytest.raises(Misuse):
            await hand.commit(inode, 0, extents=rows, chunks=chunks)
    for chunks in ([], [twice], [new_chunk(1, 1)]):  # perhaps there were more copies once
        with pytest.raises(Gone):
            await hand.commit(inode, 0, extents=rows, chunks=chunks)
    assert (await attributes(hand, inode)).change == 0
    await hand.commit(inode, 0, extents=rows, chunks=[new_chunk(1)])
    with pytest.raises(Misuse):
        await hand.commit(inode, 1, extents=[extent(0, 2, 1)], chunks=[new_chunk(1, size=999)])


async def test_a_known_chunk_needs_no_new_proof_and_gathers_holders(hand: Hand) -> None:
    first, second = await hand.make(b"1"), await hand.make(b"2")
    await hand.commit(first, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2)])
    await hand.commit(second, 0, extents=[extent(7, 1, 1)])
    await hand.commit(second, 1, extents=[extent(8, 1, 1)], chunks=[new_chunk(1, 3)])
    (place,) = await hand.namespace.locate([chunk_id(1)])
    assert sorted(place.holders) == [1, 2, 3]


async def test_later_receipts_add_holders(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1, 1, 2)])
    applied = await hand.namespace.apply([AddReplicas([new_chunk(1, 3), new_chunk(99, 3)])])
    assert (applied.attributes, applied.removed) == ([], [])
    (place,) = await hand.namespace.locate([chunk_id(1), chunk_id(99)])
    assert sorted(place.holders) == [1, 2, 3]
    with pytest.raises(Misuse):
        await hand.namespace.apply([AddReplicas([NewChunk(chunk_id(1), 1000, [Receipt(4, 1, b"forged")])])])


async def test_a_chunk_being_deleted_must_be_stored_again(pool: World, hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)])
    await hand.commit(inode, 1, drop=[(0, 1)])
    await pool.purge(chunk_id(1))
    with pytest.raises(Gone):
        await hand.commit(inode, 2, extents=[extent(0, 2, 1)], chunks=[new_chunk(1)])
    assert (await attributes(hand, inode)).change == 2


async def test_a_dropped_chunk_can_be_named_again_while_it_is_there(pool: World, hand: Hand) -> None:
    inode = await hand.make(b"file")
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)])
    await hand.commit(inode, 1, cut_index=0, cut_seq=2)
    await pool.reap()
    await hand.commit(inode, 2, extents=[extent(0, 3, 1)], chunks=[new_chunk(1, 1, 3)])
    (place,) = await hand.namespace.locate([chunk_id(1)])
    assert sorted(place.holders) == [1, 2, 3]


# ---- batches and sessions -------------------------------------------------------------------------------------------


async def test_a_batch_is_done_in_order(hand: Hand) -> None:
    directory = await hand.make_operation(b"directory", kind=Kind.DIRECTORY)
    file = await hand.make_operation(b"file", parent=directory.inode)
    content = Commit(file.inode, FIRST_CHANGE, 3, b"head 1", hand.now(), inline=b"abc")
    applied = await hand.namespace.apply([directory, file, content, Released(file.inode)])
    told = {row.inode: row for row in applied.attributes}
    assert set(told) == {ROOT_INODE, directory.inode, file.inode}
    assert (told[file.inode].change, told[file.inode].inline) == (1, b"abc")
    for inode, row in told.items():
        assert row == await attributes(hand, inode)


async def test_a_refused_batch_changes_nothing(pool: World, hand: Hand) -> None:
    inode = await hand.make(b"file", opened=True)
    await hand.commit(inode, 0, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)], size=CHUNK_BYTES)
    before = [await attributes(hand, i) for i in (ROOT_INODE, inode)], await hand.entries(), await hand.layers(inode)
    space = await hand.namespace.space()
    made = await hand.make_operation(b"other")
    batch = [
        made,
        Commit(inode, 1, 5, b"head 2", hand.now(), inline=b"x", drop=[(0, 1)], cut_index=0, cut_seq=9),
        SetAttributes(inode, hand.now(), mode=0),
        Link(ROOT_INODE, b"another", await hand.number(), b"t", inode, hand.now()),
        Released(inode),
    ]
    with pytest.raises(NotFound):
        await hand.namespace.apply([*batch, Opened(999_999)])
    after = [await attributes(hand, i) for i in (ROOT_INODE, inode)], await hand.entries(), await hand.layers(inode)
    assert after == before
    assert await hand.namespace.space() == space
    await hand.namespace.apply(batch)  # the same numbers are still free
    assert await hand.names() == [b"file", b"other", b"another"]


async def test_an_inode_made_and_removed_in_one_batch_was_never_there(hand: Hand) -> None:
    made = await hand.make_operation(b"short", kind=Kind.FILE)
    content = Commit(
        made.inode, 0, 3, b"h", hand.now(), inline=b"abc", extents=[extent(0, 1, 1)], chunks=[new_chunk(1)]
    )
    gone = Unlink(ROOT_INODE, b"short", made.inode, False, hand.now())
    applied = await hand.namespace.apply([made, content, gone])
    assert applied.removed == [made.inode]
    assert [row.inode for row in applied.attributes] == [ROOT_INODE]
    assert (await hand.namespace.space()).inodes == 1
    with pytest.raises(NotFound):
        await hand.namespace.apply([SetAttributes(made.inode, 1)])


async def test_an_empty_batch_is_fine(hand: Hand) -> None:
    applied = await hand.namespace.apply([])
    assert (applied.attributes, applied.removed) == ([], [])


async def test_sessions_see_each_other_at_once(pool: World, hand: Hand) -> None:
    other = Hand(await pool.mount())
    inode = await hand.make(b"file")
    assert (await lookup(other, b"file")).attributes.inode == inode
    await other.commit(inode, 0, size=5)
    assert (await attributes(hand, inode)).size == 5
    await hand.unlink(b"file", inode)
    with pytest.raises(NotFound):
        await lookup(other, b"file")


async def test_numbers_are_granted_once(pool: World, hand: Hand) -> None:
    other = await pool.mount()
    blocks = []
    for count in (1, 3, 5000, 2, 100):
        blocks += [await hand.namespace.new_ids(count), await other.new_ids(count)]
    numbers = [number for block in blocks for number in block]
    assert [len(block) for block in blocks] == [1, 1, 3, 3, 5000, 5000, 2, 2, 100, 100]
    assert all(block.step == 1 for block in blocks)
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > ROOT_INODE


async def test_a_read_only_session_only_reads(pool: World, hand: Hand) -> None:
    inode = await hand.make(b"file")
    reader = Hand(await pool.mount(read_only=True))
    assert (await lookup(reader, b"file")).attributes.inode == inode
    with pytest.raises(Denied):
        await reader.commit(inode, 0)
    await reader.namespace.apply([Opened(inode)])
    assert await hand.unlink(b"file", inode) == []
    assert (await reader.namespace.apply([Released(inode)])).removed == [inode]


async def test_a_session_that_is_over_changes_nothing(pool: World, hand: Hand) -> None:
    operation = await hand.make_operation(b"file")
    await pool.end(hand.namespace)
    with pytest.raises(Fenced):
        await hand.namespace.apply([operation])
    with pytest.raises(Fenced):
        await hand.namespace.new_ids(100_000)
    assert await Hand(await pool.mount()).names() == []


async def test_space_counts_inodes(hand: Hand) -> None:
    assert await hand.namespace.space() == await hand.namespace.space()
    before = await hand.namespace.space()
    assert before.free <= before.total == 1500  # three peers of 1000, two copies
    inode = await hand.make(b"file")
    assert (await hand.namespace.space()).inodes == before.inodes + 1 == 2
    await hand.unlink(b"file", inode)
    assert await hand.namespace.space() == before


async def test_unknown_chunks_are_left_out(hand: Hand) -> None:
    assert await hand.namespace.locate([]) == []
    assert await hand.namespace.locate([chunk_id(1)]) == []
    for nonsense in (b"", bytes(31), bytes(33)):
        with pytest.raises(Misuse):
            await hand.namespace.locate([chunk_id(1), ChunkId(nonsense)])


# ---- alone ----------------------------------------------------------------------------------------------------------


async def test_nobody_joins_a_mount_that_has_the_volume_alone(pool: World) -> None:
    alone = await pool.mount(exclusive=True)
    for read_only, exclusive in ((False, False), (True, False), (False, True)):
        with pytest.raises(Busy):
            await pool.mount(read_only=read_only, exclusive=exclusive)
    await Hand(alone).make(b"a")
    await pool.end(alone)
    await pool.mount()


@pytest.mark.parametrize("read_only", [False, True])
async def test_nobody_has_a_volume_alone_that_another_has_mounted(pool: World, read_only: bool) -> None:
    other = await pool.mount(read_only=read_only)
    with pytest.raises(Busy):
        await pool.mount(exclusive=True)
    await pool.end(other)
    await pool.mount(exclusive=True)


async def test_a_mount_takes_over_at_once_from_the_dead_one_that_it_names(pool: World) -> None:
    first = await pool.mount(exclusive=True)
    second = await pool.mount(exclusive=True, succeeds=first)

    async def change(over: Namespace) -> None:
        await Hand(over).make(b"a")
        await over.settle()

    with pytest.raises(Fenced):
        await change(first)
    with pytest.raises(Busy):  # what is known of the first says nothing of the second
        await pool.mount(exclusive=True, succeeds=first)
    await change(second)


async def test_one_that_fell_silent_loses_the_volume_to_whoever_wants_it_or_wants_it_alone(pool: World) -> None:
    first = await pool.mount(exclusive=True)
    await pool.fall_asleep(first)
    second = await pool.mount()
    await pool.fall_asleep(second)
    third = await pool.mount(exclusive=True)

    async def change(over: Namespace) -> None:
        await Hand(over).make(b"late")
        await over.settle()

    for over in (first, second):
        with pytest.raises(Fenced):
            await change(over)
    await Hand(third).make(b"a")
