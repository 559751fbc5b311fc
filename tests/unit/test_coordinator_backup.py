"""The coordinator's backups: what peers get and when, what is kept, what status says."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from backup_pool import BackupPool, backup_pool, value
from plugins.checklogs import Claims

from p2pfs.coordinator.authority import key_pem, to_pem
from p2pfs.coordinator.backup import worker as module
from p2pfs.coordinator.backup.state import Generation, superseded
from p2pfs.errors import Conflict, Denied, Exists, Invalid, Misuse, NotFound, Unavailable
from p2pfs.format.backups import decode_part
from p2pfs.meta.pages import Image
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.identity import Credentials, Identity, client_context
from p2pfs.net.server import Request, Response
from p2pfs.types import KIB, NODE_ROLES, Role
from p2pfs.wire import codec
from p2pfs.wire.backups import Held, Superseded, generation, generation_name

pytestmark = pytest.mark.l1

DAY = 86400.0


def held(pool: BackupPool) -> list[dict[int, int]]:
    """Of each peer: generation → parts."""
    return [{number: len(row.sizes) for number, row in keeper.files.rows().items()} for keeper in pool.keepers]


async def test_three_peers_have_what_was_committed_an_interval_later(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, keepers=4) as pool:
        await pool.worker.work()
        await pool.write("name", "first")
        await pool.pass_time()
        kept = [row for row in held(pool) if row]
        assert len(kept) == 3
        assert kept[0] == kept[1] == kept[2]
        assert value(await pool.find(), "name") == "first"
        await pool.write("name", "second")
        await pool.pass_time()
        found = await pool.find(pool.keepers[0])
        assert value(found, "name") == "second"
        assert found.state_s == pool.clock.time()


async def test_without_changes_nothing_is_sent_and_the_backup_stays_young(tmp_path: Path) -> None:
    async with backup_pool(tmp_path) as pool:
        for _ in range(3):  # its own notes on the first image are changes too
            await pool.pass_time()
        before = held(pool)
        for _ in range(5):
            pool.clock.advance(10)
            await pool.worker.work()
        assert held(pool) == before
        report = pool.services.backups.report()
        assert report is not None
        assert (report.age_s, report.holders, report.wanted) == (0.0, 3, 3)
        assert pool.services.backups.covered_s() == pool.clock.time()


async def test_a_large_image_comes_in_pieces_while_the_older_backup_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECES", 1)
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        await pool.fill(1500)  # five MiB
        for _ in range(8):
            await pool.pass_time()
        (first,) = held(pool)[0]
        await pool.pass_time(3700)
        for step in range(3):
            await pool.write("step", str(step))
            await pool.pass_time()
            first_row, second_row = pool.keepers[0].files.rows().values()
            assert second_row.last_state == -1  # not whole yet
            assert value(await pool.find(), "step") == str(step)
            assert (await pool.find()).generation == first
        for _ in range(6):
            await pool.pass_time()
        assert pool.keepers[0].files.rows()[first] is not None
        found = await pool.find()
        assert found.generation > first
        assert value(found, "step") == "2"
        await pool.write("step", "last")
        await pool.pass_time()
        assert value(await pool.find(), "step") == "last"
        # The older one is not followed any more.
        assert first_row.last_state < pool.keepers[0].files.rows()[found.generation].last_state + len(first_row.sizes)


async def test_a_peer_that_is_gone_is_replaced_by_one_that_gets_everything(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, keepers=4) as pool:
        await pool.pass_time()
        await pool.write("name", "here")
        await pool.pass_time()
        spare = next(keeper for keeper in pool.keepers if not keeper.files.rows())
        gone = next(keeper for keeper in pool.keepers if keeper is not spare)
        gone.stop()
        await trio.testing.wait_all_tasks_blocked()
        await pool.write("name", "there")
        await pool.pass_time()
        await pool.pass_time()
        assert value(await pool.find(spare), "name") == "there"


async def test_a_full_peer_is_passed_over(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, keepers=2) as pool:
        full = await pool.add_keeper("full@host", offered=4 * KIB)
        spare = await pool.add_keeper("spare@host")
        for _ in range(3):
            await pool.pass_time()
        assert not full.files.rows()
        assert spare.files.rows()
        report = pool.services.backups.report()
        assert report is not None
        assert (report.holders, report.wanted) == (3, 3)


async def test_status_warns_of_few_holders_and_of_age(tmp_path: Path) -> None:
    async def codes(pool: BackupPool) -> set[str]:
        record = pool.home.record()
        report = await pool.services.status.report(Identity(record.pool, record.node, NODE_ROLES, "1", 1e12))
        return {reason.code for reason in report.reasons if "BACKUP" in reason.code}

    async with backup_pool(tmp_path) as pool:
        assert await codes(pool) == set()  # it has only begun
        pool.clock.advance(61)
        await pool.beat()
        assert await codes(pool) == {"NO_BACKUP"}
        await pool.pass_time()
        assert await codes(pool) == set()
        pool.keepers[0].stop()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(15):
            await pool.pass_time()
        assert await codes(pool) == {"BACKUP_FEW_HOLDERS"}
        pool.clock.advance(61)
        await pool.beat()
        assert await codes(pool) == {"BACKUP_OLD"}


async def test_a_broken_log_begins_anew_with_an_image(tmp_path: Path) -> None:
    async with backup_pool(tmp_path) as pool:
        await pool.pass_time()
        first = (await pool.find()).generation
        pool.database.pages._is_following = False  # as when too much was changed
        await pool.write("name", "later")
        await pool.pass_time()
        found = await pool.find()
        assert found.generation > first
        assert value(found, "name") == "later"


async def test_while_nobody_takes_backups_what_waits_for_them_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_LOG", 100 * KIB)
    async with backup_pool(tmp_path) as pool:
        await pool.pass_time()
        for keeper in pool.keepers:
            keeper.stop()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            await pool.fill(50)  # 150 KB
            await pool.pass_time()
        assert pool.worker._files.bytes < 1000 * KIB
        assert not pool.worker._chains
        keeper = await pool.add_keeper("late@host")
        await pool.write("name", "late")
        await pool.pass_time()
        assert value(await pool.find(keeper), "name") == "late"


async def test_an_image_ends_even_when_its_peers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then nothing is checkpointed."""
    monkeypatch.setattr(module, "_PIECES", 1)
    async with backup_pool(tmp_path) as pool:
        await pool.fill(1500)
        await pool.pass_time()
        assert pool.database.pages._is_held
        for keeper in pool.keepers:
            keeper.stop()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(8):
            await pool.pass_time()
        assert not pool.database.pages._is_held


