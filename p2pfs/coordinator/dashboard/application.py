"""The dashboard as an ASGI application: who asks, which page, which action.

Pages come from `pages`, actions go to the services that also serve commands, with the rights of the admin whose browser
it is. A GET never changes anything. Made by `service` when the first browser comes.
"""

import logging
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from p2pfs.coordinator.dashboard import charts
from p2pfs.coordinator.dashboard.assets import load
from p2pfs.coordinator.dashboard.charts import chart_data, chart_figure, span_choice
from p2pfs.coordinator.dashboard.doors import Doors, Kept, Session
from p2pfs.coordinator.dashboard.layout import Frame, document, live, mark, outside
from p2pfs.coordinator.dashboard.markup import Child, Html, div, section
from p2pfs.coordinator.dashboard.pages import data, jobs, login, members, overview, peers, usefulness, volumes
from p2pfs.coordinator.report import StatusReport
from p2pfs.coordinator.services import Services
from p2pfs.errors import Denied, Invalid, Misuse, NotFound, PoolError
from p2pfs.net.asgi import IDENTITY
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.sizes import given_size
from p2pfs.types import NodeId, PoolId
from p2pfs.wire import failures
from p2pfs.wire.jobs import JobAction
from p2pfs.wire.membership import InviteRequest, NodeInfo
from p2pfs.wire.plans import PlanKind, PlanRequest
from p2pfs.wire.routes import DASHBOARD_ROUTES

COOKIE: Final = "__Host-p2pfs"
"""Browsers take a cookie of this name from TLS only, for this very host and all of its paths."""
_SEE_OTHER: Final = 303
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304
_UNAUTHORISED: Final = 401
_MOST_FIELDS: Final = 32
_MOST_UNSEEN: Final = 16
"""Invites that were made and whose page was not asked for yet."""
_NO_PAGE: Final = "There is no page at this address."
_LINK_IS_SPENT: Final = "This link has been used or is too old: run p2pfs dashboard again, each link is good once."

_log = logging.getLogger(__name__)
T = TypeVar("T")


class _NotLoggedIn(Exception):
    """Nobody, or not any more."""


class Visitor:
    """An admin whose browser asks."""

    def __init__(self, session: Session, identity: Identity, frame: Frame) -> None:
        self.session = session
        self.identity = identity
        self.frame = frame

    @property
    def name(self) -> str:
        return self.frame.visitor


