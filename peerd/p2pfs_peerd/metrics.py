"""What a peer tells Prometheus; names are documented in docs/monitoring.md. Called by `composition`."""

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.net.exposition import common_figures, server_figures
from p2pfs.net.server import Server
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.metrics import Figure, Value, counter, gauge
from p2pfs_peerd.absence import Absence
from p2pfs_peerd.app import PeerApp
from p2pfs_peerd.scrub import Scrubber


def figures(
    home: NodeHome, server: Server, *, store: DirectoryStore, app: PeerApp, scrubber: Scrubber, absence: Absence
) -> list[Figure]:
    """All of one peer."""

    def room() -> Value:
        usage = store.usage()
        return {"capacity": usage.capacity, "used": usage.used, "trash": usage.trash}

    return [
        *common_figures("peer", home),
        *server_figures(server),
        gauge("p2pfs_peer_bytes", "Room of the chunk store: what may be used, live chunks, trash.", room, "kind"),
        gauge("p2pfs_peer_chunks", "Chunks kept.", lambda: store.usage().chunks),
        counter("p2pfs_peer_chunk_bytes_total", "Bytes of chunks stored for others and read by them.",
                lambda: {"in": app.taken_bytes, "out": app.given_bytes}, "direction"),
        gauge("p2pfs_peer_damaged_chunks", "Chunks set aside as damaged, and not yet told to the coordinator.",
              lambda: len(store.damaged())),
        gauge("p2pfs_peer_serving", "1 while chunks are taken and given; 0 while it is unknown who is revoked.",
              lambda: float(app.is_open)),
        gauge("p2pfs_peer_leaving", "1 while no new chunks are taken because the peer is drained or gone.",
              lambda: float(app.is_leaving)),
        gauge("p2pfs_peer_coordinator_silent_seconds", "Since the coordinator last answered.",
              absence.silent_s),
        gauge("p2pfs_scrub_chunks", "Of the scrub under way, else of the last: chunks found whole, and all of them.",
              lambda: {"done": (state := scrubber.state()).done, "total": state.total}, "kind"),
        gauge("p2pfs_scrub_damaged_chunks", "Found damaged by it.", lambda: scrubber.state().damaged),
        gauge("p2pfs_scrub_finished_timestamp_seconds", "UTC; when a scrub last came to its end; 0: never.",
              lambda: scrubber.state().finished_s),
    ]  # fmt: skip
