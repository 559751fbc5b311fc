"""Recovery against a whole coordinator, which refuses whatever is asked of a session that is over."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from coordination import live, volume_message
from volumes import KEYS

from p2pfs.errors import NotFound
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import ROOT_INODE, Kind, Role, VolumeId
from p2pfs.vfs.attach import _recovering
from p2pfs.vfs.journal import recovery
from p2pfs.vfs.journal.recovery import Recovery
from p2pfs.vfs.pool import Pool
from p2pfs.wire.namespace import Make
from p2pfs.wire.volumes import OpenSession, VolumeInfo

pytestmark = pytest.mark.l3

VOLUME = VolumeId(7)


class Node:
    """One that mounts, dies and mounts again."""

    def __init__(self, pool: Pool, home: Path) -> None:
        self.pool, self.home = pool, home

    async def mount(self) -> RemoteNamespace:
        request = OpenSession("host", "/mnt")
        return await RemoteNamespace.open(
            self.pool.client, self.pool.coordinator, VOLUME, request=request, io_timeout_s=5.0
        )

    def recovering(self, home: str) -> AbstractAsyncContextManager[Recovery]:
        return _recovering(NodeHome(self.home / home), Settings(), self.pool, VOLUME, KEYS, keeps=True)

    async def die(self, *, unfinished: bool) -> RemoteNamespace:
        """Leave a session and a journal, perhaps with a name under a delegation that it holds no more."""
        async with self.recovering("alive") as own:
            session = await self.mount()
            own.journal.opened(session.session)
            if unfinished:
                own.journal.granted(5)
                ids = await session.new_ids(2)
                own.journal.queued([
                    Make(ROOT_INODE, b"left", ids[0], b"tag", ids[1], Kind.FILE, 0o644, 0, 0, 0, b"head", 1)
                ])  # fmt: skip
            shutil.copytree(self.home / "alive" / "journal", self.home / "dead" / "journal")
        return session

    async def has_name(self) -> bool:
        session = await self.mount()
        try:
            await session.lookup(ROOT_INODE, b"left")
        except NotFound:
            return False
        finally:
            await session.aclose()
        return True


@asynccontextmanager
async def node(path: Path) -> AsyncIterator[Node]:
    with trio.fail_after(60):
        async with live(path) as coordinator:
            _, credentials = await coordinator.join("anna@laptop", Role.CLIENT)
            async with coordinator.client(credentials) as client:
                await client.call(coordinator.endpoint, "POST", "/volumes", volume_message(VOLUME), VolumeInfo)
                yield Node(Pool(client, coordinator.endpoint, 5.0), path)


@pytest.mark.parametrize("unfinished", [False, True])
async def test_a_dead_mount_whose_session_is_over_keeps_nobody_from_mounting(tmp_path: Path, unfinished: bool) -> None:
    async with node(tmp_path) as mine:
        session = await mine.die(unfinished=unfinished)
        await session.aclose()
        async with mine.recovering("dead") as found:
            assert found.journal.rejected == 0
        assert await mine.has_name() is unfinished


async def test_a_recovery_that_dies_when_it_has_ended_the_session_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as mine:
        await mine.die(unfinished=True)
        with trio.CancelScope() as dying, monkeypatch.context() as patched:

            async def die(*_: object) -> None:
                dying.cancel()
                await trio.lowlevel.checkpoint()

            patched.setattr(recovery, "merge", die)
            async with mine.recovering("dead"):
                pass
        assert dying.cancelled_caught
        assert not await mine.has_name()
        async with mine.recovering("dead") as found:
            assert found.journal.rejected == 0
        assert await mine.has_name()
