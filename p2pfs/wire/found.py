"""What the coordinator tells of inodes that were found: answers of `wire.search` that hold attributes."""

from typing import Final

import msgspec

from p2pfs.wire.namespace import Attributes

MOST_PLACES: Final = 8


class Place(msgspec.Struct, frozen=True, array_like=True):
    """One name of an inode, sealed."""

    parent: int
    dentry: int
    name: bytes
    tag: bytes


class Labelled(msgspec.Struct, frozen=True, array_like=True):
    """An inode with its label and some of its names. The root has none."""

    attributes: Attributes  # without content and target
    revision: int  # of the label; 0: it never had one
    sealed: bytes  # format.search.seal_label; empty: it has none
    places: list[Place]  # at most MOST_PLACES, in the order of ReadNames, which tells the others
    copies: int  # the fewest that a chunk of its first 256 extents has; -1: they have no chunks


class LabelPage(msgspec.Struct, frozen=True, array_like=True):
    """Rows in the order asked for, each once, without those that have no name (any more). `done`: how many of the
    inodes asked about were looked at; ask again about the others."""

    rows: list[Labelled]
    done: int
