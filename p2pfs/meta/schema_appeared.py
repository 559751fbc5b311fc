"""Migration: which receipts are older than a peer's last appearance. Appended to the list in `schema`."""

from typing import Final

APPEARED: Final = """
-- Receipts with a put_seq up to this one are of before it last appeared; -1: it is not known. What they bring has yet
-- to be shown: replica.proved is -1.
ALTER TABLE peer ADD COLUMN appeared_seq INTEGER NOT NULL DEFAULT -1;
"""
