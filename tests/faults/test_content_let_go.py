"""A small file's content that was let go is asked for; what comes between the question and its answer may have it let
go again, and then the answer is older than what is known. What is not known must not pass for empty.
"""

from collections.abc import Awaitable, Callable

import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, DentryId, InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Attributes

pytestmark = pytest.mark.l3


class Late(MemoryNamespace):
    """Something happens while the next answer is on its way."""

    def __init__(self, volume: MemoryVolume) -> None:
        super().__init__(volume, volume.session().number, read_only=False)
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def attributes(self, inode: InodeId) -> Attributes:
        row = await super().attributes(inode)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return row


async def content(fs: Filesystem, number: InodeId) -> bytes:
    handle = await fs.open(number)
    return bytes(await fs.read(handle, 0, 1000))


@pytest.mark.parametrize("what", ["content", "mode"])
@pytest.mark.parametrize("how", ["write", "truncate", "read"])
async def test_content_that_is_not_known_is_not_empty(how: str, what: str) -> None:
    volume, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    namespace = Late(volume)
    async with filesystem(namespace, store) as a, filesystem(volume.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        inode = mine.inode
        await a.write(mine, 0, b"aaaaaaaa")
        await a.fsync(mine)
        theirs = await b.open(inode.id)

        async def meanwhile() -> None:
            if what == "content":
                await b.write(theirs, 0, b"BBBBBBBB")
                await b.fsync(theirs)
            else:
                await b.attributes.set(inode.id, mode=0o600)
            await a.directory(ROOT_INODE, DentryId(0), 100)
            inode.let_go()

        newest = b"BBBBBBBB" if what == "content" else b"aaaaaaaa"
        inode.let_go()
        namespace.meanwhile = meanwhile
        if how == "read":
            assert bytes(await a.read(mine, 0, 100)) == newest
        elif how == "truncate":
            await a.attributes.set(inode.id, size=4)
            assert await content(b, inode.id) == await content(a, inode.id) == newest[:4]
        else:
            await a.write(mine, 0, b"x")
            await a.fsync(mine)
            assert await content(b, inode.id) == await content(a, inode.id) == b"x" + newest[1:]
        assert namespace.meanwhile is None
