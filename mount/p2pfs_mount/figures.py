"""What a mount says of itself in numbers: to `p2pfs stats` and `p2pfs bench` over its socket, and to Prometheus.

Read when somebody asks, from what is counted anyway. The names are documented in docs/monitoring.md. Called by `main`.
"""

import errno
import time
from functools import partial
from typing import Final

from p2pfs.net.exposition import common_figures
from p2pfs.net.wires import TOTAL
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.latency import Latency
from p2pfs.runtime.metrics import Figure, counter, gauge, histogram, resident_bytes
from p2pfs.vfs.attach import Attached
from p2pfs_mount.invalidation import KernelCache
from p2pfs_mount.operations import Operations

_COUNTERS: Final = {
    "fetched_bytes": "Sealed bytes that came from peers and not from the disk cache.",
    "copies_sent": "Copies of chunks sent to peers.",
    "copies_passed_on": "Copies that peers made of them by themselves.",
    "store_failures": "Failed tries to store what was written.",
    "lost_bytes": "Written bytes that were given up for good.",
    "journal_rejected": "Changes that the journal kept, and the pool did not take any more.",
    "unexpected_errors": "Requests that failed for an unexpected reason: bugs.",
    "read_bytes": "Bytes that programs read, without what the kernel had.",
    "written_bytes": "Bytes that programs wrote, as the kernel passed them on.",
    "kernel_notifications": "Times that the kernel was told to forget something.",
    "kernel_notification_overflows": "Times that too much was to be forgotten, and everything was.",
}
_GAUGES: Final = {
    "known_inodes": "Inodes kept in memory.",
    "unsaved_bytes": "Written bytes that are not in the pool yet.",
    "changes_waiting": "Changes of names and attributes that are not committed yet.",
    "coordinator_away": "1 while the coordinator does not answer.",
    "fenced": "1 when the session is over: nothing can be changed any more.",
    "delegated": "1 while this mount alone changes the volume.",
    "kernel_trusted": "Names and inodes that the kernel may believe for long.",
    "kernel_notifications_waiting": "Notifications that the kernel has not answered.",
    "disk_cache_bytes": "Ciphertext in the disk cache.",
    "memory_cache_bytes": "Plain blocks in memory.",
}


class MountFigures:
    """The numbers of one mount."""

    def __init__(self, attached: Attached, operations: Operations, kernel: KernelCache) -> None:
        self._attached, self._operations, self._kernel = attached, operations, kernel

    def numbers(self) -> dict[str, int]:
        """All but what is by operation."""
        attached, kernel, meter = self._attached, self._kernel, self._operations.meter
        filesystem, cached = attached.filesystem, attached.cached
        return {
            "known_inodes": filesystem.known(),
            "unsaved_bytes": filesystem.writer.unsaved_bytes(),
            "changes_waiting": attached.holding.delegated.changes.outstanding,
            "coordinator_away": int(attached.calls.is_away),
            "fenced": int(attached.calls.is_fenced),
            "delegated": int(attached.holding.delegated.holds),
            "store_failures": filesystem.storer.failures,
            "lost_bytes": filesystem.storer.lost_bytes,
            "journal_rejected": filesystem.journal.rejected,
            "fetched_bytes": attached.fetched_bytes(),
            "copies_sent": attached.replicated.made.sent,
            "copies_passed_on": attached.replicated.made.passed_on,
            "uplink_bytes_per_s": int(attached.replicated.uplink.rate or 0),
            "unexpected_errors": self._operations.unexpected,
            "read_bytes": meter.read_bytes,
            "written_bytes": meter.written_bytes,
            "disk_cache_hits": cached.hits if cached else 0,
            "disk_cache_misses": cached.misses if cached else 0,
            "disk_cache_bytes": cached.used if cached else 0,
            "memory_cache_hits": filesystem.blocks.hits,
            "memory_cache_misses": filesystem.blocks.misses,
            "memory_cache_bytes": filesystem.blocks.bytes,
            "kernel_trusted": len(self._operations.trust),
            "kernel_notifications": kernel.done,
            "kernel_notifications_waiting": kernel.waiting,
            "kernel_notification_overflows": kernel.overflows,
        }

    def stats(self) -> dict[str, int]:
        """For who asks over the socket, with what rates need: `p2pfs stats`."""
        attached, meter = self._attached, self._operations.meter
        found = self.numbers() | {
            "monotonic_ns": time.monotonic_ns(),
            "cpu_ns": time.process_time_ns(),
            "resident_bytes": int(resident_bytes()),
            "received_bytes": TOTAL.received,
            "sent_bytes": TOTAL.sent,
        }
        others = {"coordinator": attached.calls.latency, "put": attached.replicated.putting}
        for name, latency in {**others, "get": attached.replicated.getting}.items():
            found[f"{name}_count"], found[f"{name}_ns"] = latency.count, latency.total_ns
        for operation, latency in sorted(meter.latencies.items()):
            found[f"op_{operation}_count"], found[f"op_{operation}_ns"] = latency.count, latency.total_ns
            found[f"op_{operation}_errors"] = sum(
                count for (failed, _), count in meter.errors.items() if failed == operation
            )
        return found

    def figures(self, home: NodeHome) -> list[Figure]:
        """For Prometheus."""
        meter, volume = self._operations.meter, self._attached.volume.name
        return [
            *common_figures("mount", home),
            gauge("p2pfs_mount_info", "1; which volume this is.", lambda: {volume: 1.0}, "volume"),
            histogram("p2pfs_mount_operation_seconds", "Requests of the kernel, and how long they took.",
                      lambda: meter.latencies, "operation"),
            counter("p2pfs_mount_operation_errors_total", "Requests answered with an error, ENOENT and the like too.",
                    lambda: {(operation, errno.errorcode.get(number, "unknown")): count
                             for (operation, number), count in meter.errors.items()}, "operation", "error"),
            *(counter(f"p2pfs_mount_{name}_total", help, partial(self._number, name))
              for name, help in _COUNTERS.items()),
            gauge("p2pfs_mount_uplink_bytes_per_second", "How fast the uplink is; 0: not known.",
                  partial(self._number, "uplink_bytes_per_s")),
            *(gauge(f"p2pfs_mount_{name}", help, partial(self._number, name))
              for name, help in _GAUGES.items()),
            histogram("p2pfs_mount_coordinator_seconds", "Requests that the coordinator answered.",
                      lambda: self._attached.calls.latency),
            histogram("p2pfs_mount_chunk_seconds", "Chunks stored on enough peers, and read from one.",
                      self._by_direction, "operation"),
            counter("p2pfs_mount_cache_hits_total", "Reads that a cache had.", lambda: self._by_cache("hits"), "cache"),
            counter("p2pfs_mount_cache_misses_total", "Reads that it had not.", lambda: self._by_cache("misses"),
                    "cache"),
        ]  # fmt: skip

    def _number(self, name: str) -> float:
        return self.numbers()[name]

    def _by_direction(self) -> dict[str, Latency]:
        return {"put": self._attached.replicated.putting, "get": self._attached.replicated.getting}

    def _by_cache(self, what: str) -> dict[str, float]:
        numbers = self.numbers()
        return {cache: numbers[f"{cache}_cache_{what}"] for cache in ("memory", "disk")}
