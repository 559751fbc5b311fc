"""Listings kept to be given again: a bounded number of bytes, and only of what may come again."""

from typing import Any

import pytest
import trio
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import KIB, MIB, ROOT_INODE, DentryId, InodeId, Kind
from p2pfs.vfs.listings import LISTED_BYTES, Listings
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Attributes, DirectoryPage, Entry

pytestmark = pytest.mark.l1


def page(entries: int = 1, *, head: int = 36, inline: int = 0, target: int = 0) -> DirectoryPage:
    row = Attributes(
        5,
        Kind.FILE,
        0o644,
        0,
        0,
        0,
        1,
        inline,
        0,
        0,
        0,
        0,
        0,
        bytes(head),
        bytes(inline) or None,
        bytes(target) or None,
    )
    return DirectoryPage([Entry(number, b"sealed", b"tag", row) for number in range(1, entries + 1)], complete=True)


def place(number: int) -> tuple[InodeId, DentryId]:
    return InodeId(number), DentryId(0)


def kept(listings: Listings, pages: list[DirectoryPage]) -> list[int]:
    return [number for number, page in enumerate(pages) if listings.get(place(number), page) is not None]


@pytest.mark.parametrize("part", ["head", "inline", "target"])
def test_what_is_sealed_in_an_entry_counts(part: str) -> None:
    listings = Listings(MIB)
    parts: dict[str, Any] = {part: 16 * KIB}
    pages = [page(10, **parts) for _ in range(20)]
    for number, one in enumerate(pages):
        listings.put(place(number), one, [])
        assert listings.bytes <= MIB
    assert kept(listings, pages) == list(range(15, 20))


def test_empty_directories_count_too() -> None:
    listings = Listings(MIB)
    for number in range(10_000):
        listings.put(place(number), page(0), [])
    assert 1000 < len(listings) < 5000


def test_what_is_more_than_the_budget_displaces_nothing() -> None:
    listings, pages = Listings(MIB), [page(), page(100, inline=16 * KIB)]
    for number, one in enumerate(pages):
        listings.put(place(number), one, [])
    assert kept(listings, pages) == [0]


def test_what_is_replaced_counts_no_more() -> None:
    listings = Listings(MIB)
    listings.put(place(1), page(2), [])
    before = listings.bytes
    listings.put(place(1), page(300), [])
    listings.put(place(1), page(2), [])
    assert listings.bytes == before
    listings.put(place(1), page(100, inline=16 * KIB), [])
    assert (len(listings), listings.bytes) == (0, 0)


def test_what_was_used_last_stays() -> None:
    listings, pages = Listings(MIB), [page(400) for _ in range(3)]
    listings.put(place(0), pages[0], [])
    listings.put(place(1), pages[1], [])
    assert kept(listings, pages[:1]) == [0]
    listings.put(place(2), pages[2], [])
    assert kept(listings, pages) == [0, 2]


def test_twenty_thousand_entries_without_content_are_kept() -> None:
    listings = Listings()
    for number in range(20):
        listings.put(place(number), page(1000), [])
    assert len(listings) == 20
    assert listings.bytes <= LISTED_BYTES


@pytest.mark.parametrize(("holds", "count"), [(False, 0), (True, 1)])
def test_listings_are_kept_only_while_nobody_else_changes_the_volume(holds: bool, count: int) -> None:
    async def main() -> None:
        volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
        async with filesystem(volume.session(), MemoryStore(), holds=lambda: holds) as fs:
            await fs.make(ROOT_INODE, b"file", Kind.FILE, 0o644, Owner(0, 0))
            await fs.directory(ROOT_INODE, DentryId(0), 10)
            assert len(fs.tree._listings) == count

    trio.run(main)
