"""Directory stores for tests, and a disk that hangs."""

import threading
from pathlib import Path

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.receipts import sign_for
from p2pfs.types import GIB, PeerNumber

SIGN = sign_for(PeerNumber(1))


async def opened(root: Path, disk: Disk | None = None, **options: object) -> DirectoryStore:
    return await DirectoryStore.open(root, sign=SIGN, disk=disk, **{"capacity": GIB, **options})  # type: ignore[arg-type]


def file_of(root: Path) -> Path:
    (path,) = (path for path in root.glob("????????????????/*/*") if path.is_file())
    return path


class StuckDisk(Disk):
    """fsync and rename hang until let go."""

    def __init__(self) -> None:
        self.stuck = threading.Event()
        self.let_go = threading.Event()
        self.is_stuck = False

    def sync(self, fd: int) -> None:
        self._hang()
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._hang()
        super().rename(source, target)

    def _hang(self) -> None:
        if self.is_stuck:
            self.stuck.set()
            self.let_go.wait(10)
