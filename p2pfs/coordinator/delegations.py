"""Who may change a volume alone, and for how long: granting, recalling and ending delegations (design: journeys).

Which epoch is in force is a row (`meta.delegations`), checked in the transaction of every batch. Here are the times,
which nobody keeps across a restart: when each session was heard, and until when a holder may answer from its memory.

    nobody ──ask, alone for ALONE_S──▶ held ◀──renewal──┐
      ▲                                 │ │─────────────┘ (for RETURN_S more once it is recalled)
      │◀──returned, its session over────┘ │──returned, but its kernel may still answer──▶ returning ──▶ nobody
      │◀──its mount was started anew: taken over or fenced at once─┤                          │ its time has run out
      └◀──the next change by another session fences─ over ◀────────┴──────────────────────────┘

Called by `sessions` and `handlers`.
"""

import enum
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import trio

from p2pfs.errors import Misuse, Recalling
from p2pfs.meta import delegations as rows
from p2pfs.meta import quotas, sessions
from p2pfs.meta.database import Database
from p2pfs.meta.delegations import Held
from p2pfs.meta.events import Listeners
from p2pfs.meta.sessions import Session
from p2pfs.runtime.clocks import Clock
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.delegations import Delegation, ReturnDelegation

T = TypeVar("T")

ALONE_S: Final = 60.0
"""Nobody else was heard for so long: mounts that are awake say something every few seconds."""
MARGIN_S: Final = 5.0
"""By how much a holder's clock may be slower, over its time."""
RETURN_S: Final = 30.0
"""How long a holder that was asked to return it is still granted renewals: time to send what it has acknowledged."""
TURN_S: Final = 0.8
"""How long a change waits here for its turn: less than a mount's shortest attempt, which would count as silence."""
RETRY_S: Final = 10.0
"""When to ask again."""

_log = logging.getLogger(__name__)


class Verdict(enum.Enum):
    """What becomes of the wish for a delegation."""

    REFUSED = enum.auto()
    RENEWED = enum.auto()
    GRANTED = enum.auto()


@dataclass(frozen=True, slots=True)
class Wish:
    """What the answer depends on. Times are seconds ago, infinite for never."""

    is_renewal: bool  # the asker holds the epoch it names
    may_hold: bool  # it is a mount that may change something, not one whose mount was started anew
    is_on: bool = True  # delegations are granted here at all
    others_heard_s: float = math.inf  # any other mount of the volume
    contested_s: float = math.inf  # a command had to wait for the return of one
    is_exceeded: bool = False  # the volume holds more than its quota
    is_free: bool = True  # nobody holds it, or nobody who could still use it
    recalled_s: float = -math.inf  # this one, so long ago; negative: it was not
    is_ending: bool = False  # it was returned, or is being fenced


def decide(wish: Wish) -> Verdict:
    """Whether the asker gets it."""
    if not wish.is_on:
        return Verdict.REFUSED
    if wish.is_renewal:
        return Verdict.REFUSED if wish.is_ending or wish.recalled_s >= RETURN_S else Verdict.RENEWED
    is_alone = min(wish.others_heard_s, wish.contested_s) >= ALONE_S
    may_hold = wish.may_hold and not wish.is_exceeded
    return Verdict.GRANTED if may_hold and wish.is_free and is_alone else Verdict.REFUSED


@dataclass(slots=True)
class Hearing:
    """When sessions were heard, on the coordinator's monotonic clock. Those that were there when it started count as
    heard just then, where that is the safe assumption."""

    started_s: float
    heard_s: dict[SessionId, float] = field(default_factory=dict)
    opened_s: dict[SessionId, float] = field(default_factory=dict)

    def last_s(self, session: SessionId) -> float:
        """When it was heard at the latest."""
        return self.heard_s.get(session, self.started_s)

    def is_superseded(self, session: Session, mounts: Sequence[Session]) -> bool:
        """Whether its mount is dead: the same node mounted the volume at the same place since, and it has been silent
        ever after."""
        heard_s = self.heard_s.get(session.id, -math.inf)
        return any(
            other.number > session.number
            and (other.node, other.mount_point) == (session.node, session.mount_point)
            and heard_s <= self.opened_s.get(other.id, self.started_s)
            for other in mounts
        )

    def others_heard_s(self, session: Session, mounts: Sequence[Session], now_s: float) -> float:
        """How long ago any other mount that is not dead was heard; infinite if there is none."""
        others = [other for other in mounts if other.id != session.id and not self.is_superseded(other, mounts)]
        return now_s - max((self.last_s(other.id) for other in others), default=-math.inf)


@dataclass(slots=True)
class _Term:
    """The time of one delegation."""

    held: Held
    until_s: float  # monotonic; until then only the holder changes the volume
    recalled_s: float = math.inf
    is_ending: bool = False  # no renewal any more
    changed: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        """Whoever waits looks again."""
        self.changed.set()
        self.changed = trio.Event()


