"""A program for tests of notifications: a small real mount whose handlers wait when they are told to.

    python notified_mount.py MOUNT_POINT (storm COUNT | stuck WAY DEADLINE | trust)

The root has a file `file`; every mkdir fails with EEXIST. *storm* notifies the kernel COUNT times of the same inodes
and names while others read and mkdir, and says so. *stuck* lets the first mkdir wait for ever, notifies the kernel of
its name, and ends as a mount does; WAY says how it may cut the connection: `force`, `file=DIRECTORY` or `none`.
*trust* lets the kernel believe for long what it is told; at the first mkdir a name `late` is there, `file` is longer,
and the kernel is made to forget. It says how often names and attributes were asked for before and after.
"""

import errno
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from p2pfs import exitcodes
from p2pfs.runtime import log
from p2pfs_mount import connection
from p2pfs_mount.connection import Connection, Cut
from p2pfs_mount.entries import nothing
from p2pfs_mount.fuse_loop import FuseLoop
from p2pfs_mount.guard import guarded
from p2pfs_mount.invalidation import KernelCache
from p2pfs_mount.meter import Meter
from p2pfs_mount.pending import Pending
from p2pfs_mount.trust import KernelTrust

FILE = 2
SIZE = 1 << 20


def say(**what: Any) -> None:  # noqa: ANN401 - what JSON holds
    print(json.dumps(what), flush=True)


class Operations(pyfuse3.Operations):
    def __init__(self) -> None:
        super().__init__()
        self.pending = Pending(60)
        self.meter = Meter(lambda _handle: None)
        self.unexpected = 0
        self.hangs = False
        self.hanging = trio.Event()
        self.trusted_s = 0.0
        self.trust = KernelTrust(lambda: self.trusted_s)
        self.asked: list[str] = []
        self.is_changed = False
        self.changed = trio.Event()

    async def getattr(self, number: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(number)
        entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o444 if number == FILE else stat.S_IFDIR | 0o755)
        entry.st_nlink, entry.st_size = 2, SIZE + self.is_changed
        entry.attr_timeout = self.trust.inode_s(number)
        self.asked.append(str(number))
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        self.asked.append(name.decode())
        if name != b"file" and not (name == b"late" and self.is_changed):
            if not self.trusted_s:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return nothing(self.trust.name_s(parent, name))
        entry = await self.getattr(FILE)
        entry.entry_timeout = self.trust.name_s(parent, name)
        return entry

    @guarded
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: object) -> pyfuse3.EntryAttributes:
        if self.hangs:
            self.hanging.set()
            await trio.sleep_forever()
        await trio.sleep(0.0005)
        self.changed.set()
        raise pyfuse3.FUSEError(errno.EEXIST)

    async def open(self, number: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(1))

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        await trio.sleep(0.0005)
        return bytes(max(0, min(length, SIZE - offset)))


async def storm(kernel: KernelCache, count: int) -> None:
    slowest, start = 0.0, trio.current_time()
    for number in range(count):
        before = trio.current_time()
        for inode in (FILE, pyfuse3.ROOT_INODE):
            kernel.stale_inode(inode, content=True)
        for name in (b"file", b"d0", b"d1", b"d%d" % number):
            kernel.stale_name(pyfuse3.ROOT_INODE, name)
        slowest = max(slowest, trio.current_time() - before)
        await trio.sleep(0.0005)
    queued = trio.current_time() - start
    while kernel.waiting:  # noqa: ASYNC110 - its threads tell nobody
        await trio.sleep(0.01)
    say(stormed=kernel.done, overflows=kernel.overflows, slowest_put_s=slowest, queued_s=queued)


async def withdrawn(operations: Operations, kernel: KernelCache) -> None:
    operations.trusted_s = 30.0
    say(ready=True)
    await operations.changed.wait()
    operations.is_changed, operations.trusted_s = True, 0.0
    before, operations.asked = operations.asked, []
    await operations.trust.withdraw(kernel)
    say(asked=before, left_s=operations.trust.longest_s())


async def serve(path: Path, mode: str, arguments: list[str]) -> int:
    operations = Operations()
    loop = FuseLoop()
    pyfuse3.init(loop.of(operations), str(path), {"fsname=test", "subtype=p2pfs"})
    way, deadline = (arguments[0], float(arguments[1])) if mode == "stuck" else ("force", 30.0)
    found = Connection(path, Path(way.removeprefix("file=") if way.startswith("file=") else "/nowhere"))
    if way == "none":
        connection.os.geteuid = lambda: 1000  # as for an unprivileged user, whom umount2 would refuse
    cut = Cut(found, operations.pending)
    kernel = KernelCache(deadline_s=deadline, stuck=cut.stuck)

    async def play() -> None:
        if mode == "storm":
            await storm(kernel, int(arguments[0]))
            return
        if mode == "trust":
            await withdrawn(operations, kernel)
            return
        operations.hangs = True
        say(ready=True)
        await operations.hanging.wait()
        kernel.stale_name(pyfuse3.ROOT_INODE, b"d")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        nursery.start_soon(kernel.watch)
        await loop.serve()
        nursery.cancel_scope.cancel()
    await kernel.aclose()
    pyfuse3.close(unmount=True)
    return exitcodes.ABORTED if cut.is_cut else exitcodes.OK


if __name__ == "__main__":
    log.setup("info")
    os.environ["LC_ALL"] = "C"
    sys.exit(trio.run(serve, Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
