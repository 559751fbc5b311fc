"""What becomes of tokens and labels when names and inodes go: rows of `keyword` and `label`, inside the caller's
transaction. What they mean is the mount's business: `vfs.labels`, `vfs.search`.
"""

import sqlite3

from p2pfs.types import VolumeId


def drop_name(connection: sqlite3.Connection, volume: VolumeId, inode: int, *, dentry: int) -> None:
    """A name of the inode is gone, which has others, or another one instead."""
    connection.execute("DELETE FROM keyword WHERE volume = ? AND inode = ? AND place = ?", (volume, inode, dentry))


def exchange_names(
    connection: sqlite3.Connection, volume: VolumeId, one: tuple[int, int], two: tuple[int, int]
) -> None:
    """Each of two (dentry, inode it led to) leads to the other's inode now."""
    for (dentry, before), (_, after) in ((one, two), (two, one)):
        connection.execute(
            "UPDATE keyword SET inode = ? WHERE volume = ? AND inode = ? AND place = ?", (after, volume, before, dentry)
        )


def forget(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> None:
    """Delete all of an inode that is gone for good."""
    connection.execute("DELETE FROM keyword WHERE volume = ? AND inode = ?", (volume, inode))
    connection.execute("DELETE FROM label WHERE volume = ? AND inode = ?", (volume, inode))
