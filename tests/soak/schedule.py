"""Which fault comes next: decisions only, made from a seed and from how far the run is; `faults` carries them out.

        0 ── load only ── churn and upgrades ── the coordinator is restored ── churn that spares the veterans ── 1

Every kind of fault comes at least once before any comes by chance alone. A disk is taken from the pool only while
enough peers are left, and never two at once: after each the executor waits until every chunk has its copies. The
veterans (the coordinator, a peer, two mounts) are left running in the second half, so that it can be seen whether they
grow.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    KILL = "kill"  # -9, and started again
    RESTART = "restart"  # asked to end, and started again
    PAUSE = "pause"  # SIGSTOP, SIGCONT
    LOSE = "lose"  # a peer dies with its disk, and is forgotten
    DRAIN = "drain"  # a peer leaves in peace
    JOIN = "join"  # a new peer
    UPGRADE = "upgrade"  # started again from the newer sources
    RESTORE = "restore"  # the coordinator's disk is gone; it comes back from the peers' backups
    LOOK = "look"  # everything is compared


class Role(StrEnum):
    COORDINATOR = "coordinator"
    PEER = "peer"
    MOUNT = "mount"


@dataclass(frozen=True, slots=True)
class Step:
    fault: Fault
    part: str = ""
    seconds: float = 0.0  # of a pause
    rest_s: float = 3.0  # of nothing but load, afterwards

    def __str__(self) -> str:
        return f"{self.fault} {self.part}".strip() + (f" for {self.seconds:.1f} s" if self.seconds else "")


CHURN_FROM: Final = 0.05
ALTERNATE_UNTIL: Final = 0.4
"""Until here every other step is an upgrade, so that both versions meet while things break; then only upgrades."""
RESTORE_FROM: Final = 0.45
SPARED_FROM: Final = 0.5
LAST: Final = 0.93
"""From here on nothing is broken any more, so that the end finds the pool at rest."""
LEAST_PEERS: Final = 4
"""One more than copies: a peer that goes leaves room for what it held."""
MOST_PEERS: Final = 6
LONGEST_PAUSE_S: Final = 9.0
_CHANCES: Final = {
    Fault.KILL: 6, Fault.RESTART: 4, Fault.PAUSE: 5, Fault.LOSE: 1.5, Fault.DRAIN: 1.5, Fault.JOIN: 2, Fault.LOOK: 3,
}  # fmt: skip


@dataclass
class Schedule:
    """What was decided so far, and what the pool consists of then."""

    chance: random.Random
    peers: list[str]
    mounts: Sequence[str]
    veterans: frozenset[str]
    old: list[str] = field(default_factory=list)  # parts that run the former version, in the order of upgrading
    joined: int = 0
    is_restored: bool = False
    _due: deque[tuple[Fault, Role | None]] = field(default_factory=deque)
    _upgrade_is_next: bool = False

    @classmethod
    def made(cls, seed: str, *, peers: Sequence[str], mounts: Sequence[str], veterans: Sequence[str]) -> "Schedule":
        chance = random.Random(f"faults {seed}")
        due: list[tuple[Fault, Role | None]] = [
            (fault, role) for fault in (Fault.KILL, Fault.RESTART, Fault.PAUSE) for role in Role
        ]
        due += [(Fault.JOIN, None), (Fault.LOSE, None), (Fault.DRAIN, None), (Fault.LOOK, None)]
        chance.shuffle(due)
        due.sort(key=lambda one: one[1] is not Role.COORDINATOR)  # the veterans' turns come while they may be disturbed
        return cls(
            chance, list(peers), tuple(mounts), frozenset(veterans), ["coordinator", *peers, *mounts], len(peers),
            _due=deque(due),
        )  # fmt: skip

    def next(self, progress: float) -> Step:
        """The next step, `progress` (0 to 1) into the run."""
        if progress < CHURN_FROM or progress >= LAST:
            return Step(Fault.LOOK, rest_s=10.0)
        if self.old:
            self._upgrade_is_next = not self._upgrade_is_next
            if self._upgrade_is_next or progress >= ALTERNATE_UNTIL:
                return Step(Fault.UPGRADE, self.old.pop(0))
        elif not self.is_restored and progress >= RESTORE_FROM:
            self.is_restored = True
            return Step(Fault.RESTORE)
        return self._fault(progress)

    def _fault(self, progress: float) -> Step:
        for _ in range(len(self._due)):
            fault, role = self._due.popleft()
            if step := self._step(fault, role, progress):
                return step
            self._due.append((fault, role))
        while True:
            fault = self.chance.choices(list(_CHANCES), list(_CHANCES.values()))[0]
            if step := self._step(fault, None, progress):
                return step

    def _step(self, fault: Fault, role: Role | None, progress: float) -> Step | None:
        """None where it is not possible now."""
        rest_s = self.chance.uniform(1.0, 6.0)
        match fault:
            case Fault.LOOK:
                return Step(fault)
            case Fault.JOIN:
                if len(self.peers) >= MOST_PEERS:
                    return None
                self.joined += 1
                self.peers.append(f"peer-{self.joined}")
                return Step(fault, self.peers[-1], rest_s=rest_s)
            case Fault.LOSE | Fault.DRAIN:
                going = [peer for peer in self.peers if peer not in self.veterans]
                if len(self.peers) <= LEAST_PEERS or not going:
                    return None
                gone = self.chance.choice(going)
                self.peers.remove(gone)
                self.old = [part for part in self.old if part != gone]
                return Step(fault, gone, rest_s=rest_s)
            case _:
                return self._on_part(fault, role, progress, rest_s)

    def _on_part(self, fault: Fault, role: Role | None, progress: float, rest_s: float) -> Step | None:
        role = role or self.chance.choice(list(Role))
        parts = {Role.COORDINATOR: ["coordinator"], Role.PEER: self.peers, Role.MOUNT: list(self.mounts)}[role]
        if fault is not Fault.PAUSE and progress >= SPARED_FROM:
            parts = [part for part in parts if part not in self.veterans]
        if not parts:
            return None
        seconds = self.chance.uniform(0.5, LONGEST_PAUSE_S) if fault is Fault.PAUSE else 0.0
        return Step(fault, self.chance.choice(parts), seconds=seconds, rest_s=rest_s)
