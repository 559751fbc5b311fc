"""Extended attributes and access lists over the namespace: what is asked for, remembered, sealed and inherited."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import volumes
from msgspec.structs import replace
from volumes import ROOT_HEAD, VOLUME

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import (
    AttributeTooLarge,
    CoordinatorAway,
    Corrupt,
    Denied,
    Exists,
    Invalid,
    NoAttribute,
    Unsupported,
)
from p2pfs.format import acl
from p2pfs.format.acl import ACCESS, DEFAULT, GROUP, MASK, OTHERS, OWNER, OWNING_GROUP, USER, Entry
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.tree import Owner
from p2pfs.vfs.xattrs import KNOWN_BYTES
from p2pfs.wire.namespace import XATTR_CREATE, XATTR_REPLACE, Applied, Operation, SetXattr, XattrPage

pytestmark = pytest.mark.l0

OWN = Owner(1000, 1000)
LIST = (
    Entry(OWNER, 7), Entry(USER, 7, 1001), Entry(OWNING_GROUP, 5), Entry(GROUP, 4, 7), Entry(MASK, 7), Entry(OTHERS, 0),
)  # fmt: skip
MINIMAL = (Entry(OWNER, 6), Entry(OWNING_GROUP, 6), Entry(OTHERS, 4))


class Counted(MemoryNamespace):
    """Counts questions for attributes, keeps batches, and can be away or lie."""

    asked = 0
    away = False
    served: XattrPage | None = None

    def __init__(self, volume: MemoryVolume) -> None:
        super().__init__(volume, volume.session().number, read_only=False)
        self.batches: list[Sequence[Operation]] = []

    async def xattrs(self, inode: InodeId) -> XattrPage:
        self.asked += 1
        if self.away:
            raise CoordinatorAway("away")
        return self.served or await super().xattrs(inode)

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        self.batches.append(operations)
        return await super().apply(operations)


@pytest.fixture
def volume() -> MemoryVolume:
    return MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)


@pytest.fixture
def namespace(volume: MemoryVolume) -> Counted:
    return Counted(volume)


def mounted(namespace: Counted) -> AbstractAsyncContextManager[Filesystem]:
    return volumes.filesystem(namespace, MemoryStore())


async def file(fs: Filesystem, name: bytes = b"file", mode: int = 0o644) -> InodeId:
    inode = await fs.make(ROOT_INODE, name, Kind.FILE, mode, OWN, umask=0o022, inherit=True)
    fs.refer(inode)
    return inode.id


async def mode(fs: Filesystem, number: InodeId) -> int:
    return (await fs.stat(number)).mode


async def test_attributes_are_set_listed_and_removed(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        number = await file(fs)
        assert await fs.xattrs.names(number) == []
        await fs.xattrs.set(number, b"user.one", b"1")
        await fs.xattrs.set(number, b"trusted.two", b"")
        await fs.xattrs.set(number, b"user.one", b"other")
        assert sorted(await fs.xattrs.names(number)) == [b"trusted.two", b"user.one"]
        assert await fs.xattrs.get(number, b"user.one") == b"other"
        await fs.xattrs.remove(number, b"user.one")
        for call in (fs.xattrs.get, fs.xattrs.remove):
            with pytest.raises(NoAttribute):
                await call(number, b"user.one")
        assert await fs.xattrs.names(number) == [b"trusted.two"]


async def test_what_is_refused(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        number = await file(fs)
        for name in (b"system.other", b"plain", b"nospace.x", b"User.x"):
            for call in (fs.xattrs.get(number, name), fs.xattrs.set(number, name, b""), fs.xattrs.remove(number, name)):
                with pytest.raises(Unsupported):
                    await call
        with pytest.raises(Invalid):
            await fs.xattrs.set(number, b"user.", b"")
        with pytest.raises(AttributeTooLarge):
            await fs.xattrs.set(number, b"user.big", bytes(65537))
        await fs.xattrs.set(number, b"user.big", bytes(65536), XATTR_CREATE)
        with pytest.raises(Exists):
            await fs.xattrs.set(number, b"user.big", b"", XATTR_CREATE)
        with pytest.raises(NoAttribute):
            await fs.xattrs.set(number, b"user.none", b"", XATTR_REPLACE)
        with pytest.raises(Invalid):
            await fs.xattrs.set(number, ACCESS, b"junk")
        with pytest.raises(Denied):
            await fs.xattrs.set(number, DEFAULT, acl.encode(LIST))


async def test_the_coordinator_sees_neither_names_nor_values_and_can_swap_none(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        one, two = await file(fs, b"one"), await file(fs, b"two")
        for number in (one, two):
            await fs.xattrs.set(number, b"user.canary", b"secret")
            await fs.xattrs.set(number, b"user.other", b"thing")
        stored = [op for batch in namespace.batches for op in batch if isinstance(op, SetXattr)]
        assert len(stored) == 4
        assert not any(b"user" in op.name or b"secret" in op.value for op in stored)
        assert len({op.name for op in stored}) == 4
        honest, other = await namespace.xattrs(one), await namespace.xattrs(two)
        (first, second) = honest.xattrs
        for lie in (
            [replace(first, value=second.value)],
            [replace(first, name=second.name)],
            other.xattrs,
            [replace(first, value=first.value[:-1] + bytes([first.value[-1] ^ 1]))],
        ):
            namespace.served = XattrPage(honest.attributes, lie)
            with pytest.raises(Corrupt):
                await fs.xattrs.names(one)
        namespace.served = other
        with pytest.raises(Corrupt):
            await fs.xattrs.names(one)


async def test_attributes_are_asked_for_once_while_nothing_changes(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        number = await file(fs)
        namespace.asked = 0
        for _ in range(5):
            with pytest.raises(NoAttribute):
                await fs.xattrs.get(number, b"security.capability")
        assert namespace.asked == 0  # it was made here, with none
        await fs.xattrs.set(number, b"user.x", b"1")
        for _ in range(5):
            assert await fs.xattrs.get(number, b"user.x") == b"1"
        assert namespace.asked == 1


async def test_own_writes_and_own_new_files_do_not_make_it_ask_again(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        await fs.xattrs.set(ROOT_INODE, b"user.x", b"1")
        assert await fs.xattrs.names(ROOT_INODE) == [b"user.x"]
        namespace.asked = 0
        handle = await fs.create(ROOT_INODE, b"file", 0o644, OWN, inherit=True)
        for n in range(3):
            await file(fs, b"%d" % n)
            await fs.write(handle, n, b"x")
            await fs.fsync(handle)
            assert await fs.xattrs.names(handle.inode.id) == []
        assert namespace.asked == 0
        await fs.attributes.set(handle.inode.id, mode=0o600)  # a change that says nothing of attributes
        await fs.xattrs.names(handle.inode.id)
        assert namespace.asked == 1
        await fs.release(handle)


async def test_another_mounts_change_is_not_mistaken_for_ones_own(volume: MemoryVolume, namespace: Counted) -> None:
    async with mounted(namespace) as fs, mounted(Counted(volume)) as other:
        handle = await fs.create(ROOT_INODE, b"file", 0o644, OWN, inherit=True)
        await other.xattrs.set(handle.inode.id, b"user.x", b"theirs")
        await fs.write(handle, 0, b"x")
        await fs.fsync(handle)
        assert await fs.xattrs.names(handle.inode.id) == [b"user.x"]
        await fs.release(handle)


async def test_another_mounts_change_shows_within_a_second(
    volume: MemoryVolume, namespace: Counted, autojump_clock: trio.testing.MockClock
) -> None:
    async with mounted(namespace) as fs, mounted(Counted(volume)) as other:
        number = await file(fs)
        await other.xattrs.set(number, b"user.x", b"theirs")
        assert await fs.xattrs.names(number) == []
        await trio.sleep(1)
        assert await fs.xattrs.get(number, b"user.x") == b"theirs"


async def test_what_is_known_is_served_while_the_coordinator_is_away(
    namespace: Counted, autojump_clock: trio.testing.MockClock
) -> None:
    async with mounted(namespace) as fs:
        number, other = await file(fs), await file(fs, b"other")
        await fs.xattrs.set(number, b"user.x", b"1")
        assert await fs.xattrs.names(number) == [b"user.x"]
        await fs.xattrs.set(other, b"user.x", b"1")
        await trio.sleep(60)
        namespace.away = True
        assert await fs.xattrs.get(number, b"user.x") == b"1"
        with pytest.raises(CoordinatorAway):
            await fs.xattrs.names(other)


async def test_what_is_remembered_has_a_budget(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        numbers = [await file(fs, b"%d" % n) for n in range(8)]
        for number in numbers:
            for n in range(15):
                await fs.xattrs.set(number, b"user.%d" % n, bytes(65536))
            await fs.xattrs.names(number)
        assert 0 < fs.xattrs._known_bytes <= KNOWN_BYTES
        assert fs.xattrs._known_bytes == sum(known.weight for known in fs.xattrs._known.values())


# ---- access lists ---------------------------------------------------------------------------------------------------


async def test_an_access_list_sets_the_mode_in_the_same_batch(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        number = await file(fs, mode=0o4604)
        namespace.batches.clear()
        await fs.xattrs.set(number, ACCESS, acl.encode(LIST))
        assert len(namespace.batches) == 1
        assert await mode(fs, number) == 0o4770
        assert acl.decode(await fs.xattrs.get(number, ACCESS)) == LIST


async def test_a_minimal_access_list_is_only_a_mode(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        number = await file(fs)
        for first in (None, LIST):
            if first:
                await fs.xattrs.set(number, ACCESS, acl.encode(first))
            await fs.xattrs.set(number, ACCESS, acl.encode(MINIMAL))
            assert await mode(fs, number) == 0o664
            assert await fs.xattrs.names(number) == []


@pytest.mark.parametrize("entries", [MINIMAL, LIST])
async def test_a_list_replaces_what_another_mount_set_a_moment_ago(
    entries: tuple[Entry, ...], volume: MemoryVolume, namespace: Counted
) -> None:
    other = Counted(volume)
    async with mounted(namespace) as fs, mounted(other) as theirs:
        number = await file(fs)
        assert await fs.xattrs.names(number) == []
        await theirs.xattrs.set(number, ACCESS, acl.encode((*LIST[:2], Entry(USER, 7, 1002), *LIST[2:])))
        await theirs.attributes.set(number, mode=0o4770)
        await fs.xattrs.set(number, ACCESS, acl.encode(entries))
        assert await theirs.xattrs.names(number) == [ACCESS] * (entries is LIST)
        assert (await theirs.stat(number)).mode == 0o4000 | acl.mode_of(entries)


async def test_chmod_shows_in_the_list_whoever_does_it(volume: MemoryVolume, namespace: Counted) -> None:
    async with mounted(namespace) as fs, mounted(Counted(volume)) as other:
        number = await file(fs)
        await fs.xattrs.set(number, ACCESS, acl.encode(LIST))
        await fs.attributes.set(number, mode=0o640)
        shown = acl.decode(await fs.xattrs.get(number, ACCESS))
        assert shown == acl.with_mode(LIST, 0o640)
        await other.attributes.set(number, mode=0o700)
        assert acl.mode_of(acl.decode(await other.xattrs.get(number, ACCESS))) == 0o700


async def test_the_set_gid_bit_stays_with_the_group_only(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        number = await file(fs)
        for keeps, expected in ((True, 0o6770), (False, 0o4770)):
            await fs.attributes.set(number, mode=0o6644)
            await fs.xattrs.set(number, ACCESS, acl.encode(LIST), keeps_set_gid=keeps)
            assert await mode(fs, number) == expected


async def test_removing_a_list_that_is_not_there_is_fine(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        number = await file(fs)
        await fs.xattrs.remove(number, ACCESS)
        await fs.xattrs.set(number, ACCESS, acl.encode(LIST))
        await fs.xattrs.remove(number, ACCESS)
        assert await fs.xattrs.names(number) == []
        assert await mode(fs, number) == 0o770


async def test_what_is_made_inherits_the_default_list_instead_of_the_umask(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        await fs.xattrs.set(ROOT_INODE, DEFAULT, acl.encode(LIST))
        number = await file(fs, mode=0o666)
        assert await mode(fs, number) == 0o660
        assert acl.decode(await fs.xattrs.get(number, ACCESS)) == acl.with_mode(LIST, 0o660)
        assert await fs.xattrs.names(number) == [ACCESS]
        made = await fs.make(ROOT_INODE, b"sub", Kind.DIRECTORY, 0o777, OWN, umask=0o077, inherit=True)
        assert sorted(await fs.xattrs.names(made.id)) == [ACCESS, DEFAULT]
        assert (await mode(fs, made.id), acl.decode(await fs.xattrs.get(made.id, DEFAULT))) == (0o770, LIST)
        plain = await fs.make(ROOT_INODE, b"plain", Kind.FILE, 0o666, OWN, umask=0o022)
        assert (await mode(fs, plain.id), await fs.xattrs.names(plain.id)) == (0o644, [])


async def test_a_minimal_default_list_gives_modes_and_no_access_lists(namespace: Counted) -> None:
    async with mounted(namespace) as fs:
        await fs.xattrs.set(ROOT_INODE, DEFAULT, acl.encode(MINIMAL))
        number = await file(fs, mode=0o666)
        assert (await mode(fs, number), await fs.xattrs.names(number)) == (0o664, [])
        await fs.xattrs.remove(ROOT_INODE, DEFAULT)
        assert await mode(fs, await file(fs, b"other", 0o666)) == 0o644
