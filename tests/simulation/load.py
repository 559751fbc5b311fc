"""What people do with the pool: random files made, written, appended to, truncated, read, renamed and removed, and the
model of what each of them may hold.

A file has one writer, the mount that made it, and any number of readers. `versions` are its states in the order they
were written; what was acknowledged by fsync, close or truncate is `acked`, and nobody may ever see an older one. What
failed may still happen later: a file of which that is true is `doubtful` and not changed any more.
"""

import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from p2pfs.errors import Corrupt, Fenced, Gone, NoSpace, NotFound, PoolError, Unavailable
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.tree import Owner

from .pool import Mounted, SimMount
from .world import World

_WEATHER = (Unavailable, NoSpace, Corrupt, Fenced)
_OWNER = Owner(1000, 1000)
_CHANGES = frozenset({"create", "truncate", "rename", "replace", "remove", "stamp"})
"""What cannot succeed without the coordinator."""
MOST_FILES = 40


@dataclass(eq=False)
class SimFile:
    """A file as the model knows it."""

    name: bytes
    mounted: Mounted  # of its writer
    handle: Handle | None
    inode: InodeId
    appends: bool
    versions: list[bytes] = field(default_factory=lambda: [b""])
    acked: int = 0
    acked_change: int = 0
    is_live: bool = True  # it has this name for sure
    is_gone: bool = False  # it has no name any more for sure
    is_doubtful: bool = False
    busy: bool = False
    seen: dict[Mounted, int] = field(default_factory=dict)  # the newest version each mount was shown

    def __repr__(self) -> str:
        return f"{self.name.decode()} (inode {self.inode})"

    def is_writable(self, mounted: Mounted) -> bool:
        return self.mounted is mounted and self.handle is not None and self.is_live and not self.is_doubtful


@dataclass(eq=False)
class Stamp:
    """A number that a mount writes where every mount writes such numbers: the root's group. In the order of all that
    begins and ends: when it began, when its program went on, and whether it is committed for certain."""

    number: int
    began: int
    told: int = 0
    is_committed: bool = False


