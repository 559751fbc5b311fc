"""Leases as a mount sets and lists them, and as an extended attribute says them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Invalid, NotFound
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.leases import AT_ONCE, PAGE, Expiring, extended, parsed, written
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l0

LATER_S = 1 << 40  # what is over is not passed on


@asynccontextmanager
async def volume() -> AsyncIterator[tuple[Filesystem, MemoryVolume]]:
    model = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, wanted_min=0)
    async with filesystem(model.session(), MemoryStore()) as fs:
        yield fs, model


async def make(fs: Filesystem, name: bytes, parent: InodeId = ROOT_INODE, kind: Kind = Kind.FILE) -> InodeId:
    return (await fs.make(parent, name, kind, 0o755, Owner(0, 0))).id


async def change(fs: Filesystem, number: InodeId, expires_s: int, *, is_deep: bool = True) -> list[int]:
    told = []

    async def show(done: int) -> None:
        told.append(done)

    await fs.leases.change(number, lambda _: expires_s, show, is_deep=is_deep)
    return told


async def test_a_directory_gives_its_lease_to_all_that_is_in_it_and_will_be_made_there() -> None:
    async with volume() as (fs, _):
        top = await make(fs, b"top", kind=Kind.DIRECTORY)
        sub = await make(fs, b"sub", top, Kind.DIRECTORY)
        leaf, other = await make(fs, b"leaf", sub), await make(fs, b"other")
        assert (await change(fs, top, LATER_S))[-1] == 3
        assert [await fs.leases.of(number) for number in (top, sub, leaf, other)] == [LATER_S, LATER_S, LATER_S, 0]
        assert await fs.leases.of(await make(fs, b"new", sub)) == LATER_S


async def test_only_what_will_be_made_takes_it_if_that_is_wanted() -> None:
    async with volume() as (fs, _):
        top = await make(fs, b"top", kind=Kind.DIRECTORY)
        old = await make(fs, b"old", top)
        assert await change(fs, top, LATER_S, is_deep=False) == [1]
        assert [await fs.leases.of(number) for number in (top, old)] == [LATER_S, 0]
        assert await fs.leases.of(await make(fs, b"new", top)) == LATER_S


async def test_many_are_changed_in_batches_and_counted_meanwhile() -> None:
    async with volume() as (fs, model):
        numbers = [await make(fs, b"%d" % at) for at in range(PAGE + 50)]
        batches: list[int] = []
        apply = model.apply

        def counted(session, operations):  # noqa: ANN001, ANN202
            batches.append(len(operations))
            return apply(session, operations)

        model.apply = counted  # type: ignore[method-assign]
        told = await change(fs, ROOT_INODE, 77)
        assert told == [PAGE + 1, PAGE + 51, PAGE + 51]
        assert max(batches) == AT_ONCE
        assert {model.attributes(number).expires_s for number in numbers} == {77}
        batches.clear()
        await change(fs, ROOT_INODE, 77)
        assert batches == []  # nothing to do


async def test_what_is_removed_meanwhile_is_left_out() -> None:
    async with volume() as (fs, model):
        numbers = [await make(fs, b"%d" % at) for at in range(3)]
        directory = model.directory

        def late(inode, after, limit, **more):  # noqa: ANN001, ANN003, ANN202
            page = directory(inode, after, limit, **more)
            del model._inodes[numbers[1]]
            return page

        model.directory = late  # type: ignore[method-assign]
        assert (await change(fs, ROOT_INODE, 77))[-1] == 3
        assert [model.attributes(number).expires_s for number in (numbers[0], numbers[2])] == [77, 77]
        with pytest.raises(NotFound):
            await fs.leases.set_one(numbers[1], 5)


async def test_what_expires_is_listed_with_its_path() -> None:
    async with volume() as (fs, _):
        top = await make(fs, b"top", kind=Kind.DIRECTORY)
        late, early = await make(fs, b"late", top), await make(fs, b"early")
        for number, expires_s in ((late, 900), (early, 100), (await make(fs, b"after"), 1000)):
            await fs.leases.set_one(number, expires_s)
        found = []

        async def show(one) -> None:  # noqa: ANN001
            found.append((one.path, one.expires_s))

        await fs.leases.look(1000, b"", show)
        assert found == [(b"early", 100), (b"top/late", 900)]
        found.clear()
        await fs.leases.look(1000, b"top", show)
        assert found == [(b"top/late", 900)]


@pytest.mark.parametrize(
    ("text", "expires_s"),
    [
        (b"never", 0),
        (b"+30d", 1000 + 30 * 86400),
        (b"2h", 1000 + 7200),
        (b"100y", 1000 + 100 * 365 * 86400),
        (b"2026-12-22T10:00:00Z", 1797933600),
        (b"2026-12-22 10:00", 1797933600),
        (b"@4611686018427387904", 1 << 62),
    ],
)
def test_a_lease_is_written_as_a_time_span_or_a_time(text: bytes, expires_s: int) -> None:
    assert parsed(text, 1000.5) == expires_s


@pytest.mark.parametrize(
    "text",
    [
        b"30",
        b"",
        b"soon",
        b"-3d",
        b"0s",
        b"20000y",
        b"\xff",
        b"1e9d",
        b"@-1",
        b"@0",
        b"1960-01-01",
        b"@9223372036854775807",
    ],
)
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid):
        parsed(text, 1000.0)


@pytest.mark.parametrize("expires_s", [0, 1, 1797933600, 1 << 40, 1 << 62])
def test_what_is_shown_can_be_written_back(expires_s: int) -> None:
    assert parsed(written(expires_s), 0.0) == expires_s


def test_extending_lasts_longer_than_it_would_have() -> None:
    assert extended(5000, 1000, 60) == 5060
    assert extended(500, 1000, 60) == 1060
    assert extended(0, 1000, 60) == 0


async def test_a_file_with_several_names_is_listed_below_each_of_their_directories() -> None:
    async with volume() as (fs, _):
        x, y = await make(fs, b"x", kind=Kind.DIRECTORY), await make(fs, b"y", kind=Kind.DIRECTORY)
        one = await make(fs, b"one", x)
        await fs.link(one, y, b"two")
        await fs.leases.set_one(one, 1000)
        found: list[bytes] = []

        async def show(expiring: Expiring) -> None:
            found.append(expiring.path)

        for below in (b"x", b"y", b"z"):
            await fs.leases.look(1001, below, show)
        assert found == [b"x/one", b"y/two"]
