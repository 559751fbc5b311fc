"""A new pool is whole or not there at all."""

import stat
import tomllib
from pathlib import Path

import pytest
from coordination import new_pool

from p2pfs import exitcodes
from p2pfs.coordinator import init
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.init import POOL_NAME, initialise
from p2pfs.errors import Invalid, NoSpace, UserError
from p2pfs.meta import members, settings
from p2pfs.meta.database import InlineDatabase
from p2pfs.net.advertising import advertised
from p2pfs.net.identity import Credentials, client_context, identity_of
from p2pfs.runtime.home import NodeHome
from p2pfs.types import NODE_ROLES

pytestmark = pytest.mark.l0


def test_the_first_node_has_every_role_and_knows_itself(tmp_path: Path) -> None:
    home = initialise(
        tmp_path / "home", pool_name="club", name="anna@server", zone="home", addresses=["192.0.2.7:9470"]
    )
    record = home.record()
    assert (record.name, record.owner, record.zone) == ("anna@server", "anna", "home")
    assert set(record.roles) == set(NODE_ROLES)
    assert record.coordinator == record.node
    assert record.addresses == ["192.0.2.7:9470"]
    database = InlineDatabase(CoordinatorFiles(home).database)
    node = database.read(lambda connection: members.node(connection, record.node))
    assert (node.name, node.owner, node.roles) == ("anna@server", "anna", NODE_ROLES)
    assert database.read(lambda connection: members.peer(connection, record.peer)).node == record.node
    assert database.read(lambda connection: settings.read(connection, POOL_NAME, str)) == "club"
    database.close()


def test_its_certificate_works_and_is_written_down(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    home = new_pool(tmp_path)
    client_context(Credentials(home.ca_path, home.certificate_path, home.key_path))
    der = x509.load_pem_x509_certificate(home.certificate_path.read_bytes()).public_bytes(Encoding.DER)
    identity = identity_of(der)
    assert (identity.pool, identity.node) == (home.record().pool, home.record().node)
    database = InlineDatabase(CoordinatorFiles(home).database)
    (known,) = database.read(lambda connection: members.certificates(connection, identity.node))
    assert known.serial == identity.serial
    database.close()


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    home = new_pool(tmp_path / "home")
    files = CoordinatorFiles(home)
    for path in (files.authority_key, files.secrets, home.key_path, files.database):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in (home.path, files.directory, home.path / "tls"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_settings_are_kept_and_understood(tmp_path: Path) -> None:
    home = new_pool(tmp_path / "home", replicas="2", min_replicas="1", heartbeat="2s")
    loaded = home.settings()
    assert (loaded.replicas, loaded.min_replicas, loaded.heartbeat) == (2, 1, 2.0)


def test_a_configuration_made_beforehand_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('replicas = 4\nreserve = "2G"\n')
    home = new_pool(tmp_path, replicas="5")
    assert tomllib.loads(home.config_path.read_text()) == {"replicas": "5", "reserve": "2G", "listen": "127.0.0.1:0"}


def test_a_second_init_changes_nothing(tmp_path: Path) -> None:
    home = new_pool(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        new_pool(tmp_path)
    assert caught.value.exit_code == exitcodes.ALREADY_INITIALISED
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert home.exists()


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({"name": "anna"}, {}),
        ({"zone": "a b"}, {}),
        ({"pool_name": ""}, {}),
        ({"pool_name": "a\nb"}, {}),
        ({"addresses": ["nowhere:x"]}, {}),
        ({}, {"replicas": "none"}),
        ({}, {"no_such": "1"}),
        ({}, {"replicas": "1", "min_replicas": "2"}),
        ({}, {"listen": "nowhere"}),
    ],
    ids=str,
)
def test_a_mistake_leaves_nothing_behind(
    tmp_path: Path, arguments: dict[str, object], settings: dict[str, str]
) -> None:
    given = {"pool_name": "club", "name": "anna@server", **arguments}
    with pytest.raises(UserError) as caught:
        initialise(tmp_path / "home", settings=settings, **given)  # type: ignore[arg-type]
    assert caught.value.exit_code == exitcodes.BAD_CONFIGURATION
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("step", ["_create", "write_configuration", "_record"])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_failure_at_any_step_leaves_nothing_behind_and_another_try_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, there_before: bool
) -> None:
    path = tmp_path / "home"
    if there_before:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    real = getattr(init, step)

    def fail(*arguments: object, **more: object) -> None:
        real(*arguments, **more)
        raise NoSpace("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(init, step, fail)
        with pytest.raises(NoSpace):
            new_pool(path)
    assert [entry.name for entry in path.iterdir()] == ["mine.txt"] if there_before else not path.exists()
    assert new_pool(path).exists()


def test_what_a_killed_attempt_left_does_not_disturb_the_next(tmp_path: Path) -> None:
    home = new_pool(tmp_path)
    first = home.record()
    home.record_path.unlink()  # killed just before the last step
    second = new_pool(tmp_path).record()
    assert (second.pool, second.node) != (first.pool, first.node)
    database = InlineDatabase(CoordinatorFiles(home).database)
    assert [node.id for node in database.read(members.nodes)] == [second.node]
    database.close()


def test_a_home_that_cannot_be_made_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        new_pool(tmp_path / "file" / "home")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("damage", ["ca.key", "secrets.json"])
def test_a_coordinator_without_its_files_says_so(tmp_path: Path, damage: str) -> None:
    home = new_pool(tmp_path)
    files, pool = CoordinatorFiles(home), home.record().pool
    files.load(pool)
    (files.directory / damage).write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        files.load(pool)
    (files.directory / damage).unlink()
    with pytest.raises(UserError, match=damage):
        files.load(pool)


def test_addresses_to_dial() -> None:
    assert advertised(["192.0.2.7:1", "[2001:db8::7]:1"], "") == ["192.0.2.7:1", "[2001:db8::7]:1"]
    assert advertised(["0.0.0.0:1"], "pool.example.org:2, 192.0.2.1:3") == ["pool.example.org:2", "192.0.2.1:3"]
    (found,) = advertised([":9470"], "")
    assert found.endswith(":9470")
    assert not found.startswith(("0.0.0.0", ":"))
    with pytest.raises(Invalid):
        advertised([], "nowhere")


def test_home_is_where_it_was_made(tmp_path: Path) -> None:
    assert isinstance(new_pool(tmp_path / "a" / "b"), NodeHome)
    assert (tmp_path / "a" / "b" / "node.json").exists()


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(("home", True), ("Our pool 2.0", True), ("a" * 64, True), ("a" * 65, False), ("", False), ("-a", False)),
        *(("p2pfs init --help", False), ("a  b", False), ("a/b", False), (" a", False), ("a\n", False)),
    ],
)
def test_names_of_pools_are_words(name: str, is_one: bool) -> None:
    if is_one:
        init.check_pool_name(name)
    else:
        with pytest.raises(Invalid, match="use words of"):
            init.check_pool_name(name)
