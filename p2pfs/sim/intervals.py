"""How sure a count makes one: exact 95 % intervals, also for events seen never."""

import math
from collections.abc import Callable
from typing import Final

CONFIDENCE: Final = 0.95
_TAIL: Final = (1 - CONFIDENCE) / 2


def of_share(count: int, runs: int) -> tuple[float, float]:
    """Clopper and Pearson: between which shares the true one is, if `count` of `runs` were so."""
    low = 0.0 if count == 0 else _solve(lambda share: 1 - _at_most(count - 1, runs, share), 1.0)
    high = 1.0 if count == runs else _solve(lambda share: 1 - _at_most(count, runs, share), 1.0, 1 - _TAIL)
    return low, high


def of_count(count: float) -> tuple[float, float]:
    """Garwood: between which means the true one is, if so many independent events were seen.

    None seen: at most 3, the rule of three (one-sided, so that it is 95 % as well).
    """
    if count <= 0:
        return 0.0, -math.log(1 - CONFIDENCE)
    far = count + 10 * math.sqrt(count) + 20
    return _solve(lambda mean: _gamma(count, mean), far), _solve(lambda mean: _gamma(count + 1, mean), far, 1 - _TAIL)


def _solve(rising: Callable[[float], float], far: float, goal: float = _TAIL) -> float:
    low, high = 0.0, far
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < goal else (low, middle)
    return (low + high) / 2


def _at_most(count: int, runs: int, share: float) -> float:
    """The chance of no more than `count` successes."""
    return sum(math.comb(runs, at) * share**at * (1 - share) ** (runs - at) for at in range(count + 1))


def _gamma(shape: float, x: float) -> float:
    """The regularised lower incomplete gamma function, by its series: Poisson's chance of `shape` or more events."""
    if x <= 0:
        return 0.0
    term = total = math.exp(shape * math.log(x) - x - math.lgamma(shape + 1))
    at = shape
    while term > total * 1e-12 or at < x:
        at += 1
        term *= x / at
        total += term
    return min(1.0, total)
