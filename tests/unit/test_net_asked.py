"""Requests that one task after another may wait for: what is asked over an idle connection, at once."""

from pathlib import Path

import pytest
import trio
from pki import TestAuthority, make_ca
from wired import HANDLERS, client_of, connector, memory_server, serving

from p2pfs import errors
from p2pfs.net.asked import Asked
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.dialled import Reply
from p2pfs.net.server import Request, Response
from p2pfs.net.watch import Watch

pytestmark = pytest.mark.l0


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


def ask(client: Client, endpoint: Endpoint, size: int, watch: Watch | None = None) -> Asked | None:
    return client.ask(endpoint, f"/fetch/{size}", (), memoryview(bytearray(size)), watch or Watch())


async def test_only_an_idle_connection_is_asked_at_once(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca, connections_per_node=1) as client:
        assert ask(client, served.endpoint, 5) is None  # nothing was dialled yet
        await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        asked = ask(client, served.endpoint, 5)
        assert asked is not None
        assert ask(client, served.endpoint, 5) is None  # the only connection is busy
        assert len((await asked.answer()).body) == 5
        assert repr(client) == "Client(0 busy, 1 idle)"
        assert ask(client, served.endpoint, 5) is not None


async def test_a_memory_stream_is_not_asked_at_once(ca: TestAuthority) -> None:
    server, endpoint = memory_server(ca)
    async with trio.open_nursery() as nursery, client_of(ca, connect=connector(server, nursery)) as client:
        await client.request(endpoint, "GET", "/fetch/1", timeout_s=5)
        assert ask(client, endpoint, 5) is None
        nursery.cancel_scope.cancel()


async def test_whoever_gives_up_waiting_loses_nothing_of_the_answer(ca: TestAuthority) -> None:
    content = bytes(range(256)) * (4 << 12)

    async def fetch(_request: Request) -> Response:
        return Response(200, content)

    async with serving(ca, {**HANDLERS, "fetch": fetch}) as served, client_of(ca) as client:
        await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        watch = Watch()
        asked = ask(client, served.endpoint, len(content), watch)
        assert asked is not None
        seen, replies = [watch.moved()], list[Reply]()

        async def wait() -> None:
            replies.append(await asked.answer())

        with trio.fail_after(10):
            while not replies:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await trio.lowlevel.checkpoint()  # it comes as far as it can without waiting
                    nursery.cancel_scope.cancel()
                seen.append(watch.moved())
                assert repr(client) == ("Client(0 busy, 1 idle)" if replies else "Client(1 busy, 0 idle)")
        assert replies[0].body == content
        assert seen[0] == 0
        assert any(0 < moved < len(content) for moved in seen)
        await asked.aclose()  # nothing is given back twice
        assert repr(client) == "Client(0 busy, 1 idle)"


async def test_what_nobody_waits_for_any_more_costs_its_connection_only(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca, connections_per_node=1) as client:
        await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        asked = ask(client, served.endpoint, 5)
        assert asked is not None
        await asked.aclose()
        assert repr(client) == "Client(0 busy, 0 idle)"
        await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)  # its slot is free again


async def test_a_connection_that_ended_meanwhile_is_unavailable(ca: TestAuthority) -> None:
    async with client_of(ca) as client:
        async with serving(ca) as served:
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        asked = ask(client, served.endpoint, 5)
        assert asked is not None  # it was used just now, and not looked at again
        with trio.fail_after(5), pytest.raises(errors.Unavailable):
            await asked.answer()
        assert repr(client) == "Client(0 busy, 0 idle)"


async def test_what_the_other_end_raises_is_raised(ca: TestAuthority) -> None:
    async def missing(_request: Request) -> Response:
        raise errors.NotFound("not here")

    async with serving(ca, {**HANDLERS, "fetch": missing}) as served, client_of(ca) as client:
        with pytest.raises(errors.NotFound):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        asked = ask(client, served.endpoint, 5)
        assert asked is not None
        with pytest.raises(errors.NotFound, match="not here"):
            await asked.answer()
        assert repr(client) == "Client(0 busy, 1 idle)"


async def test_more_than_was_asked_for_is_unavailable(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca) as client:
        await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        asked = client.ask(served.endpoint, "/fetch/9", (), memoryview(bytearray(5)), Watch())
        assert asked is not None
        with pytest.raises(errors.Unavailable, match="more than was asked for"):
            await asked.answer()
        assert repr(client) == "Client(0 busy, 0 idle)"
