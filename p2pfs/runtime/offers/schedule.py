"""Rules with times: `20Mbit@mon-fri/08:00-18:00,100Mbit`. Pure.

    rule    = part *("," part)
    part    = amount ["@" when]
    when    = [days "/"] from "-" until | days
    days    = day ["-" day]                       mon tue wed thu fri sat sun
    from, until = HH ":" MM                       local time; 24:00 is allowed as the end

The first part whose time it is counts; one without a time always. Where none counts there is no limit. A span that ends
before it begins goes on after midnight and belongs to the day on which it begins.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from p2pfs.errors import Invalid

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_PARTS: Final = 16
_DAY_MIN: Final = 24 * 60
_DAY: Final = "|".join(DAYS)
_WHEN: Final = re.compile(
    rf"(?:(?P<first>{_DAY})(?:-(?P<last>{_DAY}))?)?/?(?:(?P<fh>\d\d):(?P<fm>\d\d)-(?P<uh>\d\d):(?P<um>\d\d))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a week: on these days (0 is Monday), from one minute of the day until another, local time."""

    days: frozenset[int]
    start_min: int
    end_min: int

    def contains(self, moment: datetime) -> bool:
        minute, day = moment.hour * 60 + moment.minute, moment.weekday()
        if self.start_min < self.end_min:
            return day in self.days and self.start_min <= minute < self.end_min
        if minute >= self.start_min:
            return day in self.days
        return minute < self.end_min and (day - 1) % 7 in self.days


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Amounts by time; see the module."""

    parts: tuple[tuple[int | None, Span | None], ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def at(self, moment: datetime) -> int | None:
        return next((amount for amount, span in self.parts if span is None or span.contains(moment)), None)


def parse_scheduled(text: str, parse_amount: Callable[[str], int | None]) -> Scheduled:
    """Raises Invalid."""
    written = text.split(",")
    if len(written) > MOST_PARTS:
        raise Invalid(f"a rule has at most {MOST_PARTS} parts")
    parts = tuple(_part(part.strip(), parse_amount) for part in written)
    if any(span is None for _, span in parts[:-1]):
        raise Invalid("a part without a time always counts, so nothing after it would: write it last")
    return Scheduled(parts, text)


def _part(text: str, parse_amount: Callable[[str], int | None]) -> tuple[int | None, Span | None]:
    amount, at, when = text.partition("@")
    return parse_amount(amount.strip()), _span(when.strip().lower()) if at else None


def _span(text: str) -> Span:
    found = _WHEN.fullmatch(text)
    needs_slash = bool(found and found["first"] and found["fh"])
    if found is None or not (found["first"] or found["fh"]) or ("/" in text) != needs_slash:
        raise Invalid(f"“{text}” is no time: write 08:00-18:00, mon-fri or mon-fri/08:00-18:00")
    start = _minute(found["fh"], found["fm"]) if found["fh"] else 0
    end = _minute(found["uh"], found["um"]) if found["fh"] else _DAY_MIN
    if start in (end, _DAY_MIN):
        raise Invalid(f"“{text}” is no span of time")
    return Span(_days(found["first"], found["last"]), start, end)


def _minute(hours: str, minutes: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > _DAY_MIN:
        raise Invalid(f"“{hours}:{minutes}” is no time of a day")
    return minute


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    start = DAYS.index(first)
    count = (DAYS.index(last or first) - start) % 7 + 1
    return frozenset((start + day) % 7 for day in range(count))
