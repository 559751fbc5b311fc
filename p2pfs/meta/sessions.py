"""Sessions: one mount's conversation with the coordinator, and batches applied exactly once within it.

A batch's answer is kept by (session, seq) in the transaction that applies it, refusals included, so that a retry gets
its old answer. What is open in a session outlives its last name until the session ends. Inside the caller's
transaction; called by `meta.local` and by the coordinator's handlers.
"""

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from p2pfs.errors import Busy, Denied, Fenced, Misuse, Semantic
from p2pfs.meta import delegations, engine, inodes, open_inodes, settings, volumes
from p2pfs.meta.chunks_index import Added
from p2pfs.meta.events import Publication
from p2pfs.meta.protocol import MAX_HELD
from p2pfs.meta.quotas import Quota
from p2pfs.meta.work import Rules, Stored, Verify, Work, untold
from p2pfs.types import InodeId, NodeId, SessionId, VolumeId
from p2pfs.wire import answers, codec
from p2pfs.wire.answers import Answer
from p2pfs.wire.namespace import Applied, Batch, Opened, Released
from p2pfs.wire.volumes import IdBlock, OpenSession, SessionGrant

FIRST_IDS: Final = 1024
"""Numbers granted with a new session."""
MAX_UNACKED: Final = 4096
"""Most results a session may leave unacknowledged; they are rows."""
HOLD_S: Final = 120.0
"""Two lifetimes of a session, as they are by default."""
_HARMLESS: Final = (Opened, Released)  # what a read-only session may do too
_DROP_EVERY: Final = 16
"""Results are dropped when this many more were acknowledged, not at every batch."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session's row."""

    number: int
    id: SessionId
    volume: VolumeId
    node: NodeId
    owner: str
    host: str
    mount_point: str
    read_only: bool
    opened_s: float
    expires_s: float
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: its answer, and what it changed unless it was refused or came again. `is_too_much`: a
    delegated one that brought the volume far beyond its quota."""

    answer: Answer
    news: Publication | None = None
    is_too_much: bool = False


def make_way(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    node: NodeId,
    request: OpenSession,
    is_silent: Callable[[SessionId], bool],
) -> list[SessionId]:
    """End the sessions that keep a new one from beginning, where one of them is to have the volume alone and the other
    is dead; which those were. One is dead that `is_silent`, or that the new one `succeeds`.

    Raises:
        Busy: One is alive.
    """
    ended: list[Session] = []
    for other in _of_volume(connection, volume):
        is_free = _is_bystander(other) or _is_bystander(request)
        if is_free or not (request.exclusive or other.exclusive):
            continue
        is_succeeded = (other.id, other.node) == (request.succeeds, node)
        if not is_succeeded and not is_silent(other.id):
            raise Busy(_in_the_way(other))
        ended.append(other)
    for other in ended:
        _end(connection, other.number, volume)
    return [other.id for other in ended]


def _is_bystander(session: Session | OpenSession) -> bool:
    """Whether it neither mounts the volume nor changes it: who has that alone does not mind."""
    return session.read_only and not session.mount_point


def _in_the_way(other: Session) -> str:
    where = f"{other.host}:{other.mount_point}" if other.mount_point else f"a command on {other.host or other.node}"
    if other.exclusive:
        return f"{where} has mounted the volume for itself alone (writeback_cache): unmount it there first"
    return f"{where} uses the volume too, which writeback_cache does not allow: unmount it there or leave that option"


def open_session(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    node: NodeId,
    owner: str,
    request: OpenSession,
    now_s: float,
    lifetime_s: float,
) -> SessionGrant:
    """Begin a session of `node` (which is `owner`'s) on a volume. Raises NotFound."""
    block = volumes.grant_ids(connection, volume, count=FIRST_IDS)
    session = secrets.token_hex(16)
    connection.execute(
        "INSERT INTO session"
        " (id, volume, node, owner, host, mount_point, read_only, opened_s, expires_s, acked, exclusive)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (
            session,
            volume,
            node,
            owner,
            request.host,
            request.mount_point,
            int(request.read_only),
            now_s,
            now_s + lifetime_s,
            int(request.exclusive),
        ),
    )
    incarnation = settings.incarnation(connection)
    return SessionGrant(session, incarnation, lifetime_s, block.first_id, block.last_id, request.exclusive)


_SESSION = (
    "SELECT number, id, volume, node, owner, host, mount_point, read_only, opened_s, expires_s, exclusive FROM session"
)


def session(connection: sqlite3.Connection, session_id: SessionId) -> Session:
    """Raises Fenced when it is over."""
    row = connection.execute(f"{_SESSION} WHERE id = ?", (session_id,)).fetchone()
    if row is None:
        raise _over()
    return _session(row)


