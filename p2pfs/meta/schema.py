"""The tables of the coordinator's database, every column explained, and the numbered migrations that make them.

Nothing here runs by itself: `database` calls `migrate` when it opens a file. Rows of a volume are led by `volume`;
peer, node, certificate, session and setting belong to the pool. Text is UTF-8, times are UTC: `_s` in seconds, `_ns` in
nanoseconds. Names, targets, contents, extents and heads are sealed by mounts; no key is ever stored here.
"""

import sqlite3
from typing import Final

from p2pfs.errors import Corrupt
from p2pfs.meta.schema_appeared import APPEARED
from p2pfs.meta.schema_bookings import BOOKINGS
from p2pfs.meta.schema_keys import KEYS
from p2pfs.meta.schema_search import INDEX_SEAL, SEARCH
from p2pfs.meta.schema_swarm import SWARM
from p2pfs.meta.schema_usefulness import USEFULNESS
from p2pfs.meta.schema_volumes import VOLUME_CARE
from p2pfs.meta.schema_withdrawn import WITHDRAWN

APPLICATION_ID: Final = 0x70327066
"""`PRAGMA application_id`: "p2pf"; another program's database is refused."""

EVERYTHING: Final = (1 << 63) - 1
"""The `seq` of a cut that filters every extent: the inode is gone."""

_POOL: Final = """
CREATE TABLE setting (              -- the pool's own values
    key     TEXT PRIMARY KEY,
    value   BLOB NOT NULL           -- msgpack
) STRICT, WITHOUT ROWID;

CREATE TABLE node (                 -- every machine that ever joined; ids are never reused, rows never deleted
    id              TEXT PRIMARY KEY,   -- types.NodeId
    name            TEXT NOT NULL,      -- "owner@machine", from the invite
    owner           TEXT NOT NULL,      -- a failure domain of placement, and who may use which volume
    zone            TEXT NOT NULL,      -- "" when the invite names none
    roles           TEXT NOT NULL,      -- types.Role, space separated, sorted
    capacity_limit  INTEGER NOT NULL,   -- greatest bytes a peer may offer; 0: no limit
    joined_s        REAL NOT NULL,
    revoked_s       REAL                -- NULL: a member
) STRICT, WITHOUT ROWID;

CREATE TABLE certificate (          -- every certificate ever issued
    serial          TEXT PRIMARY KEY,   -- hexadecimal, lower case
    node            TEXT NOT NULL,
    issued_s        REAL NOT NULL,
    not_after_s     REAL NOT NULL,
    revoked_s       REAL                -- NULL: valid until not_after_s
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_node ON certificate (node);

CREATE TABLE invite (
    secret_hash     BLOB PRIMARY KEY,   -- of the invite's secret; the secret itself is not kept
    name            TEXT NOT NULL,      -- what the node will be called
    owner           TEXT NOT NULL,
    zone            TEXT NOT NULL,
    roles           TEXT NOT NULL,      -- as in node
    capacity_limit  INTEGER NOT NULL,
    created_s       REAL NOT NULL,
    expires_s       REAL NOT NULL,
    used_s          REAL,               -- NULL: not used yet
    key_hash        BLOB,               -- of the public key it was bound to at first use
    node            TEXT                -- the node it made
) STRICT, WITHOUT ROWID;

CREATE TABLE peer (                 -- a node with the role peer, as its heartbeats tell
    number          INTEGER PRIMARY KEY AUTOINCREMENT,  -- types.PeerNumber; never reused
    node            TEXT NOT NULL UNIQUE,
    addresses       BLOB NOT NULL,      -- msgpack list of "host:port", best first
    capacity        INTEGER NOT NULL,   -- bytes offered
    used            INTEGER NOT NULL,   -- bytes of chunks, without the trash
    trash           INTEGER NOT NULL,   -- bytes in the trash
    chunks          INTEGER NOT NULL,   -- chunks held
    state           TEXT NOT NULL,      -- types.PeerState
    state_s         REAL NOT NULL,      -- since when
    seen_s          REAL NOT NULL,      -- last heartbeat, by the coordinator's clock; 0: never
    clock_s         REAL NOT NULL,      -- the peer's clock in that heartbeat
    version         TEXT NOT NULL,      -- the software it runs
    resources       BLOB                -- msgpack wire.membership.Resources; NULL before the first heartbeat
) STRICT;
"""

