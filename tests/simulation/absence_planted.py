"""Bugs planted on purpose, to show that `absence` finds what it is for."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest import mock

from p2pfs.errors import PoolError
from p2pfs.format.inventory import BUCKETS
from p2pfs_peerd.absence import Absence
from p2pfs_peerd.copies import Copies
from p2pfs_peerd.election import Elected
from p2pfs_peerd.watch import Watch


@contextlib.contextmanager
def _nobody_elected() -> Iterator[None]:
    """Nobody leads, as before there was an election."""
    with mock.patch.object(Watch, "_elected", return_value=None):
        yield


@contextlib.contextmanager
def _leader_trims() -> Iterator[None]:
    """The elected one takes it upon itself to delete what looks surplus."""
    real = Elected._look

    async def look(elected: Elected) -> None:
        await real(elected)
        for bucket in range(BUCKETS):
            for found in (await elected._copies._store.listed(bucket)).entries[:1]:
                with contextlib.suppress(PoolError):
                    await elected._copies._store.delete(found.volume, found.chunk, found.put_seq)

    with mock.patch.object(Elected, "_look", look):
        yield


@contextlib.contextmanager
def _nobody_pulls() -> Iterator[None]:
    """Holders say that they will, and do not."""

    async def pull(*_: object) -> None:
        return None

    real = Copies.__init__

    def begin(copies: Copies, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        real(copies, *arguments, **options)
        copies._puller.pull = pull  # type: ignore[method-assign, assignment]

    with mock.patch.object(Copies, "__init__", begin):
        yield


@contextlib.contextmanager
def _list_forgotten() -> Iterator[None]:
    """A peer that is started again knows nobody until the coordinator answers."""
    with mock.patch.object(Absence, "recall", return_value=b""):
        yield


PLANTED: Final[dict[str, Callable[[], AbstractContextManager[None]]]] = {
    "nobody-elected": _nobody_elected,
    "leader-trims": _leader_trims,
    "nobody-pulls": _nobody_pulls,
    "list-forgotten": _list_forgotten,
}
