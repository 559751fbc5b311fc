"""One batch at work: the inode rows it reads, changed in memory and written once at the end.

A create with its content touches the same two rows several times; this makes of it one insert and one update. Only
inode rows are held back: dentries, extents, inline data and open marks are written at once. Lives inside one
transaction and is thrown away with it.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Misuse, NoSpace, NotDirectory, NotFound
from p2pfs.meta import inodes, keywords, open_inodes, protocol, trash
from p2pfs.meta.chunks_index import Added
from p2pfs.meta.inodes import InodeRow
from p2pfs.meta.quotas import Quota
from p2pfs.meta.trash import Lost
from p2pfs.types import MIB, ROOT_INODE, SessionId, VolumeId
from p2pfs.wire.leases import Reason
from p2pfs.wire.namespace import Applied, Attributes, NewChunk

MAX_ANSWER_BYTES: Final = 24 * MIB
"""Most bytes of heads and inline data that a batch's answer holds; clients refuse 32 MiB."""

Verify = Callable[[VolumeId, NewChunk], None]
"""Raises Misuse when a receipt of a new chunk is not genuine."""
Stored = Callable[[VolumeId, NewChunk], None]
"""Is told of a chunk that nothing referred to before this commit. If the batch is refused later, it was not stored."""


def untold(_volume: VolumeId, _chunk: NewChunk) -> None:
    """For those who do not ask."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the coordinator demands of a batch. `wanted_min`: on how many peers a new chunk must be; `awake_s`: sessions
    that end before it are asleep or dead, and nothing is kept for them; `hold_s`: for how long for the others.
    `frugal`: how many copies a new chunk wants, 0: the pool's. `added` hears of copies that are new; `grown`, called
    behind them, raises OverQuota when the owner is not allowed so many; `stored` is told of new chunks."""

    verify: Verify
    wanted_min: int
    now_s: float
    awake_s: float = 0.0
    hold_s: float = 0.0
    frugal: int = 0
    added: Added = lambda _new, _peers, _first: None
    grown: Callable[[sqlite3.Connection], None] = lambda _connection: None
    stored: Stored = untold


