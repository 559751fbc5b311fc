"""What programs rely on: each command's `--json` is of its documented type, and each exit status is reached.

One demo pool for the whole file; commands run in this process, so that many of them cost little.
"""

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pools import DemoPool, demo_pool

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.health import jobs
from p2pfs.cli.schemas import LINES, OUTPUTS
from p2pfs.format import keys
from p2pfs.net import lan
from p2pfs.runtime.home import NodeHome
from p2pfs.types import MIB, PoolId
from p2pfs.wire.jobs import JobAction
from p2pfs.wire.volumes import KeySlot

pytestmark = [
    pytest.mark.l5,
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse cannot be opened"),
]

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    exitcodes.DATA_NOT_STORED: "tests/cluster/test_delegated_mounts.py",
    exitcodes.ABORTED: "tests/fuse/test_invalidation.py",
    exitcodes.FSCK_MENDED: "tests/cluster/test_fsck.py",
    exitcodes.FSCK_LEFT: "tests/cluster/test_fsck.py",
}
"""Exit statuses that take more than a command to be reached, and where a real one does."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("commands")) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays dumpable, and Argon2id at full cost is the business of the tests of format.keys."""
    for name in ("log.setup", "process.harden", "process.raise_file_limit"):
        monkeypatch.setattr(f"p2pfs.cli.daemon_start.{name}", lambda *_arguments, **_options: None)
    wrap, unwrap = keys.wrap_passphrase, keys.unwrap

    def quick_wrap(master: bytes, passphrase: str) -> KeySlot:
        return wrap(master, passphrase, memory_kib=64, passes=1, lanes=1)

    def quick_unwrap(slot: KeySlot, secret: str, *, floor_kib: int = 0) -> bytes:
        return unwrap(slot, secret, floor_kib=64)

    async def unlock(slots: Sequence[KeySlot], secret: str) -> bytes:
        return keys.unwrap_any(slots, secret)  # here: a child process would not know of what is replaced

    monkeypatch.setattr(keys, "wrap_passphrase", quick_wrap)
    monkeypatch.setattr(keys, "unwrap", quick_unwrap)
    monkeypatch.setattr("p2pfs.vfs.pool.unlock", unlock)


