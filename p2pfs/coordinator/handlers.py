"""Routes → services: each handler decodes, calls, encodes, and decides nothing.

Who may call what was checked by the server from `wire.routes` before; membership of volumes and sessions by
`Services.authorise`. Made once by `daemon`.
"""

from collections.abc import Awaitable, Callable, Mapping

from p2pfs.coordinator import history, status
from p2pfs.coordinator.services import Services
from p2pfs.coordinator.volumes import parse_volume
from p2pfs.errors import Invalid, NotFound
from p2pfs.net.forwarding import Accepting
from p2pfs.net.server import Handler, Request, Response
from p2pfs.types import NodeId, Role, SessionId
from p2pfs.wire import codec
from p2pfs.wire.backups import Confirm
from p2pfs.wire.bookings import Book
from p2pfs.wire.dashboard import LoginLink
from p2pfs.wire.delegations import AskDelegation, ReturnDelegation
from p2pfs.wire.events import WaitEvents
from p2pfs.wire.jobs import JobAction
from p2pfs.wire.membership import AwayRequest, Heartbeat, InviteRequest, JoinRequest, Listen, RenewRequest
from p2pfs.wire.namespace import Batch, Question
from p2pfs.wire.orders import Report
from p2pfs.wire.plans import PlanRequest
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


