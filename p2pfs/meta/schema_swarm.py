"""How a volume's chunks get to their peers."""

from typing import Final

SWARM: Final = """
ALTER TABLE volume ADD COLUMN distribution TEXT NOT NULL DEFAULT 'auto';    -- types.Distribution
"""
