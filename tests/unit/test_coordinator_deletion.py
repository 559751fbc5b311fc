"""A deleted volume can be brought back until its delay is over; then its keys go first, and then the rest (P6)."""

from pathlib import Path

import msgspec
import pytest
from broken_rows import broken_invariants
from careful import VOLUME, Careful, careful
from coordination import Pool, pool, volume_message

from p2pfs.coordinator.upkeep.deleted_volumes import STEP, DeletedVolumes
from p2pfs.errors import Busy, Denied, Exists, Fenced, Invalid, NotFound
from p2pfs.format.keys import guard_hash
from p2pfs.meta import deleted_volumes, key_slots, reaper
from p2pfs.net.identity import Identity
from p2pfs.runtime.worker import Progress
from p2pfs.types import ROOT_INODE, Kind, Role, SessionId, VolumeId
from p2pfs.wire.bookings import Book
from p2pfs.wire.namespace import Make
from p2pfs.wire.routes import COORDINATOR_ROUTES
from p2pfs.wire.volumes import ChangeSlots, DeleteVolume, KeySlot, OpenSession, UndeleteVolume, VolumeSettings

pytestmark = pytest.mark.l2

GUARD = b"g" * 32
KEPT_S = 7 * 86400.0
ROUTES = {route.name: route for route in COORDINATOR_ROUTES}


async def made(p: Pool, name: str = "photos", volume: VolumeId = VOLUME) -> Identity:
    """A volume of bob's, and his client."""
    known = [node for node in p.services.roster.nodes.values() if node.name == "bob@laptop"]
    node = known[0].id if known else (await p.join("bob@laptop", Role.CLIENT)).node
    bob = p.identity(node, [Role.CLIENT])
    message = msgspec.structs.replace(volume_message(volume, name), slot_guard=guard_hash(GUARD))
    await p.services.volumes.create(bob, message)
    return bob


async def delete(p: Pool, who: Identity, guard: bytes = GUARD) -> None:
    await p.services.deletion.delete(who, VOLUME, DeleteVolume(guard))


def names(p: Pool, who: Identity) -> list[str]:
    return [volume.name for volume in p.services.volumes.visible(who)]


async def work(p: Pool) -> None:
    worker = next(one for one in p.services.workers if isinstance(one, DeletedVolumes))
    while await worker.work() is Progress.BUSY:
        pass


def rows_of(p: Pool, volume: VolumeId) -> dict[str, int]:
    """How many rows of a volume every table has."""

    def count(connection: object) -> dict[str, int]:
        found = {}
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]  # type: ignore[attr-defined]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]  # type: ignore[attr-defined]
            key = "id" if table == "volume" else "volume"
            if key in columns:
                (number,) = connection.execute(f"SELECT count(*) FROM {table} WHERE {key} = ?", (volume,)).fetchone()  # type: ignore[attr-defined]
                found[table] = number
        return {table: number for table, number in found.items() if number}

    return p.database.read(count)


