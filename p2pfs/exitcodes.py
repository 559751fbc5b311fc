"""Every exit status of every p2pfs process. Documented in docs/commands.md; never reuse a retired number."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
"""Something unexpected; the traceback is in the log."""
USAGE: Final = 2
"""Wrong arguments (click's own status)."""
NO_HOME: Final = 3
"""This node has no identity yet: `p2pfs init` or `p2pfs join` first."""
ALREADY_INITIALISED: Final = 4
"""P2PFS_HOME already holds a node."""
BAD_INVITE: Final = 5
"""The invite cannot be read, is used, expired, or the coordinator refused it."""
FOREIGN_COORDINATOR: Final = 6
"""The other end is not the coordinator this node belongs to."""
UNREACHABLE: Final = 7
"""No answer from the coordinator or from too many peers."""
WRONG_PASSPHRASE: Final = 8
BAD_MOUNT_POINT: Final = 9
"""Not there, not a directory, not empty, or already a mount."""
NO_FUSE: Final = 10
"""/dev/fuse, fusermount3 or pyfuse3 is missing."""
POOL_FULL: Final = 11
DENIED: Final = 12
"""The certificate does not allow this, or was revoked."""
NOT_FOUND: Final = 13
"""No such volume, node or path."""
EXISTS: Final = 14
BAD_CONFIGURATION: Final = 15
"""A setting is unknown or has no such value."""
NOT_MOUNTED: Final = 16
BUSY: Final = 17
"""Another process uses this home, address or mount, or another mount the volume, which one of them wants alone."""
DATA_NOT_STORED: Final = 18
"""Unmounted, but some written data could not be stored; the message says what."""
ABORTED: Final = 19
"""The mount cut its connection to the kernel, where a notification hung; the mount point answers `ENOTCONN`."""
HEALTH_WARNING: Final = 20
"""`p2pfs status`: warning."""
HEALTH_ERROR: Final = 21
"""`p2pfs status`: error, or no answer."""
FSCK_MENDED: Final = 22
"""`p2pfs fsck`: something was wrong, and all of it is mended."""
FSCK_LEFT: Final = 23
"""`p2pfs fsck`: something is wrong, or could not be checked."""
