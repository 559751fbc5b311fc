"""Opens the dashboard: its listener, its certificate, its server, and the links that let an admin in.

Called by `daemon`, which runs `serve` in its nursery, and through `handlers` by `p2pfs dashboard`.
"""

import importlib.util
import logging
from functools import partial
from typing import Final

import trio

from p2pfs import exitcodes
from p2pfs.coordinator.dashboard.certificate import OwnFiles
from p2pfs.coordinator.dashboard.doors import LINK_S, Doors
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.services import Services
from p2pfs.errors import Denied, Invalid, PoolError, UserError
from p2pfs.net.addresses import bound_addresses, close_listeners, format_address, open_listeners, parse_address
from p2pfs.net.advertising import advertised
from p2pfs.net.asgi import Application as AsgiApplication
from p2pfs.net.asgi import Message, Receive, Send, asgi_handler
from p2pfs.net.identity import Credentials, Revocations, load_credentials, server_context
from p2pfs.net.server import Limits, Server
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import MIB, NodeId, PoolId, Role
from p2pfs.wire.dashboard import LoginLink
from p2pfs.wire.routes import DASHBOARD_ROUTES

DEFAULT_LISTEN: Final = Settings().dashboard_listen
_LOOPBACK: Final = "127.0.0.1"
_ANSWER_BYTES: Final = 4 * MIB
_LIMITS: Final = Limits(connections=96, strangers=64, handler_s=30.0)

_log = logging.getLogger(__name__)


def is_wanted(settings: Settings) -> bool:
    """Whether this coordinator has a dashboard: it is not turned off, and what it needs is installed."""
    if not settings.dashboard_listen:
        return False
    if importlib.util.find_spec("starlette") is None:
        _log.info("there is no dashboard: the extra `web` is not installed")
        return False
    return True


def made(
    home: NodeHome, settings: Settings, services: Services, *, revocations: Revocations, clock: Clock
) -> "Dashboard | None":
    """This coordinator's dashboard, if it is wanted. What of it is damaged or cannot be written is a warning: a pool
    does without.

    Raises:
        Invalid: It was told to listen at what is no address.
    """
    if not is_wanted(settings):
        return None
    for told in settings.dashboard_listen.split(","):
        parse_address(told.strip())
    try:
        return Dashboard(home, settings, services, revocations=revocations, clock=clock)
    except (PoolError, OSError) as error:
        _log.warning("there is no dashboard: %s", error)
        return None


class Dashboard:
    """One coordinator's dashboard. `serve` opens it; until then, and after `stop`, nobody gets a link."""

    def __init__(
        self,
        home: NodeHome,
        settings: Settings,
        services: Services,
        *,
        revocations: Revocations,
        clock: Clock,
    ) -> None:
        self._home = home
        self._settings = settings
        self._services = services
        self._clock = clock
        self._pool: PoolId = home.record().pool
        self._names = tuple(filter(None, settings.dashboard_names.split(",")))
        self._files = OwnFiles(CoordinatorFiles(home).directory)
        self._one = trio.CapacityLimiter(1)  # renews its files, and imports what makes pages
        self._addresses: list[str] = []
        self._application: AsgiApplication | None = None
        self.doors = Doors(session_s=settings.dashboard_session, is_admin=self._is_admin, now=clock.monotonic)
        handler = asgi_handler(self._answer, answer_bytes=_ANSWER_BYTES)
        self._credentials = Credentials(home.ca_path, self._files.certificate, self._files.key)
        self._files.renew(self._wanted_hosts(), clock.time())
        self._context = server_context(self._credentials, client_certificate="optional")
        self.server = Server(
            DASHBOARD_ROUTES,
            {route.name: handler for route in DASHBOARD_ROUTES},
            context=self._context,
            pool=self._pool,
            limits=_LIMITS,
            revocations=revocations,
            clock=clock,
        )

    @property
    def addresses(self) -> list[str]:
        """Where browsers find it, best first; empty while it is not open."""
        return self._addresses

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until `stop`. Where it was not told to listen and cannot, that is a warning.

        Raises:
            UserError: It was told where to listen, and cannot.
        """
        try:
            listeners = await self._listen()
        except UserError as error:
            if self._settings.dashboard_listen != DEFAULT_LISTEN:
                raise
            _log.warning("there is no dashboard: %s", error)
            task_status.started()
            return
        try:
            bound = bound_addresses(listeners)
            port = parse_address(bound[0])[1]
            self._addresses = [*(format_address(name, port) for name in self._names), *advertised(bound, "")]
            _log.info("the dashboard is at https://%s/", self._addresses[0])
            await self.server.serve(listeners, task_status=task_status)
        finally:
            self._addresses = []
            close_listeners(listeners)

    async def stop(self, deadline_s: float) -> None:
        """See `Server.stop`."""
        await self.server.stop(deadline_s)

    async def link(self, node: NodeId) -> LoginLink:
        """A way in for an admin, good once.

        Raises:
            Invalid: The dashboard is not open.
            NoSpace, Unavailable: Its certificate had to be renewed and cannot be written.
        """
        if not self._addresses:
            raise Invalid("the dashboard is not open")
        renewed = partial(self._renewed, self._wanted_hosts(), self._clock.time())
        fingerprint = await trio.to_thread.run_sync(renewed, limiter=self._one)
        return LoginLink(self._addresses, self.doors.new_link(node), fingerprint, LINK_S)

    # ---- inside -----------------------------------------------------------------------------------------------------

    async def _listen(self) -> list[trio.SocketListener]:
        wanted = self._settings.dashboard_listen
        try:
            return await open_listeners(wanted)
        except UserError as error:
            if error.exit_code != exitcodes.BUSY or wanted != DEFAULT_LISTEN:
                raise
            return await open_listeners(format_address(_LOOPBACK, 0))  # another coordinator's on this machine

    def _renewed(self, hosts: list[str], now_s: float) -> str:
        """Blocking. The fingerprint of a certificate that fits."""
        if self._files.renew(hosts, now_s):
            load_credentials(self._context, self._credentials)
        return self._files.fingerprint()

    def _wanted_hosts(self) -> list[str]:
        """What its certificate is for."""
        told = self._settings.dashboard_listen
        hosts = [parse_address(one)[0] for one in advertised([one.strip() for one in told.split(",")], "")]
        return ["localhost", _LOOPBACK, *hosts, *self._names]

    def _is_admin(self, node: NodeId) -> bool:
        try:
            return Role.ADMIN in self._services.roster.member(node).roles
        except Denied:
            return False

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Most coordinators are never looked at: what makes pages is imported when the first browser comes, which takes
        half a second."""
        if self._application is None:
            made = await trio.to_thread.run_sync(self._made, limiter=self._one)
            self._application = self._application or made
        await self._application(scope, receive, send)

    def _made(self) -> AsgiApplication:
        """Blocking."""
        from p2pfs.coordinator.dashboard.application import Application
        from p2pfs.coordinator.dashboard.guard import Guard

        made = Application(
            self._services, self.doors, pool=self._pool, pool_name=self._services.status.pool_name, clock=self._clock
        )
        return Guard(made.asgi(), self._names)
