"""Restoring from peers that lie, lose, damage and replay: the newest state that can be proved, or none."""

import random
import sqlite3
from pathlib import Path

import pytest
from backup_pool import BackupPool, Keeper, backup_pool, value

from p2pfs import exitcodes
from p2pfs.coordinator.backup import restored_home
from p2pfs.coordinator.backup.renewed_kit import renew_kit
from p2pfs.coordinator.backup.restore import Restore
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.foundation import STARTS
from p2pfs.coordinator.init import initialise
from p2pfs.coordinator.membership import all_revoked
from p2pfs.errors import Corrupt, Denied, Fenced, NotFound, Unavailable, UserError
from p2pfs.format.kits import Kit
from p2pfs.meta import members, sessions, volumes
from p2pfs.meta import settings as rows
from p2pfs.meta.database import InlineDatabase
from p2pfs.net.addresses import bound_addresses, open_listeners
from p2pfs.net.identity import Credentials, identity_of, server_context
from p2pfs.net.server import Server
from p2pfs.runtime.home import NodeHome
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.backups import Held
from p2pfs.wire.routes import COORDINATOR_ROUTES
from p2pfs.wire.volumes import CreateVolume, KeySlot, OpenSession

pytestmark = pytest.mark.l3

STEPS = 4


async def filled(pool: BackupPool) -> list[int]:
    """Two generations, the newer one with a few states; their numbers, older first."""
    await pool.write("step", "older")
    await pool.pass_time()
    await pool.pass_time(7200)  # a new image
    for step in range(STEPS):
        await pool.write("step", str(step))
        await pool.pass_time()
    generations = sorted(pool.keepers[0].files.rows())
    assert len(generations) == 2
    assert value(await pool.find(), "step") == str(STEPS - 1)
    return generations


def damage(keeper: Keeper, generation: int, number: int, at: int = 300) -> None:
    path = keeper.part(generation, number)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 4
    path.write_bytes(data)


def parts(pool: BackupPool, generation: int) -> int:
    return len(pool.keepers[0].files.rows()[generation].sizes)


