"""Peers that go: who is back, and whom an admin may not give up: who answers, or has left (it would be a member when it
is heard)."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from coordination import pool
from plugins.checklogs import Claims

from p2pfs.errors import Denied, Invalid
from p2pfs.meta import members
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


@pytest.mark.parametrize("verb", ["drain", "undrain"])
async def test_nobody_but_its_own_voice_brings_a_forgotten_peer_back(verb: str, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        peer = p.services.roster.members()[0]
        p.services.roster.settle(peer, state=PeerState.LOST, is_leaving=False)
        with pytest.raises(Invalid, match="was forgotten"):
            await getattr(p.services.leaving, verb)(p.identity(), peer.node.id)
        assert (peer.state, peer.is_leaving) == (PeerState.LOST, False)
        await p.beat(peer.node.id)
        assert peer.state is PeerState.UP


async def test_a_drain_does_not_take_back_that_its_peer_appeared_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for proved again what nobody has seen since."""
    async with pool(tmp_path) as p:
        await p.peers(2, run=1)
        peer, write = p.services.roster.members()[0], p.database.write

        async def slow(change: Callable[[sqlite3.Connection], object]) -> object:
            monkeypatch.setattr(p.database, "write", write)
            done = await write(change)
            await p.beat(peer.node.id, run=2)  # committed after the drain, and taken over before it
            return done

        monkeypatch.setattr(p.database, "write", slow)
        await p.services.leaving.drain(p.identity(), peer.node.id)
        assert peer.appearances == p.database.read(lambda c: members.peer(c, peer.number)).appearances == 1


async def test_a_peer_that_was_started_anew_while_the_coordinator_was_away_has_appeared(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
    for run, appearances in ((1, 0), (2, 1), (2, 1)):
        async with pool(tmp_path) as p:
            await p.beat(joined.node, run=run)
            peer = p.services.roster.peer_of(NodeId(joined.node))
            assert peer is not None
            assert peer.appearances == appearances