_VOLUMES: Final = """
CREATE TABLE volume (
    id                  INTEGER PRIMARY KEY,    -- types.VolumeId, random
    name                TEXT NOT NULL,
    owner               TEXT NOT NULL,
    key_check           BLOB NOT NULL,          -- the key-check value clients pin
    small_file_bytes    INTEGER NOT NULL,       -- content up to here lives in inline_data
    dedup               INTEGER NOT NULL,       -- 1: equal chunks are one chunk
    created_s           REAL NOT NULL,
    next_id             INTEGER NOT NULL,       -- first inode or dentry number never granted to any mount
    inodes              INTEGER NOT NULL,       -- rows in inode, without those that only trash keeps
    bytes               INTEGER NOT NULL,       -- sum of their inode.size
    UNIQUE (owner, name)
) STRICT;

CREATE TABLE key_slot (             -- one wrapped master key per way of opening the volume
    volume      INTEGER NOT NULL,
    number      INTEGER NOT NULL,   -- order of making
    kind        TEXT NOT NULL,      -- wire.volumes.KeySlot.kind
    wrapped     BLOB NOT NULL,      -- format.keys, opaque here
    PRIMARY KEY (volume, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE inode (
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,   -- types.InodeId
    kind        INTEGER NOT NULL,   -- types.Kind
    mode        INTEGER NOT NULL,   -- permission bits 07777
    uid         INTEGER NOT NULL,
    gid         INTEGER NOT NULL,
    rdev        INTEGER NOT NULL,
    links       INTEGER NOT NULL,   -- names; of a directory 2 + its subdirectories; 0: kept by open_inode or trash
    size        INTEGER NOT NULL,   -- bytes, as the mount says; a mount trusts only the one inside head
    change      INTEGER NOT NULL,   -- content version: 0, then one higher with each commit
    attr_change INTEGER NOT NULL,   -- rises with every change of this row
    atime_ns    INTEGER NOT NULL,
    mtime_ns    INTEGER NOT NULL,
    ctime_ns    INTEGER NOT NULL,
    parent      INTEGER NOT NULL,   -- of a directory: where it is (the root: itself); of others 0
    inline      INTEGER NOT NULL,   -- 1: inline_data has a row (content of a file, target of a symlink)
    head        BLOB NOT NULL,      -- format.heads, sealed
    PRIMARY KEY (volume, inode)
) STRICT, WITHOUT ROWID;

CREATE TABLE dentry (
    volume      INTEGER NOT NULL,
    parent      INTEGER NOT NULL,
    dentry      INTEGER NOT NULL,   -- types.DentryId, the readdir cookie
    inode       INTEGER NOT NULL,
    name        BLOB NOT NULL,      -- format.names, sealed; equal names of one directory seal equally
    tag         BLOB NOT NULL,      -- format.names.dentry_tag
    PRIMARY KEY (volume, parent, dentry)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dentry_name ON dentry (volume, parent, name);

CREATE TABLE inline_data (          -- what is too small for a chunk
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    data        BLOB NOT NULL,      -- sealed: the content of a small file or the target of a symlink
    PRIMARY KEY (volume, inode)
) STRICT;

CREATE TABLE extent (
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    mib         INTEGER NOT NULL,   -- the extent's index: which MiB of the file
    seq         INTEGER NOT NULL,   -- newest wins
    chunk       INTEGER,            -- chunk.number; NULL: a hole
    sealed      BLOB NOT NULL,      -- format.extents
    PRIMARY KEY (volume, inode, mib, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE cut (                  -- extents with mib >= from_mib and seq < seq are gone; the reaper deletes them
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    from_mib    INTEGER NOT NULL,
    seq         INTEGER NOT NULL,   -- EVERYTHING: the inode itself is gone, and its rows in xattr too
    PRIMARY KEY (volume, inode, from_mib)
) STRICT, WITHOUT ROWID;

CREATE TABLE chunk (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,  -- rows use it instead of the 32-byte id; never reused
    volume      INTEGER NOT NULL,
    id          BLOB NOT NULL,      -- types.ChunkId
    size        INTEGER NOT NULL,   -- sealed bytes
    scheme      INTEGER NOT NULL,   -- 1: whole copies
    refs        INTEGER NOT NULL,   -- extents that name it, those waiting for the reaper included
    doomed_s    REAL,               -- since when nothing names it; NULL while refs > 0
    purging     INTEGER NOT NULL,   -- 1: peers are being told to delete it; a commit that names it gets Gone
    UNIQUE (volume, id)
) STRICT;
CREATE INDEX chunk_doomed ON chunk (doomed_s) WHERE doomed_s IS NOT NULL;

CREATE TABLE replica (              -- where copies are, each proved by a receipt
    chunk       INTEGER NOT NULL,   -- chunk.number
    part        INTEGER NOT NULL,   -- scheme 1: 0
    peer        INTEGER NOT NULL,   -- peer.number
    put_seq     INTEGER NOT NULL,   -- of the newest receipt; a delete names it
    PRIMARY KEY (chunk, part, peer)
) STRICT, WITHOUT ROWID;
CREATE INDEX replica_peer ON replica (peer, chunk);
"""

