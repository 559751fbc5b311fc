"""The list of members that the coordinator signs: what it promises, and when peers are to fetch it again."""

import msgspec
import pytest
from chunk_pool import pool_map

from p2pfs.coordinator.roll import RollOffice
from p2pfs.placement.policy import copies_wanted
from p2pfs.runtime.clocks import FakeClock
from p2pfs.wire import codec
from p2pfs.wire.fellows import Roll, SignedRoll
from p2pfs.wire.membership import PoolMap

pytestmark = pytest.mark.l0


class Signer:
    def sign_roll(self, body: bytes) -> SignedRoll:
        return SignedRoll(body, b"")


class Pool:
    """Of five peers; `map` is what the coordinator knows."""

    def __init__(self, *, is_fair: bool = False, elect_after_s: float = 120.0) -> None:
        self.map: PoolMap = msgspec.structs.replace(pool_map(range(1, 6)), replicas=3, min_replicas=2)
        self.office = RollOffice(
            Signer(), lambda: self.map, elect_after_s=elect_after_s, repair_delay_s=600, is_fair=is_fair,
            clock=FakeClock(),
        )  # type: ignore[arg-type]  # fmt: skip

    def wanted(self) -> int:
        return copies_wanted(codec.decode(self.office.signed().body, Roll).map)[0]

    def changed(self, number: int, **fields: object) -> bytes:
        """The digest after something is told of that peer."""
        peers = [msgspec.structs.replace(one, **fields) if one.number == number else one for one in self.map.peers]
        self.map = msgspec.structs.replace(self.map, version=self.map.version + 1, peers=peers)
        return self.office.members(self.map.version)


def test_under_policy_fair_peers_make_up_for_what_everybody_is_promised() -> None:
    """They do not know whose a chunk is, and what they made beyond that the coordinator would delete again."""
    assert Pool().wanted() == 3
    assert Pool(is_fair=True).wanted() == 2


def test_who_merely_comes_and_goes_changes_no_members() -> None:
    pool = Pool()
    before = pool.office.members(pool.map.version)
    assert pool.changed(3, state="down") == before
    assert pool.changed(3, state="up", addresses=["192.0.2.9:1"], free=7) == before
    assert pool.changed(3, leaving=True) != before
    assert pool.changed(3, leaving=False) == before
    assert pool.changed(3, state="revoked") != before


def test_where_nobody_is_elected_members_do_not_matter() -> None:
    pool = Pool(elect_after_s=0)
    before = pool.office.members(pool.map.version)
    assert pool.changed(3, state="revoked") == before != b""
