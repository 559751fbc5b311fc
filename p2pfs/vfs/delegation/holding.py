"""Getting, renewing and returning the delegation of one volume. `hold` runs beside the mount that uses `Delegated`.

nothing ──asked, granted──▶ held ──renewed in time──▶ held
   ▲                         │ │
   │◀──refused (overruled)───┘ └──recalled──▶ returning: closed files stored, queue emptied, what is known forgotten
   └──the kernel was told to forget, or its last timeout ran out──────────────────────────────┘
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from p2pfs.errors import CoordinatorAway, Fenced, PoolError, Unavailable
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.wire.delegations import Delegation

log = logging.getLogger(__name__)

RENEWALS: Final = 4
"""In the time that a delegation lasts."""
PAUSE_S: Final = 1.0
"""After a question that was not answered."""
WATCH_S: Final = 1.0
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

    async def hold(self) -> None:
        """Until cancelled, or until the session is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.delegated.changes.run)
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
        if told.epoch:
            if told.epoch != delegated.epoch:
                log.info("the volume is delegated to this mount (epoch %d)", told.epoch)
            await delegated.hold(told.epoch, sent_s + told.lasts_s)
            return told.lasts_s / RENEWALS
        if delegated.epoch:  # recalled, and the news are late; or overruled, which the queue will hear
            delegated.recalled.set()
        return told.lasts_s

    async def _give_back(self) -> None:
        delegated = self.delegated
        log.info("the delegation of the volume (epoch %d) is returned: another mount appeared", delegated.epoch)
        with trio.move_on_after(STORE_S):
            await self.store()
        epoch = delegated.epoch
        while True:
            try:
                await delegated.changes.settle()
                delegated.let_go()
                await delegated.inner.return_delegation(epoch, self.kernel.longest_s())
                break
            except Unavailable:
                await trio.sleep(PAUSE_S)
        await self.kernel.withdraw()
        try:
            await delegated.inner.return_delegation(epoch, 0.0)
        except Unavailable as error:
            log.info("others wait until the kernel's memory has run out: %s", error)