class Application:
    """One endpoint for every route of `wire.routes.DASHBOARD_ROUTES`, by its name."""

    def __init__(self, services: Services, doors: Doors, *, pool: PoolId, pool_name: str, clock: Clock) -> None:
        self._services = services
        self._doors = doors
        self._pool = pool
        self._pool_name = pool_name
        self._clock = clock
        self._assets = load()
        self._unseen: Kept[tuple[str, Html]] = Kept(_MOST_UNSEEN)  # whose session, and what to show it once

    def asgi(self) -> Starlette:
        """The application, whose refusals are pages too."""
        routes = [
            Route(route.path, getattr(self, f"_{route.name}"), methods=[route.method]) for route in DASHBOARD_ROUTES
        ]
        handlers: dict[Any, Any] = {
            _NotLoggedIn: self._send_to_login,
            PoolError: self._refuse,
            HTTPException: self._refuse_request,
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    # ---- pages ------------------------------------------------------------------------------------------------------

    async def _overview(self, request: Request) -> Response:
        visitor = self._visitor(request)
        report = await self._report(visitor)
        below = await self._charts(request, "/", ("copies", "traffic"), report)
        return self._page(request, visitor, "overview", "Overview", overview.content(visitor.frame, report), below)

    async def _peers(self, request: Request) -> Response:
        visitor = self._visitor(request)
        report = await self._report(visitor)
        return self._page(request, visitor, "peers", "Peers", peers.content(visitor.frame, report))

    async def _data(self, request: Request) -> Response:
        visitor = self._visitor(request)
        report = await self._report(visitor)
        below = await self._charts(request, "/data", ("copies", "space", "traffic", "queues"), report)
        return self._page(request, visitor, "data", "Data", data.content(report), below)

    async def _volumes(self, request: Request) -> Response:
        visitor = self._visitor(request)
        return self._page(request, visitor, "volumes", "Volumes", volumes.content(await self._report(visitor)))

    async def _jobs(self, request: Request) -> Response:
        visitor = self._visitor(request)
        listed = self._services.jobs.listed(self._services.roster.name_of)
        shown = jobs.content(visitor.frame, listed, self._services.jobs.allows, self._clock.time())
        return self._page(request, visitor, "jobs", "Jobs", shown)

    async def _usefulness(self, request: Request) -> Response:
        visitor = self._visitor(request)
        shown = usefulness.content(await self._services.usefulness.report())
        return self._page(request, visitor, "usefulness", "Usefulness", shown)

    async def _members(self, request: Request) -> Response:
        visitor = self._visitor(request)
        shown = members.content(self._services.membership.nodes())
        return self._page(request, visitor, "members", "Members", shown, members.invite_form(visitor.frame))

    async def _chart(self, request: Request) -> Response:
        visitor = self._visitor(request)
        known = charts.charts((await self._report(visitor)).pool.replicas)
        chart = known.get(request.path_params["chart"])
        if chart is None:
            raise NotFound("there is no such chart")
        span = _span(request)
        found, now_s = await self._series(chart, span), self._clock.time()
        return JSONResponse(chart_data(chart, found, now_s - charts.SPANS[span], now_s))

    def _page(
        self, request: Request, visitor: Visitor, name: str, heading: str, content: Html, below: Child = None
    ) -> Response:
        """All of a page, or only its live part where htmx asks for it; nothing where that has not changed."""
        path = request.url.path
        if request.headers.get("hx-request") != "true":
            return HTMLResponse(document(visitor.frame, name, heading, live(path, content), below, refreshes=True))
        if request.query_params.get("seen") == mark(content):
            return Response(status_code=_NO_CONTENT)
        return HTMLResponse(live(path, content))

    async def _charts(self, request: Request, path: str, names: tuple[str, ...], report: StatusReport) -> Html | None:
        """Nothing where htmx asks for the live part, which charts are not in: the browser renews them itself."""
        if request.headers.get("hx-request") == "true":
            return None
        span, known = _span(request), charts.charts(report.pool.replicas)
        is_drawn = self._assets.is_whole
        drawn = [
            chart_figure(known[name], await self._series(known[name], span), span=span, is_drawn=is_drawn)
            for name in names
        ]
        return section(span_choice(path, span), div(*drawn, class_="charts"), aria_label="Over time")

    async def _series(self, chart: charts.Chart, span: str) -> charts.Series:
        now_s = self._clock.time()
        names = [line.series for line in chart.lines]
        return await self._services.history.series(names, now_s - charts.SPANS[span], now_s, charts.POINTS)

    async def _report(self, visitor: Visitor) -> StatusReport:
        return await self._services.status.report(visitor.identity)

    # ---- actions ----------------------------------------------------------------------------------------------------

    async def _invite(self, request: Request) -> Response:
        visitor, fields = await self._acting(request)
        try:
            wanted = _invite_wanted(fields)
            answer = await self._services.membership.invite(wanted, visitor.identity.node)
        except Invalid as error:  # what was typed is not lost
            asked = members.invite_form(visitor.frame, fields)
            page = document(visitor.frame, "members", "Members", members.complaint(str(error)), asked)
            return HTMLResponse(page, failures.status_of(error))
        shown = members.invited(wanted.name, answer.invite, wanted.lifetime_s)
        # A page of its own to be sent to: loading that anew makes no second invite.
        return _see(f"/invites/{self._unseen.add((visitor.session.csrf, shown))}")

    async def _invited(self, request: Request) -> Response:
        visitor = self._visitor(request)
        whose, shown = self._unseen.take(request.path_params["invite"]) or ("", None)
        if shown is None or not visitor.session.allows(whose):
            raise NotFound("An invite is shown once. If you did not keep it, make another; this one ends by itself.")
        return HTMLResponse(document(visitor.frame, "members", "An invite", shown))

    async def _ask_node(self, request: Request) -> Response:
        visitor, node = self._visitor(request), self._node(request)
        action = request.path_params["action"]
        if action == "revoke":
            shown = members.ask_revoke(visitor.frame, node, is_own=node.node == visitor.session.node)
        elif action == "drain":
            asked = PlanRequest(PlanKind.DRAIN.value, [node.node])
            shown = members.ask_drain(visitor.frame, node, await self._services.leaving.plan(visitor.identity, asked))
        else:
            raise NotFound("there is no such action")
        return HTMLResponse(document(visitor.frame, "peers", f"{action.capitalize()} {node.name}?", shown))

    async def _act_node(self, request: Request) -> Response:
        visitor, _ = await self._acting(request)
        node, action = self._node(request), request.path_params["action"]
        leaving = self._services.leaving
        if action == "drain":
            await leaving.drain(visitor.identity, node.node)
        elif action == "undrain":
            await leaving.undrain(visitor.identity, node.node)
        elif action == "revoke":
            await self._services.membership.revoke(node.node)
        else:
            raise NotFound("there is no such action")
        _log.info("dashboard: %s did %s to %s", visitor.name, action, node.name)
        return _see("/members" if action == "revoke" else "/peers")

    async def _act_job(self, request: Request) -> Response:
        visitor, _ = await self._acting(request)
        number, action = request.path_params["job"], request.path_params["action"]
        if not number.isdecimal() or len(number) > 18 or action not in set(JobAction):
            raise NotFound("there is no such job or action")
        await self._services.jobs.act(int(number), JobAction(action), self._services.roster.name_of)
        _log.info("dashboard: %s did %s to job %s", visitor.name, action, number)
        return _see("/jobs")

    def _node(self, request: Request) -> NodeInfo:
        roster = self._services.roster
        return roster.info(roster.node(request.path_params["node"]))

    # ---- who asks ---------------------------------------------------------------------------------------------------

    async def _login_form(self, request: Request) -> Response:
        return self._login_page(request)

    async def _login(self, request: Request) -> Response:
        fields = await _fields(request)
        if fields.get("certificate"):
            identity: Identity | None = request.scope[IDENTITY]
            token = self._doors.show(identity, self._clock.time()) if identity is not None else None
            notice = "This browser showed no certificate of an admin."
        else:
            token, notice = self._doors.follow(fields.get("secret", "").strip()), _LINK_IS_SPENT
        if token is None:
            _log.info("dashboard: somebody tried to log in, with a link that is spent or a certificate of no admin")
            return self._login_page(request, notice, 403)
        session = self._doors.session(token)
        _log.info("dashboard: %s logged in", self._services.roster.name_of(session.node) if session else "nobody")
        response = _see("/")
        lasts_s = int(self._doors.session_s)
        response.set_cookie(COOKIE, token, max_age=lasts_s, path="/", secure=True, httponly=True, samesite="strict")
        return response

    async def _logout(self, request: Request) -> Response:
        visitor, _ = await self._acting(request)
        self._doors.close(request.cookies[COOKIE])
        _log.info("dashboard: %s logged out", visitor.name)
        response = _see("/login")
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
        return response

    def _login_page(self, request: Request, notice: str = "", status: int = 200) -> Response:
        identity: Identity | None = request.scope[IDENTITY]
        shown = login.content(notice=notice, has_certificate=identity is not None)
        return HTMLResponse(outside(self._assets, "Log in", shown, scripts=("login.js",)), status)

    def _visitor(self, request: Request) -> Visitor:
        """Raises _NotLoggedIn."""
        session = self._doors.session(request.cookies.get(COOKIE, ""))
        if session is None:
            raise _NotLoggedIn
        node = self._services.roster.member(session.node)
        identity = Identity(self._pool, NodeId(node.id), node.roles, "", self._clock.time() + self._doors.session_s)
        return Visitor(session, identity, Frame(self._assets, self._pool_name, node.name, session.csrf))

    async def _acting(self, request: Request) -> tuple[Visitor, dict[str, str]]:
        """Who acts, with the fields of the form.

        Raises:
            _NotLoggedIn: Nobody.
            Denied: The form is none of this session's pages.
        """
        visitor = self._visitor(request)
        fields = await _fields(request)
        if not visitor.session.allows(fields.get("csrf", "")):
            raise Denied("this form is not of this session: load its page anew")
        return visitor, fields

    # ---- refusals ---------------------------------------------------------------------------------------------------

    async def _send_to_login(self, request: Request, _error: Exception) -> Response:
        if request.headers.get("hx-request") == "true":
            return Response(status_code=_UNAUTHORISED, headers={"hx-redirect": "/login"})
        if request.method != "GET" or request.url.path.startswith("/charts/"):
            return Response(status_code=_UNAUTHORISED)
        return _see("/login")

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, PoolError)
        visitor = self._visitor(request)
        back = "/jobs" if request.url.path.startswith("/jobs/") else "/members"
        shown = members.refused(str(error), back)
        return HTMLResponse(document(visitor.frame, "", "Not done", shown), failures.status_of(error))

    async def _unknown(self, request: Request) -> Response:
        visitor = self._visitor(request)
        return HTMLResponse(document(visitor.frame, "", "No such page", members.refused(_NO_PAGE, "/")), 404)

    async def _refuse_request(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Response(status_code=error.status_code)

    # ---- files ------------------------------------------------------------------------------------------------------

    async def _static(self, request: Request) -> Response:
        asset = self._assets.files.get(request.path_params["file"])
        if asset is None:
            return Response(status_code=404)
        headers = {"etag": f'"{asset.etag}"', "cache-control": "private, max-age=86400"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=_NOT_MODIFIED, headers=headers)
        return Response(asset.content, media_type=asset.kind, headers=headers)


def _invite_wanted(fields: dict[str, str]) -> InviteRequest:
    """What the form asks for. Raises Invalid."""
    capacity, lifetime = fields.get("capacity", "").strip(), fields.get("lifetime", "")
    return InviteRequest(
        fields.get("name", "").strip(),
        [role for role in fields.get("role", "").split(",") if role],
        zone=fields.get("zone", "").strip(),
        capacity=given_size(capacity) if capacity else 0,
        lifetime_s=int(lifetime) if lifetime.isdecimal() and len(lifetime) < 10 else 86400,
    )


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form; several of one name are joined by commas.

    Raises:
        Misuse: It is no form.
    """
    try:
        pairs = parse_qsl((await request.body()).decode("utf-8"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Misuse("this is no form") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _span(request: Request) -> str:
    span = request.query_params.get("span", charts.DEFAULT_SPAN)
    return span if span in charts.SPANS else charts.DEFAULT_SPAN


def _see(path: str) -> Response:
    return RedirectResponse(path, _SEE_OTHER)
