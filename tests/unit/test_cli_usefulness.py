"""What `p2pfs usefulness` asks and says."""

import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfs import exitcodes
from p2pfs.cli import connect, main
from p2pfs.cli.health.usefulness import sentences
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import GIB, MIB, NodeId, PoolId, Role
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.usefulness import (
    Advice,
    Day,
    Gave,
    NodeUsefulness,
    OwnerUsefulness,
    Rules,
    UsefulnessDetail,
    UsefulnessReport,
)

pytestmark = pytest.mark.l0

OWN, OTHER = "d" * 32, "e" * 32
NODES = [
    NodeInfo(OWN, "anna@laptop", "anna", "", ["client"], False, 0),
    NodeInfo(OTHER, "bob@nas", "bob", "", ["peer"], False, 1),
]
RULES = Rules("fair", 1.0, 2.0, grant=GIB, replicas=3, min_replicas=2, windows=30, half_life=7.0)
ANNA = OwnerUsefulness("anna", 0.25, Gave(0, 0, MIB, 4 * MIB), 4 * MIB, MIB, 1, 2, GIB + MIB, GIB - 3 * MIB, 2)
BOB = OwnerUsefulness("bob", math.inf, Gave(0, 0, 4 * MIB, 0), 0, 4 * MIB, 1, 3, GIB + 4 * MIB, GIB + 4 * MIB, 0)
LAPTOP = NodeUsefulness(OWN, "anna@laptop", "anna", 0.25, ANNA.counts)
NAS = NodeUsefulness(OTHER, "bob@nas", "bob", math.inf, BOB.counts)
REPORT = UsefulnessReport(RULES, [ANNA, BOB], [LAPTOP, NAS])
ADVICE = [
    Advice("offer_peer", 0),
    *(Advice(code, 7 * MIB) for code in ("store", "serve")),
    Advice("hold", 2 * MIB),
    Advice("remove", MIB),
]
DETAIL = UsefulnessDetail(RULES, LAPTOP, ANNA, [Day(20_000, 1.0, ANNA.counts)], [LAPTOP], ADVICE, 3, 5)


class Coordinator:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.report, self.detail = REPORT, DETAIL

    async def call(self, method: str, path: str, message: object, kind: object) -> Any:  # noqa: ANN401 - any struct
        assert (method, message) == ("GET", None)
        self.asked.append(path)
        return {"/nodes": NODES, "/usefulness": self.report}.get(path, self.detail)


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    import trio

    answering = Coordinator()

    def converse(_home: NodeHome, talk: Callable[[Any], Awaitable[Any]]) -> Any:  # noqa: ANN401 - as the real one
        return trio.run(talk, answering)

    monkeypatch.setattr(connect, "converse", converse)
    return answering


@pytest.fixture
def p2pfs(tmp_path: Path) -> Callable[..., int]:
    home = NodeHome(tmp_path / "home")
    record = NodeRecord(
        pool=PoolId("a" * 32), node=NodeId(OWN), name="anna@laptop", owner="anna", roles=[Role.CLIENT],
        coordinator=NodeId("c" * 32), addresses=["192.0.2.1:9470"],
    )  # fmt: skip
    home.create(record, ca=b"", certificate=b"", key=b"")
    return lambda *arguments: main.run(["usefulness", *arguments, "--home", str(home.path)])


def test_a_table_of_owners_and_nodes(
    coordinator: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert p2pfs() == exitcodes.OK
    assert coordinator.asked == ["/usefulness"]
    shown = capsys.readouterr().out
    assert "policy fair" in shown
    assert "∞" in shown
    assert "anna@laptop" in shown


@pytest.mark.parametrize(("words", "node"), [(("--explain",), OWN), (("bob", "--explain"), OTHER), (("bob",), OTHER)])
def test_one_node_is_asked_about(
    coordinator: Coordinator, p2pfs: Callable[..., int], words: tuple[str, ...], node: str
) -> None:
    assert p2pfs(*words) == exitcodes.OK
    assert coordinator.asked[-1] == f"/nodes/{node}/usefulness"


def test_an_unknown_node_is_told(coordinator: Coordinator, p2pfs: Callable[..., int]) -> None:
    assert p2pfs("carl") == exitcodes.NOT_FOUND


def test_every_input_is_explained_and_what_would_raise_it(
    coordinator: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert p2pfs("--explain") == exitcodes.OK
    shown = capsys.readouterr().out
    assert "anna: (0 B + 1·1 MiB) / (0 B + 2·4 MiB) = 0.25" in shown
    assert "2024-10-04" in shown
    assert "3 B served, 5 B fetched" in shown
    assert "may have" in shown
    assert "(the pool's 3)" in shown
    for words in ("offer a peer", "take in 7 MiB", "serve 7 MiB", "take in 2 MiB more", "1 MiB less"):
        assert words in shown


def test_what_own_peers_hold_for_a_while_is_explained() -> None:
    owner = msgspec.structs.replace(ANNA, left=MIB)
    shown = "\n".join(sentences(msgspec.structs.replace(DETAIL, owner=owner)))
    assert "1020 MiB that its own peers hold beyond" in shown
    assert "that its own peers hold" not in "\n".join(sentences(DETAIL))


def test_who_gives_enough_is_told_so_and_an_open_pool_has_no_shares(
    coordinator: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    replace = msgspec.structs.replace
    owner = replace(ANNA, allowed=None, left=None)
    coordinator.detail = replace(DETAIL, rules=replace(RULES, policy="open"), owner=owner, advice=[])
    assert p2pfs("--explain") == exitcodes.OK
    shown = capsys.readouterr().out
    assert "nothing depends on it" in shown
    assert "may have" not in shown
    assert "nothing needs to be raised" in shown


def test_programs_get_json_with_null_for_infinite(
    coordinator: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert p2pfs("--json") == exitcodes.OK
    answer = json.loads(capsys.readouterr().out)
    assert [one["coefficient"] for one in answer["owners"]] == [0.25, None]
    assert answer["rules"]["policy"] == "fair"


def test_names_command_no_terminal(
    coordinator: Coordinator, p2pfs: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "anna\x1b]52;c;cm0gLXJm\x07"
    coordinator.detail = msgspec.structs.replace(
        DETAIL,
        node=msgspec.structs.replace(LAPTOP, name=hostile),
        owner=msgspec.structs.replace(ANNA, owner=hostile),
        advice=[Advice(hostile, 1)],
    )
    assert p2pfs("--explain") == exitcodes.OK
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
