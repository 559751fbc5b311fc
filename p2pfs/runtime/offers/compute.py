"""Processors for jobs of the pool: described, and switched off until there are such jobs.

It is in the pool's view, so that programs that read it know the kind already; nobody can offer it, so nothing relies on
an offer that nothing keeps to.
"""

from p2pfs.errors import Invalid
from p2pfs.runtime.offers.kinds import Always, Kind, Machine, Provider, Unit


class _Idle:
    def limit(self, amount: int | None) -> None:
        pass

    def offered(self) -> int | None:
        return 0

    def used(self) -> int:
        return 0


def _parse(text: str) -> Always:
    if text.lower() == "off":
        return Always(0, "off")
    raise Invalid("this kind is described and switched off: no version places work on it yet")


def _provide(_machine: Machine) -> Provider:
    return _Idle()


KIND = Kind("compute", Unit.COUNT, "processors for jobs of the pool", _parse, _provide, default="off", is_on=False)
