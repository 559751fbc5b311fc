"""httpx over our client: the control plane keeps httpx's interface and gets exact expectations of the dialled node.

Not for chunks or metadata. The URL's host is ignored: the transport serves one endpoint.
"""

import httpx

from p2pfs.errors import PoolError, Unavailable
from p2pfs.net.client import Client, Endpoint

_TIMEOUT_S = 30.0
_OURS = frozenset({"host", "content-length", "connection", "transfer-encoding", "accept-encoding"})
"""Headers that the client sets itself, or that it does not speak."""


class PoolTransport(httpx.AsyncBaseTransport):
    """Sends every request to `endpoint` by `client`, which stays its owner's."""

    def __init__(self, client: Client, endpoint: Endpoint, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._client = client
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx's ConnectError (nobody or somebody else answered) or UnsupportedProtocol, never a PoolError."""
        body = await request.aread()
        headers = [(name, value) for name, value in request.headers.items() if name not in _OURS]
        try:
            reply = await self._client.request(
                self._endpoint,
                request.method,
                request.url.raw_path.decode("ascii"),
                parts=(body,) if body else (),
                headers=headers,
                timeout_s=self._timeout(request),
                raw=True,
            )
        except Unavailable as error:
            raise httpx.ConnectError(str(error), request=request) from error
        except PoolError as error:
            raise httpx.UnsupportedProtocol(str(error), request=request) from error
        return httpx.Response(
            reply.status, headers=list(reply.headers.items()), content=bytes(reply.body), request=request
        )

    def _timeout(self, request: httpx.Request) -> float:
        timeouts = request.extensions.get("timeout", {})
        given = [seconds for seconds in timeouts.values() if seconds is not None]
        return max(given, default=self._timeout_s)