class Delegations:
    """All volumes' delegations. `lasts_s` 0: none is granted."""

    def __init__(self, *, database: Database, listeners: Listeners, lasts_s: float, clock: Clock) -> None:
        self._database = database
        self._listeners = listeners
        self._lasts_s = lasts_s
        self._clock = clock
        self._hearing = Hearing(clock.monotonic())
        self._terms: dict[VolumeId, _Term] = {}
        self._contested_s: dict[VolumeId, float] = {}

    # ---- who is there -----------------------------------------------------------------------------------------------

    def opened(self, session: SessionId) -> None:
        """It has just begun."""
        self._hearing.opened_s[session] = self._clock.monotonic()
        self.heard(self._session(session))

    def heard(self, session: Session) -> None:
        """It said something. A mount that was silent before ends another's delegation."""
        now_s, before_s = self._clock.monotonic(), self._hearing.heard_s.get(session.id, -math.inf)
        self._hearing.heard_s[session.id] = now_s
        if session.mount_point and now_s - before_s >= ALONE_S:
            held = self._held(session.volume)
            if held.holder not in (None, session.id) and not self._is_dead(held):
                self._recall(held)

    def unheard(self, lasting_s: float) -> Callable[[SessionId], bool]:
        """Whether a session was not heard for so long until now; since the coordinator started, at most. The answer may
        be asked for in any thread."""
        since_s = self._clock.monotonic() - lasting_s
        return lambda session: self._hearing.last_s(session) <= since_s

    def ended(self, session: SessionId) -> None:
        """It is over, and its row gone."""
        self._hearing.heard_s.pop(session, None)
        self._hearing.opened_s.pop(session, None)
        for term in [term for term in self._terms.values() if term.held.holder == session]:
            self._freed(term.held)

    # ---- the holder -------------------------------------------------------------------------------------------------

    async def ask(self, session_id: SessionId, epoch: int) -> Delegation:
        """Grant or renew it, or not.

        Durability: one that is granted is on stable storage.

        Raises:
            Fenced: The session is over.
        """
        session = self._session(session_id)
        held = self._held(session.volume)
        verdict = decide(self._wish(session, held, epoch))
        if verdict is Verdict.RENEWED:
            term = self._term(held)
            term.until_s = self._clock.monotonic() + held.lasts_s + MARGIN_S
            return Delegation(held.epoch, held.lasts_s)
        if verdict is Verdict.GRANTED:
            if held.holder not in (None, session_id):
                self._term(held).is_ending = True  # from here on no renewal overtakes the grant
            granted = await self._database.write(
                lambda connection: rows.grant(connection, held, session_id, lasts_s=self._lasts_s),
                committed=partial(self._granted, session),
            )
            if granted is not None:
                return Delegation(granted.epoch, granted.lasts_s)
        return Delegation(0, RETRY_S)

    async def give_back(self, session_id: SessionId, message: ReturnDelegation) -> Delegation:
        """See ReturnDelegation. Raises Fenced, Misuse."""
        if not message.timeouts_s >= 0:  # not a number is neither
            raise Misuse("nothing can be remembered for less than no time")
        held = self._held(self._session(session_id).volume)
        self._listeners.recall(session_id, 0)
        if (held.holder, held.epoch) == (session_id, message.epoch):
            if message.timeouts_s:
                term = self._term(held)
                term.until_s = min(term.until_s, self._clock.monotonic() + message.timeouts_s)
                term.is_ending = True
                term.wake()
            else:
                await self._database.write(
                    lambda connection: rows.give_back(connection, held), committed=lambda _: self._freed(held)
                )
        return Delegation(0, RETRY_S)

    def _wish(self, session: Session, held: Held, epoch: int) -> Wish:
        now_s, is_mine = self._clock.monotonic(), held.holder == session.id
        if is_mine and epoch == held.epoch:
            term = self._term(held)
            return Wish(
                is_renewal=True,
                may_hold=True,
                is_on=self._lasts_s > 0,
                recalled_s=now_s - term.recalled_s,
                is_ending=term.is_ending,
            )
        mounts = self._mounts(session.volume)
        is_mount = bool(session.mount_point) and not session.read_only
        return Wish(
            is_renewal=False,
            may_hold=is_mount and not self._hearing.is_superseded(session, mounts),
            is_on=self._lasts_s > 0,
            others_heard_s=self._hearing.others_heard_s(session, mounts, now_s),
            contested_s=now_s - self._contested_s.get(session.volume, -math.inf),
            is_exceeded=self._database.read(lambda connection: quotas.find(connection, session.volume)).is_exceeded,
            is_free=is_mine or held.holder is None or self._is_over(held),
        )

    def _granted(self, session: Session, held: Held | None) -> None:
        if held is None:
            return
        now_s = self._clock.monotonic()
        before = self._terms.get(held.volume)
        if before is not None:
            self._freed(before.held)
        self._terms[held.volume] = _Term(held, now_s + held.lasts_s + MARGIN_S)
        _log.info("volume %016x is delegated to %s:%s", held.volume, session.host, session.mount_point)
        if self._hearing.others_heard_s(session, self._mounts(session.volume), now_s) < ALONE_S:  # came meanwhile
            self._recall(held)

    # ---- everybody else ---------------------------------------------------------------------------------------------

    async def in_turn(self, session: SessionId, attempt: Callable[[int], Awaitable[T]]) -> T:
        """Do a change as soon as no other session holds the delegation, or none that could still use it: then its
        epoch is given to `attempt`, which ends it in its transaction.

        Raises:
            Recalling: It is not its turn yet, after TURN_S.
            PoolError: What `attempt` raises otherwise.
        """
        over: Held | None = None
        deadline_s = trio.current_time() + TURN_S
        while True:
            try:
                done = await attempt(over.epoch if over is not None else 0)
                break
            except Recalling:
                if trio.current_time() >= deadline_s:
                    raise
            with trio.move_on_at(deadline_s):
                over = await self._turn(session)
        if over is not None and self._held(over.volume) != over:
            _log.info("the delegation of volume %016x ran out and is over", over.volume)
            self._freed(over)
        return done

    async def in_own_turn(self, volume: VolumeId, attempt: Callable[[int], Awaitable[T]]) -> T:
        """Do a change of the coordinator's own, which is in no hurry, if no session holds the delegation, or one whose
        mount is gone: then its epoch is given to `attempt`, which ends it in its transaction. A holder that is silent
        may have changes that it has not sent: it is waited for as long as its session lasts.

        Raises:
            Recalling: It was asked to be returned: try again soon, and nobody is granted it for a minute.
            PoolError: What `attempt` raises otherwise.
        """
        over: Held | None = None
        held = self._held(volume)
        if held.holder is not None:
            self._contested_s[volume] = self._clock.monotonic()
            if not self._is_dead(held):
                self._recall(held)
                raise Recalling("a mount holds the volume's delegation and is being asked to return it")
            self._term(held).is_ending = True  # from here on no renewal overtakes the fence
            over = held
        done = await attempt(over.epoch if over is not None else 0)
        if over is not None and self._held(volume) != over:
            self._freed(over)
        return done

    async def withdraw(self, volume: VolumeId) -> None:
        """Its holder has brought a volume far beyond its quota: it is asked to return the delegation, and from then on
        each of its changes is refused by itself. That of one which goes on under it long after is ended."""
        held = self._held(volume)
        if held.holder is None:
            return
        term = self._term(held)
        self._recall(held)
        if self._clock.monotonic() - term.recalled_s >= RETURN_S and self._is_over(held):
            term.is_ending = True
            await self._database.write(
                lambda connection: rows.end(connection, held), committed=lambda _: self._freed(held)
            )

    def is_held(self, volume: VolumeId) -> bool:
        """Whether a session holds it, perhaps without being able to use it any more."""
        return self._held(volume).holder is not None

    async def _turn(self, session_id: SessionId) -> Held | None:
        """Recall the delegation that another session holds and wait until it is returned (None) or its time over."""
        session = self._session(session_id)
        if not session.mount_point:
            self._contested_s[session.volume] = self._clock.monotonic()
        while True:
            held = self._held(session.volume)
            if held.holder in (None, session_id):
                return None
            term = self._term(held)
            if self._is_over(held):
                term.is_ending = True  # from here on no renewal overtakes the fence
                return held
            self._recall(held)
            with trio.move_on_after(term.until_s - self._clock.monotonic()):
                await term.changed.wait()

    def _recall(self, held: Held) -> None:
        term = self._term(held)
        if held.holder is None or term.is_ending:
            return
        if math.isinf(term.recalled_s):
            term.recalled_s = self._clock.monotonic()
            _log.info("volume %016x is delegated no longer: its mount is asked to return it", held.volume)
        self._listeners.recall(held.holder, held.epoch)

    # ---- times ------------------------------------------------------------------------------------------------------

    def _is_over(self, held: Held) -> bool:
        """Whether its holder could not use it any more even if it wanted to."""
        return self._term(held).until_s <= self._clock.monotonic() or self._is_dead(held)

    def _is_dead(self, held: Held) -> bool:
        mounts = self._mounts(held.volume)
        return any(mount.id == held.holder and self._hearing.is_superseded(mount, mounts) for mount in mounts)

    def _term(self, held: Held) -> _Term:
        """Its time; one that an earlier run of the coordinator granted lasts from this one's start."""
        term = self._terms.get(held.volume)
        if term is None or term.held != held:
            if term is not None:
                term.wake()
            term = self._terms[held.volume] = _Term(held, self._hearing.started_s + held.lasts_s + MARGIN_S)
        return term

    def _freed(self, held: Held) -> None:
        """Whoever waited for the volume's delegation goes on."""
        term = self._terms.get(held.volume)
        if term is not None and term.held == held:
            del self._terms[held.volume]
            if held.holder is not None:
                self._listeners.recall(held.holder, 0)
            term.wake()

    # ---- rows -------------------------------------------------------------------------------------------------------

    def _held(self, volume: VolumeId) -> Held:
        return self._database.read(lambda connection: rows.find(connection, volume))

    def _session(self, session: SessionId) -> Session:
        return self._database.read(lambda connection: sessions.session(connection, session))

    def _mounts(self, volume: VolumeId) -> list[Session]:
        return self._database.read(lambda connection: sessions.mounts(connection, volume))
