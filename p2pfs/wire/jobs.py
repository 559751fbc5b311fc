"""Jobs on the wire: background work of the pool that people see, hold back and try again.

running ⇄ paused        running | paused → done | failed | cancelled

Retrying does what failed in a job that goes on at once instead of later; a paused one goes on. Over is over.
"""

import enum
from typing import Final

import msgspec


class JobKind(enum.StrEnum):
    """Persisted: never rename."""

    REPAIR = "repair"
    DRAIN = "drain"
    REBALANCE = "rebalance"
    TRIM = "trim"
    SCRUB = "scrub"
    AUDIT = "audit"
    PURGE = "purge"
    RECOUNT = "recount"
    BACKUP = "backup"


class JobState(enum.StrEnum):
    """Persisted: never rename."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


class JobInfo(msgspec.Struct, frozen=True):
    """One of `GET /jobs`, and of `jobs` in the status. Times are UTC seconds, sizes bytes."""

    id: int
    kind: str  # JobKind
    subject: str  # the node it is about, by name; "" for the whole pool
    state: str  # JobState
    done: int  # chunks
    total: int
    done_bytes: int
    total_bytes: int
    rate: float  # bytes a second, lately
    left_s: float | None  # estimated; None: unknown
    started_s: float
    ended_s: float | None
    error: str  # why it is stuck or failed


class JobAction(enum.StrEnum):
    """`POST /jobs/{job}/{action}`."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