class Handlers:
    """One for every route of `wire.routes.COORDINATOR_ROUTES`. `accepting` takes what peers pass on to the coordinator
    itself; without `new_link` there is no dashboard."""

    def __init__(self, services: Services, accepting: Accepting | None = None, new_link: NewLink | None = None) -> None:
        self._services = services
        self._accepting = accepting
        self._new_link = new_link

    def table(self) -> Mapping[str, Handler]:
        """Route name → handler."""
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
            "dashboard_login": self._dashboard_login,
            "relay_listen": self._relay_listen,
            "relay_dial": self._relay_dial,
        }

    # ---- membership -------------------------------------------------------------------------------------------------

    async def _join(self, request: Request) -> Response:
        return Response.of(await self._services.membership.join(await request.message(JoinRequest)))

    async def _renew(self, request: Request) -> Response:
        return Response.of(await self._services.membership.renew(request.caller, await request.message(RenewRequest)))

    async def _heartbeat(self, request: Request) -> Response:
        return Response.of(await self._services.pulse.heartbeat(request.caller, await request.message(Heartbeat)))

    async def _map(self, request: Request) -> Response:
        return Response.of(self._services.pool_map(self._services.roster.member(request.caller.node).owner))

    async def _roll(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        return Response.of(self._services.roll.signed())

    async def _status(self, request: Request) -> Response:
        report = await self._services.status.report(request.caller)
        return Response(body=status.encode(report), content_type=codec.JSON)

    async def _history(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        is_admin = Role.ADMIN in request.caller.roles
        answer = await self._services.history.answer(history.asked(request.query), is_admin=is_admin)
        return Response(body=history.encode(answer), content_type=codec.JSON)

    async def _nodes(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        return Response.of(self._services.membership.nodes())

    async def _usefulness(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        return Response.of(await self._services.usefulness.report())

    async def _usefulness_of(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        return Response.of(self._services.usefulness.detail(request.parameters["node"]))

    async def _invite(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        message = await request.message(InviteRequest)
        return Response.of(await self._services.membership.invite(message, request.caller.node))

    async def _revoke(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        return Response.of(await self._services.membership.revoke(request.parameters["node"]))

    async def _confirm(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        what = (await request.message(Confirm)).what
        await (self._services.pool_clock.confirm() if what == "clock" else self._services.backups.confirm(what))
        return Response()

    # ---- volumes ----------------------------------------------------------------------------------------------------

    async def _create_volume(self, request: Request) -> Response:
        return Response.of(await self._services.volumes.create(request.caller, await request.message(CreateVolume)))

    async def _volumes(self, request: Request) -> Response:
        return Response.of(self._services.volumes.visible(request.caller))

    async def _volume_slots(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        if self._services.volumes.is_owners(request.caller, volume):
            return Response.of(self._services.volumes.slots(volume))
        return Response.of(self._services.sharing.slots(request.caller.node, volume))

    async def _publish_key(self, request: Request) -> Response:
        await self._services.sharing.publish(request.caller, await request.message(PublishKey))
        return Response()

    async def _node_keys(self, request: Request) -> Response:
        return Response.of(self._services.sharing.keys(request.caller, request.parameters["fingerprint"]))

    async def _members(self, request: Request) -> Response:
        return Response.of(self._services.sharing.members(parse_volume(request.parameters["volume"])))

    async def _change_members(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(
            await self._services.sharing.change(request.caller, volume, await request.message(ChangeMembers))
        )

    async def _change_slots(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(await self._services.volumes.change_slots(volume, await request.message(ChangeSlots)))

    async def _configure_volume(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        is_admin = Role.ADMIN in request.caller.roles
        return Response.of(
            await self._services.volumes.configure(volume, await request.message(VolumeSettings), is_admin=is_admin)
        )

    async def _delete_volume(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(
            await self._services.deletion.delete(request.caller, volume, await request.message(DeleteVolume))
        )

    async def _undelete_volume(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(
            await self._services.deletion.undelete(request.caller, volume, await request.message(UndeleteVolume))
        )

    async def _deleted_volumes(self, request: Request) -> Response:
        return Response.of(self._services.deletion.deleted(request.caller))

    async def _book(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        return Response.of(await self._services.bookings.book(request.caller, volume, await request.message(Book)))

    async def _bookings(self, request: Request) -> Response:
        return Response.of(self._services.bookings.listed(request.caller))

    async def _release_booking(self, request: Request) -> Response:
        return Response.of(await self._services.bookings.release(request.caller, request.parameters["booking"]))

    async def _open_session(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        message = await request.message(OpenSession)
        if not self._services.volumes.is_owners(request.caller, volume):
            self._services.sharing.check_session(request.caller.node, volume, message)
        return Response.of(await self._services.sessions.open(request.caller, volume, message))

    async def _questions(self, request: Request) -> Response:
        volume = parse_volume(request.parameters["volume"])
        asked = await request.message(list[Question])
        return Response.of(await self._services.questions.answer(request.caller, volume, asked))

    # ---- sessions ---------------------------------------------------------------------------------------------------

    async def _renew_session(self, request: Request) -> Response:
        fetched = (await request.message(RenewSession)).fetched
        return Response.of(await self._services.sessions.renew(_session(request), fetched))

    async def _close_session(self, request: Request) -> Response:
        await self._services.sessions.close(_session(request))
        return Response()

    async def _grant_ids(self, request: Request) -> Response:
        message = await request.message(GrantIds)
        return Response.of(await self._services.sessions.grant_ids(_session(request), message.count))

    async def _batch(self, request: Request) -> Response:
        batch = await request.message(Batch)
        return Response(body=await self._services.sessions.apply(_session(request), batch))

    async def _reserve(self, request: Request) -> Response:
        return Response.of(await self._services.sessions.reserve(_session(request), await request.message(Reserve)))

    async def _events(self, request: Request) -> Response:
        return Response.of(await self._services.sessions.events(_session(request), await request.message(WaitEvents)))

    async def _held(self, request: Request) -> Response:
        return Response.of(self._services.sessions.held(_session(request)))

    async def _delegate(self, request: Request) -> Response:
        message = await request.message(AskDelegation)
        return Response.of(await self._services.delegations.ask(_session(request), message.epoch))

    async def _return_delegation(self, request: Request) -> Response:
        message = await request.message(ReturnDelegation)
        return Response.of(await self._services.delegations.give_back(_session(request), message))

    # ---- looking after the pool -------------------------------------------------------------------------------------

    async def _orders(self, request: Request) -> Response:
        return Response.of(await self._services.orders.exchange(request.caller, await request.message(Report)))

    async def _away(self, request: Request) -> Response:
        message = await request.message(AwayRequest)
        return Response.of(await self._services.leaving.away(request.caller, request.parameters["node"], message.for_s))

    async def _drain(self, request: Request) -> Response:
        return Response.of(await self._services.leaving.drain(request.caller, request.parameters["node"]))

    async def _undrain(self, request: Request) -> Response:
        return Response.of(await self._services.leaving.undrain(request.caller, request.parameters["node"]))

    async def _forget(self, request: Request) -> Response:
        return Response.of(await self._services.leaving.forget(request.caller, request.parameters["node"]))

    async def _plan(self, request: Request) -> Response:
        return Response.of(await self._services.leaving.plan(request.caller, await request.message(PlanRequest)))

    async def _jobs(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        return Response.of(self._services.jobs.listed(self._services.roster.name_of))

    async def _job(self, request: Request) -> Response:
        self._services.roster.member(request.caller.node)
        number, action = request.parameters["job"], request.parameters["action"]
        if not number.isdecimal() or len(number) > 18 or action not in set(JobAction):
            raise NotFound("there is no such job or action")
        return Response.of(await self._services.jobs.act(int(number), JobAction(action), self._services.roster.name_of))

    async def _dashboard_login(self, request: Request) -> Response:
        node = self._services.roster.member(request.caller.node).id
        if self._new_link is None:
            raise Invalid("this coordinator has no dashboard: see its setting dashboard_listen")
        return Response.of(await self._new_link(node))

    # ---- the relay --------------------------------------------------------------------------------------------------

    async def _relay_listen(self, request: Request) -> Response:
        request.expect_upgrade()
        upgrade = await self._services.relay.listen(request.caller, (await request.message(Listen)).wait_s)
        return Response(204) if upgrade is None else Response.switching(upgrade)

    async def _relay_dial(self, request: Request) -> Response:
        request.expect_upgrade()
        await request.body()  # what comes behind it is the stream's
        target = request.parameters["node"]
        if self._accepting is not None and self._accepting.is_for(target):
            return Response.switching(self._accepting.take(self._services.roster.member(request.caller.node).id))
        return Response.switching(await self._services.relay.dial(request.caller, target))


def _session(request: Request) -> SessionId:
    return SessionId(request.parameters["session"])
