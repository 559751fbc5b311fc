"""Sizes, counts and times as people write them: "20G", "1.5 MiB", "3 copies", "30d", "500ms".

Pure. Used by the configuration, the command line and everything that prints a number for a person. Units of size are
powers of 1024 whatever their spelling (G = GB = GiB), as in JuiceFS and Ceph.
"""

import re
from typing import Final

from p2pfs.errors import Invalid

_SIZE: Final = re.compile(r"(\d{1,40}(?:\.\d{1,40})?)\s*([kmgtpe]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_SIZE_POWERS: Final = "kmgtpe"
_PART: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(ms|sec|s|min|m|h|d|w|y)\s*", re.IGNORECASE | re.ASCII)
_SECONDS: Final = {
    "ms": 0.001,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 7 * 86400.0,
    "y": 365 * 86400.0,
}
_LONGEST_SPAN_S: Final = 10_000 * _SECONDS["y"]
_MOST_BYTES: Final = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Bytes: "4096", "20G", "1.5MiB".

    Raises:
        Invalid: It is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise Invalid(f"“{text}” is no size: write a number and a unit, such as 500M, 20G or 1.5T")
    number, unit = found.groups()
    power = _SIZE_POWERS.index(unit.lower()) + 1 if unit else 0
    factor = 1024**power
    size = int(number) * factor if "." not in number else int(float(number) * factor)
    if size > _MOST_BYTES:
        raise Invalid(f"“{text}” is larger than any size this system can hold")
    return size


def given_size(text: str) -> int:
    """As `parse_size`, of what a person writes now: a number without a unit is one whose unit was forgotten.

    Raises:
        Invalid: It is no size, or has no unit and is not 0.
    """
    expect_unit(text, "M, G or T", "G")
    return parse_size(text)


def expect_unit(text: str, units: str, usual: str) -> None:
    """Raises Invalid: it is a bare number other than 0."""
    bare = text.strip()
    if re.fullmatch(r"[\d.]+", bare, re.ASCII) and bare.strip("0."):
        raise Invalid(f"“{bare[:40]}” has no unit: write {units} behind the number, such as {bare[:40]}{usual}")


def format_size(size: int) -> str:
    """The shortest of "0 B", "12.5 MiB", "3 GiB" that keeps three digits."""
    if abs(size) < 1024:
        return f"{size} B"
    power, value = 1, size / 1024
    while abs(value) >= 1023.95 and power < len(_SIZE_POWERS):
        value /= 1024
        power += 1
    number = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return f"{number.removesuffix('.0')} {_SIZE_POWERS[power - 1].upper()}iB"


def format_count(number: int, one: str, many: str = "") -> str:
    """As "1 chunk", "3 chunks", "2 copies"; `many` where the plural is neither of these."""
    if number == 1:
        return f"1 {one}"
    return f"{number} {many or (f'{one[:-1]}ies' if one.endswith('y') else f'{one}s')}"


def parse_duration(text: str) -> float:
    """Seconds: "5s", "30d", "1h30m", "500ms", "100y"; a bare number is seconds.

    Raises:
        Invalid: It is no time span.
    """
    stripped = text.strip()
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", stripped, re.ASCII):
        return float(stripped)
    seconds, at = 0.0, 0
    while at < len(stripped):
        part = _PART.match(stripped, at)
        if part is None:
            break
        seconds += float(part.group(1)) * _SECONDS[part.group(2).lower()]
        at = part.end()
    if not stripped or at < len(stripped):
        raise Invalid(f"“{text}” is no time span: write a number and a unit, such as 5s, 10min, 24h or 30d")
    return seconds


def given_duration(text: str) -> float:
    """As `parse_duration`, of what a person writes now.

    Raises:
        Invalid: It is no time span, or has no unit and is not 0.
    """
    expect_unit(text, "s, min, h or d", "s")
    return parse_duration(text)


def parse_span(text: str) -> float:
    """As `given_duration`, for what is counted in days: "30d", "12h", "100y".

    Raises:
        Invalid: It is no time span, has no unit, or is no time at all.
    """
    expect_unit(text, "s, m, h, d, w or y", "d")
    seconds = parse_duration(text)
    if not 0 < seconds <= _LONGEST_SPAN_S:
        raise Invalid(f"“{text}” is not between a moment and ten thousand years")
    return seconds


def format_duration(seconds: float) -> str:
    """At most two units, the largest first: "450ms", "5s", "1h 30min", "2d 3h"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    rest = round(seconds)
    parts: list[str] = []
    for unit, span in (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, span)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)
