"""Finishing what a mount that died had acknowledged: before its volume is served again from the same node.

Names first: the session of the dead mount, which the coordinator keeps for a day, goes on where it stopped, with the
same batch numbers under the same delegation; so each operation is done once, in order, or refused as it would have been
refused then. Then the session is closed, and the dead mount's bytes are given to the new mount's writer, if the files
still are what they were laid over. What is in conflict goes to `rejected`, sealed as it was. All of it may be cut short
anywhere and begun again.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from p2pfs.errors import CoordinatorAway, Corrupt, Misuse, NotFound, PoolError, Unavailable
from p2pfs.format.journal import Ending, Frames, open_frames
from p2pfs.format.keys import VolumeKeys
from p2pfs.types import Buffer, InodeId, Kind, VolumeId, volume_name
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.journal.journal import Journal, NoJournal
from p2pfs.vfs.journal.records import Kept, Queued, Record, head_digest
from p2pfs.vfs.journal.segments import SUFFIX, Segment
from p2pfs.vfs.journal.unfinished import Unfinished, judge, refused_inodes
from p2pfs.wire import codec
from p2pfs.wire.namespace import Applied, Batch

log = logging.getLogger(__name__)

_LOCK: Final = ".lock"

Send = Callable[[str, Batch], Awaitable[Applied]]
"""A batch of an earlier session. Raises CoordinatorAway, and PoolError for what cannot be (any more)."""
End = Callable[[str], Awaitable[None]]
"""Close an earlier session; fine when it is over."""


@dataclass(slots=True)
class Recovery:
    """What a mount found in its journal; `restore` gives the bytes to the file system that is served now."""

    journal: NoJournal
    unfinished: Unfinished = field(default_factory=Unfinished)
    refused: set[int] = field(default_factory=set)  # inodes
    rejected: "Rejected | None" = None

    async def restore(self, filesystem: Filesystem) -> None:
        """Have the writer store what is kept. Inodes that cannot be asked for now are left for the next mount."""
        by_inode: dict[int, list[Kept]] = {}
        for kept in self.unfinished.kept.values():
            by_inode.setdefault(kept.inode, []).append(kept)
        for number, freezes in by_inode.items():
            try:
                await self._restore(filesystem, InodeId(number), freezes)
            except PoolError as error:
                log.warning("inode %d: what a crash left in the journal cannot be stored now: %s", number, error)
        if by_inode:
            log.info("%d files that a crash left unsaved were looked at", len(by_inode))
        self.unfinished.kept.clear()

    async def _restore(self, filesystem: Filesystem, number: InodeId, freezes: list[Kept]) -> None:
        journal = cast("Journal", self.journal)  # there is one where something is kept
        inode = await _found(filesystem, number)
        head = None if inode is None else head_digest(inode.attributes.head)
        verdict = judge(freezes, head, self.unfinished.heads[number], is_refused=number in self.refused)
        if verdict.rejected:
            assert self.rejected is not None
            path = self.rejected.put(verdict.rejected)
            journal.rejected += len(verdict.rejected)
            log.warning(
                "inode %d: %d bytes written before a crash are not stored, as the file was changed by others since, or"
                " its name was not to be had: they are kept in %s",
                number, sum(len(kept.data) for kept in verdict.rejected), path,
            )  # fmt: skip
        for kept in [*verdict.finished, *verdict.rejected]:
            journal.finished(kept.number)
        for kept in verdict.restored:
            assert inode is not None
            freeze = await filesystem.writer.restore(inode, kept.number, kept.mtime_ns, _runs(kept))
            journal.adopt(inode, freeze)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Where what cannot be finished goes."""

    directory: Path
    keys: VolumeKeys
    volume: VolumeId

    def put(self, records: list[Kept] | list[Queued]) -> Path:
        """Sealed, on stable storage; which file. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"{volume_name(self.volume)}-{time.time_ns()}{SUFFIX}"
        frames = Frames(self.keys, self.volume)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(frames.header)
            for record in records:
                file.write(frames.seal(codec.encode(record)))
            file.flush()
            os.fsync(file.fileno())
        return path

    def copy(self, segment: Path) -> Path:
        """A segment as it is; again is fine. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"{volume_name(self.volume)}-{segment.name}"
        shutil.copyfile(segment, path)
        path.chmod(0o600)
        return path


