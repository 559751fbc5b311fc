"""Routes → services: each handler decodes, calls, encodes, and decides nothing.

Who may call what was checked by the server from `wire.routes` before; membership of volumes and sessions by
`authorise`. Made once by `daemon`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from p2pfs.coordinator import history, status
from p2pfs.coordinator.backup.state import Backups
from p2pfs.coordinator.bookings import Bookings
from p2pfs.coordinator.delegations import Delegations
from p2pfs.coordinator.deletion import Deletion
from p2pfs.coordinator.dialability import Dialability
from p2pfs.coordinator.flow import Flow
from p2pfs.coordinator.membership import Membership
from p2pfs.coordinator.pulse import Pulse
from p2pfs.coordinator.relay import Relay
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roll import RollOffice
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.sessions import Sessions
from p2pfs.coordinator.sharing import Sharing
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.coordinator.upkeep.leaving import Leaving
from p2pfs.coordinator.upkeep.orders import OrderBook
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.coordinator.volumes import Volumes, parse_volume
from p2pfs.errors import Invalid, NotFound
from p2pfs.net.forwarding import Accepting
from p2pfs.net.identity import Identity
from p2pfs.net.server import Handler, Request, Response
from p2pfs.runtime.worker import Worker
from p2pfs.types import NodeId, Role, SessionId
from p2pfs.wire import codec
from p2pfs.wire.backups import Confirm
from p2pfs.wire.bookings import Book
from p2pfs.wire.dashboard import LoginLink
from p2pfs.wire.delegations import AskDelegation, ReturnDelegation
from p2pfs.wire.events import WaitEvents
from p2pfs.wire.jobs import JobAction
from p2pfs.wire.membership import AwayRequest, Heartbeat, InviteRequest, JoinRequest, Listen, PoolMap, RenewRequest
from p2pfs.wire.namespace import Batch, Question
from p2pfs.wire.orders import Report
from p2pfs.wire.plans import PlanRequest
from p2pfs.wire.routes import Route
from p2pfs.wire.sharing import ChangeMembers, PublishKey
from p2pfs.wire.volumes import (
    ChangeSlots,
    CreateVolume,
    DeleteVolume,
    GrantIds,
    OpenSession,
    RenewSession,
    Reserve,
    UndeleteVolume,
    VolumeSettings,
)

NewLink = Callable[[NodeId], Awaitable[LoginLink]]
"""A way into the dashboard for an admin's node."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the coordinator does, composed by `daemon`."""

    roster: Roster
    membership: Membership
    pulse: Pulse
    dialability: Dialability
    relay: Relay
    volumes: Volumes
    deletion: Deletion
    sharing: Sharing
    sessions: Sessions
    delegations: Delegations
    reservations: Reservations
    bookings: Bookings
    status: status.Status
    pool_map: Callable[..., PoolMap]
    """The map; with the name of an owner, for what that one writes."""
    roll: RollOffice
    backups: Backups
    orders: OrderBook
    leaving: Leaving
    jobs: Jobs
    pool_clock: PoolClock
    usefulness: Usefulness
    history: history.History
    flow: Flow
    copied: Callable[[], int]
    """Copies made by order of the coordinator since its start."""
    workers: Sequence[Worker]
    """Background work beside `pulse`, for `daemon` to run."""

    def handlers(self, accepting: Accepting | None = None, new_link: NewLink | None = None) -> Mapping[str, Handler]:
        """Route name → handler, for every route of `wire.routes.COORDINATOR_ROUTES`. `accepting` takes what peers pass
        on to the coordinator itself; without `new_link` there is no dashboard."""
        return {
            "join": self._join,
            "renew": self._renew,
            "heartbeat": self._heartbeat,
            "map": self._map,
            "roll": self._roll,
            "status": self._status,
            "history": self._history,
            "nodes": self._nodes,
            "usefulness": self._usefulness,
            "usefulness_of": self._usefulness_of,
            "invite": self._invite,
            "revoke": self._revoke,
            "confirm": self._confirm,
            "create_volume": self._create_volume,
            "volumes": self._volumes,
            "volume_slots": self._volume_slots,
            "change_slots": self._change_slots,
            "configure_volume": self._configure_volume,
            "delete_volume": self._delete_volume,
            "undelete_volume": self._undelete_volume,
            "deleted_volumes": self._deleted_volumes,
            "publish_key": self._publish_key,
            "node_keys": self._node_keys,
            "members": self._members,
            "change_members": self._change_members,
            "open_session": self._open_session,
            "questions": self._questions,
            "renew_session": self._renew_session,
            "close_session": self._close_session,
            "grant_ids": self._grant_ids,
            "batch": self._batch,
            "reserve": self._reserve,
            "book": self._book,
            "bookings": self._bookings,
            "release_booking": self._release_booking,
            "events": self._events,
            "held": self._held,
            "delegate": self._delegate,
            "return_delegation": self._return_delegation,
            "orders": self._orders,
            "away": self._away,
            "drain": self._drain,
            "undrain": self._undrain,
            "forget": self._forget,
            "plan": self._plan,
            "jobs": self._jobs,
            "job": self._job,
            "dashboard_login": partial(self._dashboard_login, new_link),
            "relay_listen": self._relay_listen,
            "relay_dial": partial(self._relay_dial, accepting),
        }

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

    # ---- membership -------------------------------------------------------------------------------------------------

    async def _join(self, request: Request) -> Response:
        return Response.of(await self.membership.join(await request.message(JoinRequest)))

    async def _renew(self, request: Request) -> Response:
        return Response.of(await self.membership.renew(request.caller, await request.message(RenewRequest)))

    async def _heartbeat(self, request: Request) -> Response:
        return Response.of(await self.pulse.heartbeat(request.caller, await request.message(Heartbeat)))

    async def _map(self, request: Request) -> Response:
        return Response.of(self.pool_map(self.roster.member(request.caller.node).owner))

    async def _roll(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        return Response.of(self.roll.signed())

    async def _status(self, request: Request) -> Response:
        report = await self.status.report(request.caller)
        return Response(body=status.encode(report), content_type=codec.JSON)

    async def _history(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        is_admin = Role.ADMIN in request.caller.roles
        answer = await self.history.answer(history.asked(request.query), is_admin=is_admin)
        return Response(body=history.encode(answer), content_type=codec.JSON)

    async def _nodes(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        return Response.of(self.membership.nodes())

    async def _usefulness(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        return Response.of(await self.usefulness.report())

    async def _usefulness_of(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        return Response.of(self.usefulness.detail(request.parameters["node"]))

    async def _invite(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        message = await request.message(InviteRequest)
        return Response.of(await self.membership.invite(message, request.caller.node))

    async def _revoke(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        return Response.of(await self.membership.revoke(request.parameters["node"]))

    async def _confirm(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        what = (await request.message(Confirm)).what
        await (self.pool_clock.confirm() if what == "clock" else self.backups.confirm(what))
        return Response()

    # ---- volumes ----------------------------------------------------------------------------------------------------

    async def _create_volume(self, request: Request) -> Response:
        return Response.of(await self.volumes.create(request.caller, await request.message(CreateVolume)))

    async def _volumes(self, request: Request) -> Response:
        return Response.of(self.volumes.visible(request.caller))

    async def _volume_slots(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        if self.volumes.is_owners(request.caller, volume):
            return Response.of(self.volumes.slots(volume))
        return Response.of(self.sharing.slots(request.caller.node, volume))

    async def _publish_key(self, request: Request) -> Response:
        await self.sharing.publish(request.caller, await request.message(PublishKey))
        return Response()

    async def _node_keys(self, request: Request) -> Response:
        return Response.of(self.sharing.keys(request.caller, request.parameters["fingerprint"]))

    async def _members(self, request: Request) -> Response:
        return Response.of(self.sharing.members(parse_volume(request.parameters["volume"])))

    async def _change_members(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(await self.sharing.change(request.caller, volume, await request.message(ChangeMembers)))

    async def _change_slots(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(await self.volumes.change_slots(volume, await request.message(ChangeSlots)))

    async def _configure_volume(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        is_admin = Role.ADMIN in request.caller.roles
        return Response.of(
            await self.volumes.configure(volume, await request.message(VolumeSettings), is_admin=is_admin)
        )

    async def _delete_volume(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(await self.deletion.delete(request.caller, volume, await request.message(DeleteVolume)))

    async def _undelete_volume(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(await self.deletion.undelete(request.caller, volume, await request.message(UndeleteVolume)))

    async def _deleted_volumes(self, request: Request) -> Response:
        return Response.of(self.deletion.deleted(request.caller))

    async def _book(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(await self.bookings.book(request.caller, volume, await request.message(Book)))

    async def _bookings(self, request: Request) -> Response:
        return Response.of(self.bookings.listed(request.caller))

    async def _release_booking(self, request: Request) -> Response:
        return Response.of(await self.bookings.release(request.caller, request.parameters["booking"]))

    async def _open_session(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        message = await request.message(OpenSession)
        if not self.volumes.is_owners(request.caller, volume):
            self.sharing.check_session(request.caller.node, volume, message)
        return Response.of(await self.sessions.open(request.caller, volume, message))

    async def _questions(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        asked = await request.message(list[Question])
        return Response.of(await self.sessions.answer(request.caller, volume, asked))

    # ---- sessions ---------------------------------------------------------------------------------------------------

    async def _renew_session(self, request: Request) -> Response:
        fetched = (await request.message(RenewSession)).fetched
        return Response.of(await self.sessions.renew(_session(request), fetched))

    async def _close_session(self, request: Request) -> Response:
        await self.sessions.close(_session(request))
        return Response()

    async def _grant_ids(self, request: Request) -> Response:
        message = await request.message(GrantIds)
        return Response.of(await self.sessions.grant_ids(_session(request), message.count))

    async def _batch(self, request: Request) -> Response:
        batch = await request.message(Batch)
        return Response(body=await self.sessions.apply(_session(request), batch))

    async def _reserve(self, request: Request) -> Response:
        return Response.of(await self.sessions.reserve(_session(request), await request.message(Reserve)))

    async def _events(self, request: Request) -> Response:
        return Response.of(await self.sessions.events(_session(request), await request.message(WaitEvents)))

    async def _held(self, request: Request) -> Response:
        return Response.of(self.sessions.held(_session(request)))

    async def _delegate(self, request: Request) -> Response:
        message = await request.message(AskDelegation)
        return Response.of(await self.delegations.ask(_session(request), message.epoch))

    async def _return_delegation(self, request: Request) -> Response:
        message = await request.message(ReturnDelegation)
        return Response.of(await self.delegations.give_back(_session(request), message))

    # ---- looking after the pool -------------------------------------------------------------------------------------

    async def _orders(self, request: Request) -> Response:
        return Response.of(await self.orders.exchange(request.caller, await request.message(Report)))

    async def _away(self, request: Request) -> Response:
        message = await request.message(AwayRequest)
        return Response.of(await self.leaving.away(request.caller, request.parameters["node"], message.for_s))

    async def _drain(self, request: Request) -> Response:
        return Response.of(await self.leaving.drain(request.caller, request.parameters["node"]))

    async def _undrain(self, request: Request) -> Response:
        return Response.of(await self.leaving.undrain(request.caller, request.parameters["node"]))

    async def _forget(self, request: Request) -> Response:
        return Response.of(await self.leaving.forget(request.caller, request.parameters["node"]))

    async def _plan(self, request: Request) -> Response:
        return Response.of(await self.leaving.plan(request.caller, await request.message(PlanRequest)))

    async def _jobs(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        return Response.of(self.jobs.listed(self.roster.name_of))

    async def _job(self, request: Request) -> Response:
        self.roster.member(request.caller.node)
        number, action = request.parameters["job"], request.parameters["action"]
        if not number.isdecimal() or len(number) > 18 or action not in set(JobAction):
            raise NotFound("there is no such job or action")
        return Response.of(await self.jobs.act(int(number), JobAction(action), self.roster.name_of))

    async def _dashboard_login(self, new_link: NewLink | None, request: Request) -> Response:
        node = self.roster.member(request.caller.node).id
        if new_link is None:
            raise Invalid("this coordinator has no dashboard: see its setting dashboard_listen")
        return Response.of(await new_link(node))

    # ---- the relay --------------------------------------------------------------------------------------------------

    async def _relay_listen(self, request: Request) -> Response:
        request.expect_upgrade()
        upgrade = await self.relay.listen(request.caller, (await request.message(Listen)).wait_s)
        return Response(204) if upgrade is None else Response.switching(upgrade)

    async def _relay_dial(self, accepting: Accepting | None, request: Request) -> Response:
        request.expect_upgrade()
        await request.body()  # what comes behind it is the stream's
        target = request.parameters["node"]
        if accepting is not None and accepting.is_for(target):
            return Response.switching(accepting.take(self.roster.member(request.caller.node).id))
        return Response.switching(await self.relay.dial(request.caller, target))


def _session(request: Request) -> SessionId:
    return SessionId(request.parameters["session"])
