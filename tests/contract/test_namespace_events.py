"""What every Namespace tells of the changes of other sessions, and what it keeps for those that may have it open."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from namespaces import Hand, World, new_chunk

from p2pfs.errors import Conflict, Exists, Fenced, NoSpace, NotFound
from p2pfs.meta import events as module
from p2pfs.meta import protocol
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.wire.events import REMOVED, ChangedInode, ChangedName, Events
from p2pfs.wire.namespace import (
    FIRST_CHANGE,
    RENAME_EXCHANGE,
    Accessed,
    AddReplicas,
    Opened,
    Released,
    SetAttributes,
    Unlink,
)

pytestmark = pytest.mark.l1

WAIT_S = 30.0  # is never waited for in full


@pytest.fixture
async def other(pool: World) -> Hand:
    return Hand(await pool.mount())


async def events(hand: Hand, wait_s: float = 0.0) -> Events:
    return await hand.namespace.events(wait_s)


def names(*pairs: tuple[int, bytes]) -> list[ChangedName]:
    return [ChangedName(parent, name) for parent, name in pairs]


async def versions(hand: Hand, *inodes: int) -> set[ChangedInode]:
    """What is told of inodes as they are now."""
    rows = [await hand.namespace.attributes(InodeId(inode)) for inode in inodes]
    return {ChangedInode(row.inode, row.change, row.attr_change) for row in rows}


def gone(*inodes: int) -> set[ChangedInode]:
    return {ChangedInode(inode, REMOVED, REMOVED) for inode in inodes}


# ---- what is told ---------------------------------------------------------------------------------------------------


async def test_nothing_is_told_of_what_was_before_and_of_ones_own(pool: World, hand: Hand) -> None:
    await hand.make(b"before")
    await hand.namespace.settle()
    other = Hand(await pool.mount())
    await other.make(b"own")
    told = await events(other)
    assert (told.lost, told.names, told.inodes, told.held) == (False, [], [], [])


async def test_a_new_name_is_told_with_its_inode_and_directory(hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"file")
    told = await events(other)
    assert not told.lost
    assert told.names == names((ROOT_INODE, b"file"))
    assert set(told.inodes) == await versions(hand, inode, ROOT_INODE)
    assert (await events(other)).names == []  # which acknowledged it


async def test_every_change_of_a_name_is_told(hand: Hand, other: Hand) -> None:
    directory, inode = await hand.directory(b"directory"), await hand.make(b"1")
    second = await hand.make(b"2", parent=directory)
    await events(other)
    await events(other)
    await hand.link(inode, b"3")
    told = await events(other)
    assert (told.names, set(told.inodes)) == (names((1, b"3")), await versions(hand, inode, ROOT_INODE))
    await hand.rename(b"3", inode, b"4", new_parent=directory)
    told = await events(other)
    assert told.names == names((1, b"3"), (directory, b"4"))
    assert set(told.inodes) == await versions(hand, inode, ROOT_INODE, directory)
    await hand.rename(b"1", inode, b"2", new_parent=directory, replaced=second, flags=RENAME_EXCHANGE)
    told = await events(other)
    assert told.names == names((1, b"1"), (directory, b"2"))
    assert set(told.inodes) == await versions(hand, inode, second, ROOT_INODE, directory)
    await hand.unlink(b"4", inode, parent=directory)
    told = await events(other)
    assert (told.names, told.held) == (names((directory, b"4")), [])
    assert set(told.inodes) == await versions(hand, inode, directory)


async def test_changes_of_attributes_and_content_are_told_without_names(hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"file")
    await events(other)
    await hand.namespace.apply([SetAttributes(inode, hand.now(), mode=0o600)])
    told = await events(other)
    assert (told.names, set(told.inodes)) == ([], await versions(hand, inode))
    await hand.commit(inode, FIRST_CHANGE, inline=b"x", size=1)
    told = await events(other)
    assert (told.names, set(told.inodes)) == ([], await versions(hand, inode))
    assert told.inodes[0].change == FIRST_CHANGE + 1


async def test_opening_releasing_and_late_copies_are_nobodys_business(hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"file")
    await events(other)
    for operation in (Opened(inode), AddReplicas([new_chunk(1)]), Accessed(inode, 1 << 62), Released(inode)):
        await hand.namespace.apply([operation])
    told = await events(other)
    assert (told.names, told.inodes, told.held) == ([], [], [])


async def test_a_refused_batch_is_not_told(hand: Hand, other: Hand) -> None:
    first, second = await hand.make_operation(b"name"), await hand.make_operation(b"name")
    with pytest.raises(Exists):
        await hand.namespace.apply([first, second])
    with pytest.raises(Conflict):
        await hand.commit(await hand.make(b"other"), 7)
    told = await events(other)
    assert told.names == names((1, b"other"))


async def test_what_changed_often_is_told_once_and_in_order(hand: Hand, other: Hand) -> None:
    first, second = await hand.make(b"1"), await hand.make(b"2")
    for inode in (second, first):
        for change in range(3):
            await hand.commit(inode, change, inline=b"x", size=1)
    told = await events(other)
    assert told.names == names((1, b"1"), (1, b"2"))
    assert set(told.inodes) == await versions(hand, first, second, ROOT_INODE)
    assert [row.inode for row in told.inodes] == [ROOT_INODE, second, first]


async def test_all_others_are_told(pool: World, hand: Hand, other: Hand) -> None:
    third = Hand(await pool.mount(read_only=True))
    await other.make(b"file")
    for each in (hand, third):
        assert (await events(each)).names == names((1, b"file"))


async def test_who_waits_is_woken(hand: Hand, other: Hand) -> None:
    told: list[Events] = []

    async def wait() -> None:
        told.append(await events(other, WAIT_S))

    with trio.fail_after(WAIT_S / 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            inode = await hand.make(b"file")
    assert told[0].names == names((1, b"file"))
    assert set(told[0].inodes) == await versions(hand, inode, ROOT_INODE)


async def test_a_cancelled_call_loses_nothing(hand: Hand, other: Hand) -> None:
    await hand.make(b"1")
    assert (await events(other)).names == names((1, b"1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events, other, WAIT_S)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await hand.make(b"2")
    with trio.CancelScope() as scope:
        scope.cancel()
        told = await events(other)
    if scope.cancelled_caught:
        told = await events(other)
    assert (told.lost, told.names) == (False, names((1, b"2")))


async def test_the_end_of_a_session_ends_its_waiting(pool: World, other: Hand) -> None:
    async def wait() -> None:
        with pytest.raises(Fenced):
            await events(other, WAIT_S)

    with trio.fail_after(WAIT_S / 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await pool.end(other.namespace)
        for refused in (lambda: events(other), other.namespace.held):
            with pytest.raises(Fenced):
                await refused()


async def test_too_much_news_is_lost_and_what_is_held_can_be_asked(
    hand: Hand, other: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOGGED", 9)
    inode = await hand.make(b"held")
    await hand.unlink(b"held", inode)
    assert (await events(other)).held == [inode]
    for number in range(5):
        await hand.make(b"%d" % number)
    told = await events(other)
    assert (told.lost, told.names, told.inodes, told.held) == (True, [], [], [])
    assert await other.namespace.held() == [inode]
    await hand.make(b"again")
    told = await events(other)
    assert (told.lost, told.names) == (False, names((1, b"again")))


# ---- what is held ---------------------------------------------------------------------------------------------------

Take = Callable[[Hand, int], Awaitable[list[int]]]


async def unlink(hand: Hand, inode: int) -> list[int]:
    return await hand.unlink(b"name", inode)


async def remove_directory(hand: Hand, inode: int) -> list[int]:
    return await hand.unlink(b"name", inode, directory=True)


async def replace(hand: Hand, inode: int) -> list[int]:
    return await hand.rename(b"new", await hand.make(b"new"), b"name", replaced=inode)


async def replace_directory(hand: Hand, inode: int) -> list[int]:
    return await hand.rename(b"new", await hand.directory(b"new"), b"name", replaced=inode)


@pytest.mark.parametrize(
    ("kind", "take"),
    [
        (Kind.FILE, unlink),
        (Kind.FILE, replace),
        (Kind.DIRECTORY, remove_directory),
        (Kind.DIRECTORY, replace_directory),
    ],
)
async def test_what_loses_its_last_name_is_kept_until_every_other_session_releases_it(
    pool: World, hand: Hand, other: Hand, kind: Kind, take: Take
) -> None:
    third = Hand(await pool.mount())
    inode = await hand.make(b"name", kind=kind)
    assert await take(hand, inode) == []
    told = await events(other)
    assert told.held == [inode]
    assert ChangedName(1, b"name") in told.names
    assert await versions(hand, inode) <= set(told.inodes)
    assert (await other.namespace.attributes(InodeId(inode))).links == 0
    assert (await other.namespace.apply([Released(inode)])).removed == []
    assert await other.namespace.held() == []
    assert await third.namespace.held() == [inode]
    assert (await third.namespace.apply([Released(inode)])).removed == [inode]
    with pytest.raises(NotFound):
        await hand.namespace.attributes(InodeId(inode))
    await pool.reap()


async def test_an_open_file_of_another_session_can_be_written_after_its_last_name_went(hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"name")
    await unlink(other, inode)
    await hand.commit(inode, FIRST_CHANGE, inline=b"still there", size=11)
    assert (await hand.namespace.apply([Released(inode)])).removed == [inode]


async def test_what_has_another_name_is_not_held(hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"name")
    await hand.link(inode, b"second")
    await unlink(hand, inode)
    assert (await events(other)).held == []
    assert await other.namespace.held() == []


async def test_what_was_opened_is_held_only_without_a_name(hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"name", opened=True)
    assert await hand.namespace.held() == []
    await unlink(other, inode)
    assert await hand.namespace.held() == [inode]
    assert (await events(hand)).held == [inode]


async def test_what_nobody_else_can_know_is_not_held(hand: Hand, other: Hand) -> None:
    make = await hand.make_operation(b"name")
    applied = await hand.namespace.apply([make, Unlink(ROOT_INODE, b"name", make.inode, False, hand.now())])
    assert applied.removed == [make.inode]
    told = await events(other)
    assert (told.held, gone(make.inode) <= set(told.inodes)) == ([], True)


async def test_nothing_is_held_for_a_session_that_was_not_renewed_lately(pool: World, hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"name")
    await pool.fall_asleep(other.namespace)
    assert await unlink(hand, inode) == [inode]
    told = await events(other)
    assert (told.held, gone(inode) <= set(told.inodes)) == ([], True)
    assert await other.namespace.held() == []


async def test_a_session_that_ends_lets_go_of_what_was_held_for_it(pool: World, hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"name")
    await unlink(hand, inode)
    await pool.end(other.namespace)
    with pytest.raises(NotFound):
        await hand.namespace.attributes(InodeId(inode))


async def test_a_refused_batch_holds_nothing(hand: Hand, other: Hand) -> None:
    inode = await hand.make(b"name")
    with pytest.raises(NotFound):
        await hand.namespace.apply(
            [Unlink(1, b"name", inode, False, hand.now()), Unlink(1, b"none", inode, False, hand.now())]
        )
    assert await other.namespace.held() == []
    await other.namespace.apply([Released(inode)])
    assert (await hand.namespace.attributes(InodeId(inode))).links == 1


async def test_a_read_only_session_releases_what_is_held_for_it(pool: World, hand: Hand) -> None:
    reader = Hand(await pool.mount(read_only=True))
    inode = await hand.make(b"name")
    await unlink(hand, inode)
    assert (await events(reader)).held == [inode]
    assert (await reader.namespace.apply([Released(inode)])).removed == [inode]


# ---- who says what it has open --------------------------------------------------------------------------------------


async def test_what_nobody_says_it_has_open_goes_after_two_lifetimes(pool: World, hand: Hand, other: Hand) -> None:
    third = Hand(await pool.mount())
    inode = await hand.make(b"name")
    await unlink(hand, inode)
    await third.namespace.apply([Opened(inode)])
    await pool.lapse()
    assert (await other.namespace.held(), await third.namespace.held()) == ([], [inode])
    assert (await hand.namespace.attributes(InodeId(inode))).links == 0
    assert (await other.namespace.apply([Released(inode)])).removed == []
    assert (await third.namespace.apply([Released(inode)])).removed == [inode]
    second = await hand.make(b"name")
    await unlink(hand, second)
    await pool.lapse()
    with pytest.raises(NotFound):
        await hand.namespace.attributes(InodeId(second))
    with pytest.raises(NotFound):  # too late
        await other.namespace.apply([Opened(second)])
    await pool.reap()


async def test_what_was_said_to_be_open_stays_however_often_it_is_said(pool: World, hand: Hand, other: Hand) -> None:
    before = await hand.make(b"before", opened=True)
    after = await hand.make(b"after")
    await other.unlink(b"before", before)
    await other.unlink(b"after", after)
    for _ in range(2):
        await hand.namespace.apply([Opened(after)])
        await pool.lapse()
    assert sorted(await hand.namespace.held()) == [before, after]
    assert (await hand.namespace.apply([Released(before), Released(after)])).removed == [before, after]


async def test_a_read_only_session_says_what_it_has_open(pool: World, hand: Hand) -> None:
    reader = Hand(await pool.mount(read_only=True))
    inode = await hand.make(b"name")
    await unlink(hand, inode)
    await reader.namespace.apply([Opened(inode)])
    await pool.lapse()
    assert await reader.namespace.held() == [inode]


async def test_a_session_has_a_greatest_number_of_open_inodes(
    hand: Hand, other: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    inodes = [await hand.make(b"%d" % number) for number in range(3)]
    monkeypatch.setattr(protocol, "MAX_OPEN", 2)
    with pytest.raises(NoSpace):
        await hand.namespace.apply([Opened(inode) for inode in inodes])
    await hand.namespace.apply([Opened(inode) for inode in inodes[:2]])
    with pytest.raises(NoSpace):
        await hand.make(b"new", opened=True)
    for number, inode in enumerate(inodes):
        await other.unlink(b"%d" % number, inode)
    assert sorted(await hand.namespace.held()) == inodes  # what others make it keep does not count
    await hand.namespace.apply([Released(inodes[0]), Opened(inodes[2])])
