"""Hears from login1 that the machine is about to sleep or to shut down, and tells the coordinator before it does.

    inhibit (delay) ─PrepareFor…(true)─▶ tell "away" ─▶ let go of the lock: the machine goes on
                    ◀─PrepareForSleep(false), tell "back"─

login1 waits for those that hold a delay lock, five seconds unless configured otherwise. Without a system bus, or
without login1 on it, the daemon works all the same: the peer is then noticed by its silence.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from jeepney import DBusAddress, HeaderFields, MatchRule, Message, MessageType, message_bus, new_method_call
from jeepney.fds import FileDescriptor
from jeepney.io.common import RouterClosed
from jeepney.io.trio import DBusRouter, open_dbus_connection

from p2pfs.errors import PoolError

log = logging.getLogger(__name__)

BUS: Final = "SYSTEM"
TELL_S: Final = 4.0
"""For telling: login1 waits no longer than five seconds."""
_CALL_S: Final = 10.0
_AGAIN_S: Final = 60.0
_NAME: Final = "org.freedesktop.login1"
_PATH: Final = "/org/freedesktop/login1"
_INTERFACE: Final = "org.freedesktop.login1.Manager"
_MANAGER: Final = DBusAddress(_PATH, bus_name=_NAME, interface=_INTERFACE)
_SIGNALS: Final = ("PrepareForSleep", "PrepareForShutdown")
_WAITING: Final = 16

Away = Callable[[float], Awaitable[None]]
"""Tells that the peer will be silent for so many seconds; 0: it is back. Raises PoolError."""


class _NoLogin1(Exception):
    """There is nobody who could tell."""


async def watch(away: Away, away_for_s: float, bus: str = BUS) -> None:
    """Tell until cancelled; returns at once where there is no login1."""
    has_worked = False

    def works() -> None:
        nonlocal has_worked
        has_worked = True

    while True:
        reason: BaseException | str = "it ended"
        try:
            with trio.fail_after(_CALL_S):
                connection = await open_dbus_connection(bus, enable_fds=True)
            async with connection, connection.router() as router:
                await _Watcher(router, away, away_for_s).run(works)
        except* _GONE as group:
            reason = _first(group)
        if not has_worked:
            log.info("sleep and shutdown of this machine are not announced: %s", reason)
            return
        log.info("the system bus is gone (%s); sleep is not announced until it is back", reason)
        await trio.sleep(_AGAIN_S)


_GONE: Final = (
    OSError,
    ValueError,  # it does not let us in
    RuntimeError,  # an address of a kind that is not known, no descriptors
    RouterClosed,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
    trio.TooSlowError,
    _NoLogin1,
)
"""What ends a conversation with the bus."""


class _Watcher:
    """One conversation with login1."""

    def __init__(self, router: DBusRouter, away: Away, away_for_s: float) -> None:
        self._router = router
        self._away = away
        self._away_for_s = away_for_s
        self._lock: FileDescriptor | None = None

    async def run(self, works: Callable[[], None]) -> None:
        send, heard = trio.open_memory_channel[Message](_WAITING)
        with self._router.filter(MatchRule(type="signal", interface=_INTERFACE, path=_PATH), channel=send):
            for name in _SIGNALS:
                rule = MatchRule(type="signal", sender=_NAME, interface=_INTERFACE, member=name, path=_PATH)
                await self._call(message_bus.AddMatch(rule))
            await self._inhibit()
            works()
            log.info("sleep and shutdown of this machine are announced to the pool")
            try:
                async for message in heard:
                    if message.header.fields.get(HeaderFields.sender) == await self._owner():
                        await self._prepare(message.header.fields[HeaderFields.member], message.body == (True,))
            finally:
                self._release()

    async def _owner(self) -> str:
        """Who is login1: anybody on the bus may send a signal that looks like one of its."""
        return str((await self._call(message_bus.GetNameOwner(_NAME))).body[0])

    async def _prepare(self, name: str, is_before: bool) -> None:
        if name not in _SIGNALS:
            return
        if is_before:
            log.info("this machine is about to %s", "sleep" if name == _SIGNALS[0] else "shut down")
            await self._tell(self._away_for_s)
            self._release()
            return
        await self._inhibit()  # first: the machine may go to sleep again at once
        await self._tell(0.0)

    async def _tell(self, for_s: float) -> None:
        try:
            with trio.fail_after(TELL_S):
                await self._away(for_s)
        except (PoolError, trio.TooSlowError) as error:  # silence will tell
            log.info("cannot tell the coordinator: %s", error or "it does not answer in time")

    async def _inhibit(self) -> None:
        self._release()
        arguments = ("sleep:shutdown", "p2pfs peer", "Tells the pool that this machine will be away", "delay")
        reply = await self._call(new_method_call(_MANAGER, "Inhibit", "ssss", arguments))
        self._lock = reply.body[0]

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _call(self, message: Message) -> Message:
        with trio.fail_after(_CALL_S):
            reply = await self._router.send_and_get_reply(message)
        if reply.header.message_type is MessageType.error:
            raise _NoLogin1(str(reply.body[0]) if reply.body else "the bus refuses")
        return reply


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
