"""What this machine has and does, by psutil: the only place that imports it."""

from pathlib import Path
from typing import Any

import psutil

from p2pfs.wire.membership import Resources


def _disk_usage(path: Path) -> Any:  # noqa: ANN401 - psutil's own named tuple
    try:
        return psutil.disk_usage(str(path))
    except FileNotFoundError:
        if path == path.parent:
            raise
        return _disk_usage(path.parent)


def resources(path: Path) -> Resources:
    """Disk of `path`, memory, processors and network of this machine, now. Quick; does not wait. Of a path that is gone
    at this moment it is the disk of what it was in."""
    disk = _disk_usage(path)
    memory = psutil.virtual_memory()
    network = psutil.net_io_counters()  # None on a machine without interfaces
    count = psutil.cpu_count() or 1
    return Resources(
        disk_total=disk.total,
        disk_free=disk.free,
        memory_total=memory.total,
        memory_available=memory.available,
        cpu_count=count,
        cpu_load=psutil.getloadavg()[0] / count,
        net_sent=network.bytes_sent if network else 0,
        net_received=network.bytes_recv if network else 0,
    )
