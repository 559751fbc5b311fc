"""One `p2pfs fsck` from start to end: connect, look, ask, mend. Reads what was committed, needs no mount and no session
until something is to be mended."""

import logging
import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.chunks.peers import PeerStores
from p2pfs.errors import Misuse, PoolError
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.calls import CoordinatorCalls
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.placement.policy import copies_wanted
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import PeerNumber, VolumeId
from p2pfs.vfs.attach import connect
from p2pfs.vfs.fsck.asking import Asked
from p2pfs.vfs.fsck.copies import Chunks
from p2pfs.vfs.fsck.findings import Finding, Findings, State, Tally
from p2pfs.vfs.fsck.mending import Mender
from p2pfs.vfs.fsck.paths import Names
from p2pfs.vfs.fsck.survey import Survey
from p2pfs.vfs.fsck.walk import Walk
from p2pfs.vfs.pool import Pool
from p2pfs.vfs.space import ReservedSpace
from p2pfs.wire.chunks import Token
from p2pfs.wire.volumes import OpenSession, VolumeInfo

log = logging.getLogger(__name__)

PEER_S: Final = 10.0
"""How long a peer may take for one chunk."""

Progress = Callable[[Tally, int], None]
"""Told what was looked at, and how many inodes the volume has."""
Consent = Callable[[list[Finding]], Awaitable[bool]]
"""Asks a person whether these may be mended, in a way that somebody must agree to."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to check. `path` is from the volume's root."""

    volume: str
    path: bytes = b""
    data: bool = False
    repair: bool = False

    @property
    def is_whole(self) -> bool:
        return not self.path.strip(b"/")


async def check(
    home: NodeHome,
    settings: Settings,
    wanted: Wanted,
    *,
    passphrase: Callable[[], str],
    consent: Consent,
    progress: Progress,
) -> Findings:
    """Check a volume, and mend it if that is wanted.

    Raises:
        UserError: No such volume, wrong passphrase.
        NotFound: There is no such path.
        PoolError: The coordinator does not answer or refuses.
    """
    async with connect(home, settings) as pool:
        info = await pool.volume(wanted.volume)
        keys = await pool.keys(home, info, await trio.to_thread.run_sync(passphrase))
        one = _Check(pool, settings, info, keys, wanted, progress)
        await one.look()
        if wanted.repair:
            await one.mend(consent)
        return one.findings


class _Check:
    def __init__(
        self, pool: Pool, settings: Settings, info: VolumeInfo, keys: VolumeKeys, wanted: Wanted, progress: Progress
    ) -> None:
        self._pool, self._settings, self._info, self._wanted = pool, settings, info, wanted
        self._progress = progress
        calls = CoordinatorCalls(pool.client, pool.coordinator, io_timeout_s=settings.io_timeout)
        self._asked = Asked(calls, VolumeId(info.volume), keys)
        self.findings = Findings()
        self._space: ReservedSpace | None = None
        self._stores = PeerStores(
            pool.client, lambda: pool.map, self._token, timeout_s=min(PEER_S, settings.io_timeout)
        )
        self._chunks = Chunks(keys, VolumeId(info.volume), pool.map, self._stores, self.findings, data=wanted.data)
        self._chunks.progress = self._tell

    def _token(self, peer: PeerNumber, size: int) -> Token | None:
        return self._space.token(peer, size) if self._space is not None else None

    def _tell(self) -> None:
        self._progress(self.findings.tally, self._info.files)

    # ---- looking

    async def look(self) -> None:
        walk = Walk(self._asked, self.findings, self._chunks.page, self._relieve)
        await walk.run(self._wanted.path)
        if self._wanted.is_whole and walk.directories:  # without a root whatever there is would look lost
            try:
                await Survey(self._asked, self.findings, walk, self._fresh_info).run()
            except Misuse as error:
                self.findings.notes.append(
                    "link counts, orphans and counters were not checked: the coordinator is of an older version"
                    f" ({error})"
                )
        elif not self._wanted.is_whole:
            self.findings.notes.append(
                "link counts of files, orphans and counters are checked with the whole volume only"
            )
        await self._chunks.run()
        self._chunks.finish()
        await self._name(walk)

    async def _relieve(self) -> None:
        self._tell()
        if self._chunks.is_behind:
            await self._chunks.run()

    async def _fresh_info(self) -> VolumeInfo:
        return await self._pool.volume(f"{self._info.volume:016x}")

    async def _name(self, walk: Walk) -> None:
        """Every finding gets a path, that of a chunk those of its files."""
        names = Names(self._asked, walk.paths)
        for finding in self.findings.kept:
            if finding.chunk is not None:
                finding.paths = [await names.of(inode) for inode in self._chunks.files_of(finding.chunk)]
                finding.path = finding.paths[0] if finding.paths else b""
            elif not finding.path and finding.inode is not None:
                finding.path = await names.of(finding.inode)

    # ---- mending

    async def mend(self, consent: Consent) -> None:
        """Mend what can be. Nobody has agreed to what `consent` is not asked about or refuses."""
        wanted = list(self.findings.mendable(asking=False))
        asking = list(self.findings.mendable(asking=True))
        if asking and await consent(asking):
            wanted += asking
        else:
            for finding in asking:
                finding.leave("nobody agreed")
        if wanted:
            try:
                await self._mend(wanted)
            except* PoolError as errors:  # what was found is told all the same
                for finding in wanted:
                    if finding.state is State.FOUND:
                        finding.leave(str(errors.exceptions[0]))
        for finding in self.findings.kept:
            if finding.state is State.FOUND:
                finding.leave(finding.why)

    async def _mend(self, wanted: list[Finding]) -> None:
        namespace = await RemoteNamespace.open(
            self._pool.client, self._pool.coordinator, VolumeId(self._info.volume),
            request=OpenSession(platform.node(), "", False), io_timeout_s=self._settings.io_timeout,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_maintain, namespace)
            self._space = ReservedSpace(namespace.reserve, lambda: copies_wanted(self._pool.map)[1], time.time)
            owner = os.geteuid(), os.getegid()
            mender = Mender(
                self._asked, namespace, self._chunks, self._stores, self._space, owner=owner, now_ns=time.time_ns
            )
            try:
                await mender.run(wanted)
            finally:
                with trio.move_on_after(3, shield=True):
                    await self._leave(namespace)
            nursery.cancel_scope.cancel()

    async def _leave(self, namespace: RemoteNamespace) -> None:
        try:
            if self._space is not None:
                await self._space.give_back()
        except PoolError:
            pass  # reservations lapse by themselves
        await namespace.aclose()


async def _maintain(namespace: RemoteNamespace) -> None:
    """Keep the session alive. Where the coordinator ends it, each mend is refused, and its finding says so."""
    try:
        await namespace.maintain()
    except* PoolError as refusals:
        log.info("the coordinator refuses the session that mends: %s", refusals.exceptions[0])
