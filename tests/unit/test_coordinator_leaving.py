"""Whom an admin may give up: not who answers, and not who has left, for that one would be a member when it is heard."""

from pathlib import Path

import pytest
from coordination import pool

from p2pfs.errors import Invalid
from p2pfs.types import PeerState

pytestmark = pytest.mark.l0


@pytest.mark.parametrize("state", [PeerState.UP, PeerState.SUSPECT, PeerState.DRAINING, PeerState.LEFT])
async def test_who_answers_or_has_left_is_not_forgotten(state: PeerState, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        peer = p.services.roster.members()[0]
        p.services.roster.settle(peer, state=state, is_leaving=state is PeerState.DRAINING)
        with pytest.raises(Invalid):
            await p.services.leaving.forget(p.identity(), peer.node.id)
        assert peer.state is state
