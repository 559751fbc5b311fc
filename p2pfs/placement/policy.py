"""How many copies are wanted. Pure rules, the same for the coordinator and for writers."""

from p2pfs.placement.candidates import MapLike, is_staying


def copies_wanted(pool: MapLike) -> tuple[int, int]:
    """(replicas, min_replicas), capped by the number of members that stay; peers that are down or away count."""
    return capped(pool.replicas, pool.min_replicas, sum(map(is_staying, pool.peers)))


def capped(replicas: int, min_replicas: int, members: int) -> tuple[int, int]:
    """(replicas, min_replicas) of a pool with so many member peers; at least 1, so that an empty pool waits."""
    replicas = max(1, min(replicas, members))
    return replicas, max(1, min(min_replicas, replicas))
