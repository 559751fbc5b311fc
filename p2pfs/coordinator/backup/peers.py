"""The peers that keep backups: which ones, what each lacks, and what each may let go of.

Sends parts in their order, the oldest generation first: it is the one that can be restored while the next one's image
is still on its way. A peer that fails is passed over for a while. Driven by `backup`.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from p2pfs.coordinator.backup.chain import Chain
from p2pfs.coordinator.backup.state import HOLDERS, Backups, Holder, superseded
from p2pfs.coordinator.roster import Peer, Roster
from p2pfs.errors import Misuse, NoSpace, PoolError
from p2pfs.net.client import Client, Endpoint
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.parts import PartFiles
from p2pfs.types import NodeId, PeerNumber, Role
from p2pfs.wire.backups import Held, Superseded, generation_name

_PUT_S: Final = 30.0
_STALL_S: Final = 5.0
_AGAIN_S: Final = 15.0
"""How long a peer that failed is passed over."""
_FULL_S: Final = 600.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """What is known of one peer's backups. `held` (generation → parts) None: ask."""

    held: dict[int, int] | None = None
    not_before_s: float = 0.0  # monotonic


class BackupPeers:
    """All peers that may keep backups: not the coordinator's own, which shares its disk."""

    def __init__(
        self, own: NodeId, *, client: Client, roster: Roster, backups: Backups, files: PartFiles, clock: Clock
    ) -> None:
        self._own = own
        self._client = client
        self._roster = roster
        self._backups = backups
        self._files = files
        self._clock = clock
        self._known: dict[PeerNumber, _Known] = {}

    async def choose(self) -> list[Peer]:
        """Who is to have the backups now, each asked what it has: who has them already first, then others of new
        owners. Tells `backups`."""
        members = [one for one in self._roster.members() if one.node.id != self._own and not one.is_leaving]
        self._backups.wanted = min(HOLDERS, len(members))
        numbers = {peer.number for peer in members}
        for gone in [number for number in self._known if number not in numbers]:
            del self._known[gone]
            self._backups.holders.pop(gone, None)
        now_s, holders = self._clock.monotonic(), self._backups.holders
        ready = [peer for peer in members if peer.is_reachable and self._of(peer).not_before_s <= now_s]
        ready.sort(key=lambda peer: (-holders[peer.number].state_s if peer.number in holders else 0.0, peer.number))
        chosen: list[Peer] = []
        for distinct in (True, False):
            for peer in ready:
                is_new = peer.node.owner not in {one.node.owner for one in chosen}
                has_it = peer.number in holders and holders[peer.number].state_s > 0
                if len(chosen) < HOLDERS and peer not in chosen and (has_it or is_new or not distinct):
                    chosen.append(peer)
        async with trio.open_nursery() as nursery:
            for peer in chosen:
                nursery.start_soon(self._guarded, peer, self._meet)
        return [peer for peer in chosen if self._of(peer).held is not None]

    async def send(self, chosen: Sequence[Peer], chains: Sequence[Chain], until_s: float) -> bool:
        """Bring them up to date, or until `until_s` (monotonic) as near to it as may be; whether that cut it short."""
        async with trio.open_nursery() as nursery:
            for peer in chosen:
                nursery.start_soon(self._guarded, peer, partial(self._supply, chains=chains, until_s=until_s))
        return self._clock.monotonic() >= until_s

    async def let_go(self, making: Sequence[int], keep_s: float) -> None:
        """Tell every peer that answers what it need not keep any more."""
        now_s = self._clock.monotonic()
        async with trio.open_nursery() as nursery:
            for peer in self._roster.members():
                if peer.node.id != self._own and peer.is_reachable and self._of(peer).not_before_s <= now_s:
                    nursery.start_soon(self._guarded, peer, partial(self._tell, making=making, keep_s=keep_s))

    def note(self, chains: Sequence[Chain], now_s: float) -> None:
        """Nothing was changed until `now_s` (UTC) but what the chains have: who has all of the newest is that new."""
        for holder in self._backups.holders.values():
            chain = next((one for one in chains if one.generation == holder.generation), None)
            known = self._known.get(holder.peer)
            if chain and known and known.held and known.held.get(chain.generation, 0) >= chain.parts and chain.states:
                holder.state_s = max(holder.state_s, now_s)

    def _of(self, peer: Peer) -> _Known:
        return self._known.setdefault(peer.number, _Known())

    async def _guarded(self, peer: Peer, work: Callable[[Peer], Awaitable[None]]) -> None:
        """Do it, and pass the peer over for a while when it fails."""
        known = self._of(peer)
        try:
            await work(peer)
        except PoolError as error:
            known.held = None
            known.not_before_s = self._clock.monotonic() + (_FULL_S if isinstance(error, NoSpace) else _AGAIN_S)
            _log.info("peer %s does not take the backup: %s", peer.node.name, error)

    async def _meet(self, peer: Peer) -> None:
        known = self._of(peer)
        if known.held is None:
            known.held = {one.generation: one.parts for one in await self._call(peer, "GET", "/backups", None)}

    async def _supply(self, peer: Peer, *, chains: Sequence[Chain], until_s: float) -> None:
        known = self._of(peer)
        for chain in chains:
            if known.held is not None and known.held.get(chain.generation, 0) > chain.parts:
                raise Misuse("it says that it has more of a backup than there is")  # and would count as supplied
            while known.held is not None and (number := known.held.get(chain.generation, 0)) < chain.parts:
                if self._clock.monotonic() >= until_s:
                    return
                data = await trio.to_thread.run_sync(self._files.read, chain.generation, number)
                path = f"/backups/{generation_name(chain.generation)}/{number}"
                await self._client.request(
                    self._endpoint(peer), "PUT", path, parts=(data,), timeout_s=_PUT_S, idle_s=_STALL_S
                )
                known.held[chain.generation] = number + 1
                self._count(peer, chain, number + 1)

    def _count(self, peer: Peer, chain: Chain, parts: int) -> None:
        number, state_s = chain.state_of(parts)
        holder = self._backups.holders.setdefault(peer.number, Holder(peer.number))
        if number >= 0 and state_s >= holder.state_s:
            holder.generation, holder.number, holder.state_s = chain.generation, number, state_s

    async def _call(self, peer: Peer, method: str, path: str, message: Superseded | None) -> list[Held]:
        return await self._client.call(
            self._endpoint(peer), method, path, message, list[Held], timeout_s=_PUT_S, idle_s=_STALL_S
        )

    async def _tell(self, peer: Peer, *, making: Sequence[int], keep_s: float) -> None:
        held = await self._call(peer, "GET", "/backups", None)
        cut = superseded(held, self._backups.generations, making=making, now_s=self._clock.time(), keep_s=keep_s)
        if cut:
            held = await self._call(peer, "POST", "/backups/superseded", Superseded(cut))
        self._of(peer).held = {one.generation: one.parts for one in held}

    def _endpoint(self, peer: Peer) -> Endpoint:
        return Endpoint(peer.node.id, Role.PEER, peer.addresses)
