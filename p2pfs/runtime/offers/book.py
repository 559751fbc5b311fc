"""A peer's rules at work: what is offered now, changed while the peer runs and with the time of day.

Owned by the peer daemon, which runs it as a task. Local time is the machine's: a change of its clock or of summer time
counts within a second.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import trio

from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.offers import registry, storage
from p2pfs.runtime.offers.kinds import Kind, Machine, Provider, Rule
from p2pfs.wire.offers import Offered

EVERY_S: Final = 1.0

Local = Callable[[float], datetime]
"""UTC seconds → local time."""


def parse_all(texts: Mapping[str, str]) -> dict[str, Rule]:
    """Rules by the names of their kinds. Raises Invalid."""
    return {name: registry.named(name).rule(text) for name, text in texts.items()}


def parse_given(texts: Mapping[str, str]) -> dict[str, Rule]:
    """As `parse_all`, of what a person writes now. Raises Invalid."""
    rules = parse_all(texts)
    if storage.KIND.name in texts:
        storage.expect_meant(texts[storage.KIND.name].strip())
    return rules


class OfferBook:
    """All kinds, each with its rule; those that are not among `texts` have their defaults."""

    def __init__(
        self, texts: Mapping[str, str], machine: Machine, clock: Clock, local: Local = datetime.fromtimestamp
    ) -> None:
        """Raises Invalid."""
        self._clock = clock
        self._local = local
        self._kinds: dict[str, Kind] = {kind.name: kind for kind in registry.kinds()}
        self._rules = parse_all({name: kind.default for name, kind in self._kinds.items()} | dict(texts))
        self._providers: dict[str, Provider] = {name: kind.provide(machine) for name, kind in self._kinds.items()}
        self._amounts: dict[str, int | None] = {}
        self.apply()

    def change(self, rules: Mapping[str, Rule]) -> None:
        """From now on."""
        self._rules |= rules
        self._amounts = {name: amount for name, amount in self._amounts.items() if name not in rules}
        self.apply()

    def apply(self) -> None:
        """Offer what is to be offered at this time."""
        moment = self._local(self._clock.time())
        for name, rule in self._rules.items():
            amount = rule.at(moment)
            if name not in self._amounts or self._amounts[name] != amount:
                self._amounts[name] = amount
                self._providers[name].limit(amount)

    async def run(self) -> None:
        """Keep to the times of day until cancelled."""
        while True:
            self.apply()
            for provider in self._providers.values():
                provider.used()  # those that count over time look now
            await trio.sleep(EVERY_S)

    def told(self) -> list[Offered]:
        """Every kind that is switched on."""
        return [
            Offered(name, kind.unit.value, self._providers[name].offered(), self._providers[name].used(), f"{rule}")
            for name, rule in self._rules.items()
            if (kind := self._kinds[name]).is_on
        ]
