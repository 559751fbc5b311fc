"""Who holds the delegation of the dictionary model's volume: the rules of wire.delegations without their times."""

import trio

from p2pfs.errors import Overruled
from p2pfs.wire.delegations import Delegation


class MemoryDelegation:
    """Granted to a session that is alone, until it is returned or `revoke` says that its time has run out."""

    def __init__(self, *, lasts_s: float = 30.0) -> None:
        self.lasts_s = lasts_s
        self.epoch = 0
        self.holder: int | None = None
        self.is_recalled = False
        self._changed = trio.Event()

    def ask(self, session: int, epoch: int, *, is_alone: bool) -> Delegation:
        """See Delegable.delegate."""
        if session == self.holder:
            return Delegation(0 if self.is_recalled or epoch not in (0, self.epoch) else self.epoch, self.lasts_s)
        if self.holder is not None or not is_alone:
            return Delegation(0, self.lasts_s)
        self.holder, self.is_recalled = session, False
        self.epoch += 1
        return Delegation(self.epoch, self.lasts_s)

    def give_back(self, session: int, epoch: int, timeouts_s: float) -> None:
        """See Delegable.return_delegation; a kernel's timeouts never run out here."""
        if (session, epoch) == (self.holder, self.epoch) and not timeouts_s:
            self.revoke()

    def revoke(self) -> None:
        """Whoever holds it does no more."""
        self.holder = None
        self.epoch += 1
        self._pulse()

    def recall(self, session: int) -> None:
        """Another session than `session` is to return it."""
        if self.holder not in (None, session) and not self.is_recalled:  # else two who wait would wake each other
            self.is_recalled = True
            self._pulse()

    async def returned(self, session: int) -> None:
        """Recall it, and wait until no other session holds it."""
        while self.holder not in (None, session):
            self.recall(session)
            await self._changed.wait()

    async def recalled(self, session: int) -> int:
        """Wait until the session is to return what it holds; its epoch."""
        while not (self.is_recalled and self.holder == session):
            await self._changed.wait()
        return self.epoch

    def require(self, session: int, epoch: int) -> None:
        """Raises Overruled unless the session holds just that."""
        if (session, epoch) != (self.holder, self.epoch):
            raise Overruled("the delegation is over")

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
