"""What a file system has around it beside its stores: delegation, journal, late copies. Made by `attach`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2pfs.vfs.committer import ApplyNow
from p2pfs.vfs.journal.journal import NoJournal
from p2pfs.vfs.listings import KnownPage
from p2pfs.vfs.uploads import LateCopies


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Without any, every change waits for the coordinator, and what is unsaved is in memory only."""

    copies: LateCopies | None = None
    """Told by the store of receipts that come late; without it no copy comes late."""
    trust: Callable[[], float] = lambda: 0.0
    """For how many seconds what is answered now stays right whatever other sessions do: 0 while they may change the
    volume, and for some seconds after that ended, as answers begun before may still be on their way."""
    holds: Callable[[], bool] = lambda: False
    """Whether the same question is answered by the same object as long as nothing has changed: see `Delegated`."""
    apply_now: ApplyNow = lambda _: None
    """Does a change that nobody has to be asked about; see `Delegated.apply_now`."""
    known_page: KnownPage = lambda *_: None
    """A page of a directory, if nobody has to be asked for it; see `Delegated.known_page`."""
    hurry: Callable[[], None] = lambda: None
    """Has changes that were acknowledged sent without waiting for more of them."""
    journal: NoJournal | None = None
    """Keeps what is unsaved on this machine's disk."""
    index: tuple[bool, bool] = (False, False)
    """Whether names, and beginnings of words, are searchable."""
    moved_s: Callable[[], float] = lambda: -math.inf
    """When bytes last left for the store."""


ALONE: Final = Surroundings()
