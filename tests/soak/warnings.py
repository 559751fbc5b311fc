"""Every warning in a log must be that of a fault that was made: which texts are claimed, by which faults, and why.

Pure: it reads lines and the history of faults, and says what nobody claims.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from soak.schedule import Fault

LATE_S: Final = 30.0
"""So long after a fault has ended may a warning still be of it."""

_LINE: Final = re.compile(r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<level>[A-Z]+) (?P<text>.*)", re.DOTALL)
_BAD: Final = frozenset({"WARNING", "ERROR", "CRITICAL"})


@dataclass(frozen=True, slots=True)
class Past:
    """A fault that was made, in UTC seconds."""

    fault: Fault
    part: str
    begun_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Warned:
    """A record of WARNING or worse, or what stands in a log and is no record (a traceback, a last word)."""

    part: str
    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Claim:
    """`whose` and `of`: regular expressions for the log it stands in, and the part that the fault was made on."""

    text: str
    faults: frozenset[Fault]
    why: str
    whose: str = ".*"
    of: str = ".*"

    def explains(self, warned: Warned, history: Iterable[Past]) -> bool:
        return (
            re.fullmatch(self.whose, warned.part) is not None
            and re.search(self.text, warned.text) is not None
            and any(
                past.fault in self.faults
                and re.fullmatch(self.of, past.part)
                and past.begun_s <= warned.at_s <= past.ended_s + LATE_S
                for past in history
            )
        )


_STOPS: Final = frozenset({Fault.KILL, Fault.RESTART, Fault.PAUSE, Fault.UPGRADE, Fault.RESTORE})
_ENDS: Final = _STOPS | {Fault.LOSE}

CLAIMS: Final = (
    Claim(r"membership: revoked |is forgotten: its copies", frozenset({Fault.LOSE}), "its disk is gone for good",
          whose="coordinator", of="peer-.*"),
    Claim(r"pulse: peer .* is down", _ENDS, "it is not heard", whose="coordinator"),
    Claim(r"does not take this peer's heartbeat", _STOPS, "the coordinator does not answer", whose="peer-.*",
          of="coordinator"),
    Claim(r"care: peer \d+: ", _ENDS, "an order to a peer that does not answer", whose="coordinator", of="peer-.*"),
    Claim(r"inventory: the inventory of peer .* differed: \d+ chunks lost", frozenset({Fault.RESTORE}),
          "it was let go behind the last backup", whose="coordinator", of="coordinator"),
    Claim(r"the volume cannot be delegated", _STOPS, "the coordinator does not answer", whose="mount|anna",
          of="coordinator"),
)  # fmt: skip
"""Nothing else may be warned of."""


def records(part: str, text: str) -> list[Warned]:
    """What a log warns of. A traceback belongs to the record before it."""
    found: list[Warned] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            if (line.startswith("  ") and found) or " is mounted at " in line:
                continue
            found.append(Warned(part, 0.0, line))  # of no record: it has no time, and nothing explains it
        elif match["level"] in _BAD:
            at_s = datetime.fromisoformat(match["at"].replace("Z", "+00:00")).timestamp()
            found.append(Warned(part, at_s, f"{match['level']} {match['text']}"))
    return found


def unclaimed(warned: Iterable[Warned], history: Sequence[Past], claims: Sequence[Claim] = CLAIMS) -> list[str]:
    """What nothing explains, each text once, with how often it was said."""
    counts: dict[tuple[str, str], int] = {}
    for record in warned:
        if not any(claim.explains(record, history) for claim in claims):
            counts[record.part, record.text] = counts.get((record.part, record.text), 0) + 1
    return [f"{part}: {text}" + (f" ({count} times)" if count > 1 else "") for (part, text), count in counts.items()]