async def test_a_part_damaged_on_one_peer_is_taken_from_another(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        _, newer = await filled(pool)
        for number in range(parts(pool, newer)):
            damage(pool.keepers[number % 3], newer, number)
        assert value(await pool.find(), "step") == str(STEPS - 1)
        assert any("part" in line for line in pool.said)


async def test_a_part_damaged_everywhere_ends_the_backup_before_it(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        _, newer = await filled(pool)
        last = parts(pool, newer) - 1
        for keeper in pool.keepers:
            damage(keeper, newer, last)
        found = await pool.find()
        assert (found.generation, found.number) == (newer, last - 1)
        assert value(found, "step") == str(STEPS - 2)
        for keeper in pool.keepers:
            damage(keeper, newer, 0)
        found = await pool.find()
        assert value(found, "step") == "older"
        assert any("passed over" in line for line in pool.said)


async def test_a_replayed_part_or_generation_does_not_count(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        older, newer = await filled(pool)
        liar = pool.keepers[0]
        last = parts(pool, newer) - 1
        liar.part(newer, last).write_bytes(liar.part(newer, last - 1).read_bytes())
        liar.part(newer, 1).write_bytes(liar.part(older, 1).read_bytes())
        assert value(await pool.find(), "step") == str(STEPS - 1)
        for number in range(parts(pool, older)):  # the older one as if it were the newest
            files, data = liar.backups._files, liar.part(older, number).read_bytes()
            files.keep(newer + 1, number, data, is_state=True)
        found = await pool.find()
        assert (found.generation, value(found, "step")) == (newer, str(STEPS - 1))


async def test_the_peer_that_has_most_is_found_through_one_that_has_little(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        older, newer = await filled(pool)
        behind = pool.keepers[1]
        behind.backups._files.cut(newer, 0)
        assert value(await pool.find(behind), "step") == str(STEPS - 1)
        pool.keepers[0].stop()
        pool.keepers[2].stop()
        found = await pool.find(behind)
        assert (found.generation, value(found, "step")) == (older, "older")


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_is_changed_a_state_there_was_comes_back_or_none(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with backup_pool(tmp_path, keepers=1, backup_image="1h") as pool:
        older, newer = await filled(pool)
        for _ in range(chance.choice([1, 1, 3])):
            generation = chance.choice([older, newer])
            damage(pool.keepers[0], generation, chance.randrange(parts(pool, generation)), chance.randrange(1 << 20))
        try:
            found = await pool.find()
        except NotFound:
            return
        assert value(found, "step") in {None, "older", *map(str, range(STEPS))}


async def test_a_kit_of_another_pool_meets_nobody_and_a_new_kit_reads_nothing_old(tmp_path: Path) -> None:
    kits: list[Kit] = []
    initialise(tmp_path / "other", pool_name="other", name="eve@host", hand_over=kits.append)
    async with backup_pool(tmp_path) as pool:
        await pool.pass_time()
        with pytest.raises(Unavailable):
            await pool.find(kit=kits[0])
        stolen = Kit(**{field: getattr(pool.kit, field) for field in FIELDS} | {"secret": bytes(32)})
        with pytest.raises((Corrupt, NotFound)):
            await pool.find(kit=stolen)


async def test_a_renewed_kit_opens_what_is_made_from_then_on_and_the_old_one_no_peer(tmp_path: Path) -> None:
    kits: list[Kit] = []
    async with backup_pool(tmp_path) as pool:
        await pool.pass_time()
        renew_kit(pool.home, now_s=pool.clock.time(), hand_over=kits.append)
        with pytest.raises(NotFound):
            await pool.find(kit=kits[0])
        assert any("not sealed to this recovery kit" in line for line in pool.said)
        old = identity_of(pool.kit.certificate).serial
        assert old in pool.database.read(members.revoked)[1]
        recovery = CoordinatorFiles(pool.home).load_recovery()
        assert recovery is not None
        assert recovery.serial == identity_of(kits[0].certificate).serial


FIELDS = ("pool", "coordinator", "ca_key", "verify_key", "certificate", "secret")


async def test_a_database_that_is_damaged_inside_is_passed_over(tmp_path: Path) -> None:
    """Signed and sealed, but not whole: as after a fault of the coordinator's memory."""
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        await pool.write("step", "older")
        await pool.pass_time()

        def corrupt(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'dentry'")

        await pool.pass_time(7200)
        await pool.database.write(corrupt)
        await pool.pass_time(7200)
        generations = sorted(pool.keepers[0].files.rows())
        found = await pool.find()
        assert found.generation < generations[-1]
        assert value(found, "step") == "older"


# ---- the home that is made of it ------------------------------------------------------------------------------------

VOLUME = VolumeId(7)


def leave_database(home: NodeHome, database: Path) -> None:
    """As an attempt from another backup leaves it when it is killed."""
    home.prepare()
    (home.path / "coordinator").mkdir()
    for suffix in ("", "-wal", "-shm"):
        (home.path / "coordinator" / f"meta.sqlite{suffix}").write_bytes(Path(f"{database}{suffix}").read_bytes())


async def test_the_restored_coordinator_is_the_same_node_in_a_new_incarnation(tmp_path: Path) -> None:
    async with backup_pool(tmp_path) as pool:
        record, services = pool.home.record(), pool.services
        identity = next(iter(services.roster.nodes))

        def begin(connection: sqlite3.Connection) -> str:
            message = CreateVolume(VOLUME, "photos", b"c", [KeySlot("p", b"wrapped")], b"h", 0o755, 0, 0, 1)
            volumes.create_volume(connection, message, owner="root", now_s=1.0)
            opened = sessions.open_session(
                connection, VOLUME, node=identity, owner="root", request=OpenSession(), now_s=1.0, lifetime_s=60.0
            )
            return opened.session

        session = await pool.database.write(begin)
        old = pool.database.read(lambda connection: members.certificates(connection, record.node))
        next_id = pool.database.read(lambda c: c.execute("SELECT next_id FROM volume").fetchone()[0])
        starts = pool.database.read(lambda connection: rows.number(connection, STARTS))
        await pool.pass_time()
        found = await pool.find()
        home = NodeHome(tmp_path / "restored")
        await pool.write("stale", "not in the backup")
        leave_database(home, CoordinatorFiles(pool.home).database)
        made = restored_home.establish(
            home, found, pool.kit, settings={"advertise": "192.0.2.9:9470"}, now_s=pool.clock.time()
        )
        assert (made.node, made.pool, made.addresses) == (record.node, record.pool, ["192.0.2.9:9470"])
        authority, secrets = CoordinatorFiles(home).load(made.pool)
        assert (authority.pem, secrets) == (
            pool.home.ca_path.read_bytes(),
            CoordinatorFiles(pool.home).load(made.pool)[1],
        )
        for path in (home.path / "coordinator").iterdir():
            assert path.stat().st_mode & 0o77 == 0, path
        assert home.key_path.read_bytes() != pool.home.key_path.read_bytes()
        database = InlineDatabase(CoordinatorFiles(home).database)
        try:
            assert database.read(rows.incarnation) == 2
            assert database.read(lambda connection: rows.read(connection, "stale", str)) is None
            assert database.read(lambda connection: rows.number(connection, STARTS)) > starts + 1000
            assert database.read(lambda connection: rows.number(connection, rows.ORPHANS_STAY)) == 1
            assert database.read(lambda c: c.execute("SELECT next_id FROM volume").fetchone()[0]) > next_id + (1 << 40)
            with pytest.raises(Fenced):
                database.read(lambda connection: sessions.session(connection, SessionId(session)))
            _, serials = database.read(members.revoked)
            assert set(serials) == {one.serial for one in old}
            # Peers that know of any number of revocations that the backup does not know of must hear of these.
            assert database.read(all_revoked).version > 1_000_000
        finally:
            database.close()
        with pytest.raises(UserError) as caught:
            restored_home.establish(home, found, pool.kit, settings={}, now_s=pool.clock.time())
        assert caught.value.exit_code == exitcodes.ALREADY_INITIALISED


async def test_a_coordinator_that_answers_is_not_replaced(tmp_path: Path) -> None:
    async with backup_pool(tmp_path) as pool:
        credentials = Credentials(pool.home.ca_path, pool.home.certificate_path, pool.home.key_path)
        context = server_context(credentials, client_certificate="optional")
        server = Server(
            COORDINATOR_ROUTES, {}, context=context, pool=pool.kit.pool, clock=pool.clock, authorise=lambda *_: None
        )
        listeners = await open_listeners("127.0.0.1:0")
        addresses = bound_addresses(listeners)
        await pool.nursery.start(server.serve, listeners)
        (tmp_path / "restore").mkdir()
        restore = Restore(pool.kit, tmp_path / "restore", clock=pool.clock, say=pool.said.append)
        with pytest.raises(Denied, match="still answers"):
            await restore.expect_no_coordinator(addresses)
        await restore.expect_no_coordinator([pool.keepers[0].address])  # a peer is none


def holds(keeper: Keeper, *held: Held) -> None:
    """Let a peer say that it has these too."""
    truly = keeper.backups._held
    keeper.backups._held = lambda: [*truly(), *held]  # type: ignore[method-assign]


async def test_a_peer_that_damages_the_newest_backup_brings_no_older_one_back(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        older, newer = await filled(pool)
        liar = pool.keepers[0]
        damage(liar, newer, 0)
        found = await pool.find(liar)  # the others are known from the older backup only
        assert (found.generation, value(found, "step")) == (newer, str(STEPS - 1))
        assert older < newer


async def test_backups_that_were_made_up_do_not_keep_a_restore_busy(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        _, newer = await filled(pool)
        holds(pool.keepers[0], *(Held(newer + 1 + at, 1 << 40, 1 << 39, 1) for at in range(500)))
        found = await pool.find()
        assert (found.generation, value(found, "step")) == (newer, str(STEPS - 1))
        assert len(pool.said) < 30
