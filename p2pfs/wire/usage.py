"""What `p2pfs du` asks: the sizes of a directory's entries, and which chunks they are made of."""

import msgspec


class ReadUsage(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """→ UsagePage of a directory's entries with dentries above `after`. Raises NotFound, NotDirectory. An earlier
    coordinator refuses it (`Misuse`)."""

    directory: int
    after: int


class ReadFileUsage(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """→ FileUsage of one inode from that MiB on. Raises NotFound."""

    inode: int
    from_mib: int


class ChunkUsage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A chunk, by its number at the coordinator."""

    number: int
    size: int  # sealed bytes
    copies: int


class FileUsage(msgspec.Struct, frozen=True, array_like=True):
    """Chunks that extents name, none twice in one answer. `next_mib` is where the others begin; -1: there are none."""

    inode: int
    kind: int
    links: int
    size: int  # content bytes
    inline: int  # sealed bytes that live in the metadata
    chunks: list[ChunkUsage]
    next_mib: int


class UsagePage(msgspec.Struct, frozen=True, array_like=True):
    """`after` is the last dentry that was looked at; `complete` when none follow."""

    rows: list[FileUsage]
    after: int
    complete: bool
