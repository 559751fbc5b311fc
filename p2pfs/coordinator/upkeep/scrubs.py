"""The peers' scrubs as jobs: what heartbeats tell of them is seen, and what people want of them is ordered.

A peer scrubs by itself and remembers by itself how far it is; here is only its account. A desk of `orders`.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from p2pfs.coordinator.roster import Peer, Roster
from p2pfs.coordinator.upkeep.jobs import Job, Jobs
from p2pfs.runtime.sizes import format_count
from p2pfs.types import NodeId, PeerNumber
from p2pfs.wire import failures
from p2pfs.wire.jobs import JobAction, JobKind, JobState
from p2pfs.wire.membership import Scrub, ScrubState
from p2pfs.wire.orders import Failed, Order, Result, Steer

_STEERED = {
    JobAction.PAUSE: "pause",
    JobAction.RESUME: "resume",
    JobAction.CANCEL: "cancel",
    JobAction.RETRY: "start",
}


class Scrubs:
    """One job a peer, while it scrubs."""

    def __init__(self, roster: Roster, jobs: Jobs) -> None:
        self._roster = roster
        self._jobs = jobs
        self._wanted: dict[PeerNumber, str] = {}  # the action that a peer has yet to be told
        for action in _STEERED:
            jobs.on(JobKind.SCRUB, action, partial(self._steer, action))

    def heard(self, peer: Peer, scrub: Scrub | None) -> None:
        """What a heartbeat said."""
        if scrub is None or peer.number in self._wanted:  # it may not know yet what was wanted of it
            return
        job = self._jobs.current(JobKind.SCRUB, peer.node.id)
        if scrub.state == ScrubState.IDLE:
            if job is not None:
                self._jobs.end(job, JobState.DONE, _damage(scrub))
            return
        job = job or self._jobs.open(JobKind.SCRUB, peer.node.id)
        job.row.state = JobState.PAUSED if scrub.state == ScrubState.PAUSED else JobState.RUNNING
        job.set(done=scrub.done, total=scrub.total, done_bytes=scrub.done_bytes, total_bytes=scrub.total_bytes)
        job.stuck(_damage(scrub))

    # ---- the desk ---------------------------------------------------------------------------------------------------

    def waits(self, peer: PeerNumber) -> bool:
        return peer in self._wanted

    def take(self, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        action = self._wanted.pop(peer, None)
        return [] if action is None else [Steer(next(numbers), action)]

    async def settle(self, peer: PeerNumber, ended: Sequence[tuple[Order, Result]]) -> None:
        for order, result in ended:
            if isinstance(order, Steer) and isinstance(result, Failed):
                job = self._jobs.current(JobKind.SCRUB, self._roster.peers[peer].node.id)
                if job is not None:
                    job.stuck(f"the peer did not {order.action} its scrub: {failures.shown(result.message)}")

    def lost(self, peer: PeerNumber, orders: Sequence[Order]) -> None:
        for order in orders:
            if isinstance(order, Steer):
                self._wanted.setdefault(peer, order.action)

    async def _steer(self, action: JobAction, job: Job) -> None:
        peer = self._roster.peer_of(NodeId(job.row.subject))
        if peer is not None:
            self._wanted[peer.number] = _STEERED[action]


def _damage(scrub: Scrub) -> str:
    return f"it found {format_count(scrub.damaged, 'damaged chunk')}" if scrub.damaged else ""
