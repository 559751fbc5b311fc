"""Migration: volumes that have a quota, are deleted for a while, or are shared. Appended to the list in `schema`."""

from typing import Final

VOLUME_CARE: Final = """
ALTER TABLE volume ADD COLUMN quota_bytes INTEGER NOT NULL DEFAULT 0;   -- bytes may not grow beyond it; 0: no limit
ALTER TABLE volume ADD COLUMN quota_files INTEGER NOT NULL DEFAULT 0;   -- nor inodes beyond this
ALTER TABLE volume ADD COLUMN quota_s REAL NOT NULL DEFAULT 0;          -- when they were last set
ALTER TABLE volume ADD COLUMN deleted_s REAL;                           -- since when; NULL: it is in use
ALTER TABLE volume ADD COLUMN purge_s REAL;                             -- of a deleted one: until when it can come back
ALTER TABLE volume ADD COLUMN deleted_name TEXT NOT NULL DEFAULT '';    -- what it was called; `name` is its number then

CREATE TABLE node_key (             -- the public key that a client node has shown to be its own
    node        TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,      -- format.sharing
    public      BLOB NOT NULL,
    proof       BLOB NOT NULL       -- the node's signature
) STRICT, WITHOUT ROWID;
CREATE INDEX node_key_fingerprint ON node_key (fingerprint);

CREATE TABLE volume_member (        -- whom a volume is shared with, beside its owner
    volume      INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,      -- nodes that have shown this key
    read_only   INTEGER NOT NULL,   -- 1: they may not change the volume
    slot        BLOB NOT NULL,      -- format.sharing: the master key for that key, signed; opaque here
    since_s     REAL NOT NULL,
    PRIMARY KEY (volume, fingerprint)
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_member_fingerprint ON volume_member (fingerprint);
"""