class Work:
    """The state of one batch. `session` is the row number of the session it belongs to."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        volume: VolumeId,
        session: int,
        next_id: int,
        rules: Rules,
        echoes: bool = True,
        trash_s: float = 0.0,
        quota: Quota | None = None,
    ) -> None:
        """`echoes`: whether `finish` gives contents too; not so in a delegated batch. What loses its last name is kept
        for `trash_s` more."""
        self.connection = connection
        self.volume = volume
        self.session = session
        self.rules = rules
        self._echoes = echoes
        self.trash_s = trash_s
        self._quota = quota
        self._next_id = next_id
        self._rows: dict[int, InodeRow] = {}
        self._named: set[int] = set()
        self._inodes = 0
        self._bytes = 0
        self._trash_inodes = 0
        self._trash_bytes = 0
        self._room = MAX_ANSWER_BYTES
        self._others: list[tuple[int, SessionId]] | None = None
        self._may_open: int | None = None  # how many more
        self.held: list[int] = []  # lost their last name here and are kept for `others` too

    # ---- inode rows -------------------------------------------------------------------------------------------------

    def inode(self, inode: int) -> InodeRow:
        """The row as the batch has made it so far. Raises NotFound, also of what only the trash keeps."""
        row = self.kept(inode)
        if row.gone or (row.links == 0 and not inodes.is_open(self.connection, self.volume, inode)):
            raise NotFound("there is no such inode")
        return row

    def kept(self, inode: int) -> InodeRow:
        """The row even if the trash alone keeps it, or nothing any more. Raises NotFound."""
        row = self._rows.get(inode)
        if row is None:
            row = inodes.load(self.connection, self.volume, inode)
            if row is None:
                raise NotFound("there is no such inode")
            self._weigh(len(row.head))
            self._rows[inode] = row
        return row

    def loaded(self, inode: int) -> InodeRow | None:
        """The row, if this batch has used it."""
        row = self._rows.get(inode)
        return None if row is None or row.gone else row

    def directory(self, inode: int) -> InodeRow:
        """The row of a directory that has a name. Raises NotFound, NotDirectory."""
        row = self.inode(inode)
        if not row.is_directory:
            raise NotDirectory("this is not a directory")
        if row.links == 0:
            raise NotFound("the directory was removed")
        return row

    def mention(self, row: InodeRow) -> None:
        """The answer tells of this inode although nothing changes."""
        self._named.add(row.inode)

    def add(self, row: InodeRow) -> None:
        """A new inode, with a number granted before. Raises Misuse."""
        if not ROOT_INODE < row.inode < self._next_id:
            raise Misuse(f"the inode number {row.inode} was never granted")
        if row.inode in self._rows:
            raise Misuse(f"the inode number {row.inode} is in use")
        row.fresh = row.dirty = True
        self._rows[row.inode] = row
        self._inodes += 1

    def resize(self, row: InodeRow, size: int) -> None:
        """Set the size the volume is charged with."""
        self._bytes += size - row.size
        row.size = size

    def lose_name(self, row: InodeRow, lost: Lost, time_ns: int, reason: Reason) -> None:
        """One name less; a directory has only one. Without names or handles the inode goes, or only the trash keeps it.

        Other mounts may have it open, and say so only when they are told: it is kept for each until it has had the time
        to.
        """
        was_clean = not row.dirty
        row.links = 0 if row.is_directory else row.links - 1
        row.changed(time_ns)
        if row.links:
            keywords.drop_name(self.connection, self.volume, row.inode, dentry=lost.dentry)
        if row.links == 0:
            row.trashed = self.trash_s > 0 and not row.fresh
        if row.trashed:
            trash.add(
                self.connection, self.volume, row.inode, lost=lost, reason=reason,
                now_s=self.rules.now_s, purge_s=self.rules.now_s + self.trash_s,
            )  # fmt: skip
        if row.links == 0 and not row.fresh and self.others:  # nobody else can know what this batch made
            self.held.append(row.inode)
            open_inodes.keep_for(
                self.connection,
                self.volume,
                row.inode,
                sessions=[number for number, _ in self.others],
                until_s=self.rules.now_s + self.rules.hold_s,
            )
        self.settle(row)
        row.buried = was_clean and row.gone

    def set_lease(self, row: InodeRow, expires_s: int) -> None:
        """Keep an inode until then; 0: for ever. Seldom done, so written at once: other updates leave the index be."""
        row.expires_s = expires_s
        row.changed(0)
        self.connection.execute(
            "UPDATE inode SET expires_s = ? WHERE volume = ? AND inode = ?", (expires_s, self.volume, row.inode)
        )

    def hold(self, inode: int) -> None:
        """The session keeps the inode even without a name; again is fine. Raises NoSpace."""
        if self._may_open is None:
            self._may_open = protocol.MAX_OPEN - open_inodes.count(self.connection, self.session)
        if self._may_open <= 0:
            raise NoSpace("this mount has as many files open as it can have")
        self._may_open -= 1
        open_inodes.keep(self.connection, self.volume, inode, session=self.session)

    @property
    def others(self) -> list[tuple[int, SessionId]]:
        """(row number, id) of the volume's other sessions that are awake."""
        if self._others is None:
            self._others = self.connection.execute(
                "SELECT number, id FROM session WHERE volume = ? AND number != ? AND expires_s >= ?",
                (self.volume, self.session, self.rules.awake_s),
            ).fetchall()
        return self._others

    def settle(self, row: InodeRow) -> None:
        """Remove the inode if neither a name nor a session keeps it, or leave it to the trash."""
        if row.links == 0 and not row.gone and not inodes.is_open(self.connection, self.volume, row.inode):
            row.gone = True
            self._inodes -= 1
            self._bytes -= row.size
            if row.trashed is None:
                row.trashed = inodes.is_trashed(self.connection, self.volume, row.inode)
            if row.trashed:
                self._trash_inodes += 1
                self._trash_bytes += row.size

    def unsettle(self, row: InodeRow) -> None:
        """It leaves the trash: for a name, or for good."""
        is_alone = row.gone or not inodes.is_open(self.connection, self.volume, row.inode)
        row.trashed = False
        if is_alone:
            self._trash_inodes -= 1
            self._trash_bytes -= row.size
            self._inodes += 1
            self._bytes += row.size
        row.gone = False

    # ---- dentries ---------------------------------------------------------------------------------------------------

    def find(self, parent: int, name: bytes) -> tuple[int, int, bytes] | None:
        """(dentry, inode, tag) of a name, if there is one."""
        row: tuple[int, int, bytes] | None = self.connection.execute(
            "SELECT dentry, inode, tag FROM dentry WHERE volume = ? AND parent = ? AND name = ?",
            (self.volume, parent, name),
        ).fetchone()
        return row

    def add_name(self, parent: int, name: bytes, *, dentry: int, inode: int, tag: bytes) -> bool:
        """Insert a dentry; False when the name is taken. Raises Misuse when the number is."""
        if not ROOT_INODE < dentry < self._next_id:
            raise Misuse(f"the dentry number {dentry} was never granted")
        try:
            self.connection.execute(
                "INSERT INTO dentry VALUES (?, ?, ?, ?, ?, ?)", (self.volume, parent, dentry, inode, name, tag)
            )
        except sqlite3.IntegrityError:
            if self.find(parent, name) is None:
                raise Misuse(f"the dentry number {dentry} is in use") from None
            return False
        return True

    def drop_name(self, parent: int, dentry: int) -> None:
        """Delete a dentry."""
        self.connection.execute(
            "DELETE FROM dentry WHERE volume = ? AND parent = ? AND dentry = ?", (self.volume, parent, dentry)
        )

    # ---- the end ----------------------------------------------------------------------------------------------------

    @property
    def is_too_much(self) -> bool:
        """Whether a delegated batch brings the volume far beyond its quota; it is taken all the same."""
        return (
            self._quota is not None
            and not self._echoes
            and self._quota.is_far_exceeded(more_bytes=self._bytes, more_files=self._inodes)
        )

    def finish(self) -> Applied:
        """Write what was held back and say what the batch did. Raises OverQuota."""
        if self._quota is not None and self._echoes:
            self._quota.check(more_bytes=self._bytes, more_files=self._inodes)
        told: list[Attributes] = []
        removed: list[int] = []
        self._room = MAX_ANSWER_BYTES
        for row in self._rows.values():
            if row.gone:
                if row.trashed:
                    write = inodes.bury if row.buried else inodes.update
                    write(self.connection, self.volume, row)
                else:
                    inodes.remove(self.connection, self.volume, row.inode, inline=bool(row.inline))
                removed.append(row.inode)
                continue
            if row.fresh:
                inodes.insert(self.connection, self.volume, row)
            elif row.dirty:
                inodes.update(self.connection, self.volume, row)
            if row.dirty or row.inode in self._named:
                told.append(inodes.attributes(self.connection, self.volume, row, content=self._echoes))
                self._weigh(inodes.weight(told[-1]))
        inodes.count(self.connection, self.volume, inodes=self._inodes, bytes_=self._bytes)
        inodes.count_trash(self.connection, self.volume, inodes=self._trash_inodes, bytes_=self._trash_bytes)
        return Applied(told, removed)

    def _weigh(self, bytes_: int) -> None:
        """Before a small batch gathers a large answer. Raises Misuse."""
        self._room -= bytes_
        if self._room < 0:
            raise Misuse("the answer to this batch would be too long: do less at once")
