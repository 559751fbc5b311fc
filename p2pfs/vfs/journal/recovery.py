"""Finishing what a mount that died had acknowledged: before its volume is served again from the same node.

Names first: the session of the dead mount, which the coordinator keeps for a day, goes on where it stopped, with the
same batch numbers under the same delegation; so each operation is done once, in order. What is refused then, because
others have changed the volume or the session is over, is merged (`vfs.journal.merging`). Then the dead mount's bytes
are given to the new mount's writer, if the files still are what they were laid over, or else to files of their own
(`vfs.journal.salvage`). All of it may be cut short anywhere and begun again.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import trio

from p2pfs.errors import Corrupt, Fenced, Misuse, NotFound, PoolError, Unavailable
from p2pfs.format.journal import Ending, open_frames, whole_bytes
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import Namespace
from p2pfs.runtime.retry import backoff
from p2pfs.types import Buffer, InodeId, Kind, VolumeId, volume_name
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.journal.journal import EndedJournal, Journal, NoJournal
from p2pfs.vfs.journal.merging import aside, merge
from p2pfs.vfs.journal.records import Kept, Record, head_digest
from p2pfs.vfs.journal.salvage import give_back
from p2pfs.vfs.journal.segments import SUFFIX, Segment
from p2pfs.vfs.journal.unfinished import Unfinished, judge
from p2pfs.wire import codec
from p2pfs.wire.namespace import Applied, Batch, Operation

log = logging.getLogger(__name__)

_LOCK: Final = ".lock"

Send = Callable[[str, Batch], Awaitable[Applied]]
"""A batch of an earlier session. Raises CoordinatorAway, and PoolError for what cannot be (any more)."""
End = Callable[[str], Awaitable[None]]
"""Close an earlier session. Raises Fenced when it is over, and PoolError."""


OpenNamespace = Callable[[], AbstractAsyncContextManager[Namespace]]
"""A session of its own, for a moment. Raises PoolError."""


@dataclass(slots=True)
class Recovery:
    """What a mount found in its journal; `restore` gives the bytes to the file system that is served now."""

    journal: NoJournal
    unfinished: Unfinished = field(default_factory=Unfinished)
    is_damaged: bool = False
    conflicts: list[list[Kept]] = field(default_factory=list)  # by file, for `salvage`

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
        verdict = judge(freezes, head, self.unfinished.heads.get(number, {}), is_damaged=self.is_damaged)
        if verdict.rejected:
            self.conflicts.append(verdict.rejected)
            journal.rejected += 1
        for kept in verdict.finished:
            journal.finished(kept.number)
        for kept in verdict.restored:
            assert inode is not None
            freeze = filesystem.writer.restore(inode, kept.number, kept.mtime_ns, _runs(kept))
            journal.adopt(inode, freeze)

    async def salvage(self, filesystem: Filesystem) -> None:
        """Give what is in conflict back as files of their own, each stored before the journal forgets it. Beside the
        mount: waits as long as nothing can be stored."""
        while self.conflicts:
            kept = self.conflicts[0]
            named = next((one.named for one in reversed(kept) if one.named is not None), None)
            runs = [run for one in kept for run in _runs(one)]
            for pause_s in backoff(1.0, 60.0):
                try:
                    await give_back(filesystem, kept[0].inode, named, runs)
                    break
                except PoolError as error:
                    log.info("what a crash left in the journal cannot be given back now: %s", error)
                await trio.sleep(pause_s)
            for one in kept:
                cast("Journal", self.journal).finished(one.number)
            del self.conflicts[0]


@asynccontextmanager
async def recovering(
    home: Path,
    keys: VolumeKeys,
    volume: VolumeId,
    *,
    keeps: bool,
    budget_bytes: int,
    send: Send,
    end: End,
    open_namespace: OpenNamespace,
) -> AsyncIterator[Recovery]:
    """The journal of this node's mount of a volume, with the names finished that an earlier mount left. Without
    `keeps` there is one only if something was left.

    Raises:
        Unavailable: Names cannot be finished now; nothing is lost.
    """
    directory = home / "journal" / volume_name(volume)
    if not keeps and not any(directory.glob(f"*{SUFFIX}")):
        yield Recovery(NoJournal())
        return
    async with AsyncExitStack() as stack:
        try:
            is_ours = stack.enter_context(_locked(directory))
            journal = Journal(directory, keys, volume, keeps=keeps, budget_bytes=budget_bytes) if is_ours else None
            recovery = None if journal is None else await _begun(journal, keys, volume, send, end, open_namespace)
        except OSError as error:
            log.warning("the journal cannot be used, so that each close waits until its file is stored: %s", error)
            journal = recovery = None
        else:
            if journal is None and keeps:
                log.warning(
                    "another mount of this node keeps the journal of this volume: each close of this one waits until"
                    " its file is stored"
                )
        if journal is not None:
            stack.callback(journal.close)
        yield recovery or Recovery(EndedJournal() if keeps else NoJournal())


def warn_of_left(home: Path, volume: VolumeId) -> None:
    """A mount that may not write finishes nothing: say so where an earlier one of this node has left something."""
    directory = home / "journal" / volume_name(volume)
    if not any(directory.glob(f"*{SUFFIX}")):
        return
    with suppress(OSError), _locked(directory) as is_left:
        if is_left:
            log.warning(
                "an earlier mount of this node has acknowledged changes that are not stored: mount the volume once"
                " without ro, to have them finished"
            )


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Whether the journal is this process's now. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(lock)


async def _begun(
    journal: Journal, keys: VolumeKeys, volume: VolumeId, send: Send, end: End, open_namespace: OpenNamespace
) -> Recovery:
    """Raises OSError, Unavailable."""
    segments = list(journal.segments)
    unfinished, damaged, whole = _read(segments, keys, volume)
    journal.rejected += damaged
    session, conflicts = unfinished.state.session, list[Kept]()
    if left := await _finish_names(unfinished, send):
        await _ended(session, end)  # or its delegation would be in the way
        async with open_namespace() as namespace:
            refused = await merge(namespace, left)
        if refused:
            conflicts = aside(keys, volume, unfinished, left, refused)
            journal.rejected += len(refused)
            log.warning(
                "%d of %d changes acknowledged before a crash are in conflict with what others did since, and are not"
                " done; content that was written is given back in files of their own", len(refused), len(left),
            )  # fmt: skip
    kept = [(one, segments[unfinished.segments[number]]) for number, one in unfinished.kept.items()]
    inodes = {one.inode for one in conflicts}
    gone = [number for number, one in unfinished.kept.items() if one.inode in inodes]
    journal.take_over(kept, position=unfinished.end, last_number=unfinished.last_number, whole=whole)
    for number in gone:
        del unfinished.kept[number]
    unfinished.kept |= {one.number: one for one in journal.replace(gone, conflicts)}
    if session and not left:
        await _ended(session, end)
    return Recovery(journal, unfinished, bool(damaged))


def _read(segments: list[Segment], keys: VolumeKeys, volume: VolumeId) -> tuple[Unfinished, int, int | None]:
    """All records, and how many segments are damaged: what can be read of them is used. A torn end is what a crash
    leaves of the last, and how much of that is whole comes third; in one that another followed it is a hole."""
    unfinished, damaged, whole = Unfinished(), 0, None
    for index, segment in enumerate(segments):
        frames = list[bytes]()
        try:
            frames, ending = open_frames(keys, volume, segment.path.read_bytes())
            records = [codec.decode(frame, cast("type[Record]", Record)) for frame in frames]
        except (Corrupt, Misuse) as error:
            log.info("%s: %s", segment.path, error)
            records, ending = [], Ending.DAMAGED
        if ending is Ending.TORN and segment is segments[-1]:
            whole = whole_bytes(frames)
        else:
            damaged += ending is not Ending.WHOLE
        for record in records:
            unfinished.take(index, record)
    if damaged:
        copies = _set_aside(segments)
        log.warning(
            "the journal is damaged, or not of this volume: files that were closed in the last seconds before a crash"
            " may lack what was written. What can be read of it is stored; as it was it is in %s", copies,
        )  # fmt: skip
    return unfinished, damaged, whole


def _set_aside(segments: list[Segment]) -> Path:
    """The directory of their copies, which take the place of all that were there before. Raises OSError."""
    directory = segments[0].path.parent / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    for segment in segments:
        path = directory / segment.path.name
        shutil.copyfile(segment.path, path)
        path.chmod(0o600)
    return directory


async def _ended(session: str, end: End) -> None:
    try:
        await end(session)
    except Fenced:
        log.info("the session of an earlier mount was over already")


async def _finish_names(unfinished: Unfinished, send: Send) -> list[Operation]:
    """Do the operations that are left in the dead mount's session, in order; those that could not be done there."""
    if operations := unfinished.operations:
        log.info("an earlier mount ended without storing all: %d changes are finished now", len(operations))
    done = 0
    for batch in unfinished.batches():
        try:
            await send(unfinished.state.session, batch)
        except Unavailable:
            raise
        except PoolError as error:
            log.info("what an earlier mount acknowledged is refused: %s", error)
            break
        done += len(batch.operations)
    return [*operations[done:], *unfinished.unreachable]


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