async def test_purging_waits_for_the_backup_of_each_holder(tmp_path: Path) -> None:
    async with backup_pool(tmp_path) as pool:
        covered_s = pool.services.backups.covered_s
        assert covered_s() == 0.0
        await pool.pass_time()
        first = pool.clock.time()
        assert covered_s() == first
        pool.keepers[0].stop()
        await trio.testing.wait_all_tasks_blocked()
        await pool.write("name", "x")
        await pool.pass_time()
        await pool.write("name", "y")
        await pool.pass_time()
        assert covered_s() == first  # it may come back with what it has
        for _ in range(14):
            await pool.pass_time()
        assert covered_s() > first + 60
    async with backup_pool(tmp_path / "alone", keepers=0) as pool:
        await pool.pass_time()
        assert pool.services.backups.covered_s() == float("inf")  # no other machine has anything


async def test_a_long_reader_only_delays_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with backup_pool(tmp_path) as pool:
        begin = pool.database.begin_image

        async def never() -> Image | None:
            await begin()
            pool.database.pages.end_image()
            return None

        monkeypatch.setattr(pool.database, "begin_image", never)
        await pool.pass_time()
        assert not any(held(pool))
        monkeypatch.undo()
        await pool.pass_time()
        assert all(held(pool))


# ---- shrinking and letting go ---------------------------------------------------------------------------------------


