"""Who gave how many bytes to whom: windows of a day for each node, from what the coordinator itself saw and from what
both ends of a read say.

    commits, repairs ─────────────▶ d_special of who took in, u_special of who placed
    heartbeats: "I served" ──┐
                             ├─ the lesser of the two, of each pair and day ─▶ u_usual of one, d_usual of the other
    renewals: "I fetched" ───┘

Nobody is believed alone, and nothing among the nodes of one owner counts. Sync, in memory; the database takes over what
changed once a minute (`usefulness`), so that a crash loses a minute's counts and a commit costs nothing more.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2pfs.coordinator.roster import Roster
from p2pfs.errors import Misuse
from p2pfs.meta.usefulness import Kept, ReadKey
from p2pfs.placement.usefulness import NOTHING, WINDOWS, Counts, decayed, total
from p2pfs.runtime.clocks import Clock
from p2pfs.types import NodeId, PeerNumber

DAY_S: Final = 86400
LATE_DAYS: Final = 1
"""A report counts for today and for so many days before."""
MOST_ROWS: Final = 1000
"""In one report."""
MOST_REPORTS: Final = 200_000
"""Remembered, about 40 MB: further pairs of nodes that read from each other do not count."""
MOST_OF_NODE: Final = 4000
"""Of those, told by one node."""
MOST_ALONE: Final = MOST_REPORTS // 10
"""Of those, told by one owner's nodes and by nobody at the other end: who tells much that nobody confirms keeps nobody
else's reads from counting."""
MOST_RUNS: Final = 64
"""Of one end of a pair, in a day: who restarts more often is not counted further."""
MOST_DAY_BYTES: Final = 1 << 50
"""What one end can say of a pair and a day; more is no figure."""


