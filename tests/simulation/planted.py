"""Bugs planted on purpose, each a small change of real code, to show that the simulation finds what it is for."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.files import ChunkFiles
from p2pfs.chunks.pages import write_file
from p2pfs.coordinator.upkeep import care
from p2pfs.coordinator.upkeep.care import Care
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.purge import Purge
from p2pfs.meta import chunks_index, delegations, sessions, survey, void_copies
from p2pfs.placement.care import Held, Need, Urgency
from p2pfs.runtime.worker import Progress
from p2pfs.types import ChunkId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.namespace import Batch
from p2pfs.wire.orders import Order, Transfer


@contextlib.contextmanager
def _no_fsync() -> Iterator[None]:
    """A peer signs for a chunk whose bytes are not synced."""

    def write(files: ChunkFiles, path: Path, whole: memoryview, length: int) -> None:
        fd = files._disk.create(path)
        try:
            write_file(files._disk, fd, whole, length)
        finally:
            files._disk.close(fd)

    with mock.patch.object(ChunkFiles, "_write", write):
        yield


@contextlib.contextmanager
def _applied_twice() -> Iterator[None]:
    """A batch that comes again is done again, instead of getting its old answer."""
    real = sessions.apply_batch

    def apply(connection: sqlite3.Connection, session: SessionId, *, batch: Batch, **more: Any) -> sessions.Outcome:  # noqa: ANN401
        connection.execute(
            "DELETE FROM session_result WHERE seq = ? AND session = (SELECT number FROM session WHERE id = ?)",
            (batch.seq, session),
        )
        return real(connection, session, batch=batch, **more)

    with mock.patch.object(sessions, "apply_batch", apply):
        yield


@contextlib.contextmanager
def _fencing_ignored() -> Iterator[None]:
    """A session that is over is taken up again, as if its mount had never been silent."""
    real_apply, real_session, real_end = sessions.apply_batch, sessions.session, sessions._end
    over: dict[str, tuple[Any, ...]] = {}

    def end(connection: sqlite3.Connection, number: int, volume: VolumeId) -> None:
        row = connection.execute("SELECT * FROM session WHERE number = ?", (number,)).fetchone()
        over[row[1]] = row
        real_end(connection, number, volume)

    def revive(connection: sqlite3.Connection, session: SessionId) -> None:
        known = connection.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone()
        if known is None and session in over:
            row = over[session]
            connection.execute(f"INSERT INTO session VALUES ({', '.join('?' * len(row))})", row)

    def apply(connection: sqlite3.Connection, session: SessionId, **more: Any) -> sessions.Outcome:  # noqa: ANN401
        revive(connection, session)
        return real_apply(connection, session, **more)

    def look(connection: sqlite3.Connection, session: SessionId) -> sessions.Session:
        if session in over:
            return sessions._session(over[session])
        return real_session(connection, session)

    with (
        mock.patch.object(sessions, "_end", end),
        mock.patch.object(sessions, "apply_batch", apply),
        mock.patch.object(sessions, "session", look),
    ):
        yield


@contextlib.contextmanager
def _epoch_ignored() -> Iterator[None]:
    """A batch is done that was decided under a delegation which somebody else's change has ended since."""
    real = delegations.require

    def require(connection: sqlite3.Connection, volume: VolumeId, batch: Batch, **more: Any) -> None:  # noqa: ANN401
        if not batch.epoch:
            real(connection, volume, batch, **more)

    with mock.patch.object(delegations, "require", require):
        yield


