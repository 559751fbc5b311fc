"""Delegations at the coordinator: who is granted one, how others get their turn, and what ends it."""

import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from coordination import FakeClock, Pool, pool, volume_message
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked

from p2pfs.coordinator.delegations import (
    ALONE_S,
    MARGIN_S,
    RETURN_S,
    TURN_S,
    Hearing,
    Verdict,
    Wish,
    decide,
)
from p2pfs.errors import Denied, Fenced, Misuse, NotFound, Overruled, Recalling
from p2pfs.meta import delegations as rows
from p2pfs.meta import sessions
from p2pfs.runtime.clocks import SimulatedClock
from p2pfs.types import ROOT_INODE, Kind, NodeId, Role, SessionId, VolumeId
from p2pfs.wire import answers, codec
from p2pfs.wire.delegations import ReturnDelegation
from p2pfs.wire.events import Events, WaitEvents
from p2pfs.wire.namespace import (
    Accessed,
    Applied,
    Attributes,
    Batch,
    Entry,
    GetAttributes,
    Lookup,
    Make,
    Operation,
    Question,
    Released,
    SetAttributes,
)
from p2pfs.wire.routes import COORDINATOR_ROUTES
from p2pfs.wire.volumes import OpenSession

pytestmark = [pytest.mark.l0, pytest.mark.usefixtures("autojump_clock")]

VOLUME = VolumeId(7)
ROUTES = {route.name: route for route in COORDINATOR_ROUTES}
LASTS_S = 30.0


class Mount:
    """A session as its mount uses it."""

    def __init__(self, p: Pool, node: str, session: str, first_id: int) -> None:
        self.p, self.node, self.session, self.next = p, node, SessionId(session), first_id
        self.seq = self.stream = self.last = self.epoch = 0

    def again(self, p: Pool) -> "Mount":
        """The same after the coordinator was started anew."""
        other = Mount(p, self.node, self.session, self.next)
        other.seq, other.epoch = self.seq, self.epoch
        return other

    def say(self) -> None:
        """Any request."""
        path = {"session": self.session}
        self.p.services.authorise(ROUTES["batch"], self.p.identity(self.node, [Role.CLIENT]), path)

    async def ask(self, epoch: int | None = None) -> int:
        self.say()
        answer = await self.p.services.delegations.ask(self.session, self.epoch if epoch is None else epoch)
        assert answer.lasts_s > 0
        return answer.epoch

    async def hold(self) -> "Mount":
        self.epoch = await self.ask()
        assert self.epoch
        return self

    async def give_back(self, timeouts_s: float = 0.0, epoch: int = 0) -> None:
        message = ReturnDelegation(epoch or self.epoch, timeouts_s)
        answer = await self.p.services.delegations.give_back(self.session, message)
        assert answer.epoch == 0

    async def apply(self, *operations: Operation, epoch: int = 0, seq: int = 0) -> Applied:
        self.say()
        self.seq += 1
        batch = Batch(seq or self.seq, 0, list(operations), epoch)
        return codec.decode(await self.p.services.sessions.apply(self.session, batch), Applied)

    def make(self, name: bytes) -> Make:
        self.next += 2
        return Make(ROOT_INODE, name, self.next - 2, b"tag", self.next - 1, Kind.FILE, 0o644, 0, 0, 0, b"head", 1)

    async def change(self, *, epoch: int = 0) -> Applied:
        return await self.apply(SetAttributes(ROOT_INODE, 9, mode=0o700), epoch=epoch)

    async def committed(self, question: Question) -> answers.Answer:
        """Looked up, for the answer to a batch under an epoch tells of no attributes."""
        (answer,) = await self.p.services.questions.answer(self.p.identity(self.node), VOLUME, [question])
        return answer

    async def has(self, name: bytes) -> bool:
        try:
            answers.unwrap(await self.committed(Lookup(ROOT_INODE, name)), Entry)
        except NotFound:
            return False
        return True

    async def changes(self) -> int:
        """How often the root was changed."""
        return answers.unwrap(await self.committed(GetAttributes(ROOT_INODE)), Attributes).attr_change

    async def events(self, wait_s: float = 0.0) -> Events:
        told = await self.p.services.sessions.events(self.session, WaitEvents(self.stream, self.last, wait_s))
        self.stream, self.last = told.stream, told.last
        return told


async def mount(p: Pool, node: str, place: str = "/mnt", *, read_only: bool = False) -> Mount:
    identity = p.identity(node, [Role.CLIENT])
    grant = await p.services.sessions.open(identity, VOLUME, OpenSession("host", place, read_only))
    return Mount(p, node, grant.session, grant.first_id)