async def test_what_is_deleted_is_gone_for_everybody_and_comes_back_as_it_was(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        before = p.services.volumes.visible(bob)
        p.services.volumes.require_member(bob, VOLUME)  # so that it is remembered whose it is
        await delete(p, bob)
        assert names(p, bob) == names(p, p.identity()) == []
        for name in ("open_session", "questions", "volume_slots"):
            with pytest.raises(NotFound):
                p.services.authorise(ROUTES[name], bob, {"volume": f"{VOLUME:016x}"})
        with pytest.raises(NotFound):
            await delete(p, bob)
        assert [(one.name, one.owner) for one in p.services.deletion.deleted(bob)] == [("photos", "bob")]
        await p.services.deletion.undelete(bob, VOLUME, UndeleteVolume())
        assert p.services.volumes.visible(bob) == before
        p.services.volumes.require_member(bob, VOLUME)
        assert p.services.deletion.deleted(bob) == []
        with pytest.raises(NotFound):
            await p.services.deletion.undelete(bob, VOLUME, UndeleteVolume())


async def test_what_is_deleted_is_not_changed(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        await delete(p, bob)
        for settings in (VolumeSettings(name="other", guard=GUARD), VolumeSettings(quota_bytes=1, guard=GUARD)):
            for is_admin in (False, True):
                with pytest.raises(NotFound):
                    await p.services.volumes.configure(VOLUME, settings, is_admin=is_admin)
        await made(p, "other", VolumeId(8))
        await p.services.deletion.undelete(bob, VOLUME, UndeleteVolume())
        assert names(p, bob) == ["other", "photos"]


async def test_only_who_has_the_key_or_an_admin_deletes(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        for guard in (b"", b"x" * 32):
            with pytest.raises(Denied):
                await delete(p, bob, guard)
        carol = p.identity((await p.join("carol@laptop", Role.CLIENT)).node, [Role.CLIENT])
        for name in ("delete_volume", "undelete_volume", "configure_volume"):
            with pytest.raises(NotFound):
                p.services.authorise(ROUTES[name], carol, {"volume": f"{VOLUME:016x}"})
            p.services.authorise(ROUTES[name], bob, {"volume": f"{VOLUME:016x}"})
            p.services.authorise(ROUTES[name], p.identity(), {"volume": f"{VOLUME:016x}"})
        assert names(p, bob) == ["photos"]
        await delete(p, p.identity(), b"")
        assert names(p, bob) == []
        assert p.services.deletion.deleted(carol) == []
        p.services.authorise(ROUTES["undelete_volume"], bob, {"volume": f"{VOLUME:016x}"})


async def test_a_mounted_volume_is_not_deleted_and_a_silent_mount_is_fenced(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        grant = await p.services.sessions.open(bob, VOLUME, OpenSession("laptop", "/mnt"))
        with pytest.raises(Busy, match="laptop:/mnt"):
            await delete(p, bob)
        p.clock.advance(3 * 60.0 + 1)  # three lifetimes unheard
        await delete(p, bob)
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(bob, SessionId(grant.session))


async def test_a_command_that_looks_at_it_does_not_stand_in_the_way(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        await p.services.sessions.open(bob, VOLUME, OpenSession("laptop", "", True))
        await delete(p, bob)
        assert names(p, bob) == []


async def test_reserved_room_is_given_back_first(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(3)
        bob = await made(p)
        booking = await p.services.bookings.book(bob, VOLUME, Book(1 << 20, 3600.0))
        with pytest.raises(Busy, match="reserve"):
            await delete(p, bob)
        await p.services.bookings.release(bob, str(booking.id))
        await delete(p, bob)


async def test_a_name_is_free_at_once_and_who_comes_back_may_need_another(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        await delete(p, bob)
        await made(p, "photos", VolumeId(8))
        with pytest.raises(Exists):
            await p.services.deletion.undelete(bob, VOLUME, UndeleteVolume())
        with pytest.raises(Invalid):
            await p.services.deletion.undelete(bob, VOLUME, UndeleteVolume("no/name"))
        back = await p.services.deletion.undelete(bob, VOLUME, UndeleteVolume("before"))
        assert (back.name, names(p, bob)) == ("before", ["before", "photos"])


async def filled(p: Pool) -> Careful:
    """A volume with chunks, a directory, and more files than one step takes."""
    c = await careful(p, 3)
    await p.services.volumes.configure(VOLUME, VolumeSettings(trash_removed_s=1e7, guard=GUARD))
    for number in range(1, 4):
        await c.store(number, [1, 2, 3])
    await c.unlink(2)
    block = await p.services.sessions.grant_ids(c.session, 2 * STEP + 4)
    ids = range(block.first_id, block.last_id, 2)
    makes = [Make(ROOT_INODE, b"d%d" % n, n, b"tag", n + 1, int(Kind.DIRECTORY), 0o755, 0, 0, 0, b"h", 1) for n in ids]
    await c.batch(*makes)
    await p.services.sessions.close(c.session)
    return c


async def test_keys_go_first_and_then_everything_that_they_opened(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="400s", purge_latest="0s", volume_trash="1000s") as p:
        c = await filled(p)
        await delete(p, p.identity())
        held = {number: set(peer.chunks) for number, peer in c.peers.items()}
        await c.pass_time(900)
        await work(p)
        assert len(p.services.deletion.deleted(p.identity())) == 1
        assert p.database.read(lambda connection: key_slots.slots(connection, VOLUME)) != []
        assert {number: set(peer.chunks) for number, peer in c.peers.items()} == held
        await c.pass_time(200)
        await work(p)
        assert p.services.deletion.deleted(p.identity()) == []
        with pytest.raises(NotFound):
            await p.services.deletion.undelete(p.identity(), VOLUME, UndeleteVolume())
        assert p.database.read(lambda connection: key_slots.slots(connection, VOLUME)) == []
        left = rows_of(p, VOLUME)
        assert "inode" not in left
        assert left["chunk"] == 3
        while p.database.write_now(lambda connection: reaper.reap(connection, now_s=p.clock.time())):
            pass
        await c.pass_time(1000)
        await c.purge.work()
        await c.settle()
        assert all(not peer.chunks for peer in c.peers.values())
        await work(p)
        assert set(rows_of(p, VOLUME)) <= {"void_copy", "reservation"}  # which have an end of their own
        assert p.database.read(broken_invariants) == []


async def test_nothing_goes_while_the_clock_is_in_doubt(tmp_path: Path) -> None:
    """Nobody who could tell the time was heard."""
    async with pool(tmp_path) as p:
        bob = await made(p)
        await delete(p, bob)
        p.clock.advance(100 * 365 * 86400.0)
        await work(p)
        assert names(p, bob) == []
        assert [one.name for one in p.services.deletion.deleted(bob)] == ["photos"]
        await p.services.pool_clock.confirm()  # an admin: then it has its whole time from now on
        await work(p)
        assert [one.purge_s - p.clock.time() for one in p.services.deletion.deleted(bob)] == [KEPT_S]
        await p.services.deletion.undelete(bob, VOLUME, UndeleteVolume())


async def test_a_volume_is_renamed_by_its_key_or_by_an_admin(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        await made(p, "music", VolumeId(8))
        volumes = p.services.volumes
        with pytest.raises(Denied):
            await volumes.configure(VOLUME, VolumeSettings(name="pictures"))
        with pytest.raises(Exists):
            await volumes.configure(VOLUME, VolumeSettings(name="music", guard=GUARD))
        with pytest.raises(Invalid):
            await volumes.configure(VOLUME, VolumeSettings(name="../pictures", guard=GUARD))
        assert (await volumes.configure(VOLUME, VolumeSettings(name="pictures", guard=GUARD))).name == "pictures"
        assert (await volumes.configure(VOLUME, VolumeSettings(name="images"), is_admin=True)).name == "images"
        assert names(p, bob) == ["images", "music"]
        with pytest.raises(Denied):  # all else takes the key, of an admin too
            await volumes.configure(VOLUME, VolumeSettings(name="x", trash_removed_s=0.0), is_admin=True)


OWNED = [route for route in COORDINATOR_ROUTES if route.owned and route.name != "undelete_volume"]


@pytest.mark.parametrize("is_admin", [False, True])
async def test_a_deleted_volume_is_there_to_be_undeleted_and_for_nothing_else(tmp_path: Path, is_admin: bool) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        await delete(p, bob)
        who = p.identity() if is_admin else bob
        address = {"volume": f"{VOLUME:016x}"}
        assert {"book", "change_members", "change_slots", "configure_volume"} <= {route.name for route in OWNED}
        for route in OWNED:
            with pytest.raises(NotFound):
                p.services.authorise(route, who, address)
        p.services.authorise(ROUTES["undelete_volume"], who, address)


async def test_what_overtakes_a_deletion_is_refused_in_its_transaction(tmp_path: Path) -> None:
    """It was allowed before; after the keys are gone whoever comes first would be believed to have them."""
    async with pool(tmp_path, volume_trash="10s") as p:
        await p.peers(3)
        bob = await made(p)
        await delete(p, bob)
        for _ in range(2):
            with pytest.raises(NotFound):
                await p.services.bookings.book(bob, VOLUME, Book(1 << 20, 3600.0))
            with pytest.raises(NotFound):
                await p.services.sessions.open(bob, VOLUME, OpenSession("laptop", "/mnt"))
            with pytest.raises(NotFound):
                await p.services.volumes.change_slots(VOLUME, ChangeSlots(b"h" * 32, [KeySlot("x", b"y")]))
            with pytest.raises(NotFound):
                await p.services.volumes.configure(VOLUME, VolumeSettings(trash_removed_s=1.0, guard=b"h" * 32))
            p.clock.advance(100.0)
            await p.database.write(lambda connection: deleted_volumes.shred(connection, now_s=p.clock.time()))
        assert p.services.bookings.listed(bob) == []
        assert p.database.read(lambda connection: key_slots.slots(connection, VOLUME)) == []


async def test_no_volume_is_called_what_another_ones_id_is(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        bob = await made(p)
        with pytest.raises(Invalid, match="id"):
            await made(p, f"{VOLUME:016x}", VolumeId(8))
        with pytest.raises(Invalid, match="id"):
            await p.services.volumes.configure(VOLUME, VolumeSettings(name="0123456789ABCDEF", guard=GUARD))
        await made(p, "other", VolumeId(8))  # as an earlier version allowed
        await p.database.write(
            lambda connection: connection.execute("UPDATE volume SET name = ? WHERE id = 8", (f"{VOLUME:016x}",))
        )
        with pytest.raises(Exists):
            await delete(p, bob)