async def test_a_backup_that_shrank_is_told_and_the_one_before_kept_apart(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("suddenly shrank", count=1)
    async with backup_pool(tmp_path, backup_image="1d") as pool:
        await pool.fill(300)
        await pool.pass_time()
        large = (await pool.find()).generation
        await pool.fill(300, size=1)
        for _ in range(20):
            await pool.pass_time(DAY)
        report = pool.services.backups.report()
        assert report is not None
        assert report.shrank
        assert all(large in row for row in held(pool))
        await pool.services.backups.confirm("backup")
        for _ in range(3):
            await pool.pass_time(DAY)
        assert not any(large in row for row in held(pool))
        with pytest.raises(Invalid):
            await pool.services.backups.confirm("everything")


def test_of_older_backups_one_image_a_day_stays_for_a_fortnight() -> None:
    now_s = 1_800_000_000.0
    begun = [now_s - hours * 3600 for hours in range(0, 24 * 20, 6)]
    known = [Generation(generation(1, one), 3, 1000) for one in begun]
    kept = [Held(one.number, 10, 9, 5000) for one in known]
    cut = dict(superseded(kept, known, making=[], now_s=now_s, keep_s=14 * DAY))
    left = {one.number: cut.get(one.number, 10) for one in known if cut.get(one.number, 10)}
    assert [left[one.number] for one in known[:2]] == [10, 10]
    assert set(left.values()) == {10, 3}
    assert 14 <= len(left) <= 17
    assert min(left) >= generation(1, now_s - 14 * DAY)
    pinned = [Generation(one.number, 3, 1000, is_pinned=True) for one in known[-2:]]
    cut = dict(superseded(kept, [*known[:-2], *pinned], making=[], now_s=now_s, keep_s=14 * DAY))
    assert not cut.keys() & {one.number for one in pinned}


def test_what_was_never_finished_goes_and_what_is_made_stays() -> None:
    first, broken, making = (generation(1, 1_800_000_000 + number) for number in range(3))
    kept = [Held(first, 5, 4, 1), Held(broken, 5, -1, 1), Held(making, 5, -1, 1)]
    assert superseded(kept, [], making=[making], now_s=1_800_000_100, keep_s=DAY) == [(broken, 0)]


# ---- the peer's side ------------------------------------------------------------------------------------------------


async def test_a_peer_keeps_the_newest_two_whatever_it_is_told(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        for _ in range(3):
            await pool.pass_time(3600)
        keeper = pool.keepers[0]
        numbers = sorted(keeper.files.rows())
        assert len(numbers) >= 2
        async with coordinator_of(pool) as (client, endpoint):
            message = Superseded([(number, 0) for number in numbers])
            await client.call(endpoint, "POST", "/backups/superseded", message, list[Held])
        assert sorted(keeper.files.rows()) == numbers[-2:]


async def test_two_backups_made_at_once_do_not_supersede_what_is_a_day_old(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        await pool.pass_time(3600)
        keeper = pool.keepers[0]
        (settled,) = keeper.files.rows()
        begun_s = pool.clock.time() - 90_000
        os.utime(keeper.part(settled, 0), (begun_s, begun_s))
        garbage, kept = keeper.part(settled, 0).read_bytes(), keeper.backups._files
        for number in (settled + 1, settled + 2):
            kept.keep(number, 0, garbage, is_state=True)
            os.utime(keeper.part(number, 0), (pool.clock.time(), pool.clock.time()))
        async with coordinator_of(pool) as (client, endpoint):
            message = Superseded([(settled, 0), (settled + 1, 0), (settled + 2, 0)])
            await client.call(endpoint, "POST", "/backups/superseded", message, list[Held])
            assert sorted(keeper.files.rows()) == [settled, settled + 1, settled + 2]
            for number in (settled + 1, settled + 2):  # once there is a later one that old, it need not stay
                os.utime(keeper.part(number, 0), (begun_s, begun_s))
            await client.call(endpoint, "POST", "/backups/superseded", message, list[Held])
        assert sorted(keeper.files.rows()) == [settled + 1, settled + 2]


async def test_a_peer_neither_replaces_nor_takes_what_is_not_in_its_place(tmp_path: Path) -> None:
    async with backup_pool(tmp_path) as pool:
        await pool.pass_time()
        keeper = pool.keepers[0]
        ((number, row),) = keeper.files.rows().items()
        path, data = f"/backups/{generation_name(number)}", keeper.part(number, 0).read_bytes()
        async with coordinator_of(pool) as (client, endpoint):

            async def put(where: str, body: bytes) -> None:
                await client.request(endpoint, "PUT", where, parts=(body,), timeout_s=5)

            part = decode_part(data)
            await put(f"{path}/0", data)  # again is fine
            with pytest.raises(Exists):
                await put(f"{path}/0", codec.encode(msgspec.structs.replace(part, state_s=0.0)))
            far = msgspec.structs.replace(part, number=len(row.sizes) + 1)
            with pytest.raises(Conflict):
                await put(f"{path}/{far.number}", codec.encode(far))
            with pytest.raises(Misuse, match="elsewhere"):
                await put(f"{path}/7", data)
            with pytest.raises(Misuse, match="elsewhere"):
                await put(f"{path}/0", codec.encode(msgspec.structs.replace(part, pool="ee" * 16)))
            for wrong in ("/backups/zz/0", f"{path}/00", f"{path}/x", f"{path.upper()}/0"):
                with pytest.raises((Misuse, NotFound)):
                    await put(wrong, data)
            with pytest.raises(NotFound):
                await client.request(endpoint, "GET", f"{path}/99", timeout_s=5)
        assert keeper.files.rows()[number].sizes == row.sizes


async def test_backups_have_a_share_of_what_a_peer_offers(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, keepers=1) as pool:
        keeper = await pool.add_keeper("small@host", offered=100 * KIB)
        await pool.fill(20)
        await pool.pass_time()
        assert keeper.backups.bytes <= 25 * KIB
        assert keeper.backups.bytes == keeper.files.bytes


async def test_the_kit_reads_backups_and_puts_none(tmp_path: Path) -> None:
    async with backup_pool(tmp_path) as pool:
        await pool.pass_time()
        credentials = pool.keep_credentials("kit", to_pem(pool.kit.certificate), key_pem(pool.kit.tls_key))
        endpoint = Endpoint(pool.keepers[0].node, Role.PEER, (pool.keepers[0].address,))
        async with Client(client_context(credentials), pool.kit.pool, clock=pool.clock) as client:
            (one,) = await client.call(endpoint, "GET", "/backups", None, list[Held])
            path = f"/backups/{generation_name(one.generation)}/0"
            reply = await client.request(endpoint, "GET", path, timeout_s=5)
            with pytest.raises(Denied):
                await client.request(endpoint, "PUT", path, parts=(bytes(reply.body),), timeout_s=5)
            with pytest.raises(Denied):
                await client.call(endpoint, "POST", "/backups/superseded", Superseded([]), list[Held])


@asynccontextmanager
async def coordinator_of(pool: BackupPool) -> AsyncIterator[tuple[Client, Endpoint]]:
    """Dialling the first peer as the coordinator does."""
    home, keeper = pool.home, pool.keepers[0]
    credentials = Credentials(home.ca_path, home.certificate_path, home.key_path)
    async with Client(client_context(credentials), pool.kit.pool, clock=pool.clock) as client:
        yield client, Endpoint(keeper.node, Role.PEER, (keeper.address,))


async def test_a_peer_that_claims_more_than_it_was_sent_holds_nothing_up(tmp_path: Path) -> None:
    async with backup_pool(tmp_path, backup_image="1h") as pool:
        await pool.pass_time()
        liar = pool.keepers[1]

        async def lie(_request: Request) -> Response:
            return Response.of([Held(one.number, 1 << 40, 1 << 39, 1) for one in pool.services.backups.generations])

        async def refuse(_request: Request) -> Response:
            raise Unavailable("not this one")

        liar.server._handlers = {**liar.server._handlers, "backups": lie, "put_backup": refuse}
        for step in range(30):
            await pool.write("step", str(step))
            await pool.pass_time(600)
        await pool.pass_time()  # it is passed over for a while
        assert len(pool.worker._chains) == 1
        assert len(pool.worker._files.rows()) == 1
