"""Who gave how many bytes to whom: windows of a day for each node, from what the coordinator itself saw and from what
both ends of a read say.

    commits, repairs ─────────────▶ d_special of who took in, u_special of who placed
    heartbeats: "I served" ──┐
                             ├─ the lesser of the two, of each pair and day ─▶ u_usual of one, d_usual of the other
    renewals: "I fetched" ───┘

Nobody is believed alone, and nothing among the nodes of one owner counts. Sync, in memory; the database takes over what
changed once a minute (`usefulness`), so that a crash loses a minute's counts and a commit costs nothing more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2pfs.coordinator.roster import Roster
from p2pfs.errors import Misuse
from p2pfs.meta.usefulness import ReadKey
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
        self._reports = 0
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
        pair = self._pairs.get(place)
        runs = {} if pair is None else pair.fetched if key.by_client else pair.served
        if key.run not in runs and (self._reports >= MOST_REPORTS or len(runs) >= MOST_RUNS):
            return None
        if pair is None:
            pair = self._pairs[place] = _Pair({}, {})
            runs = pair.fetched if key.by_client else pair.served
        self._reports += key.run not in runs
        if size > runs.get(key.run, -1):
            runs[key.run] = size
            self.told[key] = size
        return pair

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
        for (_, server, client), pair in self._pairs.items():
            beyond = sum(pair.served.values()) - sum(pair.fetched.values())
            served += max(0, beyond) if server == node else 0
            fetched += max(0, beyond) if client == node else 0
        return Unconfirmed(served, fetched)

    # ---- what is kept -----------------------------------------------------------------------------------------------

    def take_changes(self) -> tuple[dict[tuple[int, NodeId], Counts], dict[ReadKey, int]]:
        """What the database is to take over now."""
        changed = {(day, node): self._windows[node][day] for day, node in self.changed if day in self._windows[node]}
        told, self.told = self.told, {}
        self.changed = set()
        return changed, told

    def put_back(self, changed: Iterable[tuple[int, NodeId]], told: dict[ReadKey, int]) -> None:
        """The database did not."""
        self.changed.update(changed)
        self.told = told | self.told

    def expire(self) -> tuple[int, int]:
        """Forget what counts no more; the first days of windows, and of reports, that are kept."""
        first, first_report = self.today - WINDOWS + 1, self.today - LATE_DAYS
        for days in self._windows.values():
            for day in [day for day in days if day < first]:
                del days[day]
        self._windows = {node: days for node, days in self._windows.items() if days}
        for place in [place for place in self._pairs if place[0] < first_report]:
            pair = self._pairs.pop(place)
            self._reports -= len(pair.served) + len(pair.fetched)
        self.changed = {(day, node) for day, node in self.changed if day >= first}
        self.told = {key: size for key, size in self.told.items() if key.day >= first_report}
        return first, first_report


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
