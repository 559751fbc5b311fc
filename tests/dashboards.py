"""A browser without a screen for tests of the dashboard: speaks HTTP over TLS, keeps a cookie, fills in forms."""

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import httpx
from coordination import Live, live

from p2pfs.coordinator.dashboard.application import COOKIE
from p2pfs.coordinator.dashboard.service import Dashboard
from p2pfs.net.client import Client
from p2pfs.net.identity import Credentials
from p2pfs.wire.dashboard import LoginLink


class Browser:
    """`headers` go with every request; `cookie` is the session's, "" before the login."""

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if credentials is not None:
            context.load_cert_chain(credentials.cert_pem, credentials.key_pem)
        self.http = httpx.AsyncClient(base_url=f"https://{address}", verify=context, timeout=10)
        self.origin = f"https://{address}"
        self.cookie = ""
        self.headers: dict[str, str] = {}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self._send("GET", path, "", headers)

    async def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        return await self._send("POST", path, urlencode(fields or {}), {"origin": self.origin, **headers})

    async def _send(self, method: str, path: str, body: str, headers: dict[str, str]) -> httpx.Response:
        given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookie:
            given["cookie"] = f"{COOKIE}={self.cookie}"
        if body:
            given["content-type"] = "application/x-www-form-urlencoded"
        response = await self.http.request(method, path, content=body.encode(), headers=given)
        self.http.cookies.clear()  # `cookie` is what we keep
        if found := re.search(rf"{COOKIE}=([\w-]+);", response.headers.get("set-cookie", "")):
            self.cookie = found[1]
        return response

    async def log_in(self, secret: str) -> httpx.Response:
        return await self.post("/login", {"secret": secret})

    async def csrf(self, path: str = "/members") -> str:
        """The token in the forms of a page."""
        found = re.search(r'name="csrf" value="([\w-]+)"', (await self.get(path)).text)
        assert found is not None
        return found[1]

    async def act(self, path: str, **fields: str) -> httpx.Response:
        """Press a button of one of its own pages."""
        return await self.post(path, {"csrf": await self.csrf(), **fields})


class Site:
    """A live coordinator with its dashboard."""

    def __init__(self, pool: Live, dashboard: Dashboard, client: Client) -> None:
        self.pool = pool
        self.dashboard = dashboard
        self.address = dashboard.addresses[0]
        self._client = client
        self.browsers: list[Browser] = []

    def browser(self, credentials: Credentials | None = None) -> Browser:
        made = Browser(self.address, credentials)
        self.browsers.append(made)
        return made

    async def link(self) -> LoginLink:
        """As `p2pfs dashboard` asks for one."""
        return await self._client.call(self.pool.endpoint, "POST", "/dashboard/logins", None, LoginLink)

    async def admin(self) -> Browser:
        """A browser that is logged in."""
        browser = self.browser()
        assert (await browser.log_in((await self.link()).secret)).status_code == 303
        return browser


@asynccontextmanager
async def site(path: Path, **settings: str) -> AsyncIterator[Site]:
    async with live(path, **{"dashboard_listen": "127.0.0.1:0", **settings}) as pool, pool.client() as client:
        dashboard = pool.running.dashboard
        assert dashboard is not None
        made = Site(pool, dashboard, client)
        yield made
        for browser in made.browsers:
            await browser.http.aclose()
