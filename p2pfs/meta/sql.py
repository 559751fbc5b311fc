"""Pieces of SQL that every part of the database needs. Used by the modules beside it."""

from collections.abc import Iterable
from typing import Final

from p2pfs.types import GONE_STATES

GONE: Final = ", ".join(f"'{state.value}'" for state in sorted(GONE_STATES))
"""What goes there to ask for the states of peers that are no members."""


def number_list(numbers: Iterable[int]) -> str:
    """What goes between the parentheses of `IN (…)`. Numbers only, so nothing to quote; not bound, because bound
    parameters are limited in number."""
    return ",".join(str(int(number)) for number in sorted(numbers))
