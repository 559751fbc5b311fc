"""Pieces of SQL that every part of the database needs. Used by the modules beside it."""

from collections.abc import Iterable


def number_list(numbers: Iterable[int]) -> str:
    """What goes between the parentheses of `IN (…)`. Numbers only, so nothing to quote; not bound, because bound
    parameters are limited in number."""
    return ",".join(str(int(number)) for number in sorted(numbers))
