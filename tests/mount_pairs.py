"""Two mounts of one volume in one process, each with a kernel that writes down what it was told to forget, and calls to
the coordinator that tests hold up, refuse or let lose their answer."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Operation


@dataclass
class Kernel:
    """Remembers what it was told to forget."""

    inodes: list[tuple[InodeId, bool]] = field(default_factory=list)
    names: list[tuple[InodeId, bytes]] = field(default_factory=list)

    def stale_inode(self, inode: InodeId, *, content: bool) -> None:
        self.inodes.append((inode, content))

    def stale_name(self, parent: InodeId, name: bytes) -> None:
        self.names.append((parent, name))


@dataclass
class Mount:
    """One of two, with its kernel."""

    fs: Filesystem
    namespace: MemoryNamespace
    kernel: Kernel = field(default_factory=Kernel)

    async def made(self, name: bytes, content: bytes) -> Handle:
        handle = await self.fs.create(ROOT_INODE, name, 0o644, Owner(0, 0))
        await self.fs.write(handle, 0, content)
        await self.fs.fsync(handle)
        self.fs.refer(handle.inode)
        return handle

    async def opened(self, name: bytes) -> Handle:
        inode = await self.fs.lookup(ROOT_INODE, name)
        self.fs.refer(inode)
        return await self.fs.open(inode.id)

    async def content(self, handle: Handle) -> bytes:
        return bytes(await self.fs.read(handle, 0, 1 << 20))

    async def remove(self, name: bytes) -> None:
        await self.fs.remove(ROOT_INODE, name, directory=False)


@dataclass
class Two:
    a: Mount
    b: Mount
    volume: MemoryVolume


@asynccontextmanager
async def mounts() -> AsyncIterator[Two]:
    """Two mounts that follow each other."""
    shared, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    first, second = shared.session(), shared.session()
    async with (
        filesystem(first, store) as fs_a,
        filesystem(second, store) as fs_b,
        trio.open_nursery() as nursery,
    ):
        given = Two(Mount(fs_a, first), Mount(fs_b, second), shared)
        for mount in (given.a, given.b):
            nursery.start_soon(mount.fs.follow, mount.kernel)
        await wait_all_tasks_blocked()
        yield given
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def lonely() -> AsyncIterator[Mount]:
    """A mount that is the only one of its volume."""
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        yield Mount(fs, session)


# ---- what happens to calls


Call = Callable[[], Awaitable[Any]]


def interpose(namespace: MemoryNamespace, method: str, hook: Callable[..., Awaitable[Any]]) -> None:
    """From now on the method is `hook(call, *arguments)`, where `call()` is what it was."""
    real = getattr(namespace, method)

    async def interposed(*arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - any method's
        return await hook(lambda: real(*arguments, **more), *arguments)

    setattr(namespace, method, interposed)


class Gate:
    """Holds up the first call of a method: before it reaches the coordinator, or its answer. `of`: of batches with
    such an operation only."""

    def __init__(
        self, namespace: MemoryNamespace, method: str = "apply", *, of: type | None = None, answered: bool = False
    ) -> None:
        self.reached, self._is_open = trio.Event(), trio.Event()
        self._of, self._answered = of, answered
        interpose(namespace, method, self._hook)

    async def _hook(self, call: Call, *arguments: Any) -> Any:  # noqa: ANN401 - any method's
        if self.reached.is_set() or (self._of is not None and not has(arguments[0], self._of)):
            return await call()
        answer = await call() if self._answered else None
        self.reached.set()
        await self._is_open.wait()
        return answer if self._answered else await call()

    def open(self) -> None:
        """Let it go on."""
        self._is_open.set()


def fail(
    namespace: MemoryNamespace,
    error: Exception,
    method: str = "apply",
    *,
    of: type | None = None,
    done: bool = False,
    times: int = 1,
) -> None:
    """The next calls raise it, with `done` after they were carried out."""
    left = times

    async def hook(call: Call, *arguments: Any) -> Any:  # noqa: ANN401 - any method's
        nonlocal left
        if not left or (of is not None and not has(arguments[0], of)):
            return await call()
        left -= 1
        if done:
            await call()
        raise error

    interpose(namespace, method, hook)


def record(namespace: MemoryNamespace) -> list[list[Operation]]:
    """The batches sent from now on."""
    sent: list[list[Operation]] = []

    async def hook(call: Call, operations: Sequence[Operation]) -> Any:  # noqa: ANN401 - an Applied
        sent.append(list(operations))
        return await call()

    interpose(namespace, "apply", hook)
    return sent


def has(operations: Sequence[Operation], kind: type) -> bool:
    """Whether a batch has such an operation."""
    return any(isinstance(operation, kind) for operation in operations)
