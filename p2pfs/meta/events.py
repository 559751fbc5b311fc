"""Who listens to what: a log of what happened to each volume, where each session is in it, and the requests that wait.

A log decides and never waits; `Listeners` finds the log that a batch concerns and wakes whoever waits. In memory only:
a restart starts new streams, which tells every mount that it may have missed something. Called by
`coordinator.sessions`, and by the namespaces of this process.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from p2pfs.errors import Fenced, Misuse, Unavailable
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.events import REMOVED, ChangedInode, ChangedName, Events, WaitEvents
from p2pfs.wire.fsck import Adopt
from p2pfs.wire.leases import Restore
from p2pfs.wire.namespace import Accessed, AddReplicas, Applied, Link, Make, Opened, Operation, Released, Rename, Unlink

MAX_LOGGED: Final = 10_000
"""Most events kept of a volume: 7 MB with the longest names."""
MAX_WAIT_S: Final = 20.0
"""The longest a request waits, far below what servers allow a handler (net.messages.Limits)."""
SILENT_S: Final = 60.0
"""Who has not asked for so long is told nothing any more, though its session may live for a day."""
REPEAT_S: Final = 1.0
"""How often a session is told again that it is to return its delegation: the first time may have got lost."""
_QUIET: Final = (Accessed, AddReplicas, Opened, Released)  # nobody else sees a difference


@dataclass(frozen=True, slots=True)
class Publication:
    """What a batch did that others may want to know. `held` lost their last name and are kept for `keepers` too."""

    volume: VolumeId
    operations: Sequence[Operation]
    applied: Applied
    held: Sequence[int] = ()
    keepers: Sequence[SessionId] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """An inode that is kept for some sessions only."""

    inode: int
    keepers: frozenset[SessionId]


_Event = ChangedInode | ChangedName | Held


@dataclass(frozen=True, slots=True)
class _Entry:
    """The newest of what happened to one inode or name. `foreign` is the number of the newest that was not by `author`
    (0: none), so that nobody is told of its own doing and all are told of everybody else's."""

    number: int
    author: SessionId
    foreign: int
    event: _Event

    def concerns(self, reader: SessionId, after: int) -> bool:
        if isinstance(self.event, Held) and reader not in self.event.keepers:
            return False
        return (self.foreign if reader == self.author else self.number) > after


class EventLog:
    """What happened to one volume, numbered in the order of commits: the newest of each inode and each name only."""

    def __init__(self) -> None:
        self.last = 0
        self.dropped = 0  # events up to this number are not all here
        self._entries: OrderedDict[object, _Entry] = OrderedDict()  # by what it is about, ascending numbers

    def __repr__(self) -> str:
        return f"EventLog({len(self._entries)} events after {self.dropped})"

    def put(self, author: SessionId, events: Iterable[_Event]) -> None:
        """Add events; the oldest beyond MAX_LOGGED are dropped."""
        for event in events:
            about = _about(event)
            before = self._entries.pop(about, None)
            self.last += 1
            if before is None:
                self._entries[about] = _Entry(self.last, author, 0, event)
            else:
                foreign = before.foreign if before.author == author else before.number
                self._entries[about] = _Entry(self.last, author, foreign, _newest(before.event, event))
        while len(self._entries) > MAX_LOGGED:
            _, oldest = self._entries.popitem(last=False)
            self.dropped = oldest.number

    def since(self, after: int, reader: SessionId) -> list[_Event]:
        """What others did after that number, oldest first; costs what came since and no more."""
        found = []
        for entry in reversed(self._entries.values()):
            if entry.number <= after:
                break
            if entry.concerns(reader, after):
                found.append(entry.event)
        return found[::-1]


