"""Amounts of resources as people write and read them. Pure.

Rates of networks count bits and powers of ten, as everywhere: `20Mbit` is 2 500 000 bytes a second. `20M/s` are bytes
and powers of 1024, as the other rates of the configuration.
"""

import re
from typing import Final

from p2pfs.errors import Invalid
from p2pfs.runtime.offers.kinds import Unit
from p2pfs.runtime.sizes import format_size, parse_size

UNLIMITED: Final = "none"
_BITS: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmg])bit(?:/s)?", re.IGNORECASE | re.ASCII)
_POWERS: Final = {"k": 1, "m": 2, "g": 3}
LEAST_RATE: Final = 32_000
"""Slower, and a chunk would not get through before the other end gives up."""
_MOST_RATE: Final = 1 << 50


def parse_rate(text: str) -> int | None:
    """Bytes a second; None: no limit.

    Raises:
        Invalid: It is no rate, or less than LEAST_RATE.
    """
    if text.lower() == UNLIMITED:
        return None
    found = _BITS.fullmatch(text)
    if found is not None:
        rate = int(float(found[1]) * 1000 ** _POWERS[found[2].lower()] / 8)
    elif text.lower().endswith("/s"):
        rate = parse_size(text[:-2])
    else:
        raise Invalid(f"“{text[:40]}” is no rate: write 20Mbit, or 2M/s for bytes, or “none” for no limit")
    if rate < LEAST_RATE:
        raise Invalid(
            f"at least {format_rate(LEAST_RATE)}, or chunks would not get through; to be silent for a while:"
            " p2pfs peer away"
        )
    return min(rate, _MOST_RATE)


def format_rate(rate: int) -> str:
    """The shortest of "300 kbit/s", "2.5 Mbit/s", "1 Gbit/s" that keeps three digits."""
    value, unit = rate * 8 / 1e3, "kbit/s"
    for larger in ("Mbit/s", "Gbit/s", "Tbit/s"):
        if value < 999.5:
            break
        value, unit = value / 1e3, larger
    number = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return f"{number.removesuffix('.0')} {unit}"


def shown(amount: int | None, unit: str) -> str:
    """An amount in its unit."""
    if amount is None:
        return "no limit"
    if unit == Unit.BYTES:
        return format_size(amount)
    return format_rate(amount) if unit == Unit.RATE else f"{amount}"
