"""Who listens to what: each session's queue of what others changed, and the requests that wait for it.

A queue decides and never waits; `Listeners` finds the queues that a batch concerns and wakes whoever waits. In memory
only: a restart starts new streams, which tells every mount that it may have missed something. Called by
`coordinator.sessions`, and by the namespaces of this process.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from p2pfs.errors import Fenced, Misuse
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.events import REMOVED, ChangedInode, ChangedName, Events, WaitEvents
from p2pfs.wire.namespace import Accessed, AddReplicas, Applied, Link, Make, Opened, Operation, Released, Rename, Unlink

MAX_QUEUED: Final = 10_000
"""Most events kept for a session: 7 MB with the longest names. A queue that overflowed keeps none until it is asked."""
MAX_WAIT_S: Final = 20.0
"""The longest a request waits, far below what servers allow a handler (net.messages.Limits)."""
_QUIET: Final = (Accessed, AddReplicas, Opened, Released)  # nobody else sees a difference


@dataclass(frozen=True, slots=True)
class News:
    """What a batch did that others may want to know. `held` lost their last name and are kept for `keepers` too."""

    volume: VolumeId
    operations: Sequence[Operation]
    applied: Applied
    held: Sequence[int] = ()
    keepers: Sequence[SessionId] = ()


_Event = ChangedInode | ChangedName | int  # an int: held


class EventQueue:
    """What one session is yet to be told, numbered by arrival. The newest of each inode and each name only.

    `_known` is the number up to which the session knows everything, or will never learn it here: what it had when it
    began to listen, acknowledged, or lost.
    """

    def __init__(self, *, since_opening: bool) -> None:
        self.stream = secrets.randbelow((1 << 63) - 1) + 1
        self._known = 0 if since_opening else 1  # then nobody can have known it all after 0
        self._last = self._known
        self._events: dict[object, tuple[int, _Event]] = {}  # by what it is about, ascending numbers
        self._overflowed = False

    def __repr__(self) -> str:
        return f"EventQueue({len(self._events)} events after {self._known}{', overflowed' * self._overflowed})"

    def put(self, events: Iterable[_Event]) -> None:
        """Queue events. Beyond MAX_QUEUED all are dropped, and the next answer says so."""
        if self._overflowed:
            return
        for event in events:
            about = (
                event.inode if isinstance(event, ChangedInode) else ("held", event) if isinstance(event, int) else event
            )
            _, before = self._events.pop(about, (0, event))
            self._last += 1
            self._events[about] = self._last, _newest(before, event)
        if len(self._events) > MAX_QUEUED:
            self._events.clear()
            self._known = self._last
            self._overflowed = True

    def take(self, stream: int, after: int) -> Events:
        """The answer to a request, perhaps with nothing in it. What it acknowledges is forgotten."""
        self._overflowed = False
        is_ours = stream == self.stream or (stream == 0 and after == 0)
        if not is_ours or not self._known <= after <= self._last:
            return Events(self.stream, self._last, lost=True)
        self._known = after
        while self._events:
            about, (number, _) = next(iter(self._events.items()))
            if number > after:
                break
            del self._events[about]
        told = [event for _, event in self._events.values()]
        return Events(
            self.stream,
            self._last,
            inodes=[event for event in told if isinstance(event, ChangedInode)],
            names=[event for event in told if isinstance(event, ChangedName)],
            held=[event for event in told if isinstance(event, int)],
        )


def _newest(before: _Event, event: _Event) -> _Event:
    """Of two events about the same: a mount must never be told of an older version last."""
    if not isinstance(before, ChangedInode) or not isinstance(event, ChangedInode):
        return event
    if REMOVED in (before.change, event.change):
        return ChangedInode(event.inode, REMOVED, REMOVED)
    return ChangedInode(event.inode, max(before.change, event.change), max(before.attr_change, event.attr_change))


@dataclass(slots=True)
class _Listener:
    volume: VolumeId
    queue: EventQueue
    news: trio.Event = field(default_factory=trio.Event)  # of the newest request: it was answered, or should be


class Listeners:
    """The sessions that are told what others change, by volume."""

    def __init__(self) -> None:
        self._volumes: dict[VolumeId, dict[SessionId, _Listener]] = {}
        self._sessions: dict[SessionId, _Listener] = {}
        self._is_stopping = False

    def __repr__(self) -> str:
        return f"Listeners({len(self._sessions)} sessions of {len(self._volumes)} volumes)"

    def opened(self, session: SessionId, volume: VolumeId) -> None:
        """A session begins here: it is told everything from now on."""
        self._listener(session, volume, since_opening=True)

    def ended(self, session: SessionId) -> None:
        """It is over: its waiting request gets Fenced, its queue is forgotten. Fine when it never listened."""
        listener = self._sessions.pop(session, None)
        if listener is None:
            return
        others = self._volumes[listener.volume]
        del others[session]
        if not others:
            del self._volumes[listener.volume]
        listener.news.set()

    def publish(self, session: SessionId, news: News | None) -> None:
        """Tell every other session of the volume what `session` did. Costs nothing when nobody else listens."""
        if news is None:
            return
        others = [(other, one) for other, one in self._volumes.get(news.volume, {}).items() if other != session]
        if not others or all(isinstance(operation, _QUIET) for operation in news.operations):
            return
        events: list[_Event] = [*_names(news.operations), *_inodes(news.applied)]
        for other, listener in others:
            theirs = [*events, *news.held] if other in news.keepers else events
            if theirs:  # nobody is woken for nothing
                listener.queue.put(theirs)
                listener.news.set()

    async def wait(self, session: SessionId, volume: VolumeId, asked: WaitEvents) -> Events:
        """What the session is to be told, as soon as there is something or when `asked.wait_s` or MAX_WAIT_S are over.
        A session has one waiting request: the next one ends it with nothing, as `stop` does.

        The caller has made sure that the session is alive, without a checkpoint since.

        Raises:
            Fenced: The session ended meanwhile.
            Misuse: That is no time to wait.
        """
        if not asked.wait_s >= 0:  # not a number is neither
            raise Misuse("nobody can wait for less than nothing")
        listener = self._listener(session, volume, since_opening=False)
        listener.news.set()
        news = listener.news = trio.Event()
        answer = listener.queue.take(asked.stream, asked.after)
        if self._is_stopping or answer.lost or answer.inodes or answer.names or answer.held:
            return answer
        with trio.move_on_after(min(asked.wait_s, MAX_WAIT_S)):
            await news.wait()
        if self._sessions.get(session) is not listener:
            raise Fenced("this session is over: mount the volume again")
        if listener.news is not news:  # a newer request came: it gets what there is
            return answer
        return listener.queue.take(asked.stream, asked.after)

    def stop(self) -> None:
        """Nobody waits from now on: the server stops."""
        self._is_stopping = True
        for listener in self._sessions.values():
            listener.news.set()

    def _listener(self, session: SessionId, volume: VolumeId, *, since_opening: bool) -> _Listener:
        listener = self._sessions.get(session)
        if listener is None:
            listener = _Listener(volume, EventQueue(since_opening=since_opening))
            self._sessions[session] = self._volumes.setdefault(volume, {})[session] = listener
        return listener


def _names(operations: Iterable[Operation]) -> Iterator[ChangedName]:
    for operation in operations:
        if isinstance(operation, Make | Link | Unlink | Rename):
            yield ChangedName(operation.parent, operation.name)
        if isinstance(operation, Rename):
            yield ChangedName(operation.new_parent, operation.new_name)


def _inodes(applied: Applied) -> Iterator[ChangedInode]:
    for row in applied.attributes:
        yield ChangedInode(row.inode, row.change, row.attr_change)
    for inode in applied.removed:
        yield ChangedInode(inode, REMOVED, REMOVED)