class Cursor:
    """Where one session is in its volume's log. The number is the session's own to remember: what it acknowledged
    comes back with its request, so that an answer that got lost is given again."""

    def __init__(self, log: EventLog, session: SessionId, *, since_opening: bool) -> None:
        self.stream = secrets.randbelow((1 << 63) - 1) + 1
        self._log = log
        self._session = session
        self._start = log.last
        self._since_opening = since_opening
        self._own = (0, 0)  # events after the first number, up to the second, are all the session's own

    def put(self, events: Iterable[_Event]) -> None:
        """Add what the session itself did: however much it is, it misses nothing by it."""
        first = self._log.last
        self._log.put(self._session, events)
        self._own = (self._own[0] if self._own[1] == first else first, self._log.last)

    def take(self, stream: int, after: int) -> Events:
        """The answer to a request, perhaps with nothing in it."""
        log = self._log
        if stream == after == 0 and self._since_opening:
            stream, after = self.stream, self._start
        skipped = self._own[1] if self._own[0] <= after <= self._own[1] else after
        if stream != self.stream or not self._start <= after <= log.last or skipped < log.dropped:
            return Events(self.stream, log.last, lost=True)
        told = log.since(skipped, self._session)
        return Events(
            self.stream,
            log.last,
            inodes=[event for event in told if isinstance(event, ChangedInode)],
            names=[event for event in told if isinstance(event, ChangedName)],
            held=[event.inode for event in told if isinstance(event, Held)],
        )


def _about(event: _Event) -> object:
    if isinstance(event, ChangedInode):
        return event.inode
    return ("held", event.inode) if isinstance(event, Held) else event


def _newest(before: _Event, event: _Event) -> _Event:
    """Of two events about the same: a mount must never be told of an older version last."""
    if not isinstance(before, ChangedInode) or not isinstance(event, ChangedInode):
        return event
    if REMOVED in (before.change, event.change):
        return ChangedInode(event.inode, REMOVED, REMOVED)  # also what the trash gave back since: whoever asks sees it
    return ChangedInode(event.inode, max(before.change, event.change), max(before.attr_change, event.attr_change))


class _Listener:
    """One session that asks."""

    __slots__ = ("asked_s", "cursor", "news", "recalled", "volume")

    def __init__(self, volume: VolumeId, cursor: Cursor, asked_s: float) -> None:
        self.volume = volume
        self.cursor = cursor
        self.asked_s = asked_s
        self.recalled = 0  # the epoch whose recall it was told last
        self.news = trio.Event()  # of the newest request: it was answered, or should be


class _Volume:
    """A log and who listens to it; whoever asked last is last."""

    __slots__ = ("listeners", "log")

    def __init__(self) -> None:
        self.log = EventLog()
        self.listeners: OrderedDict[SessionId, _Listener] = OrderedDict()


