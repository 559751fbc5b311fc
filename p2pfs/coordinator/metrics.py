"""What the coordinator tells Prometheus; names are documented in docs/monitoring.md.

Of the pool it tells what the history saw last, at most a minute ago (`coordinator.history`): counting all chunks takes
long, and Prometheus may ask often. Called by `daemon`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from p2pfs.coordinator.services import Services
from p2pfs.meta.database import ThreadedDatabase
from p2pfs.net.exposition import common_figures, server_figures
from p2pfs.net.server import Server
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.metrics import Figure, Value, counter, gauge, histogram
from p2pfs.runtime.worker import Report

_POOL: Final = (
    ("p2pfs_pool_health", "health", "0 healthy, 1 warning, 2 error."),
    (
        "p2pfs_pool_chunks_short",
        "chunks.short",
        "Chunks short of copies with at least one, and not for announced absences.",
    ),
    ("p2pfs_pool_chunks_lost", "chunks.lost", "Chunks without a copy on a peer that answers."),
    ("p2pfs_pool_volumes", "volumes.count", "Volumes."),
    ("p2pfs_pool_files", "volumes.files", "Files and directories of all volumes."),
    ("p2pfs_pool_file_bytes", "volumes.bytes", "Their size."),
    ("p2pfs_pool_trash_bytes", "volumes.trash_bytes", "Size of what can be brought back."),
    ("p2pfs_pool_mounts", "mounts", "Sessions of mounts at work."),
    ("p2pfs_pool_jobs", "jobs", "Jobs that go on."),
    ("p2pfs_backup_age_seconds", "backup.age_s", "What would be lost with the coordinator's disk."),
)
_POOL_BY: Final = (
    ("p2pfs_pool_peers", "peers.", "Members by state.", "state"),
    ("p2pfs_pool_chunks", "chunks.copies.", "Chunks by number of copies on peers that answer.", "copies"),
    ("p2pfs_pool_bytes", "space.", "Room: as disks count, and total and writable after replication.", "kind"),
    ("p2pfs_queue_length", "queue.", "Copies to be made, and to be deleted by peers.", "queue"),
)


def figures(
    home: NodeHome, services: Services, server: Server, database: ThreadedDatabase, workers: Sequence[Report]
) -> list[Figure]:
    """All of one coordinator."""
    history, flow, pulse = services.history, services.flow, services.pulse
    return [
        *common_figures("coordinator", home),
        *server_figures(server),
        *(gauge(name, help, _latest(services, key)) for name, key, help in _POOL),
        *(gauge(name, help, _latest_by(services, prefix), label) for name, prefix, help, label in _POOL_BY),
        gauge("p2pfs_pool_seen_timestamp_seconds", "UTC; when the figures of the pool were last looked at; 0: not yet.",
              lambda: history.looked_s),
        counter(
            "p2pfs_peers_network_bytes_total",
            "Bytes through the connections of all peers, as they say.",
            lambda: {"in": flow.received, "out": flow.sent},
            "direction",
        ),
        counter("p2pfs_heartbeats_total", "Heartbeats of peers taken.", lambda: pulse.heartbeats),
        counter("p2pfs_copies_total", "Copies made by repair, draining and rebalancing.", services.copied),
        counter("p2pfs_batches_total", "Batches of changes answered to mounts.", lambda: services.sessions.batches),
        counter("p2pfs_database_commits_total", "Groups of changes committed.", lambda: database.commits),
        histogram("p2pfs_database_commit_seconds", "From a group's beginning to its commit.",
                  lambda: database.committing),
        counter("p2pfs_worker_errors_total", "Steps of background work that failed.",
                lambda: {one.name: one.errors for one in workers}, "worker"),
        gauge("p2pfs_worker_failing", "1 while a background worker's last step failed.",
              lambda: {one.name: float(one.failures > 0) for one in workers}, "worker"),
    ]  # fmt: skip


def _latest(services: Services, key: str) -> Callable[[], Value]:
    nothing: Value = {}
    return lambda: services.history.latest.get(key, nothing)


def _latest_by(services: Services, prefix: str) -> Callable[[], Mapping[str, float]]:
    return lambda: {
        key.removeprefix(prefix): value for key, value in services.history.latest.items() if key.startswith(prefix)
    }
