"""Migration: tokens that were given back before their time. Appended to the list in `schema`."""

from typing import Final

WITHDRAWN: Final = """
-- 0: as it was given; 1: given back, replaced, its session over; 2: its peer says that it takes it no more
ALTER TABLE reservation ADD COLUMN withdrawn INTEGER NOT NULL DEFAULT 0;
"""
