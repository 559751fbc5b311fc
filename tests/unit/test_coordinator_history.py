"""What the coordinator keeps of the last month: rings, their file, and what is put into them."""

import errno
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
import trio
from careful import careful
from coordination import live, pool
from plugins.checklogs import Claims

from p2pfs.coordinator import history
from p2pfs.coordinator.flow import Flow
from p2pfs.coordinator.history import NAMES, Question, asked, open_rounds
from p2pfs.errors import Misuse, Unavailable
from p2pfs.meta.rounds import MOST_NAMES, RINGS, Rounds
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import PeerNumber, Role

pytestmark = pytest.mark.l0

NOON = 1_800_000_000.0 // 3600 * 3600
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@pytest.fixture
def rounds() -> Iterator[Rounds]:
    with closing(Rounds()) as kept:
        yield kept


def minutes(rounds: Rounds, count: int, *, until_s: float = NOON) -> None:
    """One look each minute up to `until_s`, whose value is the number of minutes before it."""
    for ago in range(count, -1, -1):
        rounds.add(until_s - ago * MINUTE, {"x": float(ago)})


def test_the_finest_ring_that_reaches_back_answers(rounds: Rounds) -> None:
    minutes(rounds, 7 * 60)
    hour = rounds.series(["x"], NOON - HOUR, NOON, points=1000, now_s=NOON)["x"]
    assert hour == [(NOON - ago * MINUTE, float(ago)) for ago in range(60, -1, -1)]
    day = rounds.series(["x"], NOON - DAY, NOON, points=1000, now_s=NOON)["x"]
    assert [time_s for time_s, _ in day] == [NOON - ago * 10 * MINUTE for ago in range(42, -1, -1)]
    assert day[-2] == (NOON - 10 * MINUTE, sum(range(1, 11)) / 10)


def test_no_more_points_than_asked_for_each_the_mean_of_its_time(rounds: Rounds) -> None:
    minutes(rounds, 119)
    found = rounds.series(["x"], NOON - 119 * MINUTE, NOON, points=12, now_s=NOON)["x"]
    assert len(found) in (12, 13)  # the first and the last may be cut
    assert all(later - earlier == 10 * MINUTE for (earlier, _), (later, _) in itertools.pairwise(found))
    assert found[-2] == (NOON - 10 * MINUTE, 5.5)


def test_a_year_takes_no_more_room_than_a_month(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    rounds = Rounds(path)
    figures = {f"a.rather.long.name.{number}": 1e15 / 3 for number in range(MOST_NAMES + 20)}
    for hour in range(800):  # every slot of the coarse ring more than once, and as many of the others
        rounds.add(NOON + hour * HOUR, figures)
    (rows,) = rounds._connection.execute("SELECT COUNT(*) FROM moment").fetchone()
    assert rows <= sum(ring.slots for ring in RINGS)
    before = path.stat().st_size
    for hour in range(800, 1600):
        rounds.add(NOON + hour * HOUR, figures)
    rounds.close()
    assert path.stat().st_size <= before * 1.1
    assert before / rows * sum(ring.slots for ring in RINGS) < 8_000_000
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path / "history.sqlite")
    minutes(rounds, 5)
    rounds.close()
    again = Rounds(tmp_path / "history.sqlite")
    assert len(again.series(["x"], NOON - HOUR, NOON, points=100, now_s=NOON)["x"]) == 6
    again.close()


def test_a_clock_set_ahead_and_back_leaves_a_gap_and_nothing_from_the_future(rounds: Rounds) -> None:
    minutes(rounds, 30)
    rounds.add(NOON + 400 * DAY, {"x": -1.0})
    rounds.add(NOON - 10 * MINUTE, {"x": 20.0})  # set back: the minute is told of twice
    rounds.add(NOON + MINUTE, {"x": 7.0})
    now_s = NOON + MINUTE
    found = dict(rounds.series(["x"], NOON - HOUR, now_s, points=100, now_s=now_s)["x"])
    assert len(found) >= 31  # at most the slot that the future took is missing
    assert -1.0 not in found.values()
    assert found[NOON + MINUTE] == 7.0
    assert found[NOON - 10 * MINUTE] == 15.0


def test_a_moment_has_no_more_names_however_often_it_is_told_of(rounds: Rounds) -> None:
    first = [f"first.{number}" for number in range(MOST_NAMES)]
    others = [f"other.{number}" for number in range(MOST_NAMES)]
    for names in (first, others):
        rounds.add(NOON, dict.fromkeys(names, 1.0))
    found = rounds.series([*first, *others], NOON, NOON, points=1, now_s=NOON)
    assert [name for name, points in found.items() if points] == first


