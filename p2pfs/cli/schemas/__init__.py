"""What `--json` prints: one type for each command, from which docs/reference/json.md and schemas.json are made.

Where a message of the pool is printed as it is, its own type stands here. Keys are only ever added: a program that
reads them passes over what it does not know. Not used when commands run; a test holds every command to its type. The
meaning of a key is the comment beside it.
"""

from typing import Any, Final

from p2pfs.cli.schemas import measuring, pool, volumes
from p2pfs.wire.jobs import JobInfo
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.usefulness import UsefulnessDetail, UsefulnessReport

OUTPUTS: Final[dict[str, Any]] = {
    "accesslog": volumes.Request,
    "bench": measuring.Bench,
    "coordinator find": pool.FoundCoordinator,
    "dashboard": pool.DashboardLink,
    "debug bundle": pool.Bundle,
    "demo status": list[pool.Part],
    "doctor": list[pool.Finding],
    "du": list[volumes.Usage],
    "evict": volumes.Evicted,
    "fsck": volumes.Fsck,
    "init": pool.NewPool,
    "invite": pool.NewInvite,
    "jobs": list[JobInfo],
    "jobs --watch": list[JobInfo],
    "jobs cancel": JobInfo,
    "jobs pause": JobInfo,
    "jobs resume": JobInfo,
    "jobs retry": JobInfo,
    "join": pool.Joined,
    "key add": volumes.NewRecovery | list[volumes.Slot],
    "key fingerprint": volumes.Fingerprint,
    "key list": list[volumes.Slot],
    "key passwd": list[volumes.Slot],
    "key remove": list[volumes.Slot],
    "lease extend": volumes.Lease,
    "lease list": list[volumes.Expiring],
    "lease set": volumes.Lease,
    "lease show": volumes.Lease,
    "peer drain": NodeInfo,
    "peer forget": NodeInfo,
    "peer safe-to-stop": pool.Plan,
    "peer status": pool.PeerStatus,
    "peer trash": pool.PeerTrash,
    "peer trash empty": pool.EmptiedTrash,
    "plan drain": pool.Plan,
    "plan lose": pool.Plan,
    "reserve": volumes.Reservation,
    "reserve list": list[volumes.Reservation],
    "reserve release": volumes.Reservation,
    "revoke": NodeInfo,
    "search": list[volumes.Found],
    "share": pool.Share,
    "simulate": measuring.Simulation,
    "simulate --paper": measuring.Paper,
    "stats": volumes.Stats,
    "stats --interval": volumes.Stats,
    "status": pool.Status,
    "tag": volumes.Tags,
    "top": pool.Status,
    "trash list": list[volumes.Trashed],
    "trash purge": volumes.Purged,
    "trash restore": list[volumes.Restored],
    "undelete": list[volumes.Restored],
    "usefulness": UsefulnessReport,
    "usefulness NODE": UsefulnessDetail,
    "version": pool.Versions,
    "volume accept": volumes.Accepted,
    "volume create": volumes.Volume,
    "volume delete": volumes.DeletedVolume,
    "volume list": list[volumes.Volume],
    "volume list --deleted": list[volumes.DeletedVolume],
    "volume ls": volumes.Listed,
    "volume members": list[volumes.Member],
    "volume quota": volumes.Quota,
    "volume rename": volumes.NamedVolume,
    "volume set": volumes.Volume,
    "volume share": list[volumes.Member],
    "volume show": volumes.Volume,
    "volume undelete": volumes.NamedVolume,
    "volume unshare": list[volumes.Member],
    "warmup": volumes.Warmth,
    "where": volumes.Where,
    "why": volumes.Why,
}
"""Command, with what makes it print something else → type. Those of LINES print one such value a line."""
LINES: Final = frozenset({"accesslog", "jobs --watch", "stats --interval", "volume ls"})
