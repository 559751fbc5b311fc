"""Mount an empty FUSE file system, look into it, unmount it: exit status 0 only if this machine can do that.

Run by .ci/run before the tests, so that a machine without FUSE fails with one sentence instead of a hundred errors. Not
part of the package.
"""

import os
import subprocess
import sys
import tempfile

import pyfuse3
import trio


class Empty(pyfuse3.Operations):
    """A root directory and nothing in it."""

    async def getattr(self, inode: int, _context: object = None) -> pyfuse3.EntryAttributes:
        if inode != pyfuse3.ROOT_INODE:
            raise pyfuse3.FUSEError(2)
        attributes = pyfuse3.EntryAttributes()
        attributes.st_mode = 0o40700
        attributes.st_ino = inode
        return attributes


async def look(mount_point: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        with trio.fail_after(10):
            # A process of its own: a stat from here could not be answered by here.
            await trio.run_process(["stat", mount_point], stdout=subprocess.DEVNULL)
        pyfuse3.terminate()


def main() -> int:
    with tempfile.TemporaryDirectory() as mount_point:
        try:
            pyfuse3.init(Empty(), mount_point, {"fsname=p2pfs-check", *pyfuse3.default_options})
        except RuntimeError as error:
            hint = (
                ""
                if os.path.exists("/dev/fuse")
                else " (there is no /dev/fuse: load the module, or pass the device in)"
            )
            print(f"this machine cannot mount FUSE file systems: {error}{hint}", file=sys.stderr)
            return 1
        try:
            trio.run(look, mount_point)
        finally:
            pyfuse3.close()
    print("a FUSE file system was mounted and unmounted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
