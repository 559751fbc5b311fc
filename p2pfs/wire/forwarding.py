"""Being dialled through others: what a dialler says, and what a node keeps of whom it knows."""

import msgspec


class Dial(msgspec.Struct, frozen=True):
    """`POST /relay/dial/{node}` at a peer, or with its own id at the node that is meant. Then the connection is a raw
    stream to that node; TLS with it runs inside."""

    hops: int = 0  # how many more peers may pass it on
    seen: list[str] = []  # nodes that have it or had it already, the dialler first
    within_s: float = 3.0


class Neighbour(msgspec.Struct, frozen=True):
    """A peer that may pass something on."""

    node: str
    addresses: list[str]
