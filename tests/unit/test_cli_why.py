"""`p2pfs why`: what a file can lose."""

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfs import exitcodes
from p2pfs.cli import connect, main
from p2pfs.cli.files import holders
from p2pfs.cli.files.holders import Held, Place
from p2pfs.cli.files.why import Survival, judge
from p2pfs.runtime.home import NodeHome

pytestmark = pytest.mark.l0


def peer(number: int, owner: str = "", zone: str = "", state: str = "up") -> dict[str, Any]:
    return {
        "number": number,
        "name": f"p{number}",
        "owner": owner or f"o{number}",
        "zone": zone,
        "state": state,
        "recounted_s": 0.0,
    }


def place(*numbers: int, index: int = 0) -> Place:
    return Place(index, "ab" * 32, 1000, [{"number": number, "name": f"p{number}"} for number in numbers])


def judged(places: list[Place], *peers: dict[str, Any]) -> Survival:
    return judge(places, {peer["number"]: peer for peer in peers})


def test_three_machines_of_three_owners_survive_two() -> None:
    assert judged([place(1, 2, 3)], peer(1), peer(2), peer(3)) == Survival(2, 2, 2)


def test_the_worst_chunk_decides() -> None:
    assert judged([place(1, 2, 3), place(1, 3)], peer(1), peer(2), peer(3)).machines == 1


def test_one_owner_or_zone_is_lost_as_a_whole() -> None:
    peers = peer(1, "anna", "home"), peer(2, "anna", "club"), peer(3, "bob", "home")
    assert judged([place(1, 2, 3)], *peers) == Survival(2, 1, 1)
    assert judged([place(1, 2)], *peers) == Survival(1, 0, 1)
    assert judged([place(1, 3)], *peers) == Survival(1, 1, 0)


def test_silent_and_unknown_peers_do_not_count() -> None:
    assert judged([place(1, 2, 9)], peer(1), peer(2, state="down")).machines == 0
    assert judged([place(2)], peer(2, state="lost")).machines == -1


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The coordinator's report; the file has one chunk on peers 1 and 2."""
    report: dict[str, Any] = {
        "health": "healthy", "reasons": [], "pool": {"replicas": 3}, "coordinator": {}, "volumes": [], "chunks": {},
        "jobs": [], "peers": [peer(1, "anna"), peer(2, "bob")], "backup": {"holders": 3},
    }  # fmt: skip
    held = Held(NodeHome(tmp_path), "photos", 7, 1000, False, [place(1, 2)])
    monkeypatch.setattr(holders, "find", lambda _path: held)
    monkeypatch.setattr(connect, "fetch", lambda _home, _path: json.dumps(report).encode())
    return report


def test_people_read_what_may_be_lost_and_who_holds_it(
    told: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["why", "file"]) == exitcodes.OK
    shown = capsys.readouterr().out
    assert "any 1 machine, any 1 owner, any 1 zone" in shown
    assert "p2" in shown
    told["peers"][0]["state"] = "down"
    assert main.run(["why", "file"]) == exitcodes.OK
    assert "no machine, no owner, no zone" in capsys.readouterr().out
    told["peers"][1]["state"] = "lost"
    assert main.run(["why", "file"]) == exitcodes.OK
    assert "cannot be read as a whole" in capsys.readouterr().out


def test_programs_read_the_same(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["why", "--json", "file"]) == exitcodes.OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["survives"] == {"machines": 1, "owners": 1, "zones": 1}
    assert [holder["name"] for holder in shown["holders"]] == ["p1", "p2"]


def test_an_inline_file_is_where_the_metadata_is(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(holders, "find", lambda _path: Held(NodeHome(tmp_path), "photos", 7, 100, True, []))
    assert main.run(["why", "file"]) == exitcodes.OK
    assert "3 peers keep a backup" in capsys.readouterr().out