async def nodes(p: Pool) -> tuple[str, str]:
    """Two of one owner, and a volume."""
    one, two = [(await p.join(name, Role.CLIENT)).node for name in ("anna@laptop", "anna@desk")]
    await p.services.volumes.create(p.identity(one), volume_message(VOLUME))
    return one, two


def held(p: Pool) -> tuple[int, str | None]:
    found = p.database.read(lambda connection: rows.find(connection, VOLUME))
    return found.epoch, found.holder


# ---- the decision ---------------------------------------------------------------------------------------------------

ALONE = Wish(is_renewal=False, may_hold=True)
RENEWAL = Wish(is_renewal=True, may_hold=True)


@pytest.mark.parametrize(
    ("wish", "changes", "verdict"),
    [
        (ALONE, {}, Verdict.GRANTED),
        (ALONE, {"is_on": False}, Verdict.REFUSED),
        (ALONE, {"may_hold": False}, Verdict.REFUSED),
        (ALONE, {"is_free": False}, Verdict.REFUSED),
        (ALONE, {"others_heard_s": 0.0}, Verdict.REFUSED),
        (ALONE, {"others_heard_s": ALONE_S - 0.1}, Verdict.REFUSED),
        (ALONE, {"others_heard_s": ALONE_S}, Verdict.GRANTED),
        (ALONE, {"contested_s": ALONE_S - 0.1}, Verdict.REFUSED),
        (ALONE, {"contested_s": ALONE_S}, Verdict.GRANTED),
        (RENEWAL, {}, Verdict.RENEWED),
        (RENEWAL, {"is_on": False}, Verdict.REFUSED),
        (RENEWAL, {"others_heard_s": 0.0}, Verdict.RENEWED),
        (RENEWAL, {"recalled_s": RETURN_S - 0.1}, Verdict.RENEWED),
        (RENEWAL, {"recalled_s": RETURN_S}, Verdict.REFUSED),
        (RENEWAL, {"is_ending": True}, Verdict.REFUSED),
    ],
)
def test_who_gets_it(wish: Wish, changes: dict[str, object], verdict: Verdict) -> None:
    fields = {name: getattr(wish, name) for name in Wish.__dataclass_fields__}
    assert decide(Wish(**{**fields, **changes})) is verdict  # type: ignore[arg-type]


def row(number: int, node: str = "a", place: str = "/mnt") -> sessions.Session:
    return sessions.Session(number, SessionId(f"s{number}"), VOLUME, NodeId(node), "anna", "host", place, False, 0, 0)


@pytest.mark.parametrize(
    ("newer", "heard_s", "dead"),
    [
        (row(2), {}, True),
        (row(2), {"s1": 10.0}, True),
        (row(2), {"s1": 10.1}, False),  # unmounted lazily: it is still there
        (row(2, place="/other"), {}, False),
        (row(2, node="b"), {}, False),
        (row(0), {}, False),
    ],
)
def test_whose_mount_is_dead(newer: sessions.Session, heard_s: dict[SessionId, float], dead: bool) -> None:
    hearing = Hearing(5.0, heard_s, {newer.id: 10.0})
    mounts = [row(1), newer]
    assert hearing.is_superseded(mounts[0], mounts) is dead
    assert hearing.others_heard_s(newer, mounts, 20.0) == (
        math.inf if dead else 20.0 - heard_s.get(SessionId("s1"), 5.0)
    )


# ---- granting -------------------------------------------------------------------------------------------------------


async def test_a_mount_that_is_alone_is_granted_it_and_renews_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        a = await (await mount(p, (await nodes(p))[0])).hold()
        for _ in range(5):
            p.clock.advance(20)
            assert await a.ask() == a.epoch
        before = await a.changes()
        assert await a.change(epoch=a.epoch) == Applied([])
        assert await a.changes() == before + 1
        assert (await a.change()).attributes  # its own, without an epoch, are fine too
        assert held(p) == (a.epoch, a.session)


async def test_no_command_no_reader_and_nobody_at_all_where_it_is_off_is_granted_it(tmp_path: Path) -> None:
    async with pool(tmp_path / "on") as p:
        node, _ = await nodes(p)
        assert not await (await mount(p, node, "")).ask()
        assert not await (await mount(p, node, read_only=True)).ask()
    async with pool(tmp_path / "off", delegation="0") as p:
        assert not await (await mount(p, (await nodes(p))[0])).ask()


