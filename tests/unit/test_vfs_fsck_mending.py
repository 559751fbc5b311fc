"""A repair whose session ends under it tells what it found, and leaves no batch in doubt."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2pfs.errors import Fenced
from p2pfs.meta.protocol import InDoubt
from p2pfs.types import InodeId
from p2pfs.vfs.fsck import check
from p2pfs.vfs.fsck.findings import Code, Finding, Findings, Remedy, State
from p2pfs.vfs.fsck.mending import Mender

pytestmark = pytest.mark.l2


class Refused:
    """A session that the coordinator ends at once."""

    def __init__(self) -> None:
        self.given_up = 0
        self.is_closed = False
        self.fails = trio.Event()

    async def maintain(self) -> None:
        self.fails.set()
        raise ExceptionGroup("nursery", [Fenced("this session is over")])

    async def apply(self, _operations: Sequence[Any]) -> None:
        await self.fails.wait()
        await trio.testing.wait_all_tasks_blocked()
        raise Fenced("this session is over")

    async def aclose(self) -> None:
        self.is_closed = True

    async def reserve(self, *_: Any) -> list[Any]:  # noqa: ANN401
        return []


def found() -> Finding:
    return Finding(Code.LINKS, b"/a", "it counts 9 links and has 1", Remedy.RECOUNT, inode=InodeId(2))


async def test_findings_are_told_when_the_session_that_mends_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Refused()

    async def open_(*_: Any, **__: Any) -> Refused:  # noqa: ANN401
        return session

    monkeypatch.setattr(check.RemoteNamespace, "open", open_)
    one: Any = object.__new__(check._Check)
    one.findings = Findings()
    one.findings.add(found())
    one._pool, one._info = SimpleNamespace(client=None, coordinator=None), SimpleNamespace(volume=7)
    one._settings, one._space = SimpleNamespace(io_timeout=30.0), None
    one._asked = one._chunks = one._stores = None
    await one.mend(None)
    assert [(kept.state, kept.why) for kept in one.findings.kept] == [(State.LEFT, "this session is over")]
    assert session.is_closed


async def test_a_mend_in_doubt_is_given_up() -> None:
    """Until then the answers to all later ones would be kept for it."""
    given_up: list[bool] = []

    class Doubtful:
        async def apply(self, _operations: Sequence[Any]) -> None:
            raise InDoubt("away", None, lambda: given_up.append(True))  # type: ignore[arg-type]

    finding = found()
    mender = Mender(None, Doubtful(), None, None, None, owner=(0, 0), now_ns=int)  # type: ignore[arg-type]
    await mender.run([finding])
    assert (finding.state, given_up) == (State.LEFT, [True])
