"""Commands about peers that go, jobs and plans: what they send, say and exit with. The coordinator is a table."""

import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from p2pfs import exitcodes
from p2pfs.cli import connect, job_tables, main, plans
from p2pfs.cli.schemas import OUTPUTS
from p2pfs.errors import NotFound, Unavailable
from p2pfs.runtime import mounts
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import MIB, NodeId, PoolId, Role
from p2pfs.wire.jobs import JobInfo
from p2pfs.wire.membership import AwayRequest, NodeInfo
from p2pfs.wire.plans import FilesAtRisk, PlanAnswer, PlanRequest

pytestmark = pytest.mark.l0

OWN = "d" * 32
NODES = [
    NodeInfo(OWN, "anna@nas", "anna", "", ["peer"], False, 1),
    NodeInfo("e" * 32, "bob@nas", "bob", "", ["peer"], False, 2),
]
WHOLE = PlanAnswer(
    10, 10 * MIB, 0, 0, 0, 0, [], room_bytes=99 * MIB, staying=3, wanted=2, rate=MIB, is_measured=True, answering=3
)  # fmt: skip
SHORT = msgspec.structs.replace(WHOLE, short=4, short_bytes=4 * MIB)
RISK = FilesAtRisk("0" * 15 + "7", "photos", "anna", 3, [11, 12, 13])
LOST = msgspec.structs.replace(
    WHOLE, short=4, short_bytes=6 * MIB, unreadable=2, unreadable_bytes=2 * MIB, files=[RISK]
)
CRAMPED = msgspec.structs.replace(SHORT, room_bytes=3 * MIB)
THIN = msgspec.structs.replace(WHOLE, staying=1, answering=1, wanted=1, thinned=9, replicas=2)


def job(state: str = "running", **more: Any) -> JobInfo:  # noqa: ANN401 - any field
    given: dict[str, Any] = {
        "id": 3, "kind": "drain", "subject": "anna@nas", "done": 1, "total": 4, "done_bytes": MIB,
        "total_bytes": 4 * MIB, "rate": float(MIB), "left_s": 3.0, "started_s": 1.0,
        "ended_s": None if state == "running" else 9.0, "error": "",
    }  # fmt: skip
    return JobInfo(state=state, **(given | more))


class Coordinator:
    """Answers from a table, by (method, path); a list is answered one after the other."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {("GET", "/nodes"): NODES}
        self.asked: list[tuple[str, str, Any]] = []

    async def call(self, method: str, path: str, message: object, kind: object) -> Any:  # noqa: ANN401 - any struct
        self.asked.append((method, path, message))
        answer = self.answers[method, path]
        if isinstance(answer, list) and answer and isinstance(answer[0], list | Exception | BaseException):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    import trio
    import trio.testing

    coordinator = Coordinator()

    def converse(_home: NodeHome, talk: Callable[[Any], Awaitable[Any]]) -> Any:  # noqa: ANN401 - as the real one
        return trio.run(talk, coordinator, clock=trio.testing.MockClock(autojump_threshold=0))

    monkeypatch.setattr(connect, "converse", converse)
    monkeypatch.setattr(mounts, "known", lambda: [])
    return coordinator


@pytest.fixture
def p2pfs(tmp_path: Path) -> Callable[..., int]:
    home = NodeHome(tmp_path / "home")
    record = NodeRecord(
        pool=PoolId("a" * 32), node=NodeId(OWN), name="anna@nas", owner="anna", roles=[Role.PEER],
        coordinator=NodeId("c" * 32), addresses=["192.0.2.1:9470"],
    )  # fmt: skip
    home.create(record, ca=b"", certificate=b"", key=b"")
    return lambda *arguments: main.run([*arguments, "--home", str(home.path)])


@pytest.fixture
def no(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever is asked is answered with no; the questions."""
    questions: list[str] = []
    monkeypatch.setattr(click, "confirm", lambda question: questions.append(question) is not None)
    return questions


