"""Who leaves and who comes: the paper's three sets, and peers that come and go by themselves."""

from dataclasses import dataclass
from random import Random
from typing import Final

from p2pfs.sim.history import Event, History

HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class PaperSet:
    """One of the paper's sets: in each period of an hour `leavers` leave, and as many others join."""

    name: str
    connected: int
    persistent: int  # they never leave
    is_drawn_anew: bool  # one slot after the other, so that newcomers leave too; else as many distinct ones leave
    leavers: int = 59

    def departures(self, random: Random) -> list[int]:
        """The slots whose peers leave in one period, in order. The persistent ones are in the last slots."""
        able = self.connected - self.persistent
        if self.is_drawn_anew:
            return random.choices(range(able), k=self.leavers)
        return random.sample(range(able), self.leavers)

    @property
    def staying(self) -> float:
        """The chance that a peer is still there after one period."""
        if self.is_drawn_anew:
            return (1 - 1 / self.connected) ** self.leavers
        return 1 - self.leavers / self.connected


SETS: Final = (
    PaperSet("set 1", connected=100, persistent=0, is_drawn_anew=True),
    PaperSet("set 2", connected=100, persistent=41, is_drawn_anew=False),
    PaperSet("set 3", connected=4000, persistent=41, is_drawn_anew=False),
)


class HourlyChurn:
    """The paper's: those that leave do so at any time of the hour, for good, and another joins at once."""

    def __init__(self, kind: PaperSet, random: Random) -> None:
        self._kind = kind
        self._random = random

    def begin(self, history: History) -> None:
        self.period(history)

    def arrived(self, history: History, slot: int) -> None:
        """The hour decides, not the peer."""

    def absence_s(self) -> float | None:
        return None

    def period(self, history: History) -> None:
        for slot in self._kind.departures(self._random):
            history.at(history.now_s + self._random.random() * HOUR_S, Event.LEAVE, slot)
        history.at(history.now_s + HOUR_S, Event.PERIOD, 0)

    def again_s(self, event: Event) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class Rates:
    """How peers come and go, each by itself and without memory."""

    leaves_per_day: float  # of a peer that is up
    returning: float  # share of those that come back
    absence_s: float  # for how long those are silent, on average

    @property
    def up_share(self) -> float:
        """Share of the time in which a peer is up."""
        up_s = DAY_S / self.leaves_per_day
        return up_s / (up_s + self.returning * self.absence_s)

    @property
    def gone_per_day(self) -> float:
        """How often a peer that is up leaves for good."""
        return self.leaves_per_day * (1 - self.returning)


class SteadyChurn:
    """Peers as `Rates` has them."""

    def __init__(self, rates: Rates, random: Random) -> None:
        self._per_second = rates.leaves_per_day / DAY_S
        self._rates = rates
        self._random = random

    def begin(self, history: History) -> None:
        for slot in range(len(history.slots)):
            self.arrived(history, slot)

    def arrived(self, history: History, slot: int) -> None:
        history.at(history.now_s + self._random.expovariate(self._per_second), Event.LEAVE, slot)

    def absence_s(self) -> float | None:
        if self._random.random() >= self._rates.returning:
            return None
        return self._random.expovariate(1 / self._rates.absence_s)

    def period(self, history: History) -> None:
        """It asked for none."""

    def again_s(self, event: Event) -> float | None:
        """Without memory, what has not happened yet may be drawn anew at any time."""
        if event is Event.LEAVE:
            return self._random.expovariate(self._per_second)
        return self._random.expovariate(1 / self._rates.absence_s) if event is Event.RETURN else None
