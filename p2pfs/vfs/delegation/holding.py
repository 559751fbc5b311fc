"""Getting, renewing and returning the delegation of one volume. `hold` runs beside the mount that uses `Delegated`.

nothing ──asked, granted──▶ held ──renewed in time──▶ held
   ▲                         │ │
   │◀──refused (overruled)───┘ └──recalled──▶ returning: closed files stored, queue emptied, what is known forgotten
   └──the kernel was told to forget, or its last timeout ran out──────────────────────────────┘
"""

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from p2pfs.errors import CoordinatorAway, Fenced, Misuse, PoolError, Unavailable
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.wire.delegations import Delegation

log = logging.getLogger(__name__)

RENEWALS: Final = 4
"""In the time that a delegation lasts."""
PAUSE_S: Final = 1.0
"""After a question that was not answered."""
WATCH_S: Final = 1.0
SHORTEST_S: Final = 0.1
"""Between two questions, whatever the coordinator says."""
STORE_S: Final = 10.0
"""How long the closed files of a recalled mount have to be stored; what is not by then is stored without it."""


class KernelTrust(Protocol):
    """What the kernel was told it may believe without asking."""

    def longest_s(self) -> float:
        """For how long it still may."""
        ...

    async def withdraw(self) -> None:
        """It has forgotten all of that on return."""
        ...


class NoKernel:
    """For volumes used without a kernel."""

    def longest_s(self) -> float:
        """See KernelTrust."""
        return 0.0

    async def withdraw(self) -> None:
        """See KernelTrust."""


async def _nothing() -> None:
    return


@dataclass
class Holding:
    """`store` stores what was closed and is not stored yet, and `kernel` is what the kernel believes; both are set by
    whoever serves the volume, before `hold` runs."""

    delegated: Delegated
    now: Callable[[], float]
    store: Callable[[], Awaitable[None]] = _nothing
    kernel: KernelTrust = NoKernel()  # noqa: RUF009 - it has no state
    _renew_s: float = PAUSE_S

    async def hold(self) -> None:
        """Until cancelled, or until the session is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.delegated.changes.run)
            nursery.start_soon(self.delegated.learning.ahead.run)
            nursery.start_soon(self._watch_sleep)
            try:
                while True:
                    with trio.move_on_after(await self._pause_s()):
                        await self.delegated.recalled.wait()
                    if self.delegated.epoch and self.delegated.recalled.is_set():
                        await self._give_back()
            except Fenced as error:
                log.info("the volume is delegated to this mount no more: %s", error)
                self.delegated.let_go()
                await self.kernel.withdraw()

    async def _watch_sleep(self) -> None:
        """While the machine is suspended the kernel's timeouts stand still, and the delegation does not: once it wakes,
        the kernel must not believe what it was told before."""
        while True:
            before_s, awake_s = self.now(), trio.current_time()
            await trio.sleep(WATCH_S)
            if (self.now() - before_s) - (trio.current_time() - awake_s) > WATCH_S:
                log.info("the machine was suspended: the kernel is told to ask again")
                await self.kernel.withdraw()

    async def _pause_s(self) -> float:
        """Ask, and say when to ask again."""
        try:
            return await self._once()
        except CoordinatorAway:
            return PAUSE_S
        except Fenced:
            raise
        except PoolError as error:
            log.warning("the volume cannot be delegated to this mount: %s", error)
            return PAUSE_S * 10

    async def _once(self) -> float:
        delegated, sent_s = self.delegated, self.now()
        told: Delegation = await delegated.inner.delegate(delegated.epoch)
        if not 0 <= told.lasts_s < math.inf:  # nor a number
            raise Misuse(f"the coordinator delegates a volume for {told.lasts_s} s")
        if told.epoch:
            self._renew_s = max(told.lasts_s / RENEWALS, SHORTEST_S)
            if told.epoch != delegated.epoch:
                log.info("the volume is delegated to this mount (epoch %d)", told.epoch)
            await delegated.hold(told.epoch, sent_s + told.lasts_s)
            return self._renew_s
        if delegated.epoch:  # recalled, and the news are late; or overruled, which the queue will hear
            delegated.recalled.set()
        return max(told.lasts_s, SHORTEST_S)

    async def _give_back(self) -> None:
        delegated = self.delegated
        log.info("the delegation of the volume (epoch %d) is returned: another mount appeared", delegated.epoch)
        epoch = delegated.epoch
        if error := await self._emptied(epoch):
            raise error
        delegated.let_go()
        while True:
            try:
                await delegated.inner.return_delegation(epoch, self.kernel.longest_s())
                break
            except Unavailable:
                await trio.sleep(PAUSE_S)
            except Fenced:
                raise
            except PoolError as error:  # this node was revoked, say: that must not end the mount
                log.warning("the delegation cannot be returned, and runs out: %s", error)
                break
        await self.kernel.withdraw()
        try:
            await delegated.inner.return_delegation(epoch, 0.0)
        except Fenced:
            raise
        except PoolError as error:
            log.info("others wait until the kernel's memory has run out: %s", error)

    async def _emptied(self, epoch: int) -> Fenced | None:
        """Store and commit everything. On a slow line that takes longer than what is left of the delegation."""
        lost: Fenced | None = None  # returned: a nursery would wrap it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, epoch)
            with trio.move_on_after(STORE_S):
                await self.store()
            while True:
                try:
                    await self.delegated.changes.settle()
                    break
                except Fenced as error:
                    lost = error
                    break
                except Unavailable:
                    await trio.sleep(PAUSE_S)
            nursery.cancel_scope.cancel()
        return lost

    async def _keep(self, epoch: int) -> None:
        """Renew it, for what is still to be sent only."""
        while True:
            await trio.sleep(self._renew_s)
            with suppress(PoolError):
                await self.delegated.inner.delegate(epoch)
