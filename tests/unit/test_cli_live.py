"""Commands against a real coordinator process: what a person types, without a mount.

One pool for the whole file; each test brings its own node or volume.
"""

import dataclasses
import json
import signal
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from p2pfs import exitcodes
from p2pfs.cli import connect, main
from p2pfs.cli.trying import demo_plan
from p2pfs.cli.trying.demo_parts import Launched, Part
from p2pfs.cli.volumes import volume_keys
from p2pfs.cli.volumes.listing import Item, walk
from p2pfs.errors import Corrupt, Denied, Exists, Invalid, Misuse, NotFound, Unavailable
from p2pfs.format import keys
from p2pfs.format.heads import Head, seal_head
from p2pfs.format.indexing import Indexing
from p2pfs.format.invites import decode_invite, encode_invite
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import dentry_tag, seal_name
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.net import lan
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import ROOT_INODE, InodeId, Kind, PoolId, VolumeId
from p2pfs.vfs.volume_settings import vouched
from p2pfs.wire.namespace import FIRST_CHANGE, Make
from p2pfs.wire.volumes import ChangeSlots, KeySlot, OpenSession, VolumeInfo, VolumeSettings, VolumeSlots

pytestmark = pytest.mark.l5

PASSPHRASE = "correct horse battery staple"


@dataclasses.dataclass(frozen=True)
class Pool:
    """A coordinator at work; `home` is its own, with every role."""

    directory: Path
    home: NodeHome
    launched: Launched

    def p2pfs(self, *arguments: str, home: Path | None = None) -> int:
        at = arguments.index("--") if "--" in arguments else len(arguments)
        return main.run([*arguments[:at], "--home", str(home or self.home.path), *arguments[at:]])

    def invite(self, name: str, capsys: pytest.CaptureFixture[str], *options: str) -> Path:
        """A file with a fresh invite."""
        capsys.readouterr()
        assert self.p2pfs("invite", name, *options) == exitcodes.OK
        file = self.directory / f"{name}.invite"
        file.write_text(capsys.readouterr().out)
        return file

    def join(self, name: str, capsys: pytest.CaptureFixture[str], *options: str) -> Path:
        """The home of a new node."""
        home = self.directory / name
        assert self.p2pfs("join", str(self.invite(name, capsys, *options)), home=home) == exitcodes.OK
        return home


def _start(directory: Path, name: str) -> Pool:
    home = directory / name
    (port,) = demo_plan._free_ports(1)
    address = f"127.0.0.1:{port}"
    arguments = ["init", "--name", name, "--node", f"anna@{name}", "--home", str(home), "--set", f"listen={address}"]
    assert main.run(arguments) == exitcodes.OK
    arguments = ["coordinator", "start", "--home", str(home)]
    part = Part(name, home, tuple(arguments), directory / f"{name}.pid", directory / f"{name}.log")
    launched = Launched(part)
    launched.await_ready(60)
    return Pool(directory, NodeHome(home), launched)


def _stop(pool: Pool) -> None:
    process = pool.launched._process
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == exitcodes.OK


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = _start(tmp_path_factory.mktemp("pool"), "server")
    yield pool
    _stop(pool)


