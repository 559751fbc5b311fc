"""What holds for every answer of the dashboard: headers that tie the browser down, and which requests come from it.

Two attacks end here before anything else is looked at: a foreign name that was made to point at this machine (DNS
rebinding: the header Host), and a form on a foreign page (the header Origin, beside the token that `application` asks
for). An ASGI application around another.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import Final

from p2pfs.net.asgi import Application, Message, Receive, Send

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers would send `Origin: null` with our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_NO_STORE: Final = "no-store"
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?")


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a Host header is one this dashboard goes by: an address, which no name server can forge, localhost, or
    one of `names` (lower case)."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].strip("[]")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.removesuffix(".") in names
    return True


def is_own_page(headers: dict[str, str]) -> bool:
    """Whether a request that changes something says that it comes from a page of this very address."""
    site = headers.get("sec-fetch-site", "same-origin")
    return headers.get("origin") == f"https://{headers.get('host', '')}" and site == "same-origin"


class Guard:
    """`names`: host names that are the dashboard's, in lower case."""

    def __init__(self, application: Application, names: Collection[str]) -> None:
        self._application = application
        self._names = frozenset(names)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.decode().lower() for name, _ in message["headers"]}
                added = HEADERS if "cache-control" in given else HEADERS | {"cache-control": _NO_STORE}
                own = [(name.encode(), value.encode()) for name, value in added.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        if not is_ours(headers.get("host", ""), self._names):
            await _refuse(send_guarded, 421, b"This is not a name of the dashboard: see the setting dashboard_names.\n")
        elif scope["method"] != "GET" and not is_own_page(headers):
            await _refuse(send_guarded, 403, b"This did not come from a page of the dashboard.\n")
        else:
            await self._application(scope, receive, send_guarded)


async def _refuse(send: Send, status: int, text: bytes) -> None:
    kind = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": text})