def sessions(connection: sqlite3.Connection) -> list[Session]:
    """Every session, oldest first."""
    return [_session(row) for row in connection.execute(f"{_SESSION} ORDER BY number")]


def mounts(connection: sqlite3.Connection, volume: VolumeId) -> list[Session]:
    """The sessions of a volume that are mounts, not commands, oldest first."""
    return [row for row in _of_volume(connection, volume) if row.mount_point]


def _of_volume(connection: sqlite3.Connection, volume: VolumeId) -> list[Session]:
    rows = connection.execute(f"{_SESSION} WHERE volume = ? ORDER BY number", (volume,))
    return [_session(row) for row in rows]


def volume_of_session(connection: sqlite3.Connection, session_id: SessionId) -> VolumeId:
    """Raises Fenced when it is over."""
    return session(connection, session_id).volume


def renew_session(connection: sqlite3.Connection, session_id: SessionId, *, now_s: float, lifetime_s: float) -> None:
    """The session lives until `now_s + lifetime_s`. Raises Fenced when it is over."""
    cursor = connection.execute("UPDATE session SET expires_s = ? WHERE id = ?", (now_s + lifetime_s, session_id))
    if cursor.rowcount == 0:
        raise _over()


def extend_sessions(connection: sqlite3.Connection, *, until_s: float) -> None:
    """No session ends before then: the coordinator's own downtime is nobody's silence. Called when it starts."""
    connection.execute("UPDATE session SET expires_s = ? WHERE expires_s < ?", (until_s, until_s))


def close_session(connection: sqlite3.Connection, session_id: SessionId) -> None:
    """End a session; inodes only it held open and that have no name go. Fine when it is over already."""
    row = connection.execute("SELECT number, volume FROM session WHERE id = ?", (session_id,)).fetchone()
    if row is not None:
        _end(connection, *row)


def close_sessions_of(connection: sqlite3.Connection, node: NodeId) -> list[SessionId]:
    """End every session of a revoked node; returns which."""
    return _end_all(connection, "node = ?", node)


def close_sessions_on(connection: sqlite3.Connection, volume: VolumeId) -> list[SessionId]:
    """End every session of a volume; returns which."""
    return _end_all(connection, "volume = ?", volume)


def expire_sessions(connection: sqlite3.Connection, *, now_s: float) -> list[SessionId]:
    """End every session that was not renewed in time; returns which."""
    return _end_all(connection, "expires_s < ?", now_s)


def grant_ids(connection: sqlite3.Connection, session_id: SessionId, *, count: int) -> IdBlock:
    """Numbers for new inodes and dentries. Raises Fenced, Misuse."""
    return volumes.grant_ids(connection, volume_of_session(connection, session_id), count=count)


def apply_batch(
    connection: sqlite3.Connection,
    session_id: SessionId,
    *,
    batch: Batch,
    verify: Verify,
    wanted_min: int,
    now_s: float,
    grace_s: float = 0.0,
    hold_s: float = HOLD_S,
    fences: int = 0,
    frugal: int = 0,
    added: Added = lambda _new, _peers, _first: None,
    grown: Callable[[sqlite3.Connection], None] = lambda _connection: None,
    stored: Stored = untold,
) -> Outcome:
    """Do a batch once. Its answer is the encoded Applied, or the refusal (`answers.unwrap` raises it).

    A semantic refusal undoes the batch and is itself remembered. `wanted_min` is how many peers must hold a new chunk;
    `grace_s` how much longer a session is kept than a mount that is awake is silent; `hold_s` how long an inode without
    a name is kept for a session that does not say it has it open; `fences` the epoch of a delegation whose time has run
    out, which ends with this batch; `frugal` how many copies its new chunks want, 0: the pool's. For `added`, `grown`
    and `stored` see Rules.

    Raises:
        Recalling: Another session holds the volume's delegation; nothing is changed or remembered.
        Overruled: The session does not hold the delegation that the batch was decided under.
        Fenced: The session is over.
        Denied: It is read-only.
        Misuse: The batch breaks the protocol; nothing is changed or remembered.
    """
    row = connection.execute(
        "SELECT s.number, s.volume, s.acked, s.read_only, v.next_id, v.trash_removed_s, r.answer, d.epoch, d.session,"
        " v.quota_bytes, v.quota_files, v.bytes, v.inodes"
        " FROM session s JOIN volume v ON v.id = s.volume LEFT JOIN delegation d ON d.volume = s.volume"
        " LEFT JOIN session_result r ON r.session = s.number AND r.seq = ?"
        " WHERE s.id = ?",
        (batch.seq, session_id),
    ).fetchone()
    if row is None:
        raise _over()
    number, volume, acked, read_only, next_id, trash_s, old, epoch, holder, *quota = row
    if old is not None:
        return Outcome(_recalled(connection, volume, codec.decode(old, Answer)))
    if read_only and not all(isinstance(operation, _HARMLESS) for operation in batch.operations):
        raise Denied("the volume is mounted read-only")
    _check_order(batch, acked)
    if batch.epoch or holder not in (None, number):
        delegations.require(connection, volume, batch, session=number, held=(epoch, holder), fences=fences)
    rules = Rules(verify, wanted_min, now_s, now_s + grace_s, hold_s, frugal, added, grown, stored)
    work = Work(
        connection,
        volume=volume,
        session=number,
        next_id=next_id,
        rules=rules,
        echoes=not batch.epoch,
        trash_s=trash_s,
        quota=Quota(*quota),
    )
    outcome, kept = _outcome(work, batch)
    connection.execute("INSERT INTO session_result VALUES (?, ?, ?)", (number, batch.seq, codec.encode(kept)))
    if batch.acked >= acked + _DROP_EVERY:
        connection.execute("UPDATE session SET acked = ? WHERE number = ?", (batch.acked, number))
        connection.execute("DELETE FROM session_result WHERE session = ? AND seq < ?", (number, batch.acked))
    return outcome