@pytest.fixture(autouse=True)
def _quick_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id at full cost is the business of the tests of format.keys."""
    wrap, unwrap = keys.wrap_passphrase, keys.unwrap

    def quick_wrap(master: bytes, passphrase: str) -> KeySlot:
        return wrap(master, passphrase, memory_kib=64, passes=1, lanes=1)

    def quick_unwrap(slot: KeySlot, secret: str, *, floor_kib: int = 0) -> bytes:
        return unwrap(slot, secret, floor_kib=64)

    monkeypatch.setattr(keys, "wrap_passphrase", quick_wrap)

    async def quick_unlock(slots: Sequence[KeySlot], secret: str) -> bytes:
        return keys.unwrap_any(slots, secret)  # here: a child process would not know of what is replaced

    monkeypatch.setattr(keys, "unwrap", quick_unwrap)
    monkeypatch.setattr("p2pfs.vfs.pool.unlock", quick_unlock)


# ---- membership -----------------------------------------------------------------------------------------------------


def test_a_machine_joins_by_an_invite_that_works_once(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    home = pool.join("anna@laptop", capsys, "--roles", "client", "--zone", "home")
    record = NodeHome(home).record()
    assert (record.name, record.owner, record.zone, record.roles) == ("anna@laptop", "anna", "home", ["client"])
    assert pool.p2pfs("volume", "list", home=home) == exitcodes.OK
    again = pool.directory / "again"
    assert pool.p2pfs("join", str(pool.directory / "anna@laptop.invite"), home=again) == exitcodes.BAD_INVITE
    assert "used already" in capsys.readouterr().err
    assert not again.exists()


def test_an_invite_is_one_line_on_standard_output(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    text = pool.invite("anna@phone", capsys).read_text()
    assert text.count("\n") == 1
    assert decode_invite(text).pool == pool.home.record().pool
    assert pool.p2pfs("invite", "anna@tablet", "--json", "--lifetime", "1h", "--capacity", "5G") == exitcodes.OK
    assert json.loads(capsys.readouterr().out)["lifetime_s"] == 3600


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["Anna Laptop"], exitcodes.USAGE),
        (["anna@x", "--roles", "coordinator"], exitcodes.USAGE),
        (["anna@x", "--lifetime", "soon"], exitcodes.USAGE),
        (["anna@x", "--capacity", "lots"], exitcodes.USAGE),
        (["anna@server"], exitcodes.EXISTS),
    ],
)
def test_an_invite_that_cannot_be_meant_is_refused(
    pool: Pool, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pool.p2pfs("invite", *arguments) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_only_an_admin_invites_and_revokes(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    home = pool.join("bob@laptop", capsys)
    assert pool.p2pfs("invite", "bob@other", home=home) == exitcodes.DENIED
    assert pool.p2pfs("revoke", "anna@server", "--yes", home=home) == exitcodes.DENIED


def test_a_revoked_node_is_out_at_once(
    pool: Pool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = pool.join("eve@laptop", capsys)
    monkeypatch.setattr("click.confirm", lambda _question: False)
    assert pool.p2pfs("revoke", "eve@laptop") == exitcodes.FAILED  # asked, and answered with no
    assert pool.p2pfs("volume", "list", home=home) == exitcodes.OK
    assert pool.p2pfs("revoke", "eve", "--yes") == exitcodes.OK
    assert pool.p2pfs("volume", "list", home=home) == exitcodes.DENIED
    assert pool.p2pfs("revoke", "eve", "--yes") == exitcodes.NOT_FOUND
    assert pool.p2pfs("revoke", NodeHome(home).record().node, "--yes") == exitcodes.OK  # by id: said to be done


def test_a_foreign_coordinator_is_recognised_before_anything_is_sent(
    pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_else(_pool: PoolId) -> list[str]:
        return []

    monkeypatch.setattr(lan, "look", nobody_else)
    other = _start(tmp_path, "elsewhere")
    try:
        home = pool.join("mallory@laptop", capsys)
        record = NodeHome(home).record()
        addresses = other.home.record().addresses
        NodeHome(home).save(msgspec.structs.replace(record, addresses=addresses))
        assert pool.p2pfs("status", home=home) == exitcodes.FOREIGN_COORDINATOR
        invite = decode_invite(pool.invite("mallory@other", capsys).read_text())
        file = tmp_path / "invite"
        file.write_text(encode_invite(dataclasses.replace(invite, addresses=tuple(addresses))))
        assert pool.p2pfs("join", str(file), home=tmp_path / "joined") == exitcodes.FOREIGN_COORDINATOR
        assert not (tmp_path / "joined").exists()
        # The invite was not given away: it still works where it belongs.
        file.write_text(encode_invite(invite))
        assert pool.p2pfs("join", str(file), home=tmp_path / "joined") == exitcodes.OK
    finally:
        _stop(other)


def test_a_second_init_changes_nothing(pool: Pool) -> None:
    before = pool.home.record_path.read_bytes()
    assert pool.p2pfs("init") == exitcodes.ALREADY_INITIALISED
    assert pool.home.record_path.read_bytes() == before


def test_a_second_coordinator_is_refused(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("log.setup", "process.harden", "process.raise_file_limit"):
        monkeypatch.setattr(f"p2pfs.cli.daemon_start.{name}", lambda *_arguments, **_options: None)
    assert pool.p2pfs("coordinator", "start") == exitcodes.BUSY


def test_a_node_does_not_serve_as_what_it_is_not(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    home = pool.join("carl@laptop", capsys, "--roles", "client")
    assert pool.p2pfs("peer", "start", home=home) == exitcodes.DENIED
    assert pool.p2pfs("coordinator", "start", home=home) == exitcodes.DENIED


def test_status_of_a_pool_without_peers_is_an_error_with_a_reason(
    pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pool.p2pfs("status", "--json") == exitcodes.HEALTH_ERROR
    report = json.loads(capsys.readouterr().out)
    assert [reason["code"] for reason in report["reasons"]] == ["NO_PEERS"]
    assert pool.p2pfs("status") == exitcodes.HEALTH_ERROR
    assert "p2pfs invite" in capsys.readouterr().out


# ---- volumes --------------------------------------------------------------------------------------------------------


def test_a_doctor_finds_the_coordinator_or_says_that_it_does_not(
    pool: Pool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(_pool: PoolId) -> list[str]:
        return []

    monkeypatch.setattr(lan, "look", nobody)
    home = NodeHome(pool.join("holly@laptop", capsys))
    capsys.readouterr()
    pool.p2pfs("doctor", "--json", home=home.path)
    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {found[check]["health"] for check in ("ports", "clock", "certificate")} == {"healthy"}
    assert found["coordinator"]["found"] == "it answers, and says of the pool: error"  # there is no peer yet
    home.save(msgspec.structs.replace(home.record(), addresses=["127.0.0.1:1"]))
    assert pool.p2pfs("doctor", home=home.path) == exitcodes.HEALTH_ERROR
    assert "127.0.0.1:1" in capsys.readouterr().out


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    return file


def _volume(pool: Pool, name: str) -> VolumeInfo:
    volumes = connect.call(pool.home, "GET", "/volumes", None, list[VolumeInfo])
    return next(volume for volume in volumes if volume.name == name)


def test_a_volume_opens_by_passphrase_and_by_its_recovery_phrase(
    pool: Pool, passphrase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pool.p2pfs("volume", "create", "photos", "--passphrase-file", str(passphrase), "--json") == exitcodes.OK
    made = json.loads(capsys.readouterr().out)
    volume = _volume(pool, "photos")
    assert made["id"] == f"{volume.volume:016x}"
    slots = connect.call(pool.home, "GET", f"/volumes/{made['id']}/slots", None, VolumeSlots).slots
    by_passphrase = keys.unwrap_any(slots, PASSPHRASE, floor_kib=64)
    assert keys.unwrap_any(slots, made["recovery_phrase"], floor_kib=64) == by_passphrase
    assert VolumeKeys.derive(by_passphrase).check == volume.check


def _opens(pool: Pool, volume: str, secret: str) -> bool:
    path = f"/volumes/{_volume(pool, volume).volume:016x}/slots"
    slots = connect.call(pool.home, "GET", path, None, VolumeSlots).slots
    try:
        keys.unwrap_any(slots, secret, floor_kib=64)
    except keys.WrongKey:
        return False
    return True


def test_a_passphrase_is_replaced_and_others_are_added_and_removed(
    pool: Pool, passphrase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pool.p2pfs("volume", "create", "keyed", "--passphrase-file", str(passphrase), "--json") == exitcodes.OK
    phrase = tmp_path / "phrase"
    phrase.write_text(json.loads(capsys.readouterr().out)["recovery_phrase"])
    new, other = tmp_path / "new", tmp_path / "other"
    new.write_text("a newer one")
    other.write_text("yet another")

    def key(command: str, *arguments: str, old: Path) -> int:
        return pool.p2pfs("key", command, "keyed", *arguments, "--passphrase-file", str(old), "--json")

    assert key("passwd", "--new-passphrase-file", str(new), old=passphrase) == exitcodes.OK
    assert _opens(pool, "keyed", "a newer one")
    assert not _opens(pool, "keyed", PASSPHRASE)
    assert key("passwd", "--new-passphrase-file", str(other), old=passphrase) == exitcodes.WRONG_PASSPHRASE
    assert key("passwd", "--new-passphrase-file", str(other), old=phrase) == exitcodes.OK  # forgotten: it stays
    assert _opens(pool, "keyed", "a newer one")
    assert _opens(pool, "keyed", "yet another")
    capsys.readouterr()
    assert key("add", "--recovery", old=other) == exitcodes.OK
    assert _opens(pool, "keyed", json.loads(capsys.readouterr().out)["recovery_phrase"])
    assert pool.p2pfs("key", "list", "keyed", "--json") == exitcodes.OK
    listed = json.loads(capsys.readouterr().out)
    assert [slot["kind"] for slot in listed] == ["recovery", "passphrase", "passphrase", "recovery"]
    first = listed[1]["id"]
    assert key("remove", first, "-y", old=new) == exitcodes.WRONG_PASSPHRASE  # opens only what would go
    assert key("remove", first, "-y", old=other) == exitcodes.OK
    assert not _opens(pool, "keyed", "a newer one")


def test_only_who_has_the_key_changes_the_ways_to_it(
    pool: Pool, passphrase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pool.p2pfs("volume", "create", "guarded", "--passphrase-file", str(passphrase)) == exitcodes.OK
    path = f"/volumes/{_volume(pool, 'guarded').volume:016x}/slots"
    slots = connect.call(pool.home, "GET", path, None, VolumeSlots).slots
    master = keys.unwrap_any(slots, PASSPHRASE, floor_kib=64)
    names = [keys.slot_id(slot) for slot in slots]
    with pytest.raises(Denied):
        connect.call(pool.home, "POST", path, ChangeSlots(b"g" * 32, remove=names[:1]), VolumeSlots)
    guard = VolumeKeys.derive(master).guard
    with pytest.raises(Invalid):  # none would be left
        connect.call(pool.home, "POST", path, ChangeSlots(guard, remove=names), VolumeSlots)
    with pytest.raises(Invalid):  # more than clients try
        connect.call(pool.home, "POST", path, ChangeSlots(guard, [slots[0]] * 16), VolumeSlots)
    with pytest.raises(NotFound):
        connect.call(pool.home, "POST", path, ChangeSlots(guard, [slots[0]], ["0" * 16]), VolumeSlots)
    assert connect.call(pool.home, "GET", path, None, VolumeSlots).slots == slots
    assert guard.hex() not in repr(ChangeSlots(guard))


def test_a_volume_of_an_earlier_version_believes_who_comes_first(
    pool: Pool, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "guard_hash", lambda _guard: b"")
    assert pool.p2pfs("volume", "create", "old", "--passphrase-file", str(passphrase)) == exitcodes.OK
    path = f"/volumes/{_volume(pool, 'old').volume:016x}/slots"
    slots = connect.call(pool.home, "GET", path, None, VolumeSlots).slots
    assert connect.call(pool.home, "POST", path, ChangeSlots(b"1" * 32), VolumeSlots).slots == slots
    with pytest.raises(Denied):
        connect.call(pool.home, "POST", path, ChangeSlots(b"2" * 32), VolumeSlots)


def test_only_who_has_the_key_changes_settings(
    pool: Pool, passphrase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ["--passphrase-file", str(passphrase)]
    assert pool.p2pfs("volume", "create", "set", *key) == exitcodes.OK
    made = _volume(pool, "set")
    stolen = NodeHome(pool.join("anna@stolen", capsys, "--roles", "client"))  # a node of the owner, without the key
    path = f"/volumes/{made.volume:016x}/settings"
    on = VolumeSettings(index_names=True, index_prefixes=True, index_seal=made.index_seal, guard=b"g" * 32)
    for settings in (VolumeSettings(trash_removed_s=0.0), VolumeSettings(distribution="relay", guard=b"g" * 32), on):
        with pytest.raises(Denied):
            connect.call(stolen, "POST", path, settings, VolumeInfo)
    wrong = tmp_path / "wrong"
    wrong.write_text("not that")
    arguments = ["volume", "set", "set", "trash_removed=0"]
    assert pool.p2pfs(*arguments, "--passphrase-file", str(wrong), home=stolen.path) == exitcodes.WRONG_PASSPHRASE
    assert _volume(pool, "set") == made
    assert pool.p2pfs(*arguments, "index_names=on", *key, home=stolen.path) == exitcodes.OK  # no longer without it
    changed = _volume(pool, "set")
    assert (changed.trash_removed_s, changed.index_names, changed.index_prefixes) == (0.0, True, False)
    assert changed.index_seal > made.index_seal  # its counter comes first


def test_what_is_asked_for_at_creation_is_kept(
    pool: Pool, passphrase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recovery = tmp_path / "recovery"
    arguments = ["--passphrase-file", str(passphrase), "--set", "dedup=off", "--set", "small_file=4K"]
    arguments += ["--set", "index_names=on"]
    assert pool.p2pfs("volume", "create", "raw", *arguments, "--recovery-file", str(recovery)) == exitcodes.OK
    assert recovery.read_text().strip() not in capsys.readouterr().out
    assert stat.S_IMODE(recovery.stat().st_mode) == 0o600
    volume = _volume(pool, "raw")
    assert (volume.dedup, volume.small_file_bytes) == (False, 4096)
    slots = connect.call(pool.home, "GET", f"/volumes/{volume.volume:016x}/slots", None, VolumeSlots).slots
    sub_keys = VolumeKeys.derive(keys.unwrap_any(slots, PASSPHRASE))
    assert vouched(pool.home.path, sub_keys, volume) == Indexing(names=True, counter=1)
    assert pool.p2pfs("volume", "show", "raw", "--json") == exitcodes.OK
    assert json.loads(capsys.readouterr().out)["dedup"] is False
    # An existing recovery file is another volume's: it is never overwritten, and the volume is not made.
    assert (
        pool.p2pfs("volume", "create", "raw2", "--passphrase-file", str(passphrase), "--recovery-file", str(recovery))
        == exitcodes.USAGE
    )
    assert pool.p2pfs("volume", "show", "raw2") == exitcodes.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "code"),
    [("taken", exitcodes.EXISTS), ("", exitcodes.USAGE), ("a/b", exitcodes.USAGE), ("-x ", exitcodes.USAGE)],
)
def test_a_name_that_cannot_be_used_is_refused_before_a_passphrase_is_asked_for(
    pool: Pool, passphrase: Path, name: str, code: int
) -> None:
    pool.p2pfs("volume", "create", "taken", "--passphrase-file", str(passphrase))
    assert pool.p2pfs("volume", "create", "--passphrase-file", "/nonexistent", "--", name) == code


def test_volumes_of_others_are_not_there(pool: Pool, passphrase: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pool.p2pfs("volume", "create", "private", "--passphrase-file", str(passphrase)) == exitcodes.OK
    home = pool.join("dora@laptop", capsys)
    capsys.readouterr()
    assert pool.p2pfs("volume", "list", "--json", home=home) == exitcodes.OK
    assert json.loads(capsys.readouterr().out) == []
    arguments = ["volume", "ls", "private", "--passphrase-file", str(passphrase)]
    assert pool.p2pfs(*arguments, home=home) == exitcodes.NOT_FOUND


def _fill(pool: Pool, info: VolumeInfo, *, wrong_tag: bool = False) -> None:
    """/b (file), /a (directory), /a/⚡ (symlink), /a/z (file): sealed as a mount seals."""
    volume = VolumeId(info.volume)
    slots = connect.call(pool.home, "GET", f"/volumes/{info.volume:016x}/slots", None, VolumeSlots).slots
    sub_keys = VolumeKeys.derive(keys.unwrap_any(slots, PASSPHRASE, floor_kib=64))

    def make(number: int, parent: int, name: bytes, kind: Kind) -> Make:
        inode, above = InodeId(number), InodeId(parent)
        tag = dentry_tag(sub_keys, volume, above, b"other" if wrong_tag else name, inode, kind)
        sealed = seal_name(sub_keys, volume, above, name)
        head = seal_head(sub_keys, volume, inode, Head(FIRST_CHANGE, 0, kind))
        target = b"sealed" if kind is Kind.SYMLINK else None
        time_ns = 1_700_000_000 * 10**9
        return Make(parent, sealed, number + 1, tag, number, kind, 0o640, 1000, 100, 0, head, time_ns, target)

    async def talk(coordinator: connect.Coordinator) -> None:
        namespace = await RemoteNamespace.open(
            coordinator.client, coordinator.endpoint, volume, request=OpenSession(), io_timeout_s=10
        )
        ids = await namespace.new_ids(8)
        await namespace.apply(
            [
                make(ids[0], ROOT_INODE, b"b", Kind.FILE),
                make(ids[2], ROOT_INODE, b"a", Kind.DIRECTORY),
                make(ids[4], ids[2], b"z", Kind.FILE),
                make(ids[6], ids[2], "⚡".encode(), Kind.SYMLINK),
            ]
        )

    connect.converse(pool.home, talk)


def _listed(pool: Pool, volume: str, path: str = "/") -> list[str]:
    items: list[Item] = []
    walk(pool.home, volume, path, lambda: PASSPHRASE, items.append)
    return [item.path for item in items]


def test_a_volume_is_listed_without_a_mount(pool: Pool, passphrase: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pool.p2pfs("volume", "create", "tree", "--passphrase-file", str(passphrase)) == exitcodes.OK
    assert _listed(pool, "tree") == []
    _fill(pool, _volume(pool, "tree"))
    assert _listed(pool, "tree") == ["/a", "/a/z", "/a/⚡", "/b"]
    assert _listed(pool, "tree", "a/") == ["/a/z", "/a/⚡"]
    assert _listed(pool, "tree", "/b") == ["/b"]
    capsys.readouterr()
    arguments = ["volume", "ls", "tree", "--passphrase-file", str(passphrase)]
    assert pool.p2pfs(*arguments, "--long") == exitcodes.OK
    assert "drw-r----- " in capsys.readouterr().out
    assert pool.p2pfs(*arguments, "--json") == exitcodes.OK
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["directory", "file", "symlink", "file"]
    assert pool.p2pfs(*arguments, "/a/nothing") == exitcodes.NOT_FOUND
    assert pool.p2pfs(*arguments, "/b/below-a-file") == exitcodes.NOT_FOUND


def test_a_wrong_passphrase_lists_nothing(
    pool: Pool, passphrase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pool.p2pfs("volume", "create", "locked", "--passphrase-file", str(passphrase)) == exitcodes.OK
    (tmp_path / "wrong").write_text("guess")
    capsys.readouterr()
    arguments = ["volume", "ls", "locked", "--passphrase-file", str(tmp_path / "wrong")]
    assert pool.p2pfs(*arguments) == exitcodes.WRONG_PASSPHRASE
    said = capsys.readouterr()
    assert said.out == ""
    assert "guess" not in said.err


def test_a_name_that_leads_elsewhere_than_its_tag_says_is_not_shown(pool: Pool, passphrase: Path) -> None:
    assert pool.p2pfs("volume", "create", "forged", "--passphrase-file", str(passphrase)) == exitcodes.OK
    _fill(pool, _volume(pool, "forged"), wrong_tag=True)
    with pytest.raises(Corrupt, match="changed by somebody"):
        _listed(pool, "forged")


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (Exists("there is one"), False),
        (Unavailable("no answer came"), True),
        (Misuse("unreadable"), True),
        (KeyboardInterrupt(), True),
    ],
)
def test_a_volume_that_was_not_made_leaves_no_recovery_file_and_one_that_may_have_been_does(
    error: BaseException, stays: bool, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = connect.call

    def failing(home: NodeHome, method: str, *rest: object) -> object:
        if method == "POST":
            raise error
        return real(home, method, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(connect, "call", failing)
    recovery = tmp_path / "recovery"
    with pytest.raises(Unavailable if isinstance(error, Misuse) else type(error)):
        volume_keys.create(
            pool.home,
            "never",
            lambda: PASSPHRASE,
            settings=Settings(),
            owner=(0, 0),
            time_ns=1,
            recovery_file=recovery,
        )
    assert recovery.exists() is stays


# ---- certificates ---------------------------------------------------------------------------------------------------


def test_an_aged_certificate_is_renewed_on_the_way(
    pool: Pool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = NodeHome(pool.join("fred@laptop", capsys))
    before, key = home.certificate_path.read_bytes(), home.key_path.read_bytes()
    assert pool.p2pfs("volume", "list", home=home.path) == exitcodes.OK
    assert home.certificate_path.read_bytes() == before  # young enough
    monkeypatch.setattr("p2pfs.net.enrolment._DUE_SHARE", 0.0)
    assert pool.p2pfs("volume", "list", home=home.path) == exitcodes.OK
    assert home.certificate_path.read_bytes() != before
    assert home.key_path.read_bytes() == key
    monkeypatch.undo()
    assert pool.p2pfs("volume", "list", home=home.path) == exitcodes.OK


def test_a_damaged_certificate_is_told(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    home = NodeHome(pool.join("gina@laptop", capsys))
    home.certificate_path.write_bytes(b"nonsense")
    assert pool.p2pfs("volume", "list", home=home.path) == exitcodes.USAGE
    assert "damaged" in capsys.readouterr().err