# ---- peers that go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("time", "for_s"), [("8h", 8 * 3600.0), ("back", 0.0), ("14d", 14 * 86400.0)])
def test_away_is_told_for_this_homes_peer(
    pool: Coordinator, p2pfs: Callable[..., int], time: str, for_s: float
) -> None:
    pool.answers["POST", f"/peers/{OWN}/away"] = NODES[0]
    assert p2pfs("peer", "away", time) == exitcodes.OK
    assert pool.asked[-1][2] == AwayRequest(for_s)


def test_a_time_that_is_none_is_told(pool: Coordinator, p2pfs: Callable[..., int]) -> None:
    assert p2pfs("peer", "away", "soon") == exitcodes.USAGE
    assert pool.asked == []


@pytest.mark.parametrize(
    ("command", "plan"), [(("peer", "drain", "bob"), SHORT), (("peer", "forget", "bob"), LOST)], ids=["drain", "forget"]
)
def test_what_changes_the_pool_shows_what_it_means_and_asks(
    pool: Coordinator,
    p2pfs: Callable[..., int],
    no: list[str],
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    plan: PlanAnswer,
) -> None:
    pool.answers["POST", "/plans"] = plan
    assert p2pfs(*command) == exitcodes.FAILED
    assert "to copy" in capsys.readouterr().out
    assert len(no) == 1
    assert "bob@nas" in no[0]
    assert not any("/peers/" in path for _, path, _ in pool.asked)


def test_a_drain_is_followed_until_the_peer_has_left(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["POST", "/plans"] = WHOLE
    pool.answers["POST", f"/peers/{OWN}/drain"] = NODES[0]
    old = job("cancelled", id=1)
    pool.answers["GET", "/jobs"] = [
        [job(), old],
        Unavailable("it is started anew"),
        [job(error="no other peer has room"), old],
        [job("done", done=4), old],
    ]
    assert p2pfs("peer", "drain", "--yes") == exitcodes.OK
    said = capsys.readouterr()
    assert "anna@nas has left" in said.out
    assert "no other peer has room" in said.err


@pytest.mark.parametrize("end", [job("cancelled"), job("failed", error="it was forgotten")])
def test_a_drain_that_ends_otherwise_is_no_success(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str], end: JobInfo
) -> None:
    pool.answers["POST", "/plans"] = WHOLE
    pool.answers["POST", f"/peers/{OWN}/drain"] = NODES[0]
    pool.answers["GET", "/jobs"] = [[job()], [end]]
    assert p2pfs("peer", "drain", "--yes") == exitcodes.FAILED
    assert end.state in capsys.readouterr().err


