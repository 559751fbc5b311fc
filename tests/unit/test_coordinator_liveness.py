"""Silence makes suspects, then absentees; the coordinator's own absence makes neither."""

import itertools
from pathlib import Path

import pytest
from coordination import FakeClock, pool
from plugins.checklogs import Claims

from p2pfs.coordinator.liveness import Patience, next_check_s, state_after
from p2pfs.coordinator.roster import is_step
from p2pfs.types import GIB, PeerState, Role

pytestmark = pytest.mark.l0

PATIENCE = Patience(5, 15, 60)


@pytest.mark.parametrize(
    ("silence", "state"),
    [(0, "up"), (14.9, "up"), (15, "suspect"), (59.9, "suspect"), (60, "down"), (1e9, "down")],
)
def test_state_by_silence(silence: float, state: str) -> None:
    assert state_after(silence, PATIENCE) is PeerState(state)


@pytest.mark.parametrize(("silence", "pause"), [(0, 15), (10, 5), (15, 45), (60, float("inf"))])
def test_the_next_look_is_when_the_state_can_change(silence: float, pause: float) -> None:
    assert next_check_s(silence, PATIENCE) == pause


@pytest.mark.parametrize(
    ("known", "offered", "steps"),
    [
        (0, 1, True),
        (100, 0, True),
        (100, 109, False),
        (100, 110, True),
        (100, 90, True),
        (100, 91, False),
        (0, 0, False),
    ],
)
def test_placement_follows_only_steps_of_capacity(known: int, offered: int, steps: bool) -> None:
    assert is_step(known, offered) is steps


async def test_a_silent_peer_becomes_suspect_then_down_and_comes_back(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner1@host .* is down", count=1)
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1)
        states, versions = [], []
        for seconds in (14, 1, 44, 1, 1000):
            p.clock.advance(seconds)
            await p.services.pulse.work()
            states.append(p.services.roster.peers[peer.peer].state.value)
            versions.append(p.services.roster.version)
        assert states == ["up", "suspect", "suspect", "down", "down"]
        assert [later - earlier for earlier, later in itertools.pairwise(versions)] == [1, 0, 1, 0]
        await p.beat(peer.node)
        assert p.services.roster.peers[peer.peer].state is PeerState.UP
        assert p.services.roster.version > versions[-1]


async def test_downtime_of_the_coordinator_is_nobodys_silence(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner2@host .* is down", count=1)
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        up, down = await p.peers(2)
        clock.advance(59)
        await p.beat(up.node)
        clock.advance(1)
        await p.services.pulse.work()
        before = p.services.roster.version
    clock.advance(100_000)
    async with pool(tmp_path, clock=clock) as p:
        peers = p.services.roster.peers
        await p.services.pulse.work()
        assert peers[up.peer].state is PeerState.UP  # silence counts from the start
        assert peers[down.peer].state is PeerState.DOWN  # it was away before; the restart is no sign of life
        assert p.services.roster.version > before
        clock.advance(15)
        await p.services.pulse.work()
        assert peers[up.peer].state is PeerState.SUSPECT


async def test_the_map_has_peers_that_served_and_were_not_revoked(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked owner2@host", count=1)
    async with pool(tmp_path) as p:
        one, two, three = await p.peers(3)
        await p.join("idle@host", Role.PEER)  # joined, never started
        version = p.services.pool_map().version
        await p.services.membership.revoke(two.node)
        given = p.services.pool_map()
        assert [peer.number for peer in given.peers] == [one.peer, three.peer]
        assert given.version > version
        info = given.peers[0]
        assert (info.name, info.owner, info.capacity, info.state) == ("owner1@host", "owner1", 10 * GIB, "up")
        assert info.addresses == ["192.0.2.1:9471"]
        assert (given.replicas, given.min_replicas, given.incarnation) == (3, 2, 1)


async def test_the_map_changes_with_addresses_and_capacity_but_not_with_use(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1)
        version = p.services.roster.version
        await p.beat(peer.node, used=GIB, capacity=10 * GIB + 1)
        assert p.services.roster.version == version
        await p.beat(peer.node, addresses=["192.0.2.9:1"])
        assert p.services.roster.version == version + 1
        await p.beat(peer.node, addresses=["192.0.2.9:1"], capacity=20 * GIB)
        assert p.services.roster.version == version + 2
        assert p.services.pool_map().peers[0].addresses == ["192.0.2.9:1"]


async def test_addresses_and_capacity_survive_a_restart(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2, capacity=5 * GIB, used=GIB)
        before = p.services.pool_map().peers
    async with pool(tmp_path) as p:
        assert p.services.pool_map().peers == before
