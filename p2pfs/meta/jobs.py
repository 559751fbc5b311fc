"""Rows of jobs: what background work there was and is. Inside the transaction of coordinator.upkeep.jobs."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from p2pfs.wire.jobs import JobKind, JobState


@dataclass(slots=True)
class JobRow:
    """One job. Times are UTC seconds; `subject` is a node id or ""."""

    id: int
    kind: JobKind
    subject: str
    started_s: float
    state: JobState = JobState.RUNNING
    done: int = 0  # chunks
    total: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    updated_s: float = 0.0
    ended_s: float | None = None
    error: str = ""


_COLUMNS = "id, kind, subject, started_s, state, done, total, done_bytes, total_bytes, updated_s, ended_s, error"


def load(connection: sqlite3.Connection) -> list[JobRow]:
    """All of them, newest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM job ORDER BY id DESC")
    return [JobRow(row[0], JobKind(row[1]), row[2], row[3], JobState(row[4]), *row[5:]) for row in rows]


def save(connection: sqlite3.Connection, jobs: Iterable[JobRow], *, keep: int) -> None:
    """Write these, new or known; of those that have ended the newest `keep` stay."""
    rows = [
        (
            job.id,
            job.kind.value,
            job.subject,
            job.started_s,
            job.state.value,
            job.done,
            job.total,
            job.done_bytes,
            job.total_bytes,
            job.updated_s,
            job.ended_s,
            job.error,
        )
        for job in sorted(jobs, key=lambda job: job.ended_s is None)  # who ends makes room for its successor
    ]
    connection.executemany(f"INSERT OR REPLACE INTO job ({_COLUMNS}) VALUES ({', '.join('?' * 12)})", rows)
    connection.execute(
        "DELETE FROM job WHERE ended_s IS NOT NULL AND id NOT IN"
        " (SELECT id FROM job WHERE ended_s IS NOT NULL ORDER BY id DESC LIMIT ?)",
        (keep,),
    )
