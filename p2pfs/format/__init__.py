"""Bytes ⇄ values: chunks, extents, heads, names, keys, invites (docs/format.md). Pure: no I/O, no clocks."""
