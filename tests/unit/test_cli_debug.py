"""A bundle for whoever looks for a fault: it tells what is needed, and no secret, whatever a log may have caught."""

import ast
import base64
import json
import os
import re
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from canaries import Canary, search
from coordination import new_pool
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import p2pfs
from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.health.bundle import TAIL_BYTES, files, tail
from p2pfs.cli.health.redaction import Redactor, Secrets
from p2pfs.format.invites import Invite, encode_invite
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.types import NodeId, PoolId

pytestmark = pytest.mark.l0

INVITE = Invite(PoolId("a" * 32), ("192.0.2.1:9470",), b"\2" + b"k" * 32, NodeId("c" * 32), b"s" * 16, 1_900_000_000)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeHome:
    """As of a demo, with programs of the system that say what they are told to."""
    monkeypatch.setattr(process, "harden", lambda: None)  # a test process stays dumpable
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("journalctl", "systemctl"):
        (programs / name).write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.txt\n")
        (programs / name).chmod(0o755)
        (tmp_path / f"{name}.txt").write_text(f"this is what {name} says\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    made = new_pool(tmp_path / "demo" / "coordinator")
    (tmp_path / "demo" / "demo.json").write_text("{}")
    for name, text in (("passphrase", "correct horse battery staple"), ("recovery-phrase", "twelve small words of it")):
        (tmp_path / "demo" / name).write_text(text + "\n")
    (made.path / "log").mkdir()
    (made.path / "identity.key").write_text(f"p2pfs-identity-1 {os.urandom(32).hex()}\n")
    return made


def bundle(home: NodeHome, *options: str) -> dict[str, bytes]:
    """What is in a new bundle."""
    file = home.path.parent / f"bundle-{len(list(home.path.parent.iterdir()))}.tar.gz"
    assert main.run(["debug", "bundle", "--home", str(home.path), "--out", str(file), *options]) == exitcodes.OK
    assert file.stat().st_mode & 0o777 == 0o600
    return dict(_members(file))


def _members(file: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(file) as archive:
        for member in archive:
            opened = archive.extractfile(member)
            assert opened is not None
            assert not member.name.startswith(("/", ".."))
            yield member.name.partition("/")[2], opened.read()


def secrets_of(home: NodeHome) -> list[Canary]:
    """Everything secret that the home holds, as bytes."""
    found = []
    for path in (home.key_path, home.path / "coordinator" / "ca.key"):
        key = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        found.append(Canary(f"the number of {path.name}", key.private_numbers().private_value.to_bytes(32, "big")))
        found += [Canary(path.name, line) for line in path.read_bytes().splitlines() if not line.startswith(b"---")]
    for name, value in json.loads((home.path / "coordinator" / "secrets.json").read_bytes()).items():
        if isinstance(value, str) and len(value) >= 16:
            found += [Canary(name, value.encode()), Canary(f"{name}, decoded", _decoded(value))]
    found.append(Canary("identity.key", (home.path / "identity.key").read_bytes().split()[1]))
    found.append(Canary("identity.key, decoded", bytes.fromhex(found[-1].secret.decode())))
    for name in ("passphrase", "recovery-phrase"):
        found.append(Canary(name, (home.path.parent / name).read_bytes().strip()))
    return found


def _decoded(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return base64.b64decode(text)


def test_it_tells_what_is_needed(home: NodeHome) -> None:
    (home.path / "log" / "coordinator.log").write_text("a line of the log\n")
    found = bundle(home)
    assert {"versions.json", "node.json", "doctor.json", "status.json", "README.txt"} <= found.keys()
    assert found["log/coordinator.log"] == b"a line of the log\n"
    assert found["journal.txt"] == b"this is what journalctl says\n"
    assert found["systemd.txt"] == b"this is what systemctl says\n"
    node = json.loads(found["node.json"])
    assert node["record"]["name"] == "root@server"
    assert {certificate["file"] for certificate in node["certificates"]} == {"ca.pem", "node.pem"}
    assert "cannot be reached" in json.loads(found["status.json"])["error"]  # a source that fails says why
    for name in found.keys() - {"README.txt"}:
        assert name in found["README.txt"].decode()


def test_no_secret_of_the_home_is_in_it(home: NodeHome) -> None:
    """Also with more planted where nobody expects any."""
    for path in home.path.rglob("*"):
        if path.is_file() and path.name not in ("node.json", "config.toml") and path.suffix != ".pem":
            with path.open("ab") as file:
                file.write(b"\n#canary of a file 0123456789\n" if path.suffix != ".json" else b"\n")
    (home.path / "chunks").mkdir()
    (home.path / "chunks" / "content").write_bytes(b"canary of a file 0123456789")
    canaries = [*secrets_of(home), Canary("content", b"canary of a file 0123456789")]
    assert len(canaries) > 8
    for options in ((), ("--anonymous", "--tasks")):
        assert search(bundle(home, *options).items(), canaries) == []


@pytest.mark.parametrize("form", ["raw", "hex", "HEX", "base64+0", "base64+1", "base64url+2"])
def test_a_secret_that_got_into_a_log_leaves_that_log_out(
    home: NodeHome, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, canary in enumerate(secrets_of(home)):
        pattern = canary.forms().get(form, b"")
        if pattern.isascii() and b"\n" not in pattern:
            (home.path / "log" / f"{number}.log").write_bytes(b"why is this here: " + pattern + b"\n")
    assert any((home.path / "log").iterdir())
    found = bundle(home)
    assert not [name for name in found if name.startswith("log/")]
    assert "left out: log/" in capsys.readouterr().err


def test_what_looks_secret_and_what_is_private_is_taken_out(home: NodeHome) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nc29tZWJvZHkgZWxzZSdz\n-----END PRIVATE KEY-----"
    (home.path / "log" / "mount.log").write_text(
        f"join with {encode_invite(INVITE)} failed\n{key}\nmounted at /home/anna/letters to bert\n"
        f"opened {home.path}/cache/x at /usr/lib/python3/trio.py, GET /volumes/1/chunks/2\npassphrase=staple please\n"
    )
    (log,) = [data.decode() for name, data in bundle(home).items() if name == "log/mount.log"]
    assert log.startswith("join with [an invite was here] failed\n[a key was here]")
    assert "anna" not in log
    assert "letters" not in log
    assert "staple" not in log
    for kept in (f"{home.path}/cache/x", "/usr/lib/python3/trio.py", "/volumes/1/chunks/2"):
        assert kept in log


def test_an_anonymous_bundle_names_nobody(home: NodeHome) -> None:
    (home.path / "log" / "coordinator.log").write_text(
        "root@server at 192.0.2.77:9470 and [2001:db8::77]:9470, of root, at 12:34:56, version 1.2.3, 127.0.0.1\n"
        "root@server again\n"
        f"coordinator {home.record().node[:8]} does not answer\n"
    )
    found = bundle(home, "--anonymous")
    everything = b"\n".join(found.values())
    for name in (
        b"root@server",
        b"192.0.2.77",
        b"2001:db8::77",
        str(home.path).encode(),
        home.record().pool[:8].encode(),
        home.record().node[:8].encode(),
    ):
        assert name not in everything, name
    log = found["log/coordinator.log"].decode()
    for kept in ("12:34:56", "1.2.3", "127.0.0.1", ":9470"):
        assert kept in log
    first, second, _ = log.splitlines()
    assert first.split()[0] == second.split()[0] != "root@server"
    assert Redactor((), ["anna"]).text("anna") != Redactor((), ["anna"]).text("anna")  # no dictionary helps


_FORMAT = re.compile(r"%[+-]?\d*[sdxf]|%016x")


def _sentences() -> Iterator[str]:
    """What our logs may say of a volume, a node, a mount, with a name in each place: coordinator and mount know any."""
    package = Path(p2pfs.__file__).parent
    for path in (*(package / "coordinator").rglob("*.py"), *(package.parent / "mount").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith((".info", ".warning", ".error")):
                continue
            text, *values = (*node.args, ast.Constant(0))
            names = [ast.unparse(value) for value in values]
            if not isinstance(text, ast.Constant) or not isinstance(text.value, str):
                continue
            for value in names:
                is_node = value.endswith("node.name") or value in ("request.name", "out.name", "visitor.name")
                name = "geheim@kiste" if is_node else "geheim"
                text.value = _FORMAT.sub(name if _names_somebody(value) else "7", text.value, count=1)
            if "geheim" in text.value:
                yield text.value


def _names_somebody(value: str) -> bool:
    return value.endswith((".name", ".owner", "session.host")) and not value.startswith(("signal", "report", "worker"))


def test_names_that_nobody_can_be_asked_for_are_known_by_what_logs_say_of_them() -> None:
    """A client that left, a volume by its old name: each sentence of our logs that names one."""
    sentences = [*_sentences(), "geheim is mounted at /x", "there is a volume named geheim already"]
    assert len(sentences) > 15
    for sentence in sentences:
        shown = Redactor((), ()).text(sentence)
        assert "geheim" not in shown, sentence
        assert "kiste" not in shown, sentence
        assert Redactor().text(sentence).count("geheim") == sentence.count("geheim"), sentence


def test_an_anonymous_bundle_does_not_tell_where_something_is_mounted(home: NodeHome) -> None:
    (home.path / "log" / "mount-letters.log").write_text("geheim is mounted at /home/anna/letters\n")
    found = bundle(home, "--anonymous")
    assert b"letters" not in b"".join([*found.values(), *map(str.encode, found)])
    assert b"log/mount-name-" in found["files.txt"]
    assert "log/mount-letters.log" in bundle(home)


def test_pseudonyms_are_one_for_each_name_and_leave_the_rest_readable() -> None:
    redactor = Redactor((), ["anna", "photos"])
    shown = redactor.text("anna@oldbox made the volume photos\nanna@oldbox deleted the volume photos of anna").split()
    assert shown[0] == shown[5]
    assert shown[4] == shown[9]
    assert shown[0].partition("@")[0] == shown[11] != shown[4]
    for kept in (
        "the volume is delegated to this mount (epoch 2)",
        "GET /volumes/1 failed at p2pfs/net/client.py:273 of httpx 0.28.1, 12:34:56.123",
        "p2pfs-peer.service loaded active running",
        "worker care.copies: 10.5 MiB",
    ):
        assert redactor.text(kept) == kept
    unit = redactor.text("p2pfs-mount@letters.service loaded, at nas.example.org:9470, as " + "0a" * 16)
    for name in ("letters", "example", "0a0a"):
        assert name not in unit


def test_it_is_bounded(home: NodeHome) -> None:
    for number in range(40):
        (home.path / "log" / f"peer.log.{number}").write_bytes(b"0123456789abcde\n" * (1 << (17 if number < 2 else 3)))
    found = {name: data for name, data in bundle(home).items() if name.startswith("log/")}
    assert len(found) == 24
    assert max(map(len, found.values())) <= TAIL_BYTES
    assert all(data.startswith(b"0123456789abcde\n") for data in found.values())


def test_a_link_and_a_pipe_are_no_logs(home: NodeHome, tmp_path: Path) -> None:
    """Root may be who packs another user's home."""
    (tmp_path / "shadow").write_text("what only root may read\n")
    (home.path / "log" / "x.log").symlink_to(tmp_path / "shadow")
    os.mkfifo(home.path / "log" / "pipe.log")
    (home.path.parent / "log").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "other.log").write_text("what only root may read\n")
    found = bundle(home)
    assert not [name for name in found if name.startswith("log/")]
    assert b"only root" not in b"".join(found.values())
    with pytest.raises(OSError, match="symbolic"):  # it came after the list was made
        tail(home.path / "log" / "x.log")
    assert tail(home.path / "log" / "pipe.log") == ""


def test_a_home_with_very_many_files_is_counted_and_not_kept(tmp_path: Path) -> None:
    deep, wide = tmp_path / "chunks" / "ab" / "cd", tmp_path / "wide"
    deep.mkdir(parents=True)
    wide.mkdir()
    (deep / "up").symlink_to(tmp_path, target_is_directory=True)
    for number in range(3000):
        (deep / f"{number:064x}").touch()
        (wide / f"{number:04}").touch()
    files(tmp_path)  # imports, caches
    tracemalloc.start()
    try:
        lines = files(tmp_path).splitlines()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [line.split()[2:] for line in lines[:3]] == [["chunks"], ["chunks/ab", "3002", "below"], ["wide"]]
    assert len(lines) == 400
    assert lines[-1].endswith(" wide/0396")
    assert peak < 500_000


def test_it_overwrites_nothing_and_needs_a_node(home: NodeHome, tmp_path: Path) -> None:
    file = tmp_path / "there"
    file.write_text("precious")
    words = ["debug", "bundle", "--out", str(file)]
    assert main.run([*words, "--home", str(home.path)]) == exitcodes.EXISTS
    assert main.run([*words[:2], "--out", str(tmp_path / "no" / "x"), "--home", str(home.path)]) == exitcodes.USAGE
    assert main.run([*words, "--home", str(tmp_path / "nobody")]) == exitcodes.NO_HOME
    assert file.read_text() == "precious"


def test_a_search_for_secrets_finds_some(home: NodeHome) -> None:
    """The last look would be worth nothing if it read nothing."""
    assert "(0 " not in repr(Secrets([home.key_path]))
    assert "(0 " in repr(Secrets([home.path / "none"]))


def test_a_secret_that_looks_like_a_path_in_its_middle_is_found(home: NodeHome) -> None:
    """What is taken out of a text must not hide from the last look what is left of a secret."""
    (home.path.parent / "passphrase").write_text("correct horse+/battery+staple\n")
    (home.path / "log" / "mount.log").write_text("who wrote correct horse+/battery+staple here?\n")
    assert "log/mount.log" not in bundle(home)
