"""What guards a volume's key slots: one migration of `schema`."""

from typing import Final

KEYS: Final = """
ALTER TABLE volume ADD COLUMN slot_guard BLOB;  -- format.keys.guard_hash; NULL: not known before its slots are changed
"""