class Hand:
    """Types commands in the name of one home."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self._capsys, self._monkeypatch, self.home = capsys, monkeypatch, home
        self.seen: set[str] = set()

    def type(self, *words: object, home: Path | None = None, stdin: str = "") -> int:
        self._capsys.readouterr()
        self._monkeypatch.setenv("P2PFS_HOME", str(home or self.home))
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        return main.run([str(word) for word in words])

    def read(self, name: str, *words: object, home: Path | None = None, stdin: str = "", expect: int | None = 0) -> Any:  # noqa: ANN401
        """What a command prints as JSON; fails unless it is of the type documented under `name`."""
        code = self.type(*words, "--json", home=home, stdin=stdin)
        shown = self._capsys.readouterr()
        assert expect is None or code == expect, shown.err
        values = [json.loads(line) for line in shown.out.splitlines()] if name in LINES else [json.loads(shown.out)]
        for value in values:
            # What the type does not know would be missing in what comes out.
            assert msgspec.to_builtins(msgspec.convert(value, OUTPUTS[name])) == value, name
        self.seen.add(name)
        return values if name in LINES else values[0]


@pytest.fixture
def hand(pool: DemoPool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Hand:
    return Hand(capsys, monkeypatch, pool.root / "mount")


def test_every_report_is_as_documented(
    pool: DemoPool, hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _read_pool(pool, hand, tmp_path, monkeypatch)
    _read_volumes(hand, tmp_path)
    _read_files(pool, hand)
    assert hand.read("revoke", "revoke", "bert@laptop", "--yes")["revoked"]
    # The first is below; the others are in tests/unit/test_cli_stats.py and test_cli_leaving.py.
    elsewhere = {f"jobs {action}" for action in JobAction} | {"peer drain", "peer forget", "accesslog"}
    assert OUTPUTS.keys() - hand.seen == {"coordinator find"} | elsewhere


def _read_pool(pool: DemoPool, hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, coordinator = pool.root / "peer-1", pool.root / "coordinator"
    (name,) = (part["name"] for part in hand.read("status", "status")["peers"] if part["name"].endswith("peer-1"))
    hand.read("version", "version")
    hand.read("demo status", "demo", "status", "--root", pool.root)
    hand.read("doctor", "doctor", expect=None)  # another pool's mount on this machine may be dead
    hand.read("jobs", "jobs", "--all")
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "_reader_left", lambda: True)  # as `| head` does: one line is enough
        hand.read("jobs --watch", "jobs", "--watch", "--all")
    hand.read("debug bundle", "debug", "bundle", "--out", tmp_path / "bundle.tar.gz", home=coordinator)
    hand.read("peer status", "peer", "status", home=peer)
    hand.read("peer trash", "peer", "trash", home=peer)
    hand.read("peer trash empty", "peer", "trash", "empty", "--yes", home=peer)
    hand.read("share", "share", home=peer)
    hand.read("dashboard", "dashboard")
    hand.read("top", "top")
    hand.read("key fingerprint", "key", "fingerprint")
    hand.read("usefulness", "usefulness")
    hand.read("usefulness NODE", "usefulness", name)
    hand.read("plan drain", "plan", "drain", name)
    hand.read("init", "init", "--kit-file", tmp_path / "kit", home=tmp_path / "other")
    invite = hand.read("invite", "invite", "bert@laptop", "--roles", "client")
    hand.read("join", "join", home=tmp_path / "bert", stdin=invite["invite"])
    given = ("--peers", 5, "--chunks", 100, "--leave", "0.01/d", "--return", "99%", "--return-after", "1h")
    tried = ("--copies", 3, "--repair-delay", "10min", "--sample", 200, "--jobs", 1, "--quiet", "--target", 0.5)
    hand.read("simulate", "simulate", *given, *tried)
    hand.read("simulate --paper", "simulate", "--paper", "--runs", 2, "--periods", 1, "--jobs", 1, "--quiet")


def _read_volumes(hand: Hand, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("correct horse battery\n")
    new.write_text("staple horse battery\n")
    with_old = ("--passphrase-file", old)
    assert "recovery_phrase" in hand.read("volume create", "volume", "create", "photos", *with_old)
    hand.read("volume list", "volume", "list")
    hand.read("volume show", "volume", "show", "photos")
    hand.read("volume ls", "volume", "ls", "photos", *with_old)
    hand.read("volume set", "volume", "set", "photos", "trash_removed=2d", *with_old)
    hand.read("key list", "key", "list", "photos")
    hand.read("key add", "key", "add", "photos", "--recovery", *with_old)
    slots = hand.read("key add", "key", "add", "photos", "--new-passphrase-file", new, *with_old)
    hand.read("key remove", "key", "remove", "photos", slots[-1]["id"], "--yes", *with_old)
    hand.read("key passwd", "key", "passwd", "photos", "--new-passphrase-file", new, *with_old)
    with_new = ("--passphrase-file", new)
    assert hand.read("fsck", "fsck", "photos", *with_new)["findings"] == []
    hand.read("volume quota", "volume", "quota", "photos", "1G", *with_new)
    hand.read("volume rename", "volume", "rename", "photos", "pictures", *with_new)
    _share(hand, tmp_path, with_new)
    hand.read("volume delete", "volume", "delete", "pictures", "--yes", *with_new)
    assert hand.read("volume list --deleted", "volume", "list", "--deleted")
    hand.read("volume undelete", "volume", "undelete", "pictures")
    booked = hand.read("reserve", "reserve", "10M", "--for", "1h", "--volume", "demo")
    hand.read("reserve list", "reserve", "list")
    hand.read("reserve release", "reserve", "release", booked["id"])


def _share(hand: Hand, tmp_path: Path, passphrase: tuple[object, ...]) -> None:
    """The volume pictures, with another owner's node."""
    bert = tmp_path / "bert"
    theirs = hand.read("key fingerprint", "key", "fingerprint", home=bert)["fingerprint"]
    hand.read("volume share", "volume", "share", "pictures", "--to", theirs, *passphrase)
    (member,) = hand.read("volume members", "volume", "members", "pictures")
    assert (member["nodes"], member["access"]) == (["bert@laptop"], "ro")
    assert hand.read("volume accept", "volume", "accept", "demo/pictures", "--yes", home=bert)["access"] == "ro"
    assert hand.read("volume list", "volume", "list", home=bert)[0]["access"] == "ro"
    assert hand.read("volume unshare", "volume", "unshare", "pictures", "--from", theirs, *passphrase) == []


