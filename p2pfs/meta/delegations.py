"""To which session a volume is delegated: rows of `delegation`, inside the caller's transaction.

An epoch is never given twice: it rises with every grant and every fencing, and begins anew above all others after a
restore. Who is granted one, and when one has run out, is `coordinator.delegations`' to decide; what a batch may do is
decided here, in the transaction that applies it.
"""

import sqlite3
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Overruled, Recalling
from p2pfs.meta import settings
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.namespace import Accessed, AddReplicas, Batch, Released

_RESTORE_BITS: Final = 40  # of an epoch: above them is how often the pool was restored
_UNNOTICED: Final = (Accessed, AddReplicas, Released)
"""What changes nothing that a holder answers from its cache, or only what nobody relies on."""


@dataclass(frozen=True, slots=True)
class Held:
    """A volume's row. Without a `holder` nobody holds it."""

    volume: VolumeId
    epoch: int
    holder: SessionId | None
    lasts_s: float


def find(connection: sqlite3.Connection, volume: VolumeId) -> Held:
    """The volume's delegation; of epoch 0 if there never was one."""
    row = connection.execute(
        "SELECT d.epoch, s.id, d.lasts_s FROM delegation d LEFT JOIN session s ON s.number = d.session"
        " WHERE d.volume = ?",
        (volume,),
    ).fetchone()
    return Held(volume, 0, None, 0.0) if row is None else Held(volume, *row)


def holders(connection: sqlite3.Connection) -> dict[VolumeId, str]:
    """Where each delegated volume is mounted, for people."""
    rows = connection.execute(
        "SELECT d.volume, s.host, s.mount_point FROM delegation d JOIN session s ON s.number = d.session"
    )
    return {VolumeId(volume): f"{host}:{mount_point}" for volume, host, mount_point in rows}


def grant(connection: sqlite3.Connection, found: Held, session: SessionId, *, lasts_s: float) -> Held | None:
    """Delegate the volume to a session, unless the row is not as it was found any more or the session is over: None."""
    row = connection.execute("SELECT number FROM session WHERE id = ?", (session,)).fetchone()
    if row is None or find(connection, found.volume) != found:
        return None
    epoch = max(found.epoch, (settings.incarnation(connection) - 1) << _RESTORE_BITS) + 1
    connection.execute("INSERT OR REPLACE INTO delegation VALUES (?, ?, ?, ?)", (found.volume, epoch, row[0], lasts_s))
    return Held(found.volume, epoch, session, lasts_s)


def give_back(connection: sqlite3.Connection, held: Held) -> None:
    """The holder is done. Fine when it has ended otherwise."""
    connection.execute(
        "UPDATE delegation SET session = NULL WHERE volume = ? AND epoch = ?"
        " AND session = (SELECT number FROM session WHERE id = ?)",
        (held.volume, held.epoch, held.holder),
    )


def require(
    connection: sqlite3.Connection,
    volume: VolumeId,
    batch: Batch,
    *,
    session: int,
    held: tuple[int | None, int | None],
    fences: int,
) -> None:
    """Whether a batch of a session may be done under a delegation that it (`held`: epoch, session) or another holds.
    Fences the other if its epoch is `fences`.

    Raises:
        Overruled: The batch was decided under a delegation that is over.
        Recalling: The other has to return it first.
    """
    epoch, holder = held
    if batch.epoch:
        if (batch.epoch, session) != held:
            raise Overruled(
                "the delegation under which this was done is over: another mount may have changed the volume"
            )
        return
    if holder in (None, session) or all(isinstance(operation, _UNNOTICED) for operation in batch.operations):
        return
    if epoch != fences:
        raise Recalling("another mount holds the volume's delegation and is being asked to return it")
    connection.execute("UPDATE delegation SET session = NULL, epoch = epoch + 1 WHERE volume = ?", (volume,))


def free(connection: sqlite3.Connection, volume: VolumeId, *, fences: int) -> None:
    """Whether the coordinator itself may change a volume: nobody holds its delegation, or the one of the epoch
    `fences`, which ends. Raises Recalling."""
    row = connection.execute("SELECT epoch, session FROM delegation WHERE volume = ?", (volume,)).fetchone()
    if row is None or row[1] is None:
        return
    if row[0] != fences:
        raise Recalling("a mount holds the volume's delegation and is being asked to return it")
    connection.execute("UPDATE delegation SET session = NULL, epoch = epoch + 1 WHERE volume = ?", (volume,))


def end(connection: sqlite3.Connection, held: Held) -> None:
    """It is over, with everything of it that has not arrived. Fine when it has ended otherwise."""
    connection.execute(
        "UPDATE delegation SET session = NULL, epoch = epoch + 1 WHERE volume = ? AND epoch = ?",
        (held.volume, held.epoch),
    )


def void(connection: sqlite3.Connection, *, session: int) -> None:
    """What the session holds is over, with everything of it that has not arrived."""
    connection.execute("UPDATE delegation SET session = NULL, epoch = epoch + 1 WHERE session = ?", (session,))
