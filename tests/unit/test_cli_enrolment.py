"""Keeping a certificate: when it is due, and what happens when renewing fails."""

import itertools
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from coordination import live
from pki import TestAuthority, issue, make_ca
from plugins.checklogs import Claims

from p2pfs.errors import Invalid, Unavailable
from p2pfs.format.invites import decode_invite
from p2pfs.net import enrolment
from p2pfs.runtime.clocks import SimulatedClock
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, Role

pytestmark = pytest.mark.l0

START_S = 1_800_000_000.0
DAY_S = 86400.0


def _home(directory: Path, ca: TestAuthority, *, not_after: float) -> NodeHome:
    """The home of a node whose certificate ends then, and began in 2020 (see pki)."""
    issued = issue(ca, not_after=not_after)
    home = NodeHome(directory / "home")
    record = NodeRecord(
        pool=ca.pool, node=issued.node, name="anna@laptop", owner="anna", roles=[Role.CLIENT],
        coordinator=NodeId("c" * 32), addresses=[],
    )  # fmt: skip
    home.create(
        record,
        ca=ca.ca_pem,
        certificate=issued.credentials.cert_pem.read_bytes(),
        key=issued.credentials.key_pem.read_bytes(),
    )
    return home


def test_a_certificate_is_due_after_two_thirds_of_its_life(tmp_path: Path) -> None:
    home = _home(tmp_path, make_ca(tmp_path), not_after=START_S)
    begin_s = 1_577_836_800.0  # 2020-01-01
    due_s = begin_s + (START_S - begin_s) * 2 / 3
    assert not enrolment.is_due(home, due_s - DAY_S)
    assert enrolment.is_due(home, due_s + DAY_S)


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_a_damaged_certificate_is_told(tmp_path: Path, damage: bytes) -> None:
    home = _home(tmp_path, make_ca(tmp_path), not_after=START_S)
    home.certificate_path.write_bytes(damage)
    with pytest.raises(Invalid, match="join again"):
        enrolment.is_due(home, START_S)
    home.certificate_path.unlink()
    with pytest.raises(Unavailable):
        enrolment.is_due(home, START_S)


async def test_it_is_renewed_when_due_and_tried_again_after_an_hour(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    claim_logs: Claims,
) -> None:
    ca = make_ca(tmp_path)
    begin_s = 1_577_836_800.0
    home = _home(tmp_path, ca, not_after=START_S + (START_S - begin_s) / 2 + 15 * DAY_S)  # due in ten days
    contexts: list[object] = []
    attempts: list[float] = []
    done = trio.Event()

    async def renew(_home: NodeHome, _client: object, _coordinator: object) -> None:
        await trio.lowlevel.checkpoint()
        attempts.append(trio.current_time())
        if len(attempts) < 3:
            raise Unavailable("the coordinator sleeps")
        fresh = issue(ca, home.record().node, not_after=START_S + 10_000 * DAY_S)
        home.replace_certificate(fresh.credentials.cert_pem.read_bytes())

    def load(context: object, _credentials: object) -> None:
        contexts.append(context)
        done.set()

    monkeypatch.setattr(enrolment, "renew", renew)
    monkeypatch.setattr(enrolment, "load_credentials", load)
    claim_logs("could not be renewed, trying again in an hour", count=2)
    context: Any = object()
    nothing: Any = None
    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        clock = SimulatedClock(START_S - start)
        nursery.start_soon(
            lambda: enrolment.keep_renewed(home, nothing, nothing, contexts=(context,), clock=clock)
        )  # fmt: skip
        await done.wait()
        nursery.cancel_scope.cancel()
    assert contexts == [context]
    assert 9.9 * DAY_S < attempts[0] - start < 10.1 * DAY_S
    assert [round(later - earlier) for earlier, later in itertools.pairwise(attempts)] == [3600, 3600]


@pytest.mark.parametrize(("is_there", "asked"), [(True, 3), (False, 1)])
async def test_an_answer_that_got_lost_is_asked_for_again_but_not_where_nobody_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, asked: int
) -> None:
    tries: list[object] = []

    async def lose(*request: object) -> None:
        await trio.lowlevel.checkpoint()
        tries.append(request)
        raise Unavailable("the connection was lost")

    monkeypatch.setattr(enrolment, "_ask", lose)
    monkeypatch.setattr(enrolment, "_PAUSE_S", 0.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nothing listens
        async with live(tmp_path) as pool:
            invite = decode_invite(await pool.invite("anna@desk", Role.CLIENT))
            if not is_there:
                invite = replace(invite, addresses=(f"127.0.0.1:{nobody.getsockname()[1]}",))
            with pytest.raises(Unavailable):
                await enrolment.join(invite)
    assert len(tries) == asked