def test_a_drain_that_leaves_fewer_copies_warns_of_it(
    pool: Coordinator, p2pfs: Callable[..., int], no: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["POST", "/plans"] = THIN
    assert p2pfs("peer", "drain", "bob") == exitcodes.FAILED
    assert no == ["Let bob@nas leave the pool, with fewer copies of what it holds?"]
    pool.answers["POST", f"/peers/{'e' * 32}/drain"] = NODES[1]
    assert p2pfs("peer", "drain", "bob", "--yes", "--no-wait") == exitcodes.OK
    assert "9 chunks will have 1 copy" in capsys.readouterr().err
    pool.answers["POST", "/plans"] = Unavailable("it is busy")
    assert p2pfs("peer", "drain", "bob", "--yes", "--no-wait") == exitcodes.OK


@pytest.mark.parametrize("options", [("--yes",), (), ("--no-wait",), ("--yes", "--no-wait")])
def test_draining_a_peer_again_that_has_left_is_fine_and_asks_nothing(
    pool: Coordinator,
    p2pfs: Callable[..., int],
    no: list[str],
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    left = msgspec.structs.replace(NODES[1], state="left")
    pool.answers["GET", "/nodes"] = [NODES[0], left]
    pool.answers["POST", f"/peers/{'e' * 32}/drain"] = left
    assert p2pfs("peer", "drain", "bob", *options) == exitcodes.OK
    assert no == []
    said = capsys.readouterr().out
    assert "bob@nas has left" in said
    assert "goes on" not in said


def test_a_drain_that_was_not_agreed_to_does_not_begin_for_want_of_a_plan(
    pool: Coordinator, p2pfs: Callable[..., int], no: list[str]
) -> None:
    """It was a member when it was looked up: it may be one again when the drain is asked for."""
    pool.answers["POST", "/plans"] = NotFound("this node is no peer of the pool")
    assert p2pfs("peer", "drain", "bob") == exitcodes.NOT_FOUND
    assert not any("/peers/" in path for _, path, _ in pool.asked)
    pool.answers["GET", "/jobs"] = [[job("done", subject="bob@nas")]]
    pool.answers["POST", f"/peers/{'e' * 32}/drain"] = NODES[1]  # by a coordinator that says no states
    assert p2pfs("peer", "drain", "bob", "--yes") == exitcodes.OK
    assert no == []


def test_nothing_is_said_to_have_copies_that_has_none(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["POST", "/plans"] = msgspec.structs.replace(LOST, short=2, short_bytes=2 * MIB, wanted=1)
    assert p2pfs("plan", "lose", "bob") == exitcodes.HEALTH_ERROR
    said = capsys.readouterr().out
    assert "nothing to copy" not in said
    assert "lost: " in said


def test_an_interrupted_wait_leaves_the_drain_running_and_says_so(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["POST", "/plans"] = WHOLE
    pool.answers["POST", f"/peers/{OWN}/drain"] = NODES[0]
    pool.answers["GET", "/jobs"] = [[job()], KeyboardInterrupt()]
    assert p2pfs("peer", "drain", "--yes") == 130
    assert "goes on" in capsys.readouterr().err
    assert not any("undrain" in path for _, path, _ in pool.asked)


@pytest.mark.parametrize(
    ("plan", "code", "words"),
    [
        (WHOLE, exitcodes.OK, "can be stopped: the others"),
        (SHORT, exitcodes.HEALTH_WARNING, "everything stays readable, but 4 chunks"),
        (LOST, exitcodes.HEALTH_ERROR, "do not stop anna@nas and bob@nas: 2 chunks"),
    ],
)
def test_safe_to_stop_is_one_sentence_and_an_exit_status(
    pool: Coordinator,
    p2pfs: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    plan: PlanAnswer,
    code: int,
    words: str,
) -> None:
    pool.answers["POST", "/plans"] = plan
    assert p2pfs("peer", "safe-to-stop", "anna", "bob") == code
    assert words in capsys.readouterr().out
    assert pool.asked[-1][2] == PlanRequest("stop", [node.node for node in NODES])
    assert p2pfs("peer", "safe-to-stop", "anna", "bob", "--json") == code
    assert words in json.loads(capsys.readouterr().out)["sentence"]


# ---- for programs ---------------------------------------------------------------------------------------------------


def read(name: str, capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - any of OUTPUTS
    """What a command printed, of its documented type."""
    value = json.loads(capsys.readouterr().out)
    assert msgspec.to_builtins(msgspec.convert(value, OUTPUTS[name])) == value
    return value


def test_what_became_of_a_peer_is_told_to_programs(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    draining, lost = (msgspec.structs.replace(NODES[1], state=state) for state in ("draining", "lost"))
    bob = draining.node
    pool.answers["POST", "/plans"] = WHOLE
    pool.answers["POST", f"/peers/{bob}/drain"] = draining
    assert p2pfs("peer", "drain", "bob", "--no-wait", "--yes", "--json") == exitcodes.OK
    assert read("peer drain", capsys)["state"] == "draining"
    pool.answers["GET", "/jobs"] = [[job(subject="bob@nas")], [job("done", subject="bob@nas")]]
    assert p2pfs("peer", "drain", "bob", "--yes", "--json") == exitcodes.OK
    assert read("peer drain", capsys)["state"] == "left"
    pool.answers["POST", f"/peers/{bob}/forget"] = lost
    assert p2pfs("peer", "forget", "bob", "--yes", "--json") == exitcodes.OK
    assert read("peer forget", capsys)["state"] == "lost"


@pytest.mark.parametrize(
    "words", [("peer", "drain"), ("peer", "forget", "bob"), ("peer", "trash", "empty"), ("revoke", "bob")]
)
def test_a_program_is_asked_nothing(
    pool: Coordinator, p2pfs: Callable[..., int], no: list[str], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert p2pfs(*words, "--json") == exitcodes.USAGE
    said = capsys.readouterr()
    assert (said.out, no, pool.asked) == ("", [], [])
    assert "--yes" in said.err


# ---- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "plan", "code", "copied"),
    [
        ("drain", SHORT, exitcodes.OK, 4 * MIB),
        ("drain", CRAMPED, exitcodes.HEALTH_ERROR, 4 * MIB),
        ("drain", THIN, exitcodes.HEALTH_WARNING, 0),
        ("lose", WHOLE, exitcodes.OK, 0),
        ("lose", CRAMPED, exitcodes.HEALTH_WARNING, 4 * MIB),
        ("lose", LOST, exitcodes.HEALTH_ERROR, 2 * MIB),  # what is lost cannot be copied
    ],
)
def test_a_plan_says_how_much_and_whether_it_can_be_done(
    pool: Coordinator,
    p2pfs: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    kind: str,
    plan: PlanAnswer,
    code: int,
    copied: int,
) -> None:
    pool.answers["POST", "/plans"] = plan
    assert p2pfs("plan", kind, "bob", "--json") == code
    said = json.loads(capsys.readouterr().out)
    assert (said["copy_bytes"], said["copy_s"], said["exit_code"]) == (copied, copied / MIB, code)
    assert p2pfs("plan", kind, "bob") == code
    said_to_people = capsys.readouterr().out
    assert ("not enough" in said_to_people) == (plan is CRAMPED)
    assert ("9 chunks will have 1 copy, fewer than replicas=2: only 1 peer stays" in said_to_people) == (plan is THIN)
    assert ("nothing to copy" in said_to_people) == (plan in (WHOLE, THIN))
    assert ("anna/photos: 3 files" in said_to_people) == (plan is LOST)


def test_files_at_risk_are_found_by_number_once_each(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    wanted, other = tmp_path / "deep" / "er" / "wanted", tmp_path / "other"
    wanted.write_text("")
    other.write_text("")
    os.link(wanted, tmp_path / "deep" / "again")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = plans._walk(tmp_path, frozenset({wanted.stat().st_ino}), float("inf"))
    assert len(found) == 1
    assert os.path.samefile(found[0], wanted)
    assert plans._walk(tmp_path, frozenset({wanted.stat().st_ino}), 0.0) == []  # its time is over


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_jobs_that_are_over_are_shown_when_asked_for(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["GET", "/jobs"] = [[job(error="no room"), job("done", id=2, kind="repair", subject="")]]
    assert p2pfs("jobs") == exitcodes.OK
    said = capsys.readouterr().out
    for word in ("anna@nas", "running", "25%", "1/4", "1 MiB/4 MiB", "1 MiB/s", "3s", "no room"):
        assert word in said
    assert "repair" not in said
    assert p2pfs("jobs", "--all", "--json") == exitcodes.OK
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == [3, 2]


def test_watching_prints_what_changed_until_interrupted(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["GET", "/jobs"] = [[job()], [job()], [job(done=2)], [], KeyboardInterrupt()]
    assert p2pfs("jobs", "--watch", "--json") == exitcodes.OK
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[one["done"] for one in line] for line in lines] == [[1], [2], []]


def test_watching_ends_when_the_coordinator_is_silent_for_long(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["GET", "/jobs"] = [[job()], Unavailable("nobody answers")]
    assert p2pfs("jobs", "--watch") == exitcodes.UNREACHABLE
    assert capsys.readouterr().err.count("what is shown is as it was") == 1


def test_watching_does_not_wait_for_a_coordinator_that_is_not_there(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["GET", "/jobs"] = [Unavailable("nobody answers")]
    assert p2pfs("jobs", "--watch") == exitcodes.UNREACHABLE
    assert "as it was" not in capsys.readouterr().err


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry"])
def test_an_action_is_sent_for_its_job(
    pool: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str], action: str
) -> None:
    pool.answers["POST", f"/jobs/3/{action}"] = job()
    assert p2pfs("jobs", action, "3") == exitcodes.OK
    assert "drain of anna@nas" in capsys.readouterr().out
    assert p2pfs("jobs", action, "3", "--json") == exitcodes.OK
    assert read(f"jobs {action}", capsys)["id"] == 3


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (job(), 0.25),
        (job(total_bytes=0), 0.25),
        (job(total=0, total_bytes=0), None),
        (job("done", done_bytes=0), 1.0),
        (job(done_bytes=9 * MIB), 1.0),
    ],
)
def test_how_much_is_done(given: JobInfo, part: float | None) -> None:
    assert job_tables.share(given) == part


# ---- the trash ------------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Any:  # noqa: ANN401 - a generator
    """Somebody on the daemon's socket; what it was asked."""
    asked: list[str] = []
    status = {
        "coordinator_silent_s": 300.0, "knows_members": True, "leader": 2, "leads": False, "fellows_heard": 3,
        "copies_requested": 0, "copies_taken": 7, "bytes_taken": 7 * MIB, "copies_failed": 0, "room_bytes": 9 * MIB,
    }  # fmt: skip
    answers: dict[str, dict[str, object]] = {
        "status": status,
        "trash": {"trash": 5 * MIB},
        "empty_trash": {"removed": 5, "freed": 5 * MIB},
    }
    listener = mounts.listen(tmp_path / "home" / "run" / "peer.sock")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                asked.append(json.loads(lines.readline())["op"])
                connection.sendall(json.dumps(answers[asked[-1]]).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield asked
    listener.shutdown(2)
    listener.close()
    thread.join(10)


def test_the_trash_is_shown_and_emptied_after_a_yes(
    p2pfs: Callable[..., int], daemon: list[str], no: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert p2pfs("peer", "trash") == exitcodes.OK
    assert "5 MiB" in capsys.readouterr().out
    assert p2pfs("peer", "trash", "empty") == exitcodes.FAILED
    assert "5 MiB" in no[0]
    assert "empty_trash" not in daemon
    assert p2pfs("peer", "trash", "empty", "--yes") == exitcodes.OK
    assert "removed 5 chunks" in capsys.readouterr().out
    assert p2pfs("peer", "trash", "empty", "--yes", "--json") == exitcodes.OK
    assert read("peer trash empty", capsys) == {"removed": 5, "freed": 5 * MIB}


def test_who_stands_in_for_the_coordinator_is_told(
    p2pfs: Callable[..., int], daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert p2pfs("peer", "status") == exitcodes.OK
    told = capsys.readouterr().out
    assert "5min ago" in told
    assert "peer 2 asks for copies" in told
    assert "7 copies, 7 MiB" in told
    assert p2pfs("peer", "status", "--json") == exitcodes.OK
    assert json.loads(capsys.readouterr().out)["leader"] == 2
    assert daemon == ["status", "status"]


@pytest.mark.parametrize(
    ("left", "why"), [(False, "it does not run; start it"), (True, "it has ended, or has not begun yet; start it")]
)
def test_without_a_daemon_the_trash_is_out_of_reach(
    left: bool, why: str, p2pfs: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if left:
        mounts.listen(tmp_path / "home" / "run" / "peer.sock").close()
    assert p2pfs("peer", "trash") == exitcodes.UNREACHABLE
    told = capsys.readouterr().err
    assert why in told
    assert "Errno" not in told


def test_a_drain_needs_as_many_peers_that_answer_as_copies() -> None:
    plan = msgspec.structs.replace(WHOLE, short=1, short_bytes=MIB, answering=2)
    assert plans.exit_code(plan, plans.PlanKind.DRAIN) == exitcodes.OK
    few = msgspec.structs.replace(plan, answering=1)
    assert plans.exit_code(few, plans.PlanKind.DRAIN) == exitcodes.HEALTH_ERROR
