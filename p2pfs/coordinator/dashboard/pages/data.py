"""Chunks by number of copies, space and traffic: now, and over time in charts below."""

from p2pfs.coordinator.dashboard.charts import copies_kind
from p2pfs.coordinator.dashboard.figures import bar, data_table, share, size, tiles
from p2pfs.coordinator.dashboard.markup import Html, h2, join, section
from p2pfs.coordinator.report import StatusReport
from p2pfs.runtime.sizes import format_count


def content(report: StatusReport) -> Html:
    """What is stored now."""
    chunks, pool = report.chunks, report.pool
    rows = [
        (
            _copies(int(copies)),
            f"{count}",
            share(count, chunks.total),
            bar(f"{count} of {chunks.total}", chunks.total, (copies_kind(int(copies), pool.replicas), count)),
        )
        for copies, count in chunks.by_copies.items()
    ]
    return join(
        tiles(
            ("chunks", f"{chunks.total}", f"wanted of each: {format_count(pool.replicas, 'copy')}"),
            ("short of copies", f"{chunks.under_replicated}", f"{chunks.away} of them because peers are away"),
            ("without any copy", f"{chunks.lost}", "on peers that answer now"),
            ("used", size(pool.used), f"of {size(pool.capacity)} offered"),
            ("promised", size(pool.promised), "to mounts that are writing"),
            ("reserved", size(pool.reserved), "by name, not stored yet"),
        ),
        section(
            h2("Chunks by number of copies, now"),
            data_table("Chunks by copies", ("copies", "chunks", "share", "of all"), rows, right=("chunks", "share")),
        ),
    )


def _copies(count: int) -> str:
    return "none" if not count else f"{count}"
