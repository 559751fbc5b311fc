"""How a command reaches the coordinator: as this home's node, expecting exactly the coordinator it joined.

No command knows more of the network than `converse`. An aged certificate is renewed on the way, so that a machine that
is used keeps its membership.
"""

import functools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from p2pfs import exitcodes
from p2pfs.cli.waiting import waiting
from p2pfs.errors import Denied, PoolError, Unavailable, UserError
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import Role, VolumeId, volume_name
from p2pfs.wire import codec
from p2pfs.wire.answers import Answer, unwrap
from p2pfs.wire.failures import decode_failure

if TYPE_CHECKING:
    from p2pfs.net.client import Client, Endpoint

T = TypeVar("T")
_ANSWER_S: Final = 30.0
_CONNECT_S: Final = 3.0


class Coordinator:
    """The coordinator of one pool, for one command: httpx over the connection that knows whom it dialled."""

    def __init__(self, client: "Client", endpoint: "Endpoint") -> None:
        import httpx

        from p2pfs.net.transport import PoolTransport

        self.client = client
        self.endpoint = endpoint
        self._http = httpx.AsyncClient(
            transport=PoolTransport(client, endpoint, timeout_s=_ANSWER_S), base_url="https://coordinator", timeout=None
        )

    async def call(self, method: str, path: str, message: Any, kind: type[T]) -> T:  # noqa: ANN401 - any wire struct
        """Send a message (None: no body), receive one of `kind`. Raises what the coordinator raised."""
        answer = await self._request(method, path, b"" if message is None else codec.encode(message))
        if kind is type(None) and not answer:
            return None
        return codec.decode(answer, kind)

    async def ask(self, volume: VolumeId, question: Any, kind: type[T]) -> T:  # noqa: ANN401 - any Question
        """The answer to one question about a volume's tree."""
        path = f"/volumes/{volume_name(volume)}/questions"
        answers = await self.call("POST", path, [question], list[Answer])
        return unwrap(answers[0], kind)

    async def fetch(self, path: str) -> bytes:
        """The body of what is at `path`, as it came."""
        return await self._request("GET", path, b"")

    async def _request(self, method: str, path: str, body: bytes) -> bytes:
        import httpx

        try:
            with waiting("asking the coordinator"):
                response = await self._http.request(method, path, content=body)
        except httpx.TransportError as error:
            if isinstance(error.__cause__, PoolError):
                raise error.__cause__ from None  # httpx's classes tell less than what our connection knows
            raise Unavailable(f"the coordinator does not answer: {error}") from error
        if response.status_code >= 400:
            raise decode_failure(response.status_code, response.content)
        return response.content


def converse(home: NodeHome, talk: Callable[[Coordinator], Awaitable[T]]) -> T:
    """Run `talk` with the coordinator of this home.

    Raises:
        UserError: NO_HOME, or FOREIGN_COORDINATOR when somebody else answers at its addresses.
        Unavailable: Nobody answers.
        PoolError: What the coordinator or `talk` raised.
    """
    import trio

    return trio.run(_converse, home, talk)


def call(home: NodeHome, method: str, path: str, message: Any, kind: type[T]) -> T:  # noqa: ANN401 - any wire struct
    """One question in a conversation of its own; see `converse` and `Coordinator.call`."""
    return converse(home, lambda coordinator: coordinator.call(method, path, message, kind))


def fetch(home: NodeHome, path: str) -> bytes:
    """One answer as it came, in a conversation of its own."""
    return converse(home, lambda coordinator: coordinator.fetch(path))


async def _converse(home: NodeHome, talk: Callable[[Coordinator], Awaitable[T]]) -> T:
    from p2pfs.net import enrolment
    from p2pfs.net.client import Client, Endpoint
    from p2pfs.net.forwarding import KNOWN_PEERS, Forwarding, KnownPeers
    from p2pfs.net.identity import Credentials, client_context

    record = home.record()
    credentials = Credentials(home.ca_path, home.certificate_path, home.key_path)
    endpoint = Endpoint(record.coordinator, Role.COORDINATOR, tuple(record.addresses))
    encounter = _Encounter(record)
    known = KnownPeers(home.path / KNOWN_PEERS).load()
    open_client = functools.partial(
        Client,
        pool=record.pool,
        connect_s=_CONNECT_S,
        verify=encounter.look,
        forwarding=Forwarding(record.node, lambda: known) if known else None,
    )
    try:
        if enrolment.is_due(home, time.time()):
            async with open_client(client_context(credentials)) as client:
                await enrolment.renew(home, client, endpoint)
        async with open_client(client_context(credentials)) as client:
            return await talk(Coordinator(client, endpoint))
    except Denied as error:
        if encounter.met_coordinator:
            raise
        raise UserError(
            f"somebody else answers at {', '.join(record.addresses)}, not the coordinator of this pool ({error})",
            exitcodes.FOREIGN_COORDINATOR,
        ) from None
    except Unavailable as error:
        if encounter.met_coordinator:
            raise
        raise Unavailable(f"{error}; is it running, and is this machine connected?") from None


class _Encounter:
    """Remembers whether the coordinator itself was met, which tells "a stranger answered" from "it refuses us"."""

    def __init__(self, record: NodeRecord) -> None:
        self._record = record
        self.met_coordinator = False

    def look(self, certificate: bytes) -> None:
        """Called with the certificate of whoever answered, which TLS has found to be signed by the pool's CA."""
        from p2pfs.net.identity import identity_of

        identity = identity_of(certificate)
        expected = (self._record.pool, self._record.coordinator)
        if (identity.pool, identity.node) == expected and Role.COORDINATOR in identity.roles:
            self.met_coordinator = True