def test_what_is_no_number_is_not_kept(rounds: Rounds) -> None:
    rounds.add(NOON, {"x": float("nan"), "y": float("inf"), "z": 1})
    found = rounds.series(["x", "y", "z", "never"], NOON - HOUR, NOON, points=10, now_s=NOON)
    assert {name: len(points) for name, points in found.items()} == {"x": 0, "y": 0, "z": 1, "never": 0}


def spoil_head(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def spoil_pages(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[4096:] = bytes(len(whole) - 4096)
    path.write_bytes(whole)


def spoil_row(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE moment SET figures = x'c1'")
    connection.commit()
    connection.close()


def from_the_future(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("spoil", [spoil_head, spoil_pages, spoil_row, from_the_future])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, claim_logs: Claims, spoil: object) -> None:
    assert callable(spoil)
    claim_logs("the history of the pool is begun anew", count=1)
    path = tmp_path / "history.sqlite"
    rounds = Rounds(path)
    minutes(rounds, 300)
    rounds.close()
    spoil(path)
    again = Rounds(path)
    again.add(NOON, {"x": 5.0})
    assert again.series(["x"], NOON - HOUR, NOON, points=100, now_s=NOON) == {"x": [(NOON, 5.0)]}
    again.close()


def test_history_goes_on_once_a_file_that_could_not_be_begun_anew_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    claim_logs("the history of the pool is begun anew", count=1)
    path = tmp_path / "history.sqlite"
    rounds = Rounds(path)
    minutes(rounds, 3)
    spoil_row(path)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", refused)
        for _ in range(2):
            with pytest.raises(Unavailable, match="Read-only file system"):
                rounds.series(["x"], NOON - HOUR, NOON, points=100, now_s=NOON)
    with monkeypatch.context() as broken:
        broken.setattr("p2pfs.meta.rounds.create_private", Mock(side_effect=Unavailable("no descriptors")))
        with pytest.raises(Unavailable, match="no descriptors"):
            rounds.add(NOON, {"x": 5.0})
    rounds.add(NOON, {"x": 5.0})
    rounds.add(NOON + MINUTE, {"x": 6.0})
    found = rounds.series(["x"], NOON - HOUR, NOON + MINUTE, points=100, now_s=NOON + MINUTE)
    assert found["x"] == [(NOON, 5.0), (NOON + MINUTE, 6.0)]
    rounds.close()


async def test_a_file_that_cannot_be_made_does_not_keep_the_coordinator_from_working(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("no history of the pool is kept beyond this run", count=1)
    async with open_rounds(tmp_path / "missing" / "history.sqlite") as rounds:
        rounds.add(NOON, {"x": 1.0})
        assert rounds.series(["x"], NOON, NOON, points=1, now_s=NOON) == {"x": [(NOON, 1.0)]}


async def test_a_look_has_every_name_once_there_is_something_to_see(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        for number in (1, 2):
            await c.store(number, [1, 2, 3])
        node = c.peers[1].node
        await p.beat(node, run=1, received=1000, sent=5000)
        seen = p.services.history
        await seen.work()
        p.clock.advance(60.0)
        await p.beat(node, run=1, received=7000, sent=5000)
        await p.beat(c.peers[2].node)
        await p.beat(c.peers[3].node)
        await seen.work()
        assert set(NAMES) - set(seen.latest) == {"backup.age_s"}  # no kit here
        assert set(seen.latest) <= set(NAMES)
        assert seen.latest["chunks.total"] == seen.latest["chunks.copies.3"] == 2
        assert seen.latest["peers.up"] == 3
        assert seen.latest["traffic.in"] == 100.0
        assert seen.latest["traffic.out"] == 0.0
        now_s = p.clock.time()
        found = await seen.series(["chunks.total"], now_s - HOUR, now_s)
        assert [value for _, value in found["chunks.total"]] == [2.0, 2.0]


async def test_chunks_are_not_short_of_copies_while_their_peer_is_away_as_it_said(tmp_path: Path) -> None:
    """The alert would tell for days of a repair that does not get on, and nothing is to be repaired."""
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        await c.store(1, [1, 2, 3])
        await c.settle()
        await p.services.leaving.away(p.identity(), c.peers[3].node, 86400.0)
        await c.pass_time(100, 3)
        await p.services.history.work()
        assert p.services.history.latest["peers.away"] == 1
        assert (p.services.history.latest["chunks.total"], p.services.history.latest["chunks.short"]) == (1, 0)


def test_there_are_not_more_names_than_are_kept() -> None:
    assert len(set(NAMES)) == len(NAMES) <= MOST_NAMES


def test_a_peer_that_was_restarted_counts_anew() -> None:
    clock = FakeClock()
    flow, one = Flow(clock, 15.0), PeerNumber(1)
    flow.heard(one, 7, received=10_000, sent=0)  # before this coordinator listened
    clock.advance(10.0)
    flow.heard(one, 7, received=10_500, sent=100)
    assert (flow.received, flow.sent, flow.rates(one)) == (500, 100, (50.0, 10.0))
    clock.advance(10.0)
    flow.heard(one, 8, received=3, sent=3)
    assert (flow.received, flow.sent, flow.rates(one)) == (500, 100, (0.0, 0.0))
    clock.advance(1.0)
    flow.heard(one, 8, received=1, sent=4)  # a liar's, or a counter gone wrong
    assert (flow.received, flow.sent) == (500, 101)


def test_more_counted_after_a_restart_than_before_is_nobodys_traffic_either() -> None:
    clock = FakeClock()
    flow, one = Flow(clock, 15.0), PeerNumber(1)
    flow.heard(one, 7, received=100, sent=100)
    clock.advance(10.0)
    flow.heard(one, 8, received=5000, sent=5000)
    assert (flow.received, flow.sent, flow.rates(one)) == (0, 0, (0.0, 0.0))


def test_a_peer_that_fell_silent_moves_nothing() -> None:
    clock = FakeClock()
    flow, one = Flow(clock, 15.0), PeerNumber(1)
    for received in (0, 500):
        clock.advance(5.0)
        flow.heard(one, 7, received=received, sent=0)
    clock.advance(15.0)
    assert flow.rates(one) == (100.0, 0.0)
    clock.advance(0.1)
    assert flow.rates(one) == (0.0, 0.0)
    clock.advance(4.9)
    flow.heard(one, 7, received=2500, sent=0)  # what it moved meanwhile counts
    assert (flow.received, flow.rates(one)) == (2500, (100.0, 0.0))
    flow.keep([one])
    assert flow.rates(one) == (100.0, 0.0)
    flow.keep([])
    assert flow.rates(one) == (0.0, 0.0)
    clock.advance(5.0)
    flow.heard(one, 7, received=9000, sent=0)
    assert flow.received == 2500


def test_questions() -> None:
    assert asked("") == Question()
    assert asked("names=health,jobs&since=-60&until=1000&points=5") == Question(("health", "jobs"), -60.0, 1000.0, 5)
    for wrong in (
        "names=nothing",
        "points=0",
        "points=1001",
        "since=nan",
        "until=1e300",
        "since",
        "more=1",
        "points=1.5",
    ):
        with pytest.raises(Misuse):
            asked(wrong)


async def test_members_ask_over_the_network(tmp_path: Path) -> None:
    async with live(tmp_path) as p:
        while not p.running.services.history.latest:
            await trio.lowlevel.checkpoint()
        _, member = await p.join("anna@laptop", Role.CLIENT)
        path = "/history?names=health,volumes.files&since=-600"
        for credentials, files in ((p.credentials, [0.0]), (member, [])):
            async with p.client(credentials) as client:
                reply = await client.request(p.endpoint, "GET", path, timeout_s=5)
            answer = msgspec.json.decode(bytes(reply.body), type=history.Answer)
            assert answer.until_s - answer.since_s == pytest.approx(600)
            assert [value for _, value in answer.series["health"]] == [2.0]  # no peers
            assert [value for _, value in answer.series["volumes.files"]] == files  # others' are an admin's to see
        assert p.home.path.joinpath("coordinator", "history.sqlite").exists()


async def test_a_restart_leaves_no_moment_in_which_everything_was_gone(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        c = await careful(p, 2)
        node = [c.peers[number].node for number in (1, 2)]
    async with pool(tmp_path, clock=clock) as p:
        seen = p.services.history

        async def kept() -> list[float]:
            await seen.work()
            now_s = clock.time()
            return [value for _, value in (await seen.series(["peers.up"], now_s - HOUR, now_s))["peers.up"]]

        await p.beat(node[0])
        assert await kept() == []
        await p.beat(node[1])
        assert await kept() == [2.0]
