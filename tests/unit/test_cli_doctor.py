"""`p2pfs doctor`: what keeps a machine from working, each with what to do about it."""

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pki import make_ca
from root_hands import owned_by

from p2pfs.cli import connect
from p2pfs.cli.health import bundle, checks, doctor
from p2pfs.cli.health.checks import Finding
from p2pfs.cli.health.clock import machine_clock_error
from p2pfs.errors import Unavailable
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.runtime.mounts import MountRecord
from p2pfs.types import Health, NodeId, PoolId, Role

pytestmark = pytest.mark.l0

NOW = 1_800_000_000.0
DAY_S = 86400.0


def record(*roles: Role) -> NodeRecord:
    return NodeRecord(
        pool=PoolId("a" * 32), node=NodeId("d" * 32), name="anna@laptop", owner="anna", roles=list(roles),
        coordinator=NodeId("c" * 32), addresses=["192.0.2.1:9470"],
    )  # fmt: skip


def report(*peers: dict[str, Any], **coordinator: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of a JSON document
    return {"health": "healthy", "coordinator": {"version": "1"} | coordinator, "peers": list(peers)}


def peer(node: str = "d" * 32, state: str = "up", *addresses: str) -> dict[str, Any]:
    return {
        "node": node, "name": "anna@nas", "state": state, "addresses": list(addresses), "silent_s": 90.0,
        "free": 1 << 30, "capacity": 1 << 31,
    }  # fmt: skip


def only(findings: Any) -> Finding:  # noqa: ANN401 - an iterator
    (finding,) = findings
    assert bool(finding.mend) == (finding.health is not Health.HEALTHY)
    return finding


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    """Of a node whose certificate is good until NOW + 90 days."""
    home = NodeHome(tmp_path / "home")
    home.create(record(Role.CLIENT), **_files(tmp_path))
    return home


def _files(directory: Path) -> dict[str, bytes]:
    """Certificates and key of a node of a pool of its own."""
    authority = make_ca(directory)
    files = authority.issue(not_after=NOW + 90 * DAY_S).credentials
    return {
        "ca": authority.ca_pem,
        "certificate": files.cert_pem.read_bytes(),
        "key": files.key_pem.read_bytes(),
    }


def test_a_sound_node_is_well(home: NodeHome) -> None:
    found = [*checks.state(home), *checks.certificate(home, NOW), *checks.disk(home)]
    assert {finding.health for finding in found} == {Health.HEALTHY}


def test_a_place_without_a_node_says_how_to_make_one(tmp_path: Path) -> None:
    finding = only(checks.state(NodeHome(tmp_path / "nothing")))
    assert finding.health is Health.ERROR
    assert "p2pfs init" in finding.mend


def test_a_damaged_configuration_is_told(home: NodeHome) -> None:
    home.config_path.write_text("io_timeout = 'soon'\n")
    assert only(checks.state(home)).health is Health.ERROR


def test_a_key_that_others_can_read_is_an_error(home: NodeHome) -> None:
    home.key_path.chmod(0o644)
    finding = next(iter(checks.state(home)))
    assert finding.health is Health.ERROR
    assert str(home.key_path) in finding.mend


def test_root_looks_at_the_home_of_a_services_user(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything there is that user's, root's commands included."""
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        return owned_by(0 if path in left_by_root else 54321, real(path, follow_symlinks=follow_symlinks))

    left_by_root: set[Path] = set()
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert only(checks.state(home)).health is Health.HEALTHY
    (home.path / "coordinator").mkdir()
    for path in (home.config_path, home.path / "coordinator" / "recovery.json"):
        path.touch(0o600)
        left_by_root.add(path)
    *bad, _well = checks.state(home)
    assert [(finding.health, finding.mend) for finding in bad] == [
        (Health.ERROR, f"chown -h --reference={home.path} {path}") for path in sorted(left_by_root)
    ]
    left_by_root.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "belongs to user 54321" in next(checks.state(home)).found, "anybody else has one of their own"


@pytest.mark.parametrize(
    ("text", "looked_at"),
    [
        ("", ["state", "state", "disk", "certificate", "coordinator"]),
        ("io_timeout = 'soon'\n", ["state", "disk", "certificate"]),
    ],
)
def test_a_fault_of_the_state_does_not_hide_the_others(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, text: str, looked_at: list[str]
) -> None:
    def away(*_given: object) -> None:
        raise Unavailable("nobody answers")

    monkeypatch.setattr(connect, "fetch", away)
    monkeypatch.setattr(doctor, "_machine", lambda: [])
    monkeypatch.setattr(doctor, "look_around", away)
    home.config_path.write_text(text)
    if not text:
        home.key_path.chmod(0o644)
    found = doctor.findings(home)
    assert [finding.check for finding in found] == looked_at
    assert found[0].health is Health.ERROR


@pytest.mark.parametrize(
    ("at_s", "health"),
    [
        (NOW, Health.HEALTHY),
        (NOW + 80 * DAY_S, Health.WARNING),
        (NOW + 91 * DAY_S, Health.ERROR),
        (0.0, Health.ERROR),
    ],
)
def test_a_certificate_is_judged_by_its_time(home: NodeHome, at_s: float, health: Health) -> None:
    assert only(checks.certificate(home, at_s)).health is health


def test_a_certificate_that_does_not_belong_here_is_an_error(home: NodeHome, tmp_path: Path) -> None:
    stranger = _files(tmp_path)
    whole = home.certificate_path.read_bytes()
    home.certificate_path.write_bytes(stranger["certificate"])
    assert only(checks.certificate(home, NOW)).health is Health.ERROR
    home.certificate_path.write_bytes(b"nonsense")
    assert only(checks.certificate(home, NOW)).health is Health.ERROR
    home.certificate_path.write_bytes(whole)
    home.key_path.write_bytes(stranger["key"])
    assert "not the key" in only(checks.certificate(home, NOW)).found


@pytest.mark.parametrize(
    ("free", "flags", "health"),
    [
        (10 << 30, 0, Health.HEALTHY),
        (500 << 20, 0, Health.WARNING),
        (50 << 20, 0, Health.ERROR),
        (10 << 30, os.ST_RDONLY, Health.ERROR),
    ],
)
def test_a_disk_is_judged_by_its_room(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, free: int, flags: int, health: Health
) -> None:
    told = types.SimpleNamespace(f_bavail=free >> 12, f_frsize=4096, f_flag=flags, f_files=0, f_favail=0)
    monkeypatch.setattr(checks.os, "statvfs", lambda _path: told)
    assert only(checks.disk(home)).health is health


@pytest.mark.parametrize(
    ("ahead_s", "health"),
    [(3, Health.HEALTHY), (-3, Health.HEALTHY), (45, Health.WARNING), (-45, Health.WARNING), (7200, Health.ERROR)],
)
def test_a_clock_is_judged_by_the_coordinators(ahead_s: float, health: Health) -> None:
    finding = only(checks.clock(report(clock_s=NOW), NOW + ahead_s))
    assert finding.health is health
    if health is not Health.HEALTHY:
        assert ("ahead of" if ahead_s > 0 else "behind") in finding.found


def test_an_earlier_coordinator_tells_no_clock() -> None:
    assert list(checks.clock(report(), NOW)) == []


@pytest.mark.parametrize(
    ("library", "extra"), [("pyfuse3", "mount"), ("psutil", "peer"), ("zeroconf", "lan"), ("starlette", "web")]
)
def test_a_library_that_is_missing_is_named_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    _python, missing = checks.versions()
    assert missing.health is Health.WARNING
    assert (library in missing.found, missing.mend) == (True, f"install p2pfs with the extra [{extra}]")
    assert library in bundle.versions()


def test_versions_that_differ_are_told() -> None:
    assert list(checks.software(report(), "1")) == []
    assert only(checks.software(report(), "2")).health is Health.WARNING


def test_the_own_peer_is_judged_by_what_the_coordinator_hears() -> None:
    mine = record(Role.PEER)
    assert list(checks.own_peer(report(), record(Role.CLIENT))) == []
    assert only(checks.own_peer(report(), mine)).health is Health.WARNING
    assert only(checks.own_peer(report(peer(state="down")), mine)).health is Health.ERROR
    assert only(checks.own_peer(report(peer()), mine)).health is Health.HEALTHY


def test_everybody_who_is_up_is_dialled_at_every_address() -> None:
    seen = report(
        peer("e" * 32, "up", "192.0.2.7:9471", "relay"),
        peer("f" * 32, "down", "192.0.2.8:9471"),
        peer("0" * 32, "up", "relay"),
    )
    doors = checks.doors(seen, record(Role.CLIENT))
    assert [(door.role, door.address, door.is_relayed) for door in doors] == [
        (Role.COORDINATOR, "192.0.2.1:9470", False),
        (Role.PEER, "192.0.2.7:9471", True),
    ]


def test_a_closed_port_is_told_by_its_number() -> None:
    def refused() -> None:
        raise Unavailable("connection refused")

    assert only(checks.reachable("peer a", "192.0.2.7:9471", lambda: None)).health is Health.HEALTHY
    finding = only(checks.reachable("peer a", "192.0.2.7:9471", refused))
    assert finding.health is Health.ERROR
    assert "9471" in finding.mend
    assert only(checks.reachable("peer a", "192.0.2.7:9471", refused, is_relayed=True)).health is Health.WARNING


def test_a_machine_without_fuse_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(checks.fuse()).health is Health.HEALTHY
    monkeypatch.setattr(checks.shutil, "which", lambda _name: None)
    assert "fuse3" in only(checks.fuse()).mend
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    assert only(checks.fuse()).health is Health.ERROR
    monkeypatch.setattr(checks.os.path, "exists", lambda _path: False)
    assert "modprobe" in only(checks.fuse()).mend


def test_few_open_files_are_a_warning() -> None:
    assert only(checks.open_files(256)).health is Health.WARNING
    assert only(checks.open_files(1 << 20)).health is Health.HEALTHY


def test_a_silent_coordinator_is_mended_where_it_is() -> None:
    assert "p2pfs coordinator start" in checks.silent(record(Role.COORDINATOR), "no answer", "").mend
    assert "192.0.2.1:9470" in checks.silent(record(Role.CLIENT), "no answer", "").mend
    moved = checks.silent(record(Role.CLIENT), "no answer", "192.0.2.9:9470")
    assert "192.0.2.9:9470" in moved.found
    assert moved.mend.startswith("p2pfs coordinator find")


def test_a_peer_that_nobody_can_dial_is_told_though_it_works() -> None:
    well, told = checks.own_peer(report(peer("d" * 32, "up", "10.0.0.2:9471", "relay")), record(Role.PEER))
    assert (well.health, told.health) == (Health.HEALTHY, Health.WARNING)
    assert "10.0.0.2:9471" in told.found
    assert "router" in told.mend


@pytest.mark.parametrize(("is_wrong", "health"), [(True, Health.WARNING), (False, Health.HEALTHY)])
def test_the_coordinators_own_clock_must_be_set_by_somebody(is_wrong: bool, health: Health) -> None:
    assert only(checks.set_clock(is_wrong)).health is health
    assert list(checks.set_clock(None)) == []
    assert machine_clock_error() in (True, False, None)


def test_a_mount_that_died_is_told_with_how_to_clear_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = MountRecord(2**22 + 1, "/home", "/socket", "/mnt/photos", "photos")
    monkeypatch.setattr(checks, "known", lambda: [gone])
    monkeypatch.setattr(checks, "mounted_type", lambda path: "fuse.p2pfs" if str(path) == "/mnt/photos" else None)
    assert "p2pfs umount --if-dead /mnt/photos" in only(checks.mounts()).mend
    monkeypatch.setattr(checks, "mounted_type", lambda _path: None)
    assert only(checks.mounts()).health is Health.HEALTHY


def test_a_peer_that_left_in_peace_is_no_fault() -> None:
    for state, word in (("left", "has left"), ("draining", "is leaving")):
        finding = only(checks.own_peer(report(peer(state=state)), record(Role.PEER)))
        assert (finding.health, word in finding.found) == (Health.HEALTHY, True)
        assert "p2pfs peer undrain" in finding.found


def test_what_the_coordinator_says_of_the_pool_is_not_always_well() -> None:
    assert checks.coordinator("healthy").health is Health.HEALTHY
    finding = checks.coordinator("error")
    assert (finding.health, "p2pfs status" in finding.mend) == (Health.ERROR, True)