@asynccontextmanager
async def recovering(
    home: Path, keys: VolumeKeys, volume: VolumeId, *, keeps: bool, budget_bytes: int, send: Send, end: End
) -> AsyncIterator[Recovery]:
    """The journal of this node's mount of a volume, with the names finished that an earlier mount left. Without
    `keeps` there is one only if something was left.

    Raises:
        CoordinatorAway: Names cannot be finished now; nothing is lost.
        Unavailable: The disk fails.
    """
    directory = home / "journal" / volume_name(volume)
    if not keeps and not any(directory.glob(f"*{SUFFIX}")):
        yield Recovery(NoJournal())
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.warning("another mount of this node keeps the journal of this volume: this one keeps none")
            yield Recovery(NoJournal())
            return
        journal = Journal(directory, keys, volume, keeps=keeps, budget_bytes=budget_bytes)
        rejected = Rejected(home / "journal" / "rejected", keys, volume)
        try:
            recovery = await _begun(journal, rejected, send, end)
        except OSError as error:
            raise Unavailable(f"the journal in {directory} cannot be used: {error}") from error
        try:
            yield recovery
        finally:
            journal.close()
    finally:
        os.close(lock)


async def _begun(journal: Journal, rejected: Rejected, send: Send, end: End) -> Recovery:
    segments = list(journal.segments)
    unfinished, damaged = _read(segments, rejected)
    journal.rejected += damaged
    refused = await _finish_names(unfinished, send)
    if refused:
        path = rejected.put(refused)
        count = sum(len(record.operations) for record in refused)
        journal.rejected += count
        log.warning("%d changes acknowledged before a crash could not be finished: they are kept in %s", count, path)
    session = unfinished.state.session
    kept = {number: segments[unfinished.segments[number]] for number in unfinished.kept}
    journal.take_over(kept, position=unfinished.end, last_number=unfinished.last_number)
    if session:
        await end(session)
    operations = [operation for record in refused for operation in record.operations]
    return Recovery(journal, unfinished, refused_inodes(operations), rejected)


def _read(segments: list[Segment], rejected: Rejected) -> tuple[Unfinished, int]:
    """All records, and how many segments are damaged: what can be read of them is used."""
    unfinished, damaged = Unfinished(), 0
    for index, segment in enumerate(segments):
        try:
            frames, ending = open_frames(rejected.keys, rejected.volume, segment.path.read_bytes())
            records = [codec.decode(frame, cast("type[Record]", Record)) for frame in frames]
        except (Corrupt, Misuse) as error:
            log.info("%s: %s", segment.path, error)
            records, ending = [], Ending.DAMAGED
        if ending is Ending.DAMAGED:
            damaged += 1
            log.warning("the journal is damaged: what cannot be read is kept in %s", rejected.copy(segment.path))
        for record in records:
            unfinished.take(index, record)
    return unfinished, damaged


async def _finish_names(unfinished: Unfinished, send: Send) -> list[Queued]:
    """Do the operations that are left, in order; those that cannot be done."""
    done = 0
    for batch in unfinished.batches():
        try:
            await send(unfinished.state.session, batch)
        except CoordinatorAway:
            raise
        except PoolError as error:
            log.info("what an earlier mount acknowledged is refused: %s", error)
            break
        done += len(batch.operations)
    lost = [*unfinished.operations[done:], *unfinished.unreachable]
    return [Queued(unfinished.state.done + done, lost)] if lost else []


async def _found(filesystem: Filesystem, number: InodeId) -> Inode | None:
    try:
        inode = await filesystem.inode(number)
    except NotFound:
        return None
    return inode if inode.kind is Kind.FILE and inode.attributes.links else None


def _runs(kept: Kept) -> Iterator[tuple[int, Buffer]]:
    view = memoryview(kept.data)
    for offset, length in kept.runs:
        yield offset, view[:length]
        view = view[length:]