def held(connection: sqlite3.Connection, session_id: SessionId) -> list[InodeId]:
    """Inodes without a name that are kept for the session. Raises Fenced."""
    row = session(connection, session_id)
    return open_inodes.held(connection, row.number, limit=MAX_HELD)


def _check_order(batch: Batch, acked: int) -> None:
    if batch.seq < max(acked, batch.acked):
        raise Misuse("a batch comes again after its answer was acknowledged")
    if batch.seq - batch.acked > MAX_UNACKED:
        raise Misuse(f"more than {MAX_UNACKED} answers are not acknowledged")


def _outcome(work: Work, batch: Batch) -> tuple[Outcome, Answer]:
    """(what became of it, what is kept of its answer)."""
    connection = work.connection
    connection.execute("SAVEPOINT batch")
    try:
        applied = engine.apply(work, batch.operations)
        kept = answers.answer(Applied([], applied.removed) if batch.epoch else applied)
        keepers = [other for _, other in work.others] if work.held else []
        news = Publication(VolumeId(work.volume), batch.operations, applied, work.held, keepers)
        outcome = Outcome(kept, news, work.is_too_much)
        if not batch.epoch and any(attributes.inline is not None for attributes in applied.attributes):
            kept = answers.answer(_without_inline(applied))
    except Semantic as error:
        connection.execute("ROLLBACK TO batch")
        kept = answers.refusal(error)
        outcome = Outcome(kept)
    connection.execute("RELEASE batch")
    return outcome, kept


def _without_inline(applied: Applied) -> Applied:
    """Inline data is in the database once already; its bytes would double the log."""
    return Applied([msgspec.structs.replace(row, inline=None) for row in applied.attributes], applied.removed)


def _recalled(connection: sqlite3.Connection, volume: VolumeId, kept: Answer) -> Answer:
    """The answer given before, with the inline data of inodes whose content is still the same."""
    if kept.code:
        return kept
    applied = answers.unwrap(kept, Applied)
    told = []
    for row in applied.attributes:
        now = inodes.load(connection, volume, row.inode)
        if now is not None and now.change == row.change:
            data = inodes.attributes(connection, volume, now).inline
            told.append(msgspec.structs.replace(row, inline=data))
        else:
            told.append(row)
    return answers.answer(Applied(told, applied.removed))


def _end_all(connection: sqlite3.Connection, condition: str, value: object) -> list[SessionId]:
    rows = connection.execute(f"SELECT number, volume, id FROM session WHERE {condition}", (value,)).fetchall()
    for number, volume, _ in rows:
        _end(connection, number, volume)
    return [SessionId(row[2]) for row in rows]


def _end(connection: sqlite3.Connection, number: int, volume: VolumeId) -> None:
    open_inodes.end(connection, volume, session=number)
    delegations.void(connection, session=number)
    connection.execute("DELETE FROM session_result WHERE session = ?", (number,))
    connection.execute("DELETE FROM session WHERE number = ?", (number,))


def _session(row: Sequence[Any]) -> Session:
    return Session(
        number=row[0],
        id=SessionId(row[1]),
        volume=VolumeId(row[2]),
        node=NodeId(row[3]),
        owner=row[4],
        host=row[5],
        mount_point=row[6],
        read_only=bool(row[7]),
        opened_s=row[8],
        expires_s=row[9],
        exclusive=bool(row[10]),
    )


def _over() -> Fenced:
    return Fenced("this session is over: mount the volume again")