@dataclass(slots=True)
class _Pair:
    """One reader's reads at one peer, on one day."""

    served: dict[int, int]  # run → bytes
    fetched: dict[int, int]
    counted: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether one end alone has told of it."""
        return not (self.served and self.fetched)

    def agreed(self) -> int:
        return min(sum(self.served.values()), sum(self.fetched.values()))


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """What one end says beyond the other, in the days that can still be reported on."""

    served: int  # the node says that it served so much more than its readers say
    fetched: int  # peers say that they served this node so much more than it says


class Traffic:
    """The account. `changed` and `told` are what the database does not know yet."""

    def __init__(
        self,
        roster: Roster,
        clock: Clock,
        windows: dict[NodeId, dict[int, Counts]],
        reports: dict[ReadKey, int],
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._windows = windows
        self._pairs: dict[tuple[int, NodeId, NodeId], _Pair] = {}
        self._places: dict[NodeId, dict[tuple[int, NodeId, NodeId], None]] = {}  # of the pairs, by either end
        self._reports = 0
        self._told_by: Counter[NodeId] = Counter()
        self._alone: Counter[str] = Counter()  # by the owner who told it
        self.changed: set[tuple[int, NodeId]] = set()
        self.told: dict[ReadKey, int] = {}
        for key, size in reports.items():
            self._report(key, size)
        for pair in self._pairs.values():
            pair.counted = pair.agreed()  # is in the windows, which were kept in the same transactions

    @property
    def today(self) -> int:
        return int(self._clock.time() // DAY_S)

    # ---- what happened ----------------------------------------------------------------------------------------------

    def placed(self, owner: str, node: NodeId | None, peer: PeerNumber, size: int) -> None:
        """A peer took a chunk of this owner in: because a node stored it there, or, without `node`, by order of the
        coordinator; then its owner, who asked for nothing, owes nothing."""
        taker = self._roster.peers[peer].node
        if taker.owner != owner:
            self._add(self.today, taker.id, Counts(d_special=size))
            if node is not None:
                self._add(self.today, node, Counts(u_special=size))

    def served(self, server: NodeId, run: int, rows: Iterable[tuple[int, str, int]]) -> None:
        """A peer says how much it served to whom: (day, node, bytes so far)."""
        for day, client, size in rows:
            self._hear(ReadKey(day, server, NodeId(client), False, run), size)

    def fetched(self, client: NodeId, run: int, rows: Iterable[tuple[int, int, int]]) -> None:
        """A mount says how much it fetched where: (day, peer, bytes so far)."""
        for day, number, size in rows:
            peer = self._roster.peers.get(PeerNumber(number))
            if peer is not None:
                self._hear(ReadKey(day, peer.node.id, client, True, run), size)

    def _hear(self, key: ReadKey, size: int) -> None:
        """What is of other days, of strangers, or among one owner's nodes, is passed over."""
        server, client = self._roster.nodes.get(key.server), self._roster.nodes.get(key.client)
        is_now = self.today - LATE_DAYS <= key.day <= self.today
        if server is None or client is None or not is_now or server.owner == client.owner:
            return
        pair = self._report(key, size)
        gain = pair.agreed() - pair.counted if pair is not None else 0
        if pair is not None and gain > 0:
            pair.counted += gain
            self._add(key.day, key.server, Counts(u_usual=gain))
            self._add(key.day, key.client, Counts(d_usual=gain))

    def _report(self, key: ReadKey, size: int) -> _Pair | None:
        """Note it; None where there is no room for more. A run says what it counted since the day began, or it did:
        the most it ever said holds."""
        place = (key.day, key.server, key.client)
        pair = self._pairs.get(place) or _Pair({}, {})
        runs = pair.fetched if key.by_client else pair.served
        if key.run not in runs:
            if not self._may_remember(key, pair):
                return None
            self._pairs[place] = pair
            for node in (key.server, key.client):
                self._places.setdefault(node, {})[place] = None
            self._tally(place, pair, -1)
            runs[key.run] = -1
            self._tally(place, pair, 1)
        if size > runs[key.run]:
            runs[key.run] = size
            self.told[key] = size
        return pair

    def _may_remember(self, key: ReadKey, pair: _Pair) -> bool:
        """Whether there is room for what one more run says: in all, of this pair, node and owner."""
        teller, others = (key.client, pair.served) if key.by_client else (key.server, pair.fetched)
        runs = pair.fetched if key.by_client else pair.served
        return (
            self._reports < MOST_REPORTS
            and len(runs) < MOST_RUNS
            and self._told_by[teller] < MOST_OF_NODE
            and (bool(others) or self._alone[self._owner_of(teller)] < MOST_ALONE)
        )

    def _tally(self, place: tuple[int, NodeId, NodeId], pair: _Pair, sign: int) -> None:
        """Count what either end has told, or (-1) do not any more."""
        _, server, client = place
        for node, runs in ((server, pair.served), (client, pair.fetched)):
            self._reports += sign * len(runs)
            self._told_by[node] += sign * len(runs)
            if pair.is_alone:
                self._alone[self._owner_of(node)] += sign * len(runs)

    def _owner_of(self, node: NodeId) -> str:
        known = self._roster.nodes.get(node)
        return known.owner if known is not None else ""

    def _add(self, day: int, node: NodeId, more: Counts) -> None:
        days = self._windows.setdefault(node, {})
        days[day] = days.get(day, NOTHING) + more
        self.changed.add((day, node))

    # ---- what it comes to -------------------------------------------------------------------------------------------

    def counts(self, node: NodeId) -> Counts:
        """A node's, as today."""
        return decayed(self._windows.get(node, {}), self.today)

    def owner_counts(self, owner: str) -> Counts:
        """The sum over all nodes the owner ever had: who leaves one behind keeps its debts, and its merits."""
        return total(self.counts(node.id) for node in self._roster.nodes.values() if node.owner == owner)

    def by_owner(self) -> dict[str, Counts]:
        """The same of every owner."""
        found: dict[str, Counts] = {}
        for node in self._roster.nodes.values():
            found[node.owner] = found.get(node.owner, NOTHING) + self.counts(node.id)
        return found

    def windows(self, node: NodeId) -> dict[int, Counts]:
        """A node's days."""
        return dict(sorted(self._windows.get(node, {}).items()))

    def unconfirmed(self, node: NodeId) -> Unconfirmed:
        """What a node, or somebody about it, says alone."""
        served = fetched = 0
        for place in self._places.get(node, ()):
            (_, server, client), pair = place, self._pairs[place]
            beyond = sum(pair.served.values()) - sum(pair.fetched.values())
            served += max(0, beyond) if server == node else 0
            fetched += max(0, beyond) if client == node else 0
        return Unconfirmed(served, fetched)

    # ---- what is kept -----------------------------------------------------------------------------------------------

    def take_changes(self) -> tuple[dict[tuple[int, NodeId], Counts], dict[ReadKey, int]]:
        """What the database is to take over now."""
        windows = self._windows
        changed = {(day, node): windows[node][day] for day, node in self.changed if day in windows.get(node, {})}
        told, self.told = self.told, {}
        self.changed = set()
        return changed, told

    def put_back(self, changed: Iterable[tuple[int, NodeId]], told: dict[ReadKey, int]) -> None:
        """The database did not."""
        self.changed.update(changed)
        self.told = told | self.told

    def expire(self) -> Kept:
        """Forget what counts no more. To be asked when the clock can be trusted: what was counted in days to come, by a
        clock that was ahead, is of today, or it would never fade."""
        kept = Kept(self.today - WINDOWS + 1, self.today - LATE_DAYS, self.today)
        for node, days in self._windows.items():
            ahead = [days.pop(day) for day in list(days) if day > kept.last]
            if ahead:
                self._add(kept.last, node, total(ahead))
            for day in [day for day in days if day < kept.first]:
                del days[day]
        self._windows = {node: days for node, days in self._windows.items() if days}
        for place in [place for place in self._pairs if not kept.first_report <= place[0] <= kept.last]:
            self._tally(place, self._pairs.pop(place), -1)
            for node in place[1:]:
                self._places[node].pop(place, None)
        self._places = {node: places for node, places in self._places.items() if places}
        self._told_by, self._alone = +self._told_by, +self._alone
        self.changed = {(day, node) for day, node in self.changed if kept.first <= day <= kept.last}
        self.told = {key: size for key, size in self.told.items() if kept.first_report <= key.day <= kept.last}
        return kept


def check(rows: Iterable[tuple[int, str | int, int]], count: int) -> None:
    """Whether a report of reads is possible.

    Raises:
        Misuse: It is not.
    """
    if count > MOST_ROWS:
        raise Misuse(f"a report of reads has at most {MOST_ROWS} rows")
    for day, other, size in rows:
        is_other = len(other) <= 64 if isinstance(other, str) else 0 <= other < 1 << 63
        if not 0 <= day < 1 << 32 or not is_other or not 0 <= size <= MOST_DAY_BYTES:
            raise Misuse("a report of reads has impossible figures")