@contextlib.contextmanager
def _early_location() -> Iterator[None]:
    """The coordinator counts a copy when it orders it, before the receipt is here and verified."""
    real = Care.take

    def take(care: Care, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        orders = real(care, peer, room, numbers)
        for order in orders:
            assert isinstance(order, Transfer)
            care._database._inner.write_now(  # type: ignore[attr-defined]
                lambda connection, order=order: chunks_index.adopt(  # type: ignore[misc]
                    connection,
                    VolumeId(order.volume),
                    chunk=ChunkId(order.chunk),
                    size=order.size,
                    peer=peer,
                    put_seq=1,
                )
            )
        return orders

    with mock.patch.object(Care, "take", take):
        yield


@contextlib.contextmanager
def _early_delete() -> Iterator[None]:
    """A copy that lies where it does not belong is deleted when the better one is ordered, before that is committed;
    and nothing that would still save it looks: neither whoever hands deletions out nor whoever has copies back."""
    real_need, real_take_off, real_pending = care.need, survey.take_off, void_copies.pending

    def need(held: Sequence[Held], **more: Any) -> Need | None:  # noqa: ANN401
        found = real_need(held, **more)
        if found is None or found.urgency is not Urgency.REBALANCE or not found.targets:
            return found
        return replace(found, drop=held[-1].peer)

    def take_off(connection: sqlite3.Connection, number: int, **more: Any) -> bool:  # noqa: ANN401
        return real_take_off(connection, number, **(more | {"wanted": 0}))

    def pending(connection: sqlite3.Connection, peer: PeerNumber, **more: Any) -> Any:  # noqa: ANN401
        return real_pending(connection, peer, **(more | {"wanted": 0}))

    with (
        mock.patch.object(care, "need", need),
        mock.patch.object(survey, "take_off", take_off),
        mock.patch.object(void_copies, "pending", pending),
        mock.patch.object(Deletions, "revive", mock.AsyncMock(return_value=[])),
    ):
        yield


@contextlib.contextmanager
def _early_trash() -> Iterator[None]:
    """A peer empties its trash of everything."""
    real = DirectoryStore.empty_trash

    async def empty(store: DirectoryStore, _keep_s: float = 0.0) -> int:
        return await real(store, -1.0)

    with mock.patch.object(DirectoryStore, "empty_trash", empty):
        yield


@contextlib.contextmanager
def _racing_purge() -> Iterator[None]:
    """What is purged is chosen at one time, as soon as nothing names it, and forgotten at the next, whoever names it
    by then."""
    real_work = Purge.work
    chosen: list[int] = []

    def forget(connection: sqlite3.Connection) -> None:
        for number in chosen:
            connection.execute("UPDATE chunk SET refs = 0, doomed_s = 0 WHERE number = ?", (number,))
        chunks_index.purge(connection, doomed_before_s=1.0, now_s=connection_s, limit=1000)

    connection_s = 0.0

    async def work(purge: Purge) -> Progress:
        nonlocal connection_s
        if await purge._pool_clock.doubt():
            return await real_work(purge)
        connection_s = purge._clock.time()
        if chosen:
            await purge._database.write(forget)
        chosen[:] = purge._database.read(
            lambda connection: [
                number for (number,) in connection.execute("SELECT number FROM chunk WHERE doomed_s IS NOT NULL")
            ]
        )
        return Progress.IDLE

    with mock.patch.object(Purge, "work", work):
        yield


@dataclass(frozen=True)
class Plant:
    """A bug, and the promises that it breaks."""

    put_in: Callable[[], AbstractContextManager[None]]
    breaks: tuple[str, ...]


PLANTED: Final[dict[str, Plant]] = {
    "no-fsync": Plant(_no_fsync, ("P1",)),
    "applied-twice": Plant(_applied_twice, ("P9", "P3", "P1")),
    "fencing-ignored": Plant(_fencing_ignored, ("fencing",)),
    "epoch-ignored": Plant(_epoch_ignored, ("P9",)),
    "early-location": Plant(_early_location, ("P1", "P5")),
    "early-delete": Plant(_early_delete, ("P5", "P1")),
    "early-trash": Plant(_early_trash, ("P6",)),
    "racing-purge": Plant(_racing_purge, ("P6", "P1")),
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The real code with one bug."""
    with PLANTED[name].put_in():
        yield
