"""A node's home: written durably, whole or not at all, used by one process of a kind."""

import errno
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from root_hands import as_root

from p2pfs import exitcodes
from p2pfs.errors import NoSpace, Unavailable, UserError
from p2pfs.runtime import files
from p2pfs.runtime.config_file import write_settings
from p2pfs.runtime.home import NodeHome, NodeRecord, default_home, write_durably
from p2pfs.types import NodeId, PeerNumber, PoolId, Role

pytestmark = pytest.mark.l0

SOMEBODY = 54321

RECORD = NodeRecord(
    pool=PoolId("a" * 32),
    node=NodeId("b" * 32),
    name="anna@laptop",
    owner="anna",
    zone="home",
    roles=[Role.CLIENT, Role.PEER],
    coordinator=NodeId("c" * 32),
    addresses=["192.0.2.1:9470"],
    peer=PeerNumber(7),
)


def _create(home: NodeHome) -> None:
    home.create(RECORD, ca=b"CA", certificate=b"CERT", key=b"KEY")


def test_a_created_home_knows_its_node(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "new" / "home")
    assert not home.exists()
    _create(home)
    assert home.exists()
    assert NodeHome(home.path).record() == RECORD
    assert home.ca_path.read_bytes() == b"CA"
    assert home.certificate_path.read_bytes() == b"CERT"
    assert home.key_path.read_bytes() == b"KEY"


def test_the_key_and_the_directories_are_private(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "home")
    _create(home)
    assert stat.S_IMODE(home.key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_a_second_node_is_refused(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    _create(home)
    with pytest.raises(UserError, match="already holds a node") as raised:
        _create(home)
    assert raised.value.exit_code == exitcodes.ALREADY_INITIALISED


def test_a_crash_before_the_record_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = NodeHome(tmp_path)
    written: list[str] = []
    real = files.write_durably

    def stop_at_the_record(path: Path, data: bytes, mode: int = 0o644, *, like: Path | None = None) -> None:
        if path.name == "node.json":
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, data, mode, like=like)

    monkeypatch.setattr("p2pfs.runtime.home.write_durably", stop_at_the_record)
    with pytest.raises(KeyboardInterrupt):
        _create(home)
    assert written == ["node.key", "ca.pem", "node.pem"]
    assert not home.exists()
    monkeypatch.undo()
    _create(home)
    assert home.record() == RECORD


def test_an_empty_home_says_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="p2pfs join") as raised:
            NodeHome(path).record()
        assert raised.value.exit_code == exitcodes.NO_HOME


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text('{"pool": 3}')
    with pytest.raises(UserError, match="damaged"):
        NodeHome(tmp_path).record()


def test_a_wrong_setting_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no setting") as raised:
        NodeHome(tmp_path).settings({"x": "1"})
    assert raised.value.exit_code == exitcodes.BAD_CONFIGURATION


