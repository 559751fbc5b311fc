"""Peers that go: who is back, and whom an admin may not give up: who answers, or has left (it would be a member when it
is heard)."""

from pathlib import Path

import pytest
from coordination import pool
from plugins.checklogs import Claims

from p2pfs.errors import Denied, Invalid
from p2pfs.types import NodeId, PeerState

pytestmark = pytest.mark.l0


async def test_a_peer_that_was_started_anew_is_back_however_soon(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        await p.services.leaving.away(p.identity(), joined.node, 3600.0)
        peer = p.services.roster.members()[0]
        await p.beat(joined.node, run=1)  # about to go
        assert peer.away_until_s > 0
        await p.beat(joined.node, run=2)
        assert peer.away_until_s == 0


async def test_of_two_daemons_with_one_home_the_later_one_counts(tmp_path: Path, claim_logs: Claims) -> None:
    """Each would be taken for what the other holds, and chunks be copied back and forth without end."""
    claim_logs("is down", count=1)
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer = p.services.roster.members()[0]
        await p.beat(joined.node, run=2, used=5)
        with pytest.raises(Denied, match="another daemon"):
            await p.beat(joined.node, run=1)
        await p.beat(joined.node, run=2, used=6)
        assert (peer.run, peer.used) == (2, 6)
        p.clock.advance(100.0)  # that one is stopped
        await p.services.pulse.work()
        for _ in range(2):
            await p.beat(joined.node, run=1)
        assert (peer.run, peer.state, peer.appearances) == (1, PeerState.UP, 2)


@pytest.mark.parametrize("state", [PeerState.UP, PeerState.SUSPECT, PeerState.DRAINING, PeerState.LEFT])
async def test_who_answers_or_has_left_is_not_forgotten(state: PeerState, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        peer = p.services.roster.members()[0]
        p.services.roster.settle(peer, state=state, is_leaving=state is PeerState.DRAINING)
        with pytest.raises(Invalid):
            await p.services.leaving.forget(p.identity(), peer.node.id)
        assert peer.state is state


async def test_a_peer_that_was_started_anew_while_the_coordinator_was_away_has_appeared(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
    for run, appearances in ((1, 0), (2, 1), (2, 1)):
        async with pool(tmp_path) as p:
            await p.beat(joined.node, run=run)
            peer = p.services.roster.peer_of(NodeId(joined.node))
            assert peer is not None
            assert peer.appearances == appearances
