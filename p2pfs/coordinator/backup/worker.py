"""Backs the database up to peers: an image now and then, what was changed since every few seconds.

    database ─ pages ─▶ chains: sealed parts in files ─▶ up to three peers
                        older ────────────────────╮
                        newer: image, then changes ┴─ what is changed goes into both, until peers have the newer one

A background worker of `daemon`. What it achieved is in `backups`; where the parts go is `backup_peers`' business.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from p2pfs.coordinator.backup.chain import Chain, Sealing
from p2pfs.coordinator.backup.peers import BackupPeers
from p2pfs.coordinator.backup.state import Backups
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.roster import Peer
from p2pfs.errors import PoolError, Unavailable
from p2pfs.meta import settings as rows
from p2pfs.meta.database import ThreadedDatabase
from p2pfs.meta.pages import LogBroken
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.parts import PartFiles
from p2pfs.runtime.worker import Progress
from p2pfs.types import MIB
from p2pfs.wire.backups import generation

_PIECES: Final = 32
"""Of an image, in one step: between two of them what was changed meanwhile is sent."""
LONGEST_LOG: Final = 64 * MIB
"""A log longer than this and than its image ends with a new image: a restore need not read more."""
_LET_GO_EVERY_S: Final = 3600.0

_log = logging.getLogger(__name__)


class Backup:
    """Worker: every `backup_interval` what was changed, every `backup_image` everything."""

    name = "backup"

    def __init__(
        self,
        home: NodeHome,
        settings: Settings,
        sealing: Sealing,
        *,
        database: ThreadedDatabase,
        backups: Backups,
        peers: BackupPeers,
        files: PartFiles,
        clock: Clock,
    ) -> None:
        self._files_of_home = attached_paths(home)
        self._settings = settings
        self._sealing = sealing
        self._database = database
        self._backups = backups
        self._peers = peers
        self._files = files
        self._clock = clock
        self._chains: list[Chain] = []  # oldest first; the last one may still get its image
        self._looked_s = -1e9  # monotonic
        self._image_s = -1e9
        self._let_go_s = -1e9

    async def work(self) -> Progress:
        """Take in what was changed, go on with an image, send."""
        now_s = self._clock.monotonic()
        chosen = await self._peers.choose()
        if now_s - self._looked_s >= self._settings.backup_interval:
            self._looked_s = now_s
            if self._chains:
                await self._follow()
        if chosen and self._is_image_due():
            await self._begin()
        elif not chosen and self._is_log_long():  # nobody takes it: what is kept for them is bounded
            self._abandon()
        await self._go_on()
        if not chosen:
            return Progress.BUSY if self._imaging() else Progress.IDLE
        is_cut_short = await self._peers.send(chosen, self._chains, now_s + self._settings.backup_interval)
        await self._retire(chosen)
        return Progress.BUSY if is_cut_short or self._imaging() else Progress.IDLE

    async def wait(self) -> None:
        """Until the next look is due."""
        await trio.sleep(max(0.05, self._settings.backup_interval - (self._clock.monotonic() - self._looked_s)))

    # ---- making -----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Put what was changed since the last time into every chain."""
        state_s = self._clock.time()
        try:
            changes = await trio.to_thread.run_sync(self._database.pages.collect)
            if changes is None:
                self._peers.note(self._chains, state_s)
                return
            for chain in self._chains:
                await trio.to_thread.run_sync(chain.add_changes, changes, state_s)
        except LogBroken as error:
            _log.info("the next backup begins with an image: %s", error)
            self._abandon()
        except PoolError:  # a chain lacks something now
            self._abandon()
            raise

    def _is_image_due(self) -> bool:
        if len(self._chains) != 1:
            return not self._chains
        is_old = self._clock.monotonic() - self._image_s >= self._settings.backup_image
        return bool(self._chains[0].image_parts) and (is_old or self._is_log_long())

    def _is_log_long(self) -> bool:
        return any(one.bytes - one.image_bytes > max(LONGEST_LOG, one.image_bytes) for one in self._chains)

    async def _begin(self) -> None:
        """Begin a generation, unless a long reader of the database is in the way now."""
        state_s = self._clock.time()
        image = await self._database.begin_image()
        if image is None:
            return
        incarnation = self._database.read(rows.incarnation)
        after = max((one.number for one in self._backups.generations), default=0)
        number = generation(incarnation, state_s, after=after)
        self._chains.append(Chain(number, self._sealing, self._files, image, state_s))
        self._image_s = self._clock.monotonic()
        await trio.to_thread.run_sync(self._clean)
        await self._backups.begin(number)

    async def _go_on(self) -> None:
        """Some more of the image that is being made, if one is."""
        chain = self._imaging()
        if chain is None:
            return
        try:
            attached = await trio.to_thread.run_sync(_attached, self._files_of_home)
            await trio.to_thread.run_sync(chain.add_image, _PIECES, attached)
        except PoolError:
            self._abandon()
            raise
        if chain.image_parts:
            self._database.pages.end_image()
            await self._backups.finish(chain.generation, image_parts=chain.image_parts, image_bytes=chain.image_bytes)

    def _imaging(self) -> Chain | None:
        """The chain whose image is not complete."""
        return self._chains[-1] if self._chains and not self._chains[-1].image_parts else None

    def _abandon(self) -> None:
        """Only a new image leads on."""
        self._chains = []
        self._database.pages.end_image()

    # ---- letting go -------------------------------------------------------------------------------------------------

    async def _retire(self, chosen: Sequence[Peer]) -> None:
        """Once every chosen peer can restore the newest generation, the older ones are not followed any more."""
        if not self._chains:
            return
        newest = self._chains[-1]
        self._backups.bytes = newest.bytes
        ready = [self._backups.holders.get(peer.number) for peer in chosen]
        if not all(holder is not None and holder.generation == newest.generation for holder in ready):
            return
        if len(self._chains) > 1 or self._clock.monotonic() - self._let_go_s >= _LET_GO_EVERY_S:
            self._chains = [newest]
            self._let_go_s = self._clock.monotonic()
            await self._peers.let_go([newest.generation], self._settings.backup_keep)
            await self._backups.forget(self._settings.backup_keep, but=[newest.generation])
            await trio.to_thread.run_sync(self._clean)

    def _clean(self) -> None:
        """Remove the files of what is followed no more. Blocking."""
        followed = {chain.generation for chain in self._chains}
        for number in self._files.rows().keys() - followed:
            self._files.cut(number, 0)


def attached_paths(home: NodeHome) -> dict[str, Path]:
    """What an image carries beside the database, so that a restore is complete: name → where it is."""
    files = CoordinatorFiles(home)
    return {
        "ca.key": files.authority_key,
        "ca.pem": home.ca_path,
        "secrets.json": files.secrets,
        "recovery.json": files.recovery,
        "node.json": home.record_path,
        "config.toml": home.config_path,
    }


def _attached(paths: Mapping[str, Path]) -> dict[str, bytes]:
    """What a coordinator needs beside its database. Raises Unavailable."""
    try:
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}
    except OSError as error:
        raise Unavailable(f"cannot read {error.filename}: {error.strerror}") from error