_SESSIONS: Final = """
CREATE TABLE session (              -- one mount's conversation with the coordinator
    number      INTEGER PRIMARY KEY AUTOINCREMENT,  -- rows use it instead of the id
    id          TEXT NOT NULL UNIQUE,   -- types.SessionId
    volume      INTEGER NOT NULL,
    node        TEXT NOT NULL,          -- whose it is; nobody else may use it
    owner       TEXT NOT NULL,
    host        TEXT NOT NULL,          -- for people
    mount_point TEXT NOT NULL,          -- for people
    read_only   INTEGER NOT NULL,
    opened_s    REAL NOT NULL,
    expires_s   REAL NOT NULL,          -- unless renewed before
    acked       INTEGER NOT NULL        -- results of batches with a lower seq are dropped
) STRICT;

CREATE TABLE session_result (       -- answers of batches, so that a retry gets the old one
    session     INTEGER NOT NULL,   -- session.number
    seq         INTEGER NOT NULL,
    answer      BLOB NOT NULL,      -- msgpack wire.answers.Answer
    PRIMARY KEY (session, seq)
) STRICT;

CREATE TABLE open_inode (           -- inodes that outlive their last name
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    session     INTEGER NOT NULL,   -- session.number
    PRIMARY KEY (volume, inode, session)
) STRICT, WITHOUT ROWID;

CREATE TABLE reservation (          -- room promised on one peer: wire.chunks.Token
    id          INTEGER PRIMARY KEY,    -- Token.id, random
    session     TEXT NOT NULL,          -- for whom
    sender      TEXT NOT NULL,          -- node id
    volume      INTEGER NOT NULL,
    peer        INTEGER NOT NULL,
    room_bytes  INTEGER NOT NULL,
    expires_s   REAL NOT NULL
) STRICT;
CREATE INDEX reservation_expiry ON reservation (expires_s);
"""

_DISTRUST: Final = """
ALTER TABLE invite ADD COLUMN invited_by TEXT;  -- the admin's node; NULL: made before this column was

CREATE TABLE damaged_copy (         -- copies that peers set aside: receipts as old as these prove nothing any more
    chunk       INTEGER NOT NULL,   -- chunk.number
    peer        INTEGER NOT NULL,   -- peer.number
    put_seq     INTEGER NOT NULL,   -- of the newest receipt there was when the peer told
    PRIMARY KEY (chunk, peer)
) STRICT, WITHOUT ROWID;
"""

