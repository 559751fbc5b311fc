"""How useful nodes and owners are, on the wire: `GET /usefulness` and `GET /nodes/{node}/usefulness`.

Bytes are of the last thirty days, older ones counting less, unless a field says otherwise. Infinite coefficients are
infinite in msgpack, and null in JSON.
"""

import msgspec


class Gave(msgspec.Struct, frozen=True):
    """The four counts."""

    u_usual: int  # served for others' reads
    d_usual: int  # fetched for its own
    d_special: int  # taken in to store for others
    u_special: int  # its own placed on others


class NodeUsefulness(msgspec.Struct, frozen=True):
    node: str
    name: str
    owner: str
    coefficient: float
    counts: Gave


class OwnerUsefulness(msgspec.Struct, frozen=True):
    """`copies`, `allowed`, `left` and `priority` are what policy `fair` gives; under `open` the first is the pool's,
    the two in the middle are None, the last is 0."""

    owner: str
    coefficient: float
    counts: Gave
    placed: int  # bytes of its copies on others' peers, now
    held: int  # bytes of others' copies on its peers, now
    peers: int  # of its own that are members
    copies: int  # of each chunk that it writes from now on
    allowed: int | None  # bytes of copies on others' peers
    left: int | None  # of these
    priority: int  # of its chunks among equally urgent copies: 0 first, 2 last


class Rules(msgspec.Struct, frozen=True):
    """What the pool goes by."""

    policy: str  # "open" | "fair"
    weight_ds: float
    weight_us: float
    grant: int
    replicas: int
    min_replicas: int
    windows: int  # days
    half_life: float  # days


class UsefulnessReport(msgspec.Struct, frozen=True):
    """`GET /usefulness`."""

    rules: Rules
    owners: list[OwnerUsefulness]
    nodes: list[NodeUsefulness]  # those that are no longer members only while their days count


class Day(msgspec.Struct, frozen=True):
    """A window as it was counted, and how much it counts today."""

    day: int  # UTC days since 1970
    weight: float
    counts: Gave


class Advice(msgspec.Struct, frozen=True):
    """What would raise the coefficient, or make room; `bytes` of it would be enough, 0: it does not depend on them."""

    code: str  # "offer_peer" | "store" | "serve" | "hold" | "remove"
    bytes: int


class UsefulnessDetail(msgspec.Struct, frozen=True):
    """`GET /nodes/{node}/usefulness`: every input of a node's coefficient, and of its owner's."""

    rules: Rules
    node: NodeUsefulness
    owner: OwnerUsefulness
    days: list[Day]  # of the node, newest first
    owner_nodes: list[NodeUsefulness]
    advice: list[Advice]  # for the owner
    unconfirmed_served: int = 0  # yesterday and today: served, says the node, and its readers do not
    unconfirmed_fetched: int = 0  # fetched by the node, say peers, and the node does not
