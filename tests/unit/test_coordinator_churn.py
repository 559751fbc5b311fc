"""How often peers come and go is counted, survives a restart, and is what `p2pfs simulate` reckons with."""

import json
from pathlib import Path

import pytest
from coordination import Pool, pool
from plugins.checklogs import Claims

from p2pfs import exitcodes
from p2pfs.cli import connect, main
from p2pfs.coordinator.status import encode

pytestmark = pytest.mark.l0


async def pass_time(p: Pool, seconds: float, *nodes: str) -> None:
    """These peers are heard every ten seconds meanwhile."""
    for _ in range(round(seconds / 10)):
        p.clock.advance(10)
        for node in nodes:
            await p.beat(node)
        await p.services.pulse.work()


async def test_leaving_and_returning_is_counted_once_each(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner2@host .* is down")
    async with pool(tmp_path) as p:
        one, two, three = (joined.node for joined in await p.peers(3))
        await pass_time(p, 3600, one, two, three)
        before = (await p.services.status.report(p.identity())).churn
        assert before is not None
        assert (before.joined, before.left, before.returned, before.gone) == (3, 0, 0, 0)
        assert before.peer_days == pytest.approx(3 / 24, rel=0.01)
        await pass_time(p, 30, one, three)  # suspect: it may only have been slow
        await pass_time(p, 600, one, two, three)
        await pass_time(p, 1800, one, three)
        await pass_time(p, 600, one, two, three)
        found = (await p.services.status.report(p.identity())).churn
    assert found is not None
    assert (found.left, found.returned) == (1, 1)
    assert found.absence_s == pytest.approx(1800, abs=15)
    async with pool(tmp_path, clock=p.clock) as again:
        kept = (await again.services.status.report(again.identity())).churn
    assert kept is not None
    assert (kept.left, kept.returned, kept.absence_s, kept.since_s) == (1, 1, found.absence_s, found.since_s)
    assert kept.peer_days == pytest.approx(found.peer_days, rel=0.02)


async def test_who_is_forgotten_is_gone(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner2@host .* is down")
    claim_logs("revoked owner2@host")
    async with pool(tmp_path) as p:
        one, two, three = (joined.node for joined in await p.peers(3))
        await pass_time(p, 120, one, three)
        await p.services.membership.revoke(two)
        found = (await p.services.status.report(p.identity())).churn
    assert found is not None
    assert (found.joined, found.left, found.returned, found.gone) == (3, 1, 0, 1)


@pytest.mark.parametrize(("left", "code"), [(4, exitcodes.USAGE), (60, exitcodes.OK)])
async def test_simulate_reckons_with_what_was_measured(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    left: int,
    code: int,
) -> None:
    async with pool(tmp_path) as p:
        await p.peers(4)
        report = json.loads(encode(await p.services.status.report(p.identity())))
    report["churn"] |= {"left": left, "peer_days": 20.0, "returned": 54, "gone": 5, "absence_s": 7200.0}
    report["chunks"]["total"] = 1000
    monkeypatch.setattr(connect, "fetch", lambda _home, _path: json.dumps(report).encode())
    words = ("--sample", "10", "--jobs", "1", "--target", "0.0001", "--over", "1h", "--repair-delay", "1h", "--json")
    assert main.run(["simulate", "--home", str(tmp_path), *words]) == code
    output = capsys.readouterr()
    if code != exitcodes.OK:
        assert "fall silent 4 times so far, too seldom" in output.err
        return
    told = json.loads(output.out)
    assert (told["peers"], told["chunks"], told["leaves_per_day"], told["absence_s"]) == (4, 1000, 3.0, 7200.0)
    assert told["returning"] == pytest.approx(54.5 / 60)
