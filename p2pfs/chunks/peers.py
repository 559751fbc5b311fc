"""The pool map seen as chunk stores: one RemoteStore a peer, made when first wanted.

For ReplicatedStore's `peers`. A store is replaced when the map gives its peer another node or other addresses.
"""

from collections.abc import Callable

from p2pfs.chunks.remote import RemoteStore, Tokens, Unspent
from p2pfs.net.client import Client, Endpoint
from p2pfs.types import GONE_STATES, NodeId, PeerNumber, Role
from p2pfs.wire.membership import PeerInfo, PoolMap


class PeerStores:
    """`stores(number)` is the store of that peer, or None if the map has no such member or no way to reach it."""

    def __init__(
        self,
        client: Client,
        map: Callable[[], PoolMap],
        tokens: Tokens,
        *,
        unspent: Unspent | None = None,
        timeout_s: float = 30.0,
        idle_s: float | None = None,
    ) -> None:
        self._client = client
        self._map = map
        self._tokens = tokens
        self._unspent = unspent
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._seen: PoolMap | None = None
        self._infos: dict[PeerNumber, PeerInfo] = {}
        self._stores: dict[PeerNumber, RemoteStore] = {}

    def __call__(self, number: PeerNumber) -> RemoteStore | None:
        pool = self._map()
        if pool is not self._seen:
            self._seen = pool
            self._infos = {PeerNumber(peer.number): peer for peer in pool.peers if peer.state not in GONE_STATES}
        info = self._infos.get(number)
        if info is None or not info.addresses:
            self._stores.pop(number, None)
            return None
        endpoint = Endpoint(NodeId(info.node), Role.PEER, tuple(info.addresses))
        store = self._stores.get(number)
        if store is None or store.endpoint != endpoint:
            store = RemoteStore(
                self._client, endpoint, number, self._tokens,
                unspent=self._unspent, timeout_s=self._timeout_s, idle_s=self._idle_s,
            )  # fmt: skip
            self._stores[number] = store
        return store