class Load:
    """Starts operations; each runs as a task of its mount's machine."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance: random.Random = world.load_chance
        self.files: list[SimFile] = []
        self.operations = self.refused = 0
        self.stamps: list[Stamp] = []
        self._moments = itertools.count(1)
        self._names = 0
        self._written: list[bytes] = []
        self._old: list[bytes] = []  # some of what was written long ago

    def start(self) -> None:
        """Begin one random operation on a random mount, if there is one."""
        using = self.world.using()
        if not using:
            return
        mount = self.chance.choice(using)
        assert mount.mounted is not None
        operation, arguments = self._draw(mount.mounted)
        if operation is not None:
            mount.start_soon(self._run, mount, operation, *arguments)

    def stamp(self, mount: SimMount) -> None:
        """Begin to write a stamp."""
        mount.start_soon(self._run, mount, self._stamp)

    def _draw(self, mounted: Mounted) -> tuple[Callable[..., Awaitable[None]] | None, tuple[SimFile, ...]]:
        own = [file for file in self.files if file.is_writable(mounted) and not file.busy]
        readable = [file for file in self.files if not file.is_gone and not file.busy]
        if self.chance.random() < 0.15:
            return self._stamp, ()
        drawn = self.chance.random()
        if drawn < 0.2 or not readable:
            return (self._create, ()) if len(readable) < MOST_FILES else (None, ())
        if own and drawn < 0.75:
            file = self.chance.choice(own)
            kinds = [self._write, self._write, self._store, self._store, self._truncate, self._read_own, self._rename]
            if len(own) > 4:
                kinds.append(self._remove)
            if len(own) > 2:
                kinds.append(self._replace)
            return self.chance.choice(kinds), (file,)
        return self._read_anew, (self.chance.choice(readable),)

    async def _run(self, mount: SimMount, operation: Callable[..., Awaitable[None]], *files: SimFile) -> None:
        mounted = mount.mounted
        name = operation.__name__.lstrip("_")
        if mounted is None or any(file.busy for file in files):
            return
        if name != "read_anew" and not all(file.is_writable(mounted) for file in files):
            return  # since it was drawn
        self.operations += 1
        about = f"{mount.host.name}: {name} {', '.join(map(repr, files))}"
        is_alone = name != "read_anew"
        for file in files if is_alone else ():
            file.busy = True
        is_over = name in _CHANGES and self.world.is_over(mounted.namespace.session)
        try:
            await operation(mounted, *files)
            self.world.note(f"{about}: done")
            if is_over:
                self.world.violated("fencing", f"{about} was done in a session that is over")
        except _WEATHER as error:
            self.refused += 1
            self.world.note(f"{about}: {type(error).__name__}: {error}")
        except PoolError as error:
            if isinstance(error, Gone) and self.world.has_shrunk_lately():
                return  # stored again by itself until io_timeout; a mount may take longer to hear who has left
            self.world.violated("P9", f"{about}: nobody else could be the cause of {type(error).__name__}: {error}")
        finally:
            for file in files if is_alone else ():
                file.busy = False

    # ---- operations -------------------------------------------------------------------------------------------------

    async def _create(self, mounted: Mounted) -> None:
        self._names += 1
        name = b"f%d" % self._names
        appends = self.chance.random() < 0.3
        handle = await mounted.filesystem.create(ROOT_INODE, name, 0o644, _OWNER, append=appends)
        await mounted.filesystem.promises.committed()
        file = SimFile(name, mounted, handle, handle.inode.id, appends)
        self.files.append(file)
        if self.chance.random() < 0.8:
            file.busy = True
            try:
                await self._write(mounted, file)
                if self.chance.random() < 0.6:
                    await self._store(mounted, file)
            finally:
                file.busy = False

    async def _write(self, mounted: Mounted, file: SimFile) -> None:
        before = file.versions[-1]
        data = self._data()
        offset = len(before) if file.appends else self.chance.randrange(len(before) + 1)
        if not file.appends and self.chance.random() < 0.1:
            offset += self.chance.randrange(5000)
        assert file.handle is not None
        await mounted.filesystem.write(file.handle, offset, data)
        after = bytearray(max(len(before), offset + len(data)))
        after[: len(before)] = before
        after[offset : offset + len(data)] = data
        file.versions.append(bytes(after))

    def _data(self) -> bytes:
        """Mostly new bytes; now and then what was written before, which is the same chunk once more."""
        if self._written and self.chance.random() < 0.35:
            return self.chance.choice(self._old if self._old and self.chance.random() < 0.4 else self._written)
        data = self.chance.randbytes(self._size())
        self._written.append(data)
        if len(self._written) > 24:
            self._old = [*self._old[-24:], self._written.pop(0)]
        return data

    def _size(self) -> int:
        drawn = self.chance.random()
        if drawn < 0.15:
            return self.chance.randrange(1, 100)
        return self.chance.randrange(200, 6000) if drawn < 0.95 else self.chance.randrange(60_000, 200_000)

    async def _store(self, mounted: Mounted, file: SimFile) -> None:
        assert file.handle is not None
        last = len(file.versions) - 1
        if self.chance.random() < 0.7:
            await mounted.filesystem.fsync(file.handle)
        else:
            await mounted.filesystem.flush(file.handle)
        if not mounted.is_over:  # whose unsaved bytes are given up; it was told once
            self._acknowledged(file, last)

    def _acknowledged(self, file: SimFile, last: int) -> None:
        file.acked = last
        if file.handle is not None:
            file.acked_change = file.handle.inode.head.change

    async def _truncate(self, mounted: Mounted, file: SimFile) -> None:
        before = file.versions[-1]
        size = self.chance.randrange(len(before) + 2000) if self.chance.random() < 0.7 else 0
        assert file.handle is not None
        file.versions.append(before[:size].ljust(size, b"\0"))
        last = len(file.versions) - 1
        with self._in_doubt(file):
            await mounted.filesystem.attributes.set(file.inode, size=size)
            await mounted.filesystem.promises.committed()
        self._acknowledged(file, last)

    @contextmanager
    def _in_doubt(self, *files: SimFile) -> Iterator[None]:
        """What ends with an error may have happened, or happen later."""
        try:
            yield
        except BaseException:
            for file in files:
                file.is_doubtful = True
            raise

    async def _read_own(self, mounted: Mounted, file: SimFile) -> None:
        assert file.handle is not None
        found = await self._whole(mounted, file.handle)
        if found == file.versions[-1] or mounted.is_over:
            return
        self.world.violated("P3", f"{file} shows its writer {_told(found, file.versions)}, not the last version")

    async def _read_anew(self, mounted: Mounted, file: SimFile) -> None:
        """Open, read, close: close-to-open, whoever wrote it."""
        began_s, first, name, was_live = trio.current_time(), file.acked, file.name, file.is_live
        filesystem = mounted.filesystem

        def is_sure() -> bool:
            """Whether the name must have led to this file. Without the coordinator mounts go by what they know."""
            return was_live and file.is_live and file.name == name and not mounted.fell_back(began_s)

        try:
            inode = await filesystem.lookup(ROOT_INODE, name)
            handle = await filesystem.open(inode.id)
        except NotFound:
            if is_sure():
                self.world.violated("P1", f"{file} is not found")
            return
        if inode.id != file.inode:
            await filesystem.release(handle)
            if is_sure():
                self.world.violated("P3", f"{file} is inode {inode.id} to a reader")
            return
        try:
            found = await self._whole(mounted, handle)
        except NotFound:
            if is_sure():
                raise
            return
        finally:
            await filesystem.release(handle)
        if mounted.fell_back(began_s):
            first = file.seen.get(mounted, 0)
        if found not in file.versions[first:] and _is_overtaken(found, file.versions[first:]):
            return
        if found in file.versions[first:]:
            file.seen[mounted] = max(file.seen.get(mounted, 0), first + file.versions[first:].index(found))
            return
        told = _told(found, file.versions)
        self.world.violated("P3", f"{file} shows a reader {told}; {first} to {len(file.versions) - 1} are allowed")

    async def read_all(self, mount: SimMount) -> None:
        """At the end, when all is well: everything that must be there is, and opens."""
        mounted = mount.mounted
        assert mounted is not None
        for file in self.files:
            if file.is_live:
                try:
                    await self._read_anew(mounted, file)
                except PoolError as error:
                    self.world.violated("P1", f"{file} cannot be read though all is well: {error}")

    async def _whole(self, mounted: Mounted, handle: Handle) -> bytes:
        return bytes(await mounted.filesystem.read(handle, 0, 1 << 20))

    async def _rename(self, mounted: Mounted, file: SimFile) -> None:
        self._names += 1
        name, old = b"f%d" % self._names, file.name
        file.is_live = False
        with self._in_doubt(file):
            await mounted.filesystem.rename(ROOT_INODE, old, ROOT_INODE, name, 0)
            await mounted.filesystem.promises.committed()
        file.name, file.is_live = name, True
        self._acknowledged(file, len(file.versions) - 1)  # rename stores what was written first

    async def _replace(self, mounted: Mounted, file: SimFile) -> None:
        """Rename over another file of this mount."""
        others = [other for other in self.files if other.is_writable(mounted) and not other.busy and other is not file]
        if not others:
            return await self._rename(mounted, file)
        other = self.chance.choice(others)
        other.busy, file.is_live, other.is_live = True, False, False
        try:
            with self._in_doubt(file, other):
                await mounted.filesystem.rename(ROOT_INODE, file.name, ROOT_INODE, other.name, 0)
                await mounted.filesystem.promises.committed()
            file.name, file.is_live = other.name, True
            self._acknowledged(file, len(file.versions) - 1)
            await self._let_go(mounted, other)
        finally:
            other.busy = False

    async def _remove(self, mounted: Mounted, file: SimFile) -> None:
        file.is_live = False
        with self._in_doubt(file):
            await mounted.filesystem.remove(ROOT_INODE, file.name, directory=False)
            await mounted.filesystem.promises.committed()
        await self._let_go(mounted, file)

    async def _stamp(self, mounted: Mounted) -> None:
        """Overwrite what others wrote there. Whoever has the volume delegated goes on before it is committed."""
        stamp = Stamp(len(self.stamps) + 1, next(self._moments))
        self.stamps.append(stamp)
        await mounted.filesystem.attributes.set(ROOT_INODE, gid=stamp.number)
        stamp.told = next(self._moments)
        await mounted.filesystem.promises.committed()
        stamp.is_committed = True

    def overwritten(self, number: int) -> Stamp | None:
        """The committed stamp that number `number` must have come before, as its program went on before that began."""
        told = self.stamps[number - 1].told if number else -1
        after = (stamp for stamp in self.stamps if stamp.is_committed and told and stamp.began > told)
        return next(after, None)

    async def _let_go(self, mounted: Mounted, file: SimFile) -> None:
        """It has no name any more; as long as it is open it can be read."""
        file.is_gone = True
        if self.chance.random() < 0.5:
            await trio.sleep(self.chance.random() * 20)
            await self._read_own(mounted, file)
        handle, file.handle = file.handle, None
        if handle is not None:
            await mounted.filesystem.release(handle)


def _is_overtaken(found: bytes, allowed: list[bytes]) -> bool:
    """Whether it was opened at one version and read at a later one, as far as the first one's size."""
    return any(found == later[: len(earlier)] for at, earlier in enumerate(allowed) for later in allowed[at + 1 :])


def _told(found: bytes, versions: list[bytes]) -> str:
    """Which version somebody saw, for people."""
    if found in versions:
        return f"version {versions.index(found)} of {len(versions)}"
    return f"{len(found)} bytes that nobody wrote (the last version has {len(versions[-1])})"
