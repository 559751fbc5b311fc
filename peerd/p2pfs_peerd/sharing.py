"""What this peer offers, as its owner sees and changes it while it runs: the daemon's end of `p2pfs share`."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final

import msgspec
import trio

from p2pfs.errors import Invalid, NoSpace, Unavailable
from p2pfs.net.pace import Pace
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.config_file import write_settings
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.offers import registry
from p2pfs.runtime.offers.book import Local, OfferBook, parse_given
from p2pfs.runtime.offers.kinds import Machine
from p2pfs.wire.offers import Offered
from p2pfs_peerd.offer import Offer

log = logging.getLogger(__name__)

_TELLING_S: Final = 5.0
"""How long whoever changed something is kept waiting for what the coordinator says to it."""


class Sharing:
    """The offers of one peer. `beat` tells the coordinator at once, and ends when it has answered or is not there."""

    def __init__(
        self,
        home: NodeHome,
        settings: Settings,
        offer: Offer,
        pace: Pace,
        clock: Clock,
        local: Local = datetime.fromtimestamp,
    ) -> None:
        self._home = home
        self._offer = offer
        self._changing = trio.Lock()
        self._passing = [kind.name for key, kind in registry.by_key().items() if key in settings.given]
        machine = Machine(offer, pace.up, pace.down, clock.monotonic)
        self._book = OfferBook(_texts(settings), machine, clock, local)
        self.run = self._book.run
        self.told: Callable[[], list[Offered]] = self._book.told

    def state(self) -> dict[str, object]:
        """As the command shows it. `granted` is what the pool lets this peer offer of its disk, if it has said so;
        `passing` are the kinds that this process was given with --set, which a start comes back to."""
        return {
            "offers": msgspec.to_builtins(self.told()),
            "wished": self._offer.wished(),
            "granted": self._offer.granted,
            "passing": self._passing,
        }

    async def change(self, texts: Mapping[str, str], beat: Callable[[], Awaitable[None]]) -> dict[str, object]:
        """Offer something else from now on, and after a restart; all of it or nothing.

        Raises:
            Invalid: There is no such kind, or what is written is no rule.
            NoSpace, Unavailable: It cannot be kept; nothing was changed.
        """
        rules = parse_given(texts)
        async with self._changing:
            kept = {registry.named(name).key: text.strip() for name, text in texts.items()}
            await trio.to_thread.run_sync(partial(write_settings, self._home, kept))
            self._book.change(rules)
            log.info("offers %s from now on", ", ".join(f"{name} {rule}" for name, rule in rules.items()))
            with trio.move_on_after(_TELLING_S):
                await beat()
        return self.state()

    async def answer(self, request: Mapping[str, object], beat: Callable[[], Awaitable[None]]) -> dict[str, object]:
        """What the daemon's socket answers to a request that may name changes."""
        wanted = request.get("set")
        if wanted is None:
            return self.state()
        try:
            if not isinstance(wanted, dict) or not all(isinstance(text, str) for text in wanted.values()):
                raise Invalid("what is to be offered is not written as text")
            return await self.change(wanted, beat)
        except (Invalid, NoSpace, Unavailable) as error:
            return {"error": str(error)}


def _texts(settings: Settings) -> dict[str, str]:
    """What is configured, by the names of kinds."""
    found = {kind.name: settings.offers[key] for key, kind in registry.by_key().items() if key in settings.offers}
    return found if settings.capacity is None else found | {"storage": str(settings.capacity)}