_XATTRS: Final = """
CREATE TABLE xattr (                -- extended attributes, ACLs among them
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    name        BLOB NOT NULL,      -- format.names, sealed; equal names of one inode seal equally
    value       BLOB NOT NULL,      -- format.values, sealed
    PRIMARY KEY (volume, inode, name)
) STRICT;
"""

_HOLDS: Final = """
ALTER TABLE open_inode ADD COLUMN until_s REAL; -- NULL: the session said that it has it open; else it may, until then
CREATE INDEX open_inode_session ON open_inode (session, inode, until_s);
CREATE INDEX open_inode_until ON open_inode (until_s) WHERE until_s IS NOT NULL;
"""

_XATTR_SUMS: Final = """
CREATE TABLE xattr_sum (            -- of each inode that ever had extended attributes, so that nobody has to add up
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    count       INTEGER NOT NULL,   -- rows in xattr
    bytes       INTEGER NOT NULL,   -- of their names and values
    PRIMARY KEY (volume, inode)
) STRICT, WITHOUT ROWID;
INSERT INTO xattr_sum
    SELECT volume, inode, count(*), sum(length(name) + length(value)) FROM xattr GROUP BY volume, inode;
"""

_CARE: Final = """
ALTER TABLE peer ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;     -- 1: it is being drained
ALTER TABLE peer ADD COLUMN away_until_s REAL NOT NULL DEFAULT 0;   -- it said that it would be silent until then
ALTER TABLE peer ADD COLUMN appearances INTEGER NOT NULL DEFAULT 0; -- how often it came back, or was found to have lied
ALTER TABLE peer ADD COLUMN run INTEGER NOT NULL DEFAULT 0;         -- the daemon's, last heard; 0: unknown

ALTER TABLE replica ADD COLUMN proved INTEGER NOT NULL DEFAULT 0;   -- peer.appearances at the last receipt or audit

ALTER TABLE chunk DROP COLUMN purging;

CREATE TABLE void_copy (            -- copies that are gone or must go: receipts as old as these prove nothing any more
    peer        INTEGER NOT NULL,   -- peer.number
    volume      INTEGER NOT NULL,
    id          BLOB NOT NULL,      -- types.ChunkId; the chunk itself may be forgotten
    put_seq     INTEGER NOT NULL,   -- of the newest receipt there was
    pending     INTEGER NOT NULL,   -- 1: the peer has yet to delete it; 0: it said that it has not got it any more
    since_s     REAL NOT NULL,      -- when it became what it is
    PRIMARY KEY (peer, volume, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX void_copy_pending ON void_copy (peer) WHERE pending;
CREATE INDEX void_copy_since ON void_copy (since_s) WHERE NOT pending;
INSERT INTO void_copy
    SELECT d.peer, c.volume, c.id, d.put_seq, 0, CAST(strftime('%s', 'now') AS REAL)
    FROM damaged_copy d JOIN chunk c ON c.number = d.chunk; -- since when was not kept; mounts may carry their receipts
DROP TABLE damaged_copy;

CREATE TABLE job (                  -- background work, for people to see and to hold back
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        TEXT NOT NULL,      -- wire.jobs.JobKind
    subject     TEXT NOT NULL,      -- the node it is about, or ""
    state       TEXT NOT NULL,      -- wire.jobs.JobState
    done        INTEGER NOT NULL,   -- chunks
    total       INTEGER NOT NULL,
    done_bytes  INTEGER NOT NULL,
    total_bytes INTEGER NOT NULL,
    started_s   REAL NOT NULL,
    updated_s   REAL NOT NULL,
    ended_s     REAL,               -- NULL: it goes on
    error       TEXT NOT NULL       -- why it is stuck or failed; "" if it is not
) STRICT;
CREATE UNIQUE INDEX job_open ON job (kind, subject) WHERE ended_s IS NULL;
"""

