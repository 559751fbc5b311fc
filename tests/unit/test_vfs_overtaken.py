"""Answers that this mount's own commits overtook are no lies, however many; an older state than was known is one."""

import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Corrupt, Unavailable
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Attributes, Entry

pytestmark = pytest.mark.l2


async def test_answers_overtaken_by_own_commits_are_taken_for_what_they_are() -> None:
    namespace = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(namespace, MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))

        async def commit() -> None:
            await fs.write(handle, 0, b"x")
            await fs.fsync(handle)

        ask_attributes, ask_name = namespace.attributes, namespace.lookup

        async def attributes(number: InodeId) -> Attributes:
            answer = await ask_attributes(number)
            namespace.attributes = ask_attributes  # type: ignore[method-assign]
            await commit()
            namespace.attributes = attributes  # type: ignore[method-assign]
            return answer

        async def lookup(parent: InodeId, name: bytes) -> Entry:
            answer = await ask_name(parent, name)
            await commit()
            return answer

        namespace.attributes, namespace.lookup = attributes, lookup  # type: ignore[method-assign]
        assert (await fs.tree.inode(handle.inode.id)) is handle.inode
        assert (await fs.lookup(ROOT_INODE, b"f")) is handle.inode


async def test_an_older_state_than_was_known_when_asking_is_refused() -> None:
    namespace = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(namespace, MemoryStore()) as fs:
        handle: Handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        old = await namespace.attributes(handle.inode.id)
        old_entry = await namespace.lookup(ROOT_INODE, next(iter(namespace._volume._names[ROOT_INODE])))
        await fs.write(handle, 0, b"x")
        await fs.fsync(handle)

        async def attributes(number: InodeId) -> Attributes:
            return old

        async def lookup(parent: InodeId, name: bytes) -> Entry:
            return old_entry

        namespace.attributes, namespace.lookup = attributes, lookup  # type: ignore[method-assign]
        with pytest.raises(Corrupt):
            await fs.tree.inode(handle.inode.id)
        with pytest.raises(Corrupt):
            await fs.lookup(ROOT_INODE, b"f")


async def test_that_nobody_answered_reaches_the_writer_and_stops_no_call_once_the_bytes_are_stored() -> None:
    namespace = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(namespace, MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"x")
        handle.inode.fail(Unavailable("no peer"))
        await fs.attributes.set(handle.inode.id, mtime_ns=5)
        with pytest.raises(Unavailable):
            await fs.fsync(handle)
        await fs.fsync(handle)
