"""A peer's disk: real files in memory, of which a power cut leaves only what was synced, names and contents alike.

As in tests/faults/test_directory_crash.py, with what else befalls disks: they fill up, hang, lose power in the middle
of anything, and change bits. The invariants look at it directly.
"""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import trio

from p2pfs.chunks.disk import Disk
from p2pfs.chunks.header import HEADER_BYTES, unpack
from p2pfs.errors import Corrupt
from p2pfs.format.chunk import block_hashes
from p2pfs.runtime.clocks import Clock
from p2pfs.types import Buffer, ChunkId, VolumeId, volume_name

from .network import PowerCut

Copy = tuple[VolumeId, ChunkId]
_WAITED_FOR: Final = 0.125


class SimDisk(Disk):
    """`root` is the store's directory; `attic` keeps what a power cut brings back."""

    def __init__(self, root: Path, attic: Path, chance: random.Random, clock: Clock) -> None:
        self.root, self._attic, self._chance, self._clock = root, attic, chance, clock
        self.is_dead = False
        self.is_full = False
        self.stuck: trio.Event | None = None
        self.latency_s = 0.002
        self.dies_in: int | None = None  # system calls until the power goes
        self.trashing: Callable[[Path], None] = lambda _: None  # told before a live chunk file goes to the trash
        self.purging: Callable[[Path], None] = lambda _: None  # told before a file leaves the trash
        self._links = 0
        # (directory whose fsync settles it, name that would go, how)
        self._undo: list[tuple[Path, Path | None, Callable[[], None]]] = []
        self._unsynced: set[int] = set()
        self._valid: dict[Path, bool] = {}
        self._paths: dict[Copy, Path] = {}
        attic.mkdir(parents=True, exist_ok=True)

    # ---- the event loop's side --------------------------------------------------------------------------------------

    async def turn(self) -> None:
        """Until the disk has done one piece of work."""
        await self.take_time()
        while self.stuck is not None and not self.stuck.is_set():
            await self.stuck.wait()

    def is_slow_now(self) -> bool:
        """Whether the next piece of work is one that is waited for: one in eight, for waiting is what a run's time
        goes to."""
        return self._chance.random() < _WAITED_FOR

    async def take_time(self) -> None:
        """What one piece of work takes."""
        await trio.sleep(self.latency_s * (0.5 + self._chance.random()))

    @property
    def is_stuck(self) -> bool:
        return self.stuck is not None and not self.stuck.is_set()

    def free_bytes(self) -> int:
        return 0 if self.is_full else 1 << 34

    # ---- system calls -----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        if self.is_dead:
            raise PowerCut
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                self.dies_in = None
                self.is_dead = True
                raise PowerCut

    def create(self, path: Path, *, direct: bool = False) -> int:
        self._step()
        if direct:
            raise OSError(errno.EINVAL, "no direct I/O here")
        fd = super().create(path)
        self._unsynced.add(os.fstat(fd).st_ino)
        self._undo.append((path.parent, path, lambda: path.unlink(missing_ok=True)))
        return fd

    def write(self, fd: int, data: Buffer) -> None:
        self._step()
        if self.is_full:
            raise OSError(errno.ENOSPC, "the disk is full")
        super().write(fd, data)

    def truncate(self, fd: int, length: int) -> None:
        self._step()
        super().truncate(fd, length)

    def sync(self, fd: int) -> None:
        self._step()
        self._unsynced.discard(os.fstat(fd).st_ino)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        if new.parent.name == "trash":
            self.trashing(old)
        if not new.parent.exists():
            new.parent.mkdir(mode=0o700)  # see make_directory
        self._links += 1
        kept = self._attic / str(self._links)
        replaces_durable = new.exists() and self._is_durable(new)
        if new.exists():
            os.link(new, kept)
        super().rename(old, new)
        now_s = self._clock.time()
        os.utime(new, (now_s, now_s))  # when it was written, within moments
        self._valid.pop(old, None)
        self._valid.pop(new, None)

        def undo() -> None:
            if new.exists() and not old.exists():
                os.rename(new, old)
            if kept.exists():
                os.rename(kept, new)

        self._undo.append((new.parent, None if replaces_durable else new, undo))

    def make_directory(self, path: Path) -> None:
        self._step()
        if len(path.name) == 2:
            return  # 256 alike in each volume: made when something is moved into one
        super().make_directory(path)

    def sync_directory(self, path: Path) -> None:
        self._step()
        self._undo = [entry for entry in self._undo if entry[0] != path]

    def remove(self, path: Path) -> None:
        self._step()
        if path.parent.name == "trash" and path.exists():
            self.purging(path)
        super().remove(path)
        self._valid.pop(path, None)

    def open(self, path: Path, *, direct: bool = False) -> int:
        self._step()
        return super().open(path)

    def free(self, path: Path) -> int:
        return self.free_bytes()

    # ---- what happens to disks --------------------------------------------------------------------------------------

    def start(self, *, lost_power: bool) -> None:
        """The machine starts again after `Host.stop`: what was not synced is gone if the power was."""
        if lost_power:
            for _, _, undo in reversed(self._undo):
                undo()
            for path in self.root.rglob("*"):
                if path.is_file() and path.stat().st_ino in self._unsynced:
                    os.truncate(path, path.stat().st_size // 2)
        self._undo.clear()
        self._unsynced.clear()
        self._valid.clear()
        self.is_dead = self.is_full = False
        self.dies_in = None
        self.unstick()

    def hang(self) -> None:
        if self.stuck is None or self.stuck.is_set():
            self.stuck = trio.Event()

    def unstick(self) -> None:
        if self.stuck is not None:
            self.stuck.set()

    def flip(self, copy: Copy) -> None:
        """Change one bit of a live copy."""
        path = self.path(copy)
        size = path.stat().st_size
        with path.open("r+b") as file:
            at = self._chance.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes((byte ^ 1 << self._chance.randrange(8),)))
        self._valid.pop(path, None)

    def vanish(self, copy: Copy) -> None:
        """A live copy is gone behind its store's back."""
        path = self.path(copy)
        path.unlink(missing_ok=True)
        self._valid.pop(path, None)

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        shutil.rmtree(self.root, ignore_errors=True)
        self._undo.clear()
        self._unsynced.clear()
        self._valid.clear()

    # ---- what is there ----------------------------------------------------------------------------------------------

    def path(self, copy: Copy) -> Path:
        path = self._paths.get(copy)
        if path is None:
            volume, chunk = copy
            name = chunk.hex()
            path = self._paths[copy] = self.root / volume_name(volume) / name[:2] / name[2:]
        return path

    def copies(self) -> Iterator[Copy]:
        """Every live chunk file, whatever is in it, in a fixed order."""
        for volume in sorted(self.root.glob("????????????????")):
            for path in sorted(volume.glob("*/*")):
                yield VolumeId(int(volume.name, 16)), ChunkId(bytes.fromhex(path.parent.name + path.name))

    def trash(self) -> list[str]:
        """Names of files in the trash."""
        return sorted(os.listdir(self.root / "trash")) if (self.root / "trash").exists() else []

    def holds(self, copy: Copy) -> bool:
        """Whether a whole and undamaged copy would be here after a power cut."""
        path = self.path(copy)
        valid = self._valid.get(path)
        if valid is None:
            valid = self._valid[path] = self._check(path, copy)
        return valid and self._is_durable(path)

    def _is_durable(self, path: Path) -> bool:
        if any(name == path for _, name, _ in self._undo):
            return False
        return not self._unsynced or os.stat(path).st_ino not in self._unsynced

    def _check(self, path: Path, copy: Copy) -> bool:
        try:
            data = path.read_bytes()
            header = unpack(data[:HEADER_BYTES])
        except (FileNotFoundError, NotADirectoryError, Corrupt):
            return False
        body = data[HEADER_BYTES:]
        whole = (header.volume, header.chunk) == copy and header.size == len(body)
        return whole and list(header.hashes) == block_hashes(body)
