"""What a kind of resource is, and what a peer lends it to work with.

A kind is one module of this package that makes a `Kind`, and one line in `registry` (docs/resources.md shows one being
added). Everything else, the command, the configuration, heartbeats, the pool's sums, goes through the registry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from p2pfs.errors import Invalid
from p2pfs.runtime.rates import RateLimit

LONGEST_RULE: Final = 512


class Unit(StrEnum):
    """What the numbers of a kind count; it says how they are shown."""

    BYTES = "bytes"
    RATE = "bytes/s"
    COUNT = "count"


class Rule(Protocol):
    """What the owner said: how much is offered, and when. `str` gives it as it was said."""

    def at(self, moment: datetime) -> int | None:
        """How much, at a local time; None: without a limit."""
        ...


@dataclass(frozen=True, slots=True)
class Always:
    """The same at all times."""

    amount: int | None
    text: str

    def __str__(self) -> str:
        return self.text

    def at(self, _moment: datetime) -> int | None:
        return self.amount


class Provider(Protocol):
    """A kind at work at one peer. Called from the event loop; never blocks."""

    def limit(self, amount: int | None) -> None:
        """From now on so much is offered."""
        ...

    def offered(self) -> int | None:
        """How much is offered now; None: without a limit."""
        ...

    def used(self) -> int:
        """How much the pool uses of it now."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """What a peer lends to kinds: its chunk store, and the limits of its sockets."""

    storage: Provider
    up: RateLimit
    down: RateLimit
    now_s: Callable[[], float]  # monotonic


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of resource."""

    name: str  # one word: in `p2pfs share`, in the configuration and in JSON
    unit: Unit
    about: str
    parse: Callable[[str], Rule]  # raises Invalid
    provide: Callable[[Machine], Provider]
    default: str
    setting: str = ""  # its name in the configuration where that is another
    is_on: bool = True

    @property
    def key(self) -> str:
        """Its name in the configuration."""
        return self.setting or self.name

    def read(self, text: str) -> Rule:
        """What somebody wrote. Raises Invalid."""
        if len(text) > LONGEST_RULE or not text.isprintable():
            raise Invalid(f"a rule has at most {LONGEST_RULE} printable letters")
        return self.parse(text.strip())

    def rule(self, text: str) -> Rule:
        """The same, and the error says of which kind. Raises Invalid."""
        try:
            return self.read(text)
        except Invalid as error:
            raise Invalid(f"{self.name}: {error}") from None
