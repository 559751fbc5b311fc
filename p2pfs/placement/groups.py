"""Groups: the chunks whose ids begin with the same 16 bits are placed together."""

from typing import Final

from p2pfs.types import ChunkId, GroupId

GROUPS: Final = 1 << 16


def group_of(chunk: ChunkId) -> GroupId:
    """The group a chunk belongs to."""
    return GroupId(int.from_bytes(chunk[:2], "big"))
