"""What a peer offers of each kind of resource, as its heartbeats tell it, and what the pool makes of it."""

import msgspec


class Offered(msgspec.Struct, frozen=True):
    """One kind at one peer, now."""

    kind: str
    unit: str  # "bytes", "bytes/s" or "count"
    offered: int | None  # None: as much as there is, without a limit
    used: int
    rule: str = ""  # what its owner said, as `p2pfs share` takes it


class PooledOffer(msgspec.Struct, frozen=True):
    """One kind in the whole pool: the sums over the peers that answer."""

    kind: str
    unit: str
    about: str
    is_on: bool  # False: described, and nobody can offer it yet
    offered: int  # by those that have a limit
    used: int
    free: int  # at those that have a limit
    peers: int  # that offer it, with a limit or without
    unlimited: int  # of them, those without a limit
