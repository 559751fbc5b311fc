"""`p2pfs status`: exit codes, JSON that keeps its keys, tables for people."""

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfs import exitcodes
from p2pfs.cli import connect, main
from p2pfs.errors import Denied, Unavailable
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, PoolId, Role

pytestmark = pytest.mark.l0

KEYS = {"health", "reasons", "pool", "coordinator", "peers", "volumes", "chunks", "jobs"}


def _report(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of a JSON document
    peer = {
        "number": 1, "node": "b" * 32, "name": "anna@nas", "owner": "anna", "zone": "home", "state": "up",
        "addresses": ["192.0.2.7:9471"], "capacity": 1 << 40, "used": 1 << 30, "trash": 0, "free": 1 << 39,
        "chunks": 1024, "silent_s": 2.0, "clock_ahead_s": 0.0, "certificate_expires_s": 0.0, "version": "1",
        "resources": None,
    }  # fmt: skip
    return {
        "health": "healthy",
        "reasons": [],
        "pool": {
            "id": "a" * 32, "name": "home", "replicas": 3, "min_replicas": 2, "capacity": 1 << 40, "used": 1 << 30,
            "promised": 0, "total": 1 << 39, "writable": 1 << 38, "map_version": 4, "incarnation": 1, "sessions": 1,
        },
        "coordinator": {
            "node": "c" * 32, "name": "anna@server", "addresses": ["192.0.2.1:9470"], "version": "1",
            "uptime_s": 90.0, "certificate_expires_s": 0.0,
        },
        "peers": [peer, peer | {"name": "bob@nas", "state": "down"}],
        "volumes": [{"id": "0" * 16, "name": "photos", "owner": "anna", "files": 12, "bytes": 5 << 20}],
        "chunks": {"total": 1030, "under_replicated": 6, "lost": 1, "by_copies": {"0": 1, "1": 6, "2": 1023}},
        "jobs": [
            {
                "id": 7, "kind": "repair", "subject": "", "state": "running", "done": 1, "total": 4,
                "done_bytes": 1 << 20, "total_bytes": 4 << 20, "rate": 1e6, "left_s": 3.0, "started_s": 1.0,
                "ended_s": None, "error": "",
            },
        ],
    } | changes  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    home = NodeHome(tmp_path / "home")
    record = NodeRecord(
        pool=PoolId("a" * 32), node=NodeId("d" * 32), name="anna@laptop", owner="anna", roles=[Role.CLIENT],
        coordinator=NodeId("c" * 32), addresses=["192.0.2.1:9470"],
    )  # fmt: skip
    home.create(record, ca=b"", certificate=b"", key=b"")
    return home


def _answering(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> None:
    def fetch(_home: NodeHome, path: str) -> bytes:
        assert path == "/status"
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(connect, "fetch", fetch)


@pytest.mark.parametrize(("health", "code"), [("healthy", 0), ("warning", 20), ("error", 21)])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_exit_status_is_the_health(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, health: str, code: int, form: list[str]
) -> None:
    _answering(monkeypatch, json.dumps(_report(health=health)).encode())
    assert main.run(["status", "--home", str(home.path), *form]) == code


def test_json_is_passed_on_with_what_a_newer_coordinator_adds(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _report(invented_later={"x": 1})
    _answering(monkeypatch, json.dumps(report).encode())
    main.run(["status", "--json", "--home", str(home.path)])
    assert json.loads(capsys.readouterr().out) == report


def test_tables_tell_everything_a_person_asks(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = {"code": "PEER_DOWN", "message": "peer bob@nas is silent", "severity": "warning"}
    _answering(monkeypatch, json.dumps(_report(health="warning", reasons=[reason])).encode())
    assert main.run(["status", "--home", str(home.path)]) == exitcodes.HEALTH_WARNING
    said = capsys.readouterr().out
    for word in ("home", "warning", "PEER_DOWN", "anna@nas", "down", "photos", "1030", "1023 with 2", "repair"):
        assert word in said
    assert "\x1b" not in said  # no colours where nobody sees them


def test_nothing_of_what_others_call_themselves_commands_a_terminal(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hostile(value: Any) -> Any:  # noqa: ANN401 - of a JSON document
        if isinstance(value, dict):
            return {key: hostile(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [hostile(inner) for inner in value]
        return f"{value}\x1b]52;c;cm0gLXJm\x07" if isinstance(value, str) else value

    report = _report(
        reasons=[{"code": "PEER_DOWN", "message": "peer bob@nas is silent", "severity": "warning"}],
        owners=[{"owner": "anna", "coefficient": 1.0, "left": 5}],
    )
    for volume in report["volumes"]:
        volume["delegated_to"] = "laptop:/mnt"
    _answering(monkeypatch, json.dumps(hostile(report) | {"health": "healthy"}).encode())
    assert main.run(["status", "--home", str(home.path)]) == exitcodes.OK
    said = capsys.readouterr().out
    for word in ("laptop:/mnt", "anna@server", "PEER_DOWN", "fair shares: anna"):
        assert word in said
    assert all(line.isprintable() for line in said.split("\n"))


def test_a_silent_coordinator_is_an_error_with_the_same_keys(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _answering(monkeypatch, Unavailable("nobody answers at 192.0.2.1:9470"))
    assert main.run(["status", "--json", "--home", str(home.path)]) == exitcodes.HEALTH_ERROR
    report = json.loads(capsys.readouterr().out)
    assert report.keys() >= KEYS
    assert report["health"] == "error"
    assert [reason["code"] for reason in report["reasons"]] == ["COORDINATOR_UNREACHABLE"]
    assert report["chunks"].keys() >= {"total", "under_replicated", "lost", "by_copies"}
    assert report["peers"] == []
    assert main.run(["status", "--home", str(home.path)]) == exitcodes.HEALTH_ERROR
    assert "nobody answers" in capsys.readouterr().err


def test_a_revoked_node_is_told_that_it_may_not_ask(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, Denied("this node was revoked"))
    assert main.run(["status", "--home", str(home.path)]) == exitcodes.DENIED


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"health": "splendid"}', b'{"health": "healthy"}'])
def test_an_answer_that_is_no_status_is_never_healthy(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    _answering(monkeypatch, answer)
    assert main.run(["status", "--home", str(home.path)]) == exitcodes.FAILED


def test_without_a_node_there_is_nothing_to_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["status", "--home", str(tmp_path)]) == exitcodes.NO_HOME
    assert "p2pfs join" in capsys.readouterr().err
