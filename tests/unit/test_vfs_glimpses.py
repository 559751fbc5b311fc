"""Files that were only listed are known as well as those that were looked up: what is refused, kept and let go."""

import pytest
from volumes import KEYS, VOLUME

from p2pfs.errors import Corrupt
from p2pfs.format.heads import Head, seal_head
from p2pfs.types import InodeId, Kind
from p2pfs.vfs import inode_table
from p2pfs.vfs.glimpses import Glimpse
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.inodes import Inode
from p2pfs.wire.namespace import Attributes

pytestmark = pytest.mark.l0

NUMBER = InodeId(7)


def row(
    number: int = NUMBER, *, change: int = 0, size: int = 5, kind: Kind = Kind.FILE, inline: bytes | None = None
) -> Attributes:
    head = seal_head(KEYS, VOLUME, InodeId(number), Head(change, size, kind))
    return Attributes(number, kind, 0o644, 1, 2, 0, 1, size, change, 0, 30, 40, 50, head, inline)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> InodeTable:
    monkeypatch.setattr(inode_table, "IDLE_INODES", 3)
    monkeypatch.setattr(inode_table, "INLINE_BYTES", 100)
    return InodeTable(KEYS, VOLUME)


def crowd_out(table: InodeTable) -> None:
    for number in range(100, 103):
        table.take_listed(row(number))


async def test_a_listed_file_is_told_as_its_inode_would_be(table: InodeTable) -> None:
    listed, _ = table.take_listed(row())
    assert isinstance(listed, Glimpse)
    told = listed.stat()
    assert listed.stat() is told
    inode = table.get(NUMBER)
    assert isinstance(inode, Inode)
    assert inode is table.get(NUMBER) is table.glimpse(NUMBER)
    assert inode.stat() == told == Inode(KEYS, VOLUME, row()).stat()


async def test_what_the_kernel_was_told_in_a_listing_counts_once_the_file_is_written(table: InodeTable) -> None:
    table.take_listed(row())[0].stat()
    inode = table.get(NUMBER)
    assert inode is not None
    assert inode.kernel_size.newest == 5


def test_what_is_no_file_is_an_inode_at_once(table: InodeTable) -> None:
    assert isinstance(table.take_listed(row(kind=Kind.DIRECTORY))[0], Inode)


def test_a_file_is_listed_anew_only_if_it_changed(table: InodeTable) -> None:
    first, _ = table.take_listed(row())
    assert table.take_listed(row()) == (first, True)
    assert isinstance(table.take_listed(row(change=1, size=6))[0], Inode)


def test_an_older_state_is_refused_also_after_the_file_was_forgotten(table: InodeTable) -> None:
    table.take_listed(row(change=2))
    assert not table.take_listed(row(change=1))[1]
    table.take_listed(row(8, change=2))
    crowd_out(table)
    assert table.get(InodeId(8)) is None
    assert not table.take_listed(row(8, change=1))[1]
    assert table.get(InodeId(8)) is None


def test_a_head_that_says_something_else_is_corrupt(table: InodeTable) -> None:
    with pytest.raises(Corrupt):
        table.take_listed(Attributes(NUMBER, Kind.FILE, 0o644, 1, 2, 0, 1, 5, 9, 0, 30, 40, 50, row().head))


def test_only_so_many_stay_known_and_those_asked_for_longest(table: InodeTable) -> None:
    for number in (1, 2, 3):
        table.take_listed(row(number))
    table.get(InodeId(1))
    table.take_listed(row(4))
    assert len(table) == 3
    assert [number for number in range(5) if table.glimpse(InodeId(number))] == [1, 3, 4]


def test_a_file_that_is_being_opened_stays_until_it_is_not(table: InodeTable) -> None:
    table.take_listed(row())
    table.begin_opening(NUMBER)
    crowd_out(table)
    assert table.glimpse(NUMBER) is not None
    table.end_opening(NUMBER)
    crowd_out(table)
    table.take_listed(row(200))
    table.take_listed(row(201))
    table.take_listed(row(202))
    assert table.glimpse(NUMBER) is None
    assert len(table) == 3


def test_inline_data_of_listed_files_has_a_budget(table: InodeTable) -> None:
    for number in (1, 2):
        table.take_listed(row(number, inline=bytes(80)))
    known = [table.get(InodeId(number)) for number in (1, 2)]
    assert [inode and (inode.has_inline, inode.inline_is_known) for inode in known] == [(False, False), (True, True)]