_DELEGATIONS: Final = """
CREATE TABLE delegation (           -- to which mount a volume was delegated; a volume without a row never was
    volume      INTEGER PRIMARY KEY,
    epoch       INTEGER NOT NULL,   -- rises with every grant and every fencing, is kept for ever
    session     INTEGER,            -- session.number of the holder; NULL: nobody holds it
    lasts_s     REAL NOT NULL       -- what the holder was told when it was granted
) STRICT;
CREATE INDEX session_volume ON session (volume);
"""

_EXCLUSION: Final = """
ALTER TABLE session ADD COLUMN exclusive INTEGER NOT NULL DEFAULT 0;    -- 1: no other may change the volume meanwhile
"""

_LEASES: Final = """
ALTER TABLE inode ADD COLUMN expires_s INTEGER NOT NULL DEFAULT 0;  -- UTC, kept until then; 0: for ever
CREATE INDEX inode_expiry ON inode (volume, expires_s) WHERE expires_s > 0 AND links > 0;
CREATE INDEX dentry_inode ON dentry (volume, inode);                -- an inode's names

ALTER TABLE volume ADD COLUMN trash_removed_s REAL NOT NULL DEFAULT 86400;  -- how long what is removed is kept; 0: not
ALTER TABLE volume ADD COLUMN trash_expired_s REAL NOT NULL DEFAULT 604800; -- how long what has expired is kept; 0: not
ALTER TABLE volume ADD COLUMN trash_inodes INTEGER NOT NULL DEFAULT 0;      -- inodes that only trash keeps
ALTER TABLE volume ADD COLUMN trash_bytes INTEGER NOT NULL DEFAULT 0;       -- sum of their sizes

CREATE TABLE trash (                -- inodes that lost their last name and can be brought back, and that name
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    parent      INTEGER NOT NULL,   -- with dentry, name, tag: the dentry as it was; the parent may be in trash or gone
    dentry      INTEGER NOT NULL,
    name        BLOB NOT NULL,
    tag         BLOB NOT NULL,
    reason      INTEGER NOT NULL,   -- wire.leases.Reason
    removed_s   REAL NOT NULL,
    purge_s     REAL NOT NULL,      -- kept until then
    PRIMARY KEY (volume, inode)
) STRICT, WITHOUT ROWID;
CREATE INDEX trash_purge ON trash (purge_s);
CREATE INDEX trash_removed ON trash (removed_s);        -- under pressure the oldest goes first
CREATE INDEX trash_parent ON trash (volume, parent);    -- what was in a directory
"""

MIGRATIONS: Final = (
    _POOL + _VOLUMES + _SESSIONS,
    _DISTRUST,
    _XATTRS,
    _HOLDS,
    _XATTR_SUMS,
    _CARE,
    _DELEGATIONS,
    _EXCLUSION,
    _LEASES,
    KEYS,
    SEARCH,
    SWARM,
    BOOKINGS,
    USEFULNESS,
    INDEX_SEAL,
    WITHDRAWN,
    VOLUME_CARE,
    APPEARED,
)
"""Number n brings a database from version n to n + 1 (`PRAGMA user_version`). Never change one that was released."""


def version_of(connection: sqlite3.Connection) -> int:
    """How many migrations the database has seen; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> int:
    """Bring a database to this program's version, one transaction a migration, and return that version.

    Raises:
        Corrupt: It belongs to another program or to a newer version of this one.
    """
    version = version_of(connection)
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if owner != APPLICATION_ID and not (version == 0 and owner == 0 and empty):
        raise Corrupt("the database belongs to another program")
    if version > len(MIGRATIONS):
        raise Corrupt(f"the database has version {version}, this program knows versions up to {len(MIGRATIONS)}")
    for number in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN EXCLUSIVE")
        try:
            for statement in _statements(MIGRATIONS[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    return len(MIGRATIONS)


def _statements(script: str) -> list[str]:
    """The statements of a script. (`executescript` would commit before it starts.)"""
    found, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found