def _read_files(pool: DemoPool, hand: Hand) -> None:
    file, small = pool.mount / "letters" / "big", pool.mount / "letters" / "small"
    file.parent.mkdir()
    file.write_bytes(os.urandom(2 * MIB))
    small.write_bytes(b"hello")
    assert len(hand.read("where", "where", file)["chunks"]) == 2
    assert hand.read("where", "where", small)["inline"]
    assert hand.read("why", "why", file)["survives"]["machines"] == 1
    assert hand.read("why", "why", small)["survives"] is None
    at_risk = hand.read("plan lose", "plan", "lose", "demo@peer-1", "demo@peer-2", "demo@peer-3", expect=21)
    assert at_risk["files"][0]["paths"]
    sentence = hand.read("peer safe-to-stop", "peer", "safe-to-stop", "demo@peer-1", expect=None)["sentence"]
    assert sentence
    assert hand.read("du", "du", "-s", file.parent)[0]["files"] == 2
    hand.read("lease show", "lease", "show", file)
    hand.read("lease set", "lease", "set", file, "2d")
    hand.read("lease extend", "lease", "extend", file, "1d")
    assert hand.read("lease list", "lease", "list", pool.mount)
    hand.read("tag", "tag", file, "holiday", "--note", "by the sea")
    assert hand.read("tag", "tag", file)["tags"] == ["holiday"]
    assert hand.read("search", "search", "holiday", "--in", pool.mount)
    small.unlink()
    (gone,) = hand.read("trash list", "trash", "list", small.parent)
    hand.read("trash restore", "trash", "restore", pool.mount, gone["inode"])
    small.unlink()
    hand.read("undelete", "undelete", small)
    small.unlink()
    assert hand.type("trash", "purge", "--all", pool.mount, stdin="n\n") == exitcodes.FAILED
    hand.read("trash purge", "trash", "purge", "--all", "--yes", pool.mount)
    assert hand.read("stats", "stats", pool.mount)["rates"]
    hand.read("stats --interval", "stats", pool.mount, "--interval", "0.1s", "--count", 1)
    assert hand.read("evict", "evict", file.parent)["files"] == 1
    assert hand.read("warmup", "warmup", file)["fetched_bytes"] > 2 * MIB
    hand.read("bench", "bench", pool.mount, "--size", "1M", "--files", 2, "--quiet")


def test_a_pool_that_nobody_answers_for_is_reported_in_the_same_keys(
    pool: DemoPool, hand: Hand, tmp_path: Path
) -> None:
    report = hand.read("status", "status", home=_strayed(pool, tmp_path, "127.0.0.1:1"), expect=exitcodes.HEALTH_ERROR)
    assert report["coordinator"]["reachable"] is False