async def test_who_is_not_alone_waits_until_the_other_is_silent_or_gone(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, b = await mount(p, one), await mount(p, two, read_only=True)
        await mount(p, two, "")  # a command
        assert not await a.ask()
        p.clock.advance(ALONE_S - 1)
        assert not await a.ask()
        b.say()
        p.clock.advance(ALONE_S - 1)
        assert not await a.ask()
        p.clock.advance(1)
        epoch = await a.ask()
        assert epoch
        b.say()
        assert (await a.events()).recall == epoch
        await a.give_back(epoch=epoch)
        assert not await a.ask(0)
        await p.services.sessions.close(b.session)
        assert await a.ask(0) > epoch


async def test_a_mount_that_comes_while_another_is_granted_it_recalls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, write = await mount(p, one), p.database.write

        async def slow(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            monkeypatch.setattr(p.database, "write", write)
            await mount(p, two)
            return await write(*arguments, **options)

        monkeypatch.setattr(p.database, "write", slow)
        await a.hold()
        assert (await a.events()).recall == a.epoch


async def test_no_renewal_overtakes_a_grant_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a = await (await mount(p, one)).hold()
        p.clock.advance(ALONE_S)
        b = await mount(p, two)
        real, asked = p.database.write, list[int]()

        async def slow(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            asked.append(await a.ask())  # it wakes between the decision and its transaction
            return await real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(p.database, "write", slow)
            await b.hold()
        assert asked == [0]


async def test_asking_again_after_an_answer_that_got_lost_gives_another_epoch(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        a = await mount(p, (await nodes(p))[0])
        lost = await a.ask(0)
        await a.hold()
        assert a.epoch > lost
        with pytest.raises(Overruled):
            await a.change(epoch=lost)


async def test_a_mount_started_anew_takes_over_at_once(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        node, _ = await nodes(p)
        dead = await (await mount(p, node)).hold()
        p.clock.advance(0.1)
        new = await (await mount(p, node)).hold()
        assert new.epoch > dead.epoch
        before = await new.changes()
        await new.change(epoch=new.epoch)
        assert await new.changes() == before + 1
        with pytest.raises(Overruled):
            await dead.change(epoch=dead.epoch)
        assert await new.changes() == before + 1


async def test_a_mount_started_anew_changes_without_waiting_for_its_predecessor(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        node, _ = await nodes(p)
        dead = await (await mount(p, node)).hold()
        assert (await (await mount(p, node)).change()).attributes
        assert held(p) == (dead.epoch + 1, None)


async def test_a_predecessor_that_is_still_heard_is_asked_like_any_other(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        node, _ = await nodes(p)
        lazily = await (await mount(p, node)).hold()
        new = await mount(p, node)
        p.clock.advance(1)
        lazily.say()
        assert not await new.ask()
        with pytest.raises(Recalling):
            await new.change()
        assert (await lazily.events()).recall == lazily.epoch


# ---- turns ----------------------------------------------------------------------------------------------------------


async def waiting(nursery: trio.Nursery, change: Callable[[], Awaitable[object]]) -> trio.Event:
    """Start a change that has to wait; the event says that it was made."""
    made = trio.Event()

    async def do() -> None:
        await change()
        made.set()

    nursery.start_soon(do)
    await wait_all_tasks_blocked()
    assert not made.is_set()
    return made


async def test_a_second_mount_recalls_it_and_its_change_goes_on_when_it_is_returned(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a = await (await mount(p, one)).hold()
        told: list[int] = []

        async def listen() -> None:
            told.append((await a.events(19.0)).recall)

        with trio.fail_after(TURN_S / 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await wait_all_tasks_blocked()
                b = await mount(p, two)
                await wait_all_tasks_blocked()
                assert told == [a.epoch]
                made = await waiting(nursery, b.change)
                await a.apply(a.make(b"late"), epoch=a.epoch)
                assert await a.has(b"late")
                assert await a.ask() == a.epoch  # while it empties its queue
                await a.give_back()
                await made.wait()
        assert (await a.events()).recall == 0
        assert not await a.ask(0)
        await a.give_back()  # again is fine
        with pytest.raises(Overruled):
            await a.change(epoch=a.epoch)
        assert (await a.change()).attributes


async def test_the_kernel_of_the_old_holder_is_waited_for(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a = await (await mount(p, one)).hold()
        b = await mount(p, two)
        await a.give_back(timeouts_s=1000.0)  # never longer than its time was anyway
        assert not await a.ask()
        with pytest.raises(Recalling):
            await b.change()
        p.clock.advance(LASTS_S + MARGIN_S)
        assert (await b.change()).attributes


async def test_changes_wait_for_the_kernel_of_the_old_holder_as_long_as_it_said(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, b = await (await mount(p, one)).hold(), await mount(p, two)
        await a.give_back(timeouts_s=10.0)
        p.clock.advance(9)
        with pytest.raises(Recalling):
            await b.change()
        p.clock.advance(1)
        assert (await b.change()).attributes
        assert held(p) == (a.epoch + 1, None)


async def test_a_change_that_waits_goes_on_when_the_kernels_time_is_over(tmp_path: Path) -> None:
    clock = SimulatedClock()
    async with pool(tmp_path, clock=clock) as p:  # type: ignore[arg-type]  # nobody moves it here
        one, two = await nodes(p)
        a, b = await (await mount(p, one)).hold(), await mount(p, two)
        async with trio.open_nursery() as nursery:
            made = await waiting(nursery, b.change)
            await a.give_back(timeouts_s=TURN_S / 2)
            began_s = trio.current_time()
            await made.wait()
            assert trio.current_time() - began_s == pytest.approx(TURN_S / 2, abs=TURN_S / 4)


async def test_a_kernel_that_is_done_early_lets_the_waiting_change_go_on(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, b = await (await mount(p, one)).hold(), await mount(p, two)
        with trio.fail_after(TURN_S / 2):
            async with trio.open_nursery() as nursery:
                made = await waiting(nursery, b.change)
                await a.give_back(timeouts_s=20.0)
                await wait_all_tasks_blocked()
                assert not made.is_set()
                await a.give_back()
                await made.wait()


async def test_what_nobody_relies_on_recalls_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, command = await (await mount(p, one)).hold(), await mount(p, two, "")
        await command.apply(Accessed(ROOT_INODE, 5), Released(ROOT_INODE))
        assert (await a.events()).recall == 0
        with pytest.raises(Recalling):
            await command.change()
        assert (await a.events()).recall == a.epoch


async def test_a_command_that_had_to_wait_is_not_made_to_again_at_once(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, command = await (await mount(p, one)).hold(), await mount(p, two, "")
        with pytest.raises(Recalling):
            await command.change()
        await a.give_back()
        assert not await a.ask(0)
        p.clock.advance(ALONE_S)
        assert await a.ask(0)


async def test_a_batch_that_is_not_done_is_not_remembered(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, b = await (await mount(p, one)).hold(), await mount(p, two)
        make = b.make(b"name")
        with pytest.raises(Recalling):
            await b.apply(make, seq=1)
        await a.give_back()
        assert (await b.apply(make, seq=1)).attributes


async def test_a_holder_that_does_not_return_it_is_fenced_when_its_time_has_run_out(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, b = await (await mount(p, one)).hold(), await mount(p, two)
        first = await a.apply(a.make(b"first"), epoch=a.epoch)
        p.clock.advance(LASTS_S + MARGIN_S - 0.1)
        with pytest.raises(Recalling):
            await b.change()
        await a.apply(a.make(b"second"), epoch=a.epoch)
        assert await a.has(b"second")
        p.clock.advance(0.1)
        assert (await b.change()).attributes
        with pytest.raises(Overruled):
            await a.apply(a.make(b"third"), epoch=a.epoch)
        assert not await a.has(b"third")
        assert await a.apply(a.make(b"first"), epoch=a.epoch, seq=1) == first  # its old answer
        assert (await a.apply(a.make(b"fourth"))).attributes  # its session lives on
        assert not await a.ask()
        assert (await a.events()).recall == 0


async def test_a_holder_that_renews_and_never_returns_it_is_renewed_no_longer(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, b = await (await mount(p, one)).hold(), await mount(p, two)
        p.clock.advance(RETURN_S - 1)
        assert await a.ask() == a.epoch
        p.clock.advance(1)
        assert not await a.ask()
        p.clock.advance(LASTS_S + MARGIN_S - 1)
        assert (await b.change()).attributes


async def test_a_holder_that_slept_goes_on_if_nobody_changed_anything(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, _ = await nodes(p)
        a = await (await mount(p, one)).hold()
        p.clock.advance(3600)
        await a.apply(a.make(b"kept"), epoch=a.epoch)
        assert await a.has(b"kept")
        assert await a.ask() == a.epoch


async def test_no_renewal_overtakes_a_fence(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, command = await (await mount(p, one)).hold(), await mount(p, two, "")
        p.clock.advance(LASTS_S + MARGIN_S)
        asked: list[int] = []

        async def attempt(fences: int) -> int:
            if not fences:
                raise Recalling("its turn comes")
            asked.append(await a.ask())  # between the decision to fence and its transaction
            return fences

        assert await p.services.delegations.in_turn(command.session, attempt) == a.epoch
        assert asked == [0]


@pytest.mark.parametrize("first", ["fence", "batch"])
async def test_a_fence_and_a_batch_of_the_holder_race(tmp_path: Path, first: str) -> None:
    async with pool(tmp_path) as p:
        one, two = await nodes(p)
        a, b = await (await mount(p, one)).hold(), await mount(p, two)
        p.clock.advance(LASTS_S + MARGIN_S)
        late = a.make(b"name")
        with pytest.raises(Recalling):  # without a fence it is not its turn
            await p.database.write(
                lambda connection: rows.require(
                    connection, VOLUME, Batch(1, 0, [late]), session=99, held=(a.epoch, 1), fences=a.epoch - 1
                )
            )
        if first == "batch":
            await a.apply(late, epoch=a.epoch)
        assert (await b.change()).attributes
        if first == "fence":
            with pytest.raises(Overruled):
                await a.apply(late, epoch=a.epoch)
        assert await a.has(b"name") is (first == "batch")


# ---- what ends it ---------------------------------------------------------------------------------------------------


async def test_closing_expiring_and_revoking_ends_it_and_lets_others_go_on(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked")
    async with pool(tmp_path) as p:
        one, two = await nodes(p)

        async def close(a: Mount) -> None:
            await p.services.sessions.close(a.session)

        async def expire(a: Mount) -> None:
            p.database.write_now(
                lambda connection: connection.execute("UPDATE session SET expires_s = 0 WHERE id = ?", (a.session,))
            )
            await p.services.sessions.expire()

        async def revoke(a: Mount) -> None:
            await p.services.membership.revoke(a.node)

        for end in (close, expire, revoke):
            a = await (await mount(p, one)).hold()
            b = await mount(p, two)
            with trio.fail_after(TURN_S / 2):
                async with trio.open_nursery() as nursery:
                    made = await waiting(nursery, b.change)
                    await end(a)
                    await made.wait()
            assert held(p) == (a.epoch + 1, None)
            with pytest.raises((Fenced, Denied)):
                await a.change(epoch=a.epoch)
            await p.services.sessions.close(b.session)


async def test_a_holder_reclaims_it_after_the_coordinators_restart_and_nobody_else_gets_it(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        one, two = await nodes(p)
        b = await mount(p, two)
        clock.advance(ALONE_S)
        a = await (await mount(p, one)).hold()
    async with pool(tmp_path, clock=clock) as p:
        a, b = a.again(p), b.again(p)
        await a.apply(a.make(b"name"), epoch=a.epoch)
        assert await a.has(b"name")
        assert await a.ask() == a.epoch
        assert not await b.ask()
        assert (await a.events()).recall == a.epoch  # it is heard: who would not be alone any more


async def test_after_a_restart_a_holders_time_counts_anew(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        one, two = await nodes(p)
        await (await mount(p, one)).hold()
    clock.advance(3600)
    async with pool(tmp_path, clock=clock) as p:
        b = await mount(p, two)
        with pytest.raises(Recalling):
            await b.change()
        clock.advance(LASTS_S + MARGIN_S)
        assert (await b.change()).attributes


async def test_after_a_restart_nobody_new_is_alone_for_a_while(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        one, two = await nodes(p)
        a, b = await mount(p, one), await mount(p, two)
    clock.advance(3600)
    async with pool(tmp_path, clock=clock) as p:
        a = a.again(p)
        assert not await a.ask()
        clock.advance(ALONE_S - 1)
        assert not await a.ask()
        clock.advance(1)
        assert await a.ask()
        assert b.session


async def test_epochs_begin_anew_above_all_others_after_a_restore(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        node, _ = await nodes(p)
        a = await (await mount(p, node)).hold()
        p.database.write_now(
            lambda connection: sessions.settings.write(connection, sessions.settings.INCARNATION, value=2)
        )
        assert await a.ask(0) > 1 << 40


async def test_nobody_remembers_for_less_than_no_time(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        a = await (await mount(p, (await nodes(p))[0])).hold()
        for timeouts_s in (-1.0, math.nan):
            with pytest.raises(Misuse):
                await a.give_back(timeouts_s)
