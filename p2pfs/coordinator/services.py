"""Everything the coordinator does, by name, and who may use what of a volume or a session.

Made by `composition`; the routes (`handlers`), the dashboard and the figures call what is in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pfs.coordinator.backup.state import Backups
from p2pfs.coordinator.bookings import Bookings
from p2pfs.coordinator.delegations import Delegations
from p2pfs.coordinator.deletion import Deletion
from p2pfs.coordinator.dialability import Dialability
from p2pfs.coordinator.flow import Flow
from p2pfs.coordinator.history import History
from p2pfs.coordinator.membership import Membership
from p2pfs.coordinator.pulse import Pulse
from p2pfs.coordinator.questions import Questions
from p2pfs.coordinator.relay import Relay
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roll import RollOffice
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.sessions import Sessions
from p2pfs.coordinator.sharing import Sharing
from p2pfs.coordinator.status import Status
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.coordinator.upkeep.leaving import Leaving
from p2pfs.coordinator.upkeep.orders import OrderBook
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.coordinator.volumes import Volumes, parse_volume
from p2pfs.net.identity import Identity
from p2pfs.runtime.worker import Worker
from p2pfs.types import Role, SessionId
from p2pfs.wire.membership import PoolMap
from p2pfs.wire.routes import Route


@dataclass(frozen=True, slots=True)
class Services:
    """One coordinator's."""

    roster: Roster
    membership: Membership
    pulse: Pulse
    dialability: Dialability
    relay: Relay
    volumes: Volumes
    deletion: Deletion
    sharing: Sharing
    sessions: Sessions
    questions: Questions
    delegations: Delegations
    reservations: Reservations
    bookings: Bookings
    status: Status
    pool_map: Callable[..., PoolMap]
    """The map; with the name of an owner, for what that one writes."""
    roll: RollOffice
    backups: Backups
    orders: OrderBook
    leaving: Leaving
    jobs: Jobs
    pool_clock: PoolClock
    usefulness: Usefulness
    history: History
    flow: Flow
    copied: Callable[[], int]
    """Copies made by order of the coordinator since its start."""
    workers: Sequence[Worker]
    """Background work beside `pulse`, for `daemon` to run."""

    def authorise(self, route: Route, identity: Identity, parameters: dict[str, str]) -> None:
        """Whether the volume or session in the path is the caller's to use.

        Raises:
            NotFound, Denied, Fenced: See `Volumes.require_owner`, `Volumes.require_member`,
                `Sessions.require_holder`, `Sharing.require_rights`.
        """
        if route.owned:
            volume = parse_volume(parameters["volume"])
            self.volumes.require_owner(
                identity, volume, or_admin=Role.ADMIN in route.roles, is_deleted=route.name == "undelete_volume"
            )
        elif "volume" in parameters:
            self.volumes.require_member(identity, parse_volume(parameters["volume"]))
        else:
            session = self.sessions.require_holder(identity, SessionId(parameters["session"]))
            if not self.volumes.is_owners(identity, session.volume):
                self.sharing.require_rights(session)
            self.sessions.heard(session)  # not before: whose rights are gone must not keep others waiting