class Listeners:
    """The sessions that are told what others change, by volume. `now_s` only has to rise."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._volumes: dict[VolumeId, _Volume] = {}
        self._sessions: dict[SessionId, _Listener] = {}
        self._recalled: dict[SessionId, int] = {}  # epochs to return
        self._is_stopping = False

    def __repr__(self) -> str:
        return f"Listeners({len(self._sessions)} sessions of {len(self._volumes)} volumes)"

    def opened(self, session: SessionId, volume: VolumeId) -> None:
        """A session begins here: it is told everything from now on."""
        self._listener(session, volume, since_opening=True)

    def ended(self, session: SessionId) -> None:
        """It is over: its waiting request gets Fenced. Fine when it never listened."""
        self._recalled.pop(session, None)
        listener = self._sessions.pop(session, None)
        if listener is None:
            return
        volume = self._volumes[listener.volume]
        del volume.listeners[session]
        if not volume.listeners:
            del self._volumes[listener.volume]
        listener.news.set()

    def publish(self, session: SessionId, news: Publication | None) -> None:
        """Tell every other session of the volume what `session` did. Writes it down once, however many listen, and not
        at all when nobody else does."""
        volume = self._volumes.get(news.volume) if news is not None else None
        if news is None or volume is None:
            return
        self._forget_silent(news.volume, volume)
        own = volume.listeners.get(session)
        if len(volume.listeners) == (own is not None):
            return
        if all(isinstance(operation, _QUIET) for operation in news.operations):
            return
        keepers = frozenset(news.keepers)
        events: list[_Event] = [*_names(news.operations), *_inodes(news.applied)]
        events += [Held(inode, keepers) for inode in news.held]
        if not events:  # nobody is woken for nothing
            return
        if own is not None:
            own.cursor.put(events)
        else:
            volume.log.put(session, events)
        for listener in volume.listeners.values():
            if listener is not own:
                listener.news.set()

    def recall(self, session: SessionId, epoch: int) -> None:
        """Tell the session, until this is called with 0, to return the delegation of that epoch."""
        if not epoch:
            self._recalled.pop(session, None)
            return
        self._recalled[session] = epoch
        listener = self._sessions.get(session)
        if listener is not None and listener.recalled != epoch:
            listener.news.set()

    async def wait(self, session: SessionId, volume: VolumeId, asked: WaitEvents) -> Events:
        """What the session is to be told, as soon as there is something or when `asked.wait_s` or MAX_WAIT_S are over.
        A session has one waiting request: the next one ends it with nothing, as `stop` does.

        The caller has made sure that the session is alive, without a checkpoint since.

        Raises:
            Fenced: The session ended meanwhile.
            Misuse: That is no time to wait.
            Unavailable: Nobody waits here any more.
        """
        if not asked.wait_s >= 0:  # not a number is neither
            raise Misuse("nobody can wait for less than nothing")
        if self._is_stopping:  # an answer would be asked for again, at once
            raise Unavailable("the coordinator stops")
        listener = self._listener(session, volume, since_opening=False)
        listener.news.set()
        news = listener.news = trio.Event()
        recall = self._recalled.get(session, 0)
        answer = listener.cursor.take(asked.stream, asked.after)
        if answer.lost or answer.inodes or answer.names or answer.held or recall not in (0, listener.recalled):
            return self._with_recall(session, listener, answer)
        with trio.move_on_after(min(asked.wait_s, REPEAT_S if recall else MAX_WAIT_S)):
            await news.wait()
        if self._sessions.get(session) is not listener:
            raise Fenced("this session is over: mount the volume again")
        if listener.news is not news:  # a newer request came: it gets what there is
            return answer
        self._asks(session, listener)
        return self._with_recall(session, listener, listener.cursor.take(asked.stream, asked.after))

    def stop(self) -> None:
        """Nobody waits from now on: the server stops."""
        self._is_stopping = True
        for listener in self._sessions.values():
            listener.news.set()

    def _with_recall(self, session: SessionId, listener: _Listener, answer: Events) -> Events:
        listener.recalled = self._recalled.get(session, 0)
        return msgspec.structs.replace(answer, recall=listener.recalled) if listener.recalled else answer

    def _listener(self, session: SessionId, volume: VolumeId, *, since_opening: bool) -> _Listener:
        listener = self._sessions.get(session)
        if listener is None:
            of = self._volumes.setdefault(volume, _Volume())
            listener = _Listener(volume, Cursor(of.log, session, since_opening=since_opening), 0.0)
            self._sessions[session] = of.listeners[session] = listener
        self._asks(session, listener)
        return listener

    def _asks(self, session: SessionId, listener: _Listener) -> None:
        listener.asked_s = self._now_s()
        self._volumes[listener.volume].listeners.move_to_end(session)

    def _forget_silent(self, of: VolumeId, volume: _Volume) -> None:
        """A request waits for less than SILENT_S: none of these has one."""
        before_s = self._now_s() - SILENT_S
        while volume.listeners:
            session, listener = next(iter(volume.listeners.items()))
            if listener.asked_s >= before_s:
                break
            del volume.listeners[session], self._sessions[session]
        if not volume.listeners:
            del self._volumes[of]


def _names(operations: Iterable[Operation]) -> Iterator[ChangedName]:
    for operation in operations:
        if isinstance(operation, Make | Link | Unlink | Rename | Restore | Adopt):
            yield ChangedName(operation.parent, operation.name)
        if isinstance(operation, Rename):
            yield ChangedName(operation.new_parent, operation.new_name)


def _inodes(applied: Applied) -> Iterator[ChangedInode]:
    for row in applied.attributes:
        yield ChangedInode(row.inode, row.change, row.attr_change)
    for inode in applied.removed:
        yield ChangedInode(inode, REMOVED, REMOVED)
