"""The tables of search, every column explained: two migrations of `schema`."""

from typing import Final

SEARCH: Final = """
ALTER TABLE volume ADD COLUMN index_names INTEGER NOT NULL DEFAULT 0;       -- 1: mounts index names
ALTER TABLE volume ADD COLUMN index_prefixes INTEGER NOT NULL DEFAULT 0;    -- 1: mounts index beginnings of words

CREATE TABLE label (                -- what is said of an inode
    volume      INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    revision    INTEGER NOT NULL,   -- one higher with every change
    sealed      BLOB NOT NULL,      -- format.search; empty: nothing any more
    content     BLOB,               -- token of the whole content when `change` was the inode's; NULL: not known
    change      INTEGER NOT NULL,
    PRIMARY KEY (volume, inode)
) STRICT, WITHOUT ROWID;
CREATE INDEX label_content ON label (volume, content, inode) WHERE content IS NOT NULL;

CREATE TABLE keyword (              -- which inodes have which token; stays while the inode is in the trash
    volume      INTEGER NOT NULL,
    token       BLOB NOT NULL,      -- format.search
    place       INTEGER NOT NULL,   -- wire.search: 0 a tag, 1 the note, else the dentry whose name has it
    inode       INTEGER NOT NULL,
    PRIMARY KEY (volume, token, place, inode)
) STRICT, WITHOUT ROWID;
CREATE INDEX keyword_inode ON keyword (volume, inode, token);
"""

INDEX_SEAL: Final = """
ALTER TABLE volume ADD COLUMN index_seal BLOB NOT NULL DEFAULT x'';  -- format.indexing: else mounts index no name
"""