def test_a_coordinator_that_has_moved_is_found_and_remembered(
    pool: DemoPool, hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else is announced under its pool is no coordinator: here a peer, and nobody."""
    reports = hand.read("status", "status")
    (right,), peer = reports["coordinator"]["addresses"], reports["peers"][0]["addresses"][0]
    home = _strayed(pool, tmp_path, "127.0.0.1:1")
    announced = ["127.0.0.1:2", peer]

    async def look(_pool: PoolId) -> list[str]:
        return announced

    monkeypatch.setattr(lan, "look", look)
    assert hand.type("coordinator", "find", home=home) == exitcodes.UNREACHABLE
    assert NodeHome(home).record().addresses == ["127.0.0.1:1"]
    announced.append(right)
    (finding,) = (one for one in hand.read("doctor", "doctor", home=home, expect=21) if one["check"] == "coordinator")
    assert "p2pfs coordinator find" in finding["mend"]
    told = hand.read("coordinator find", "coordinator", "find", home=home)
    assert (told["found"], told["is_new"]) == (right, True)
    assert NodeHome(home).record().addresses == [right, "127.0.0.1:1"]
    hand.read("status", "status", home=home)
    assert hand.read("coordinator find", "coordinator", "find", home=home)["is_new"] is False


@pytest.mark.parametrize("words", [("revoke", "demo@peer-1"), ("peer", "forget", "demo@peer-1")])
def test_a_question_answered_with_no_changes_nothing_and_says_so(hand: Hand, words: tuple[str, ...]) -> None:
    before = [peer["state"] for peer in hand.read("status", "status")["peers"]]
    assert hand.type(*words, stdin="n\n") in (exitcodes.FAILED, exitcodes.BUSY)
    assert [peer["state"] for peer in hand.read("status", "status")["peers"]] == before


def _strayed(pool: DemoPool, tmp_path: Path, address: str) -> Path:
    """A copy of the mount's home that looks for the coordinator elsewhere."""
    home = tmp_path / "strayed"
    for file in ("node.json", "tls/ca.pem", "tls/node.pem", "tls/node.key"):
        (home / file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        home.chmod(0o700)
        (home / file).write_bytes((pool.root / "mount" / file).read_bytes())
        (home / file).chmod(0o600)
    NodeHome(home).save(msgspec.structs.replace(NodeHome(home).record(), addresses=[address]))
    return home


def test_every_exit_status_is_reached(
    pool: DemoPool, hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a command as somebody may type it; what it takes more for is tested elsewhere."""
    codes = {name: code for name, code in vars(exitcodes).items() if name.isupper()}
    commands = _commands_by_status(pool, hand, tmp_path)
    assert sorted({*commands, *ELSEWHERE}) == sorted(codes.values())
    for code, (words, home, stdin) in commands.items():
        with monkeypatch.context() as patched:
            if code == exitcodes.NO_FUSE:
                patched.setenv("PATH", str(tmp_path))
            assert hand.type(*words, home=home, stdin=stdin) == code, words
    names = {code: name for name, code in codes.items()}
    for code, path in ELSEWHERE.items():
        assert f"exitcodes.{names[code]}" in (ROOT / path).read_text(encoding="utf-8")


def _commands_by_status(pool: DemoPool, hand: Hand, tmp_path: Path) -> dict[int, tuple[tuple[object, ...], Path, str]]:
    """Status → (command, home, standard input)."""
    home, nowhere = hand.home, tmp_path / "nowhere"
    invite = hand.read("invite", "invite", "carl@phone", "--roles", "client")
    carl, damaged, wrong = tmp_path / "carl", tmp_path / "damaged", tmp_path / "wrong"
    hand.read("join", "join", home=carl, stdin=invite["invite"])
    damaged.mkdir()
    (damaged / "node.json").write_text("{")
    wrong.write_text("not the passphrase\n")
    lost = tmp_path / "lost"
    lost.mkdir()
    (pool.mount / "precious").write_bytes(os.urandom(8 * MIB))  # so that losing peers means something
    peers = {peer["name"]: peer["addresses"][0] for peer in hand.read("status", "status")["peers"]}
    return {
        exitcodes.OK: (("version",), nowhere, ""),
        exitcodes.FAILED: (("jobs",), damaged, ""),
        exitcodes.USAGE: (("mount",), home, ""),
        exitcodes.NO_HOME: (("status",), nowhere, ""),
        exitcodes.ALREADY_INITIALISED: (("init",), home, ""),
        exitcodes.BAD_INVITE: (("join",), nowhere, invite["invite"]),
        exitcodes.FOREIGN_COORDINATOR: (("jobs",), _strayed(pool, tmp_path, peers["demo@peer-1"]), ""),
        exitcodes.UNREACHABLE: (("jobs",), _strayed(pool, lost, "127.0.0.1:1"), ""),
        exitcodes.WRONG_PASSPHRASE: (("volume", "ls", "demo", "--passphrase-file", wrong), home, ""),
        exitcodes.BAD_MOUNT_POINT: (("mount", "demo", wrong, "--passphrase-file", wrong), home, ""),
        exitcodes.NO_FUSE: (("mount", "demo", lost, "--passphrase-file", wrong), home, ""),
        exitcodes.POOL_FULL: (("reserve", "100000T", "--for", "1h", "--volume", "demo"), home, ""),
        exitcodes.DENIED: (("invite", "eve@laptop"), carl, ""),
        exitcodes.NOT_FOUND: (("volume", "show", "no-such-volume"), home, ""),
        exitcodes.EXISTS: (("volume", "create", "demo", "--passphrase-file", wrong), home, ""),
        exitcodes.BAD_CONFIGURATION: (("init", "--set", "no_such_setting=1"), nowhere, ""),
        exitcodes.NOT_MOUNTED: (("where", wrong), home, ""),
        exitcodes.BUSY: (("coordinator", "start"), pool.root / "coordinator", ""),
        exitcodes.HEALTH_WARNING: (("peer", "safe-to-stop", "demo@peer-1"), home, ""),
        exitcodes.HEALTH_ERROR: (("plan", "lose", "demo@peer-1", "demo@peer-2", "demo@peer-3"), home, ""),
    }
