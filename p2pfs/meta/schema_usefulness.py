"""The migration that counts who gives and who takes: see docs/usefulness.md. Appended to `schema.MIGRATIONS`.

What lies where is kept by triggers, so that whatever adds a copy or takes one off the index counts it, in the same
transaction.
"""

from typing import Final

USEFULNESS: Final = """
CREATE TABLE usefulness (           -- windows of one day: bytes each node gave to and took from nodes of other owners
    day         INTEGER NOT NULL,   -- UTC days since 1970
    node        TEXT NOT NULL,
    u_usual     INTEGER NOT NULL,   -- served for reads, as far as both ends say so
    d_usual     INTEGER NOT NULL,   -- fetched for its own, as far as both ends say so
    d_special   INTEGER NOT NULL,   -- taken in to store
    u_special   INTEGER NOT NULL,   -- its own that it placed
    PRIMARY KEY (day, node)
) STRICT, WITHOUT ROWID;

CREATE TABLE read_report (          -- what either end says of one reader's reads at one peer; of the last two days
    day         INTEGER NOT NULL,
    server      TEXT NOT NULL,      -- node of the peer that was read from
    client      TEXT NOT NULL,      -- node that read
    by_client   INTEGER NOT NULL,   -- 1: the reader says so; 0: the peer
    run         INTEGER NOT NULL,   -- of its program: what a run says is of the whole day, and runs add up
    bytes       INTEGER NOT NULL,
    PRIMARY KEY (day, server, client, by_client, run)
) STRICT, WITHOUT ROWID;

CREATE TABLE placed (               -- bytes of each volume's copies on each peer, as replica has them
    volume      INTEGER NOT NULL,
    peer        INTEGER NOT NULL,   -- peer.number
    bytes       INTEGER NOT NULL,
    PRIMARY KEY (volume, peer)
) STRICT, WITHOUT ROWID;
CREATE INDEX placed_peer ON placed (peer);
INSERT INTO placed
    SELECT c.volume, r.peer, sum(c.size) FROM replica r JOIN chunk c ON c.number = r.chunk GROUP BY c.volume, r.peer;
CREATE TRIGGER replica_placed AFTER INSERT ON replica BEGIN
    INSERT INTO placed SELECT volume, NEW.peer, size FROM chunk WHERE number = NEW.chunk
        ON CONFLICT (volume, peer) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER replica_gone AFTER DELETE ON replica BEGIN
    UPDATE placed SET bytes = bytes - (SELECT size FROM chunk WHERE number = OLD.chunk)
        WHERE volume = (SELECT volume FROM chunk WHERE number = OLD.chunk) AND peer = OLD.peer;
END;

CREATE TABLE frugal (               -- chunks that were written when their owner was given fewer copies than the pool's
    chunk       INTEGER PRIMARY KEY,    -- chunk.number
    volume      INTEGER NOT NULL,
    copies      INTEGER NOT NULL    -- wanted of this one
) STRICT;
CREATE INDEX frugal_volume ON frugal (volume, copies);
CREATE TRIGGER frugal_gone AFTER DELETE ON chunk BEGIN
    DELETE FROM frugal WHERE chunk = OLD.number;
END;
"""
