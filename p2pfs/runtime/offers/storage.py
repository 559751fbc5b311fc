"""Disk for chunks: `storage=200G`. The setting is `capacity`; the peer's store keeps the limit itself."""

from typing import Final

from p2pfs.errors import Invalid
from p2pfs.runtime.offers.kinds import Always, Kind, Machine, Provider, Unit
from p2pfs.runtime.sizes import format_size, given_size, parse_size
from p2pfs.types import MIB

_MOST_BYTES: Final = 1 << 60
LEAST_BYTES: Final = 64 * MIB
"""Fewer chunks than are worth a peer."""
AUTOMATIC: Final = "auto"


def _parse(text: str) -> Always:
    """`auto`: what is free beyond `reserve`. Raises Invalid."""
    if text.lower() in ("", AUTOMATIC):
        return Always(None, AUTOMATIC)
    size = parse_size(text)
    if size > _MOST_BYTES:
        raise Invalid(f"“{text}” is more than any machine has")
    return Always(size, format_size(size))


def expect_meant(text: str) -> None:
    """Whether a person can mean it: peers of older versions may have offered anything. Raises Invalid."""
    if text.lower() != AUTOMATIC and 0 < given_size(text) < LEAST_BYTES:
        raise Invalid(f"at least {format_size(LEAST_BYTES)} of storage, or 0 for nothing")


def _provide(machine: Machine) -> Provider:
    return machine.storage


KIND = Kind("storage", Unit.BYTES, "disk for chunks", _parse, _provide, default=AUTOMATIC, setting="capacity")
