"""A mount from start to end: `run` is what `p2pfs mount` calls. Composition and order of leaving; no FUSE semantics."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from p2pfs import exitcodes
from p2pfs.errors import PoolError, UserError
from p2pfs.net.exposition import expose
from p2pfs.runtime import mounts, process
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.inspection import inspectable
from p2pfs.runtime.memory import thrifty
from p2pfs.runtime.watchdog import watched
from p2pfs.types import VolumeId, volume_name
from p2pfs.vfs.attach import Attached, attach
from p2pfs_mount import life, unmasked
from p2pfs_mount.cache_commands import CacheCommands
from p2pfs_mount.commands import Commands
from p2pfs_mount.connection import Connection, Cut
from p2pfs_mount.figures import MountFigures
from p2pfs_mount.fuse_loop import FuseLoop
from p2pfs_mount.invalidation import KernelCache
from p2pfs_mount.operations import Operations
from p2pfs_mount.options import MountOptions, source
from p2pfs_mount.pending import Pending
from p2pfs_mount.trust import Believed
from p2pfs_mount.views import ViewOperations, ViewXattrOperations
from p2pfs_mount.volume_commands import VolumeCommands

log = logging.getLogger(__name__)

LINGER_S: Final = 5.0
"""How long a mount told to end waits for files that are still open."""
LOOK_S: Final = 1.0
"""How often a mount that was taken away looks whether files are open in what is left of it."""
WRITE_BACK_S: Final = 20.0
"""How long a mount that leaves waits for the pages its kernel keeps."""
CUT_MARGIN_S: Final = 5.0
"""How much longer than any handler a notification may take."""


def run(
    home: NodeHome,
    settings: Settings,
    *,
    volume: str,
    mount_point: Path,
    passphrase: Callable[[], str],
    options: MountOptions,
    ready: Callable[[], None],
) -> int:
    """Mount a volume and serve it until it is unmounted or told to end; returns the exit code.

    `ready` is called once the directory is usable. SIGTERM and SIGINT store everything and unmount.

    Raises:
        UserError: The mount cannot begin; nothing is left behind.
    """
    path = mounts.canonical(mount_point)
    life.require_fuse()
    life.require_mount_point(path)
    process.collect_rarely()
    return trio.run(_Mount(home, settings, volume, path, passphrase, options, ready).run, strict_exception_groups=True)


class _Mount:
    def __init__(
        self,
        home: NodeHome,
        settings: Settings,
        volume: str,
        path: Path,
        passphrase: Callable[[], str],
        options: MountOptions,
        ready: Callable[[], None],
    ) -> None:
        self._home, self._settings, self._volume, self._path = home, settings, volume, path
        self._passphrase, self._options, self._ready = passphrase, options, ready
        self._exit_code = exitcodes.OK
        self._unmounted = trio.Event()

    async def run(self) -> int:
        try:
            async with inspectable(), watched(), thrifty(), attach(
                self._home, self._settings, self._volume, self._passphrase,
                read_only=self._options.read_only, access_times=self._options.access_times, hard=self._options.hard,
                mount_point=os.fsencode(self._path).decode(errors="replace"),
                by_kernel=self._options.writeback_cache, succeeds=lambda: mounts.succeeded(self._path),
            ) as attached:  # fmt: skip
                await self._serve(attached)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return self._exit_code

    async def _serve(self, attached: Attached) -> None:
        io_timeout, hard = self._settings.io_timeout, self._options.hard
        kind = ViewXattrOperations if self._options.xattr else ViewOperations
        operations = kind(
            attached.filesystem, io_timeout_s=io_timeout, hard=hard,
            writeback_cache=self._options.writeback_cache, owners=self._options.owners,
        )  # fmt: skip
        loop = FuseLoop()
        self._mount(loop.of(operations), attached)
        connection = Connection(self._path)
        cut = Cut(connection, operations.pending)
        stuck_s = stuck_after_s(operations.pending)
        kernel = KernelCache(
            deadline_s=stuck_s,
            stuck=cut.stuck,
            hangs=lambda: operations.pending.oldest_s() >= stuck_s,
            keeps_pages=self._options.writeback_cache,
        )
        attached.holding.kernel = Believed(operations.trust, kernel)
        socket = mounts.socket_path(self._home.path, self._path)
        figures = MountFigures(attached, operations, kernel)
        control = life.Control(
            lambda report: self._store(attached, operations, report),
            lambda: self._leave(attached),
            figures.stats,
            {
                "access log": operations.meter.access.follow,
                **Commands(attached.filesystem, kernel.idle).table(),
                **CacheCommands(attached.filesystem, kernel).table(),
                **VolumeCommands(VolumeId(attached.volume.volume), attached.configure).table(),
            },
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(control.serve, socket)
                nursery.start_soon(expose, self._settings.metrics_listen, figures.figures(self._home))
                nursery.start_soon(self._end_on_signal, attached, operations)
                nursery.start_soon(self._end_unused, operations)
                nursery.start_soon(self._announce, socket, attached)
                nursery.start_soon(kernel.watch)
                nursery.start_soon(attached.filesystem.follow, kernel)
                if hard:
                    nursery.start_soon(operations.pending.keep_capped, io_timeout)
                else:
                    nursery.start_soon(operations.pending.excuse, attached.replicated.uplink.moved_s)
                await loop.serve()  # ends when the kernel lets go of the mount, or we of it
                await trio.to_thread.run_sync(connection.detach)  # at once: later another's mount may be there
                await self._settle(attached)
                await control.everybody_told()
                nursery.cancel_scope.cancel()
        finally:
            await kernel.aclose()
            mounts.forget(self._path)
            connection.detach()
            pyfuse3.close(unmount=True)
        if cut.is_cut and self._exit_code == exitcodes.OK:
            self._exit_code = exitcodes.ABORTED

    def _mount(self, operations: pyfuse3.Operations, attached: Attached) -> None:
        options = self._fuse_options(attached)
        if not self._options.xattr:
            pyfuse3.init(operations, str(self._path), options)
            return
        with unmasked.mounted(self._path, source(attached.volume), read_only=self._options.read_only) as target:
            pyfuse3.init(operations, target, options)

    def _fuse_options(self, attached: Attached) -> set[str]:
        options = {"default_permissions", f"fsname={source(attached.volume)}", "subtype=p2pfs"}
        if self._options.allow_other or os.geteuid() == 0:
            options.add("allow_other")
        if self._options.read_only:
            options.add("ro")
        return options

    async def _announce(self, socket: Path, attached: Attached) -> None:
        """Say that the mount is usable once the kernel gets an answer through it."""
        await trio.to_thread.run_sync(life.raise_read_ahead, self._path, abandon_on_cancel=True)
        record = mounts.register(
            mounts.MountRecord(
                os.getpid(),
                str(self._home.path),
                str(socket),
                str(self._path),
                attached.volume.name,
                attached.session,
                volume_name(VolumeId(attached.volume.volume)),
            )
        )
        log.info("volume %s is mounted at %s", attached.volume.name, self._path)
        self._ready()
        await life.keep_fresh(record)

    async def _end_on_signal(self, attached: Attached, operations: Operations) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("%s: storing everything and unmounting", signal.Signals(number).name)
                await self._take_in_pages(operations)
                await self._settle(attached)
                self._release(operations)
                await trio.to_thread.run_sync(life.detach, self._path)
                # whoever still has a file open keeps the detached mount alive: not for ever
                await trio.sleep(LINGER_S)
                pyfuse3.terminate()
                self._release(operations)

    async def _end_unused(self, operations: Operations) -> None:
        """End what `p2pfs umount` took away and the kernel keeps: for a copy in another mount namespace, which every
        container and many a service makes of all mounts there are. Not while a program has a file open in it."""
        await self._unmounted.wait()
        is_told = False
        while True:
            await trio.sleep(LOOK_S)  # without such a copy it is over by then
            if not operations.has_open_files:
                pyfuse3.terminate()
                return
            if not is_told:
                log.info("%s is unmounted; files are open in another mount namespace's copy of it", self._path)
            is_told = True

    async def _settle(self, attached: Attached) -> None:
        try:
            await attached.filesystem.settle_all()
        except PoolError as error:
            self._exit_code = exitcodes.DATA_NOT_STORED
            log.error("some written data could not be stored: %s", error)
        if lost := attached.filesystem.promises.losses():
            self._exit_code = exitcodes.DATA_NOT_STORED
            log.error("not all was stored: %s", lost)

    async def _store(self, attached: Attached, operations: Operations, report: Callable[[int], None]) -> None:
        """`p2pfs umount`: store everything. Raises PoolError; then it stays mounted."""
        try:
            await self._take_in_pages(operations)
            await attached.filesystem.settle_all(report)
        finally:
            self._release(operations)

    async def _leave(self, attached: Attached) -> str:
        """Then take the mount away. Returns what it can never store, or nothing: staying would not help."""
        await trio.to_thread.run_sync(life.unmount, self._path)
        self._unmounted.set()
        return attached.filesystem.promises.losses()

    async def _take_in_pages(self, operations: Operations) -> None:
        """What programs have written and the kernel keeps is written here: for who is about to leave."""
        if not self._options.writeback_cache:
            return
        with trio.move_on_after(WRITE_BACK_S):
            try:
                await trio.to_thread.run_sync(life.write_back, self._path, abandon_on_cancel=True)
            except OSError as error:
                log.info("the kernel is not asked for what it keeps: %s", error)
            await operations.pending.idle()

    def _release(self, operations: Operations) -> None:
        """Who waits in a hard mount would keep it for ever; in others all end by themselves."""
        if self._options.hard:
            operations.pending.release()


def stuck_after_s(pending: Pending) -> float:
    """When a notification hangs for good: it waits behind requests under way, so not before each of them was answered
    or given up. Never in a hard mount."""
    return pending.deadline_s + CUT_MARGIN_S


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell a person: Ctrl-C, a user's mistake, else the first project error, else everything."""
    leaves = list(_leaves(group))
    for kind in (KeyboardInterrupt, UserError, PoolError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