def test_the_default_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("P2PFS_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("P2PFS_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_home() == Path("/var/lib/p2pfs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_home() == tmp_path / "state" / "p2pfs"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_home() == Path.home() / ".local" / "state" / "p2pfs"


def _try_lock(path: Path, kind: str) -> int:
    try:
        with NodeHome(path).lock(kind):
            return exitcodes.OK
    except UserError as error:
        return error.exit_code


def test_one_process_of_a_kind_uses_a_home(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as other:
        with NodeHome(tmp_path).lock("peer"):
            assert other.apply(_try_lock, (tmp_path, "peer")) == exitcodes.BUSY
            assert other.apply(_try_lock, (tmp_path, "mount")) == exitcodes.OK
        assert other.apply(_try_lock, (tmp_path, "peer")) == exitcodes.OK
        other.close()
        other.join()


def test_a_durable_write_replaces_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old", 0o600)

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpace):
        write_durably(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(Unavailable, match="Input/output"):
        write_durably(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_durable_write_fails_in_one_way_though_nothing_can_be_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemons go on for what is told so: one raw error, of a disk that went read-only, would end them."""
    path = tmp_path / "file"
    write_durably(path, b"old", 0o600)
    for call in ("open", "unlink"):
        monkeypatch.setattr(os, call, _read_only)
    with pytest.raises(Unavailable, match=r"cannot write .*file: Read-only"):
        write_durably(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    with pytest.raises(Unavailable, match="too long"):
        write_durably(tmp_path / ("n" * 250), b"new")


def _read_only(*_: object, **__: object) -> int:
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_durable_write_syncs_before_it_renames_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        steps.append("fsync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        steps.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_durably(tmp_path / "file", b"x" * 100_000)
    assert steps == ["fsync file", "rename", "fsync directory"]


def test_what_root_writes_into_a_home_belongs_to_the_homes_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands are typed as root, daemons have a user of their own, who could not read it otherwise."""
    home = NodeHome(tmp_path / "home")
    _create(home)
    given = as_root(monkeypatch, owner=SOMEBODY)
    write_durably(tmp_path / "elsewhere", b"")
    assert given == [], "what goes anywhere else is root's own"
    write_settings(home, {"capacity": "2G"})
    home.save(RECORD)
    home.replace_certificate(b"NEW")
    with home.lock("peer"):
        pass
    names = [".config.toml.", ".node.json.", ".node.pem.", ".peer.lock"]
    assert [name.startswith(begin) for (name, *_), begin in zip(given, names, strict=True)] == [True] * 4, given
    assert {(uid, gid) for _, uid, gid in given} == {(os.getuid(), os.getgid())}


@pytest.mark.parametrize("user", ["root in a home of its own", "nobody in particular"])
def test_nothing_is_given_away_that_need_not_or_cannot_be(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = as_root(monkeypatch, owner=os.getuid() if user.startswith("root") else SOMEBODY)
    if not user.startswith("root"):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    write_durably(tmp_path / "file", b"", like=tmp_path)
    assert given == []


@pytest.mark.parametrize("way", ["symlink", "hard link"])
def test_what_a_home_only_leads_to_is_neither_given_nor_told_to_its_user(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home is a daemon's, which may be in foreign hands, and root's commands work there."""
    home, secret = NodeHome(tmp_path / "home"), tmp_path / "secret"
    home.path.mkdir()
    secret.write_text("root's own = 1\n")
    for name in (home.config_path, home.path / ".peer.lock"):
        name.symlink_to(secret) if way == "symlink" else name.hardlink_to(secret)
    given = as_root(monkeypatch, owner=SOMEBODY)
    with pytest.raises(UserError) as refused:
        write_settings(home, {"capacity": "2G"})
    assert str(home.config_path) in str(refused.value)
    if way == "symlink":
        with pytest.raises(UserError, match="cannot lock"), home.lock("peer"):
            pass
    else:
        with home.lock("peer"):
            pass
    assert given == []


def test_what_cannot_be_given_to_the_homes_user_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_durably(tmp_path / "file", b"old")

    def refused(_fd: int, _uid: int, _gid: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    as_root(monkeypatch, owner=SOMEBODY)
    monkeypatch.setattr(os, "fchown", refused)
    with pytest.raises(Unavailable, match="not permitted"):
        write_durably(tmp_path / "file", b"new", like=tmp_path)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_home_of_ones_own_is_made_private(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "home")
    (home.path / "tls").mkdir(parents=True)
    for directory in (home.path, home.path / "tls"):
        directory.chmod(0o775)
    home.prepare()
    for directory in (home.path, home.path / "tls"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("part", [".", "tls"])
def test_a_home_that_others_can_write_is_refused(part: str, tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "home")
    (home.path / "tls").mkdir(parents=True)
    (home.path / part).chmod(0o777 | stat.S_ISVTX)
    with pytest.raises(UserError, match="every user of this machine"):
        _create(home)
    assert not home.key_path.exists()


def test_a_home_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        NodeHome(tmp_path).prepare()
