"""A peer's offer changed while it runs: at once, for good, all or nothing, and within what the pool grants."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from peer_processes import lone_peer
from sealed import VOLUME, sealed

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.errors import Invalid, NoSpace
from p2pfs.net.pace import Pace
from p2pfs.runtime import config
from p2pfs.runtime.clocks import FakeClock
from p2pfs.runtime.home import NodeHome
from p2pfs.types import GIB, KIB, MIB, PeerNumber, PoolId
from p2pfs_peerd import sharing
from p2pfs_peerd.offer import Offer
from p2pfs_peerd.sharing import Sharing

pytestmark = pytest.mark.l0


@dataclass
class Peer:
    home: NodeHome
    store: DirectoryStore
    offer: Offer
    pace: Pace
    sharing: Sharing
    beats: list[int | None] = field(default_factory=list)
    grants: int = 1 << 62

    async def beat(self) -> None:
        """The coordinator hears at once, and grants up to its bound."""
        self.beats.append(self.offer.wished())
        self.offer.granted = min(self.offer.wished(), self.grants)
        self.store.limit(self.offer.granted)

    async def ask(self, **wanted: object) -> Mapping[str, object]:
        return await self.sharing.answer({"op": "share", "set": wanted} if wanted else {"op": "share"}, self.beat)


async def peer(tmp_path: Path, **written: str) -> Peer:
    home = NodeHome(lone_peer(tmp_path))
    settings = config.load(home.path, {"capacity": "1G", **written})
    key = ReceiptKey(PoolId("ab" * 16), PeerNumber(1), bytes(32))
    store = await DirectoryStore.open(home.path / "chunks", sign=key.sign, capacity=GIB, reserve=0)
    offer, pace = Offer(store, home.path, settings, lambda: 0), Pace.unlimited(FakeClock())
    return Peer(home, store, offer, pace, Sharing(home, settings, offer, pace, FakeClock()))


def _kept(one: Peer) -> dict[str, object]:
    return tomllib.loads(one.home.config_path.read_text()) if one.home.config_path.exists() else {}


async def test_a_peer_starts_with_what_is_configured(tmp_path: Path) -> None:
    one = await peer(tmp_path, upload="20Mbit")
    assert (one.pace.up.rate, one.pace.down.rate, one.offer.offered()) == (2_500_000, None, GIB)
    assert [told["rule"] for told in (await one.ask())["offers"]] == ["1 GiB", "20Mbit", "none"]  # type: ignore[attr-defined]
    assert one.beats == []


async def test_a_change_counts_at_once_is_told_and_outlives_a_restart(tmp_path: Path) -> None:
    one = await peer(tmp_path)
    told = await one.ask(storage="2G", upload="8Mbit", download="1M/s")
    assert (one.store.usage().capacity, one.pace.up.rate, one.pace.down.rate) == (2 * GIB, 1_000_000, MIB)
    assert (told["wished"], told["granted"], one.beats) == (2 * GIB, 2 * GIB, [2 * GIB])
    settings = config.load(one.home.path)
    assert (settings.capacity, settings.offers) == (2 * GIB, {"upload": "8Mbit", "download": "1M/s"})
    await one.ask(upload="none")
    assert one.pace.up.rate is None
    assert _kept(one) == {"capacity": "2G", "download": "1M/s", "upload": "none"}


async def test_more_counts_only_when_the_pool_has_granted_it(tmp_path: Path) -> None:
    one = await peer(tmp_path)
    one.grants = GIB
    told = await one.ask(storage="5G")
    assert (told["wished"], told["granted"], one.store.usage().capacity) == (5 * GIB, GIB, GIB)
    assert one.offer.offered() == GIB


async def test_less_than_is_held_deletes_nothing_and_takes_nothing(tmp_path: Path) -> None:
    one = await peer(tmp_path)
    chunk = sealed(1, 500 * KIB)
    await one.store.put(VOLUME, chunk.id, [chunk.data])

    async def nobody_answers() -> None:
        pass

    await one.sharing.change({"storage": "0"}, nobody_answers)
    usage = one.store.usage()
    assert (usage.capacity, usage.chunks) == (0, 1)
    assert usage.used > 500 * KIB
    other = sealed(2, 10 * KIB)
    with pytest.raises(NoSpace):
        await one.store.put(VOLUME, other.id, [other.data])
    assert await one.store.has(VOLUME, chunk.id)


@pytest.mark.parametrize(
    "wanted", [{"storage": "5G", "upload": "fast"}, {"storage": "5G", "memory": "1"}, {"storage": 5}, {"compute": "2"}]
)
async def test_nonsense_changes_nothing(wanted: dict[str, object], tmp_path: Path) -> None:
    one = await peer(tmp_path)
    assert "error" in await one.ask(**wanted)
    assert "error" in await one.sharing.answer({"op": "share", "set": ["storage"]}, one.beat)
    assert (one.beats, _kept(one), one.store.usage().capacity, one.pace.up.rate) == ([], {}, GIB, None)


async def test_what_cannot_be_kept_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await peer(tmp_path)

    def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    monkeypatch.setattr(sharing, "write_settings", full)
    assert await one.ask(upload="8Mbit") == {"error": "the disk is full"}
    assert (one.pace.up.rate, one.beats) == (None, [])


def test_the_configuration_refuses_what_the_command_does(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="switched off"):
        config.load(tmp_path, {"compute": "4"})
