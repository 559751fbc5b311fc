"""The whole coordinator over TLS: joining, revoking, restarting, renewing itself, stopping."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio
from coordination import ROOMY, FakeClock, certificate_request, live, new_pool, volume_message
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from plugins.checklogs import Claims
from wired import everything

from p2pfs import exitcodes
from p2pfs.coordinator import daemon
from p2pfs.coordinator.authority import new_key
from p2pfs.coordinator.daemon import open_coordinator
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.own_certificate import OwnCertificate
from p2pfs.errors import Denied, Fenced, NotFound, Unavailable, UserError
from p2pfs.format.invites import decode_invite
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.net.addresses import open_listeners, parse_address
from p2pfs.net.client import Endpoint, joining_client
from p2pfs.net.identity import client_context, identity_of
from p2pfs.net.tls import TlsStream
from p2pfs.runtime.clocks import SystemClock
from p2pfs.types import NODE_ROLES, ROOT_INODE, NodeId, Role, VolumeId
from p2pfs.wire.membership import (
    Heartbeat,
    HeartbeatAnswer,
    InviteAnswer,
    InviteRequest,
    JoinAnswer,
    JoinRequest,
    NodeInfo,
    PoolMap,
    RenewAnswer,
    RenewRequest,
)
from p2pfs.wire.namespace import Make
from p2pfs.wire.volumes import OpenSession, VolumeInfo

pytestmark = pytest.mark.l1

VOLUME = VolumeId(7)
BEAT = Heartbeat(["127.0.0.1:1"], 1 << 40, 0, 0, 0, 0.0, ROOMY, 0, 0)


async def test_a_node_joins_with_an_invite_serves_and_mounts(tmp_path: Path) -> None:
    async with live(tmp_path) as pool:
        node, credentials = await pool.join("anna@laptop", Role.PEER, Role.CLIENT)
        async with pool.client(credentials) as client:
            beat = msgspec.structs.replace(BEAT, clock_s=0.0)
            answer = await client.call(pool.endpoint, "POST", "/heartbeat", beat, HeartbeatAnswer)
            seen = await client.call(pool.endpoint, "GET", "/map", None, PoolMap)
            assert [(peer.number, peer.node) for peer in seen.peers] == [(answer.peer, node)]
            await client.call(pool.endpoint, "POST", "/volumes", volume_message(VOLUME), VolumeInfo)
            namespace = await RemoteNamespace.open(client, pool.endpoint, VOLUME, request=OpenSession(), io_timeout_s=5)
            ids = await namespace.new_ids(2)
            made = Make(ROOT_INODE, b"name", ids[0], b"tag", ids[1], 1, 0o644, 0, 0, 0, b"head", 1)
            await namespace.apply([made])
            assert (await namespace.lookup(ROOT_INODE, b"name")).attributes.inode == ids[1]
            (token,) = await namespace.reserve(1000)
            assert (token.sender, token.volume) == (node, VOLUME)
            await namespace.aclose()


async def test_a_joiner_recognises_a_foreign_coordinator(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with live(tmp_path / "a") as pool, live(tmp_path / "b") as foreign:
        invite = decode_invite(await pool.invite("anna@laptop", Role.CLIENT))
        async with joining_client(invite.ca_key, invite.pool) as client:
            endpoint = Endpoint(invite.coordinator, Role.COORDINATOR, foreign.endpoint.addresses)
            message = JoinRequest(invite.secret, certificate_request(new_key()))
            with pytest.raises(Denied):
                await client.call(endpoint, "POST", "/join", message, JoinAnswer)
        assert foreign.running.server.requests == 0  # nothing was sent


async def test_revoking_closes_live_connections_and_refuses_new_ones(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked anna@laptop", count=1)
    async with live(tmp_path) as pool:
        node, credentials = await pool.join("anna@laptop", Role.CLIENT)
        host, port = parse_address(pool.endpoint.addresses[0])
        stream = TlsStream(await trio.open_tcp_stream(host, port), client_context(credentials), server_side=False)
        await stream.do_handshake()
        await stream.send_all([b"GET /map HTTP/1.1\r\nhost: x\r\n\r\n"])
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        async with pool.client() as admin:
            assert (await admin.call(pool.endpoint, "POST", f"/nodes/{node}/revoke", None, NodeInfo)).revoked
        with trio.fail_after(5):  # an idle connection would live for 90 s
            assert await everything(stream) == b""
        await trio.aclose_forcefully(stream)
        with pytest.raises((Denied, Unavailable)):
            async with pool.client(credentials) as again:
                await again.call(pool.endpoint, "GET", "/map", None, PoolMap)


async def test_a_restart_on_another_port_is_the_same_pool(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked bob@laptop", count=1)
    async with live(tmp_path) as pool:
        node, credentials = await pool.join("anna@laptop", Role.PEER, Role.CLIENT)
        gone, gone_credentials = await pool.join("bob@laptop", Role.CLIENT)
        async with pool.client() as admin:
            await admin.call(pool.endpoint, "POST", f"/nodes/{gone}/revoke", None, NodeInfo)
        async with pool.client(credentials) as client:
            await client.call(pool.endpoint, "POST", "/heartbeat", BEAT, HeartbeatAnswer)
            await client.call(pool.endpoint, "POST", "/volumes", volume_message(VOLUME), VolumeInfo)
            opened = OpenSession()
            namespace = await RemoteNamespace.open(client, pool.endpoint, VOLUME, request=opened, io_timeout_s=5)
            session = namespace.session
            version = (await client.call(pool.endpoint, "GET", "/map", None, PoolMap)).version
    async with live(tmp_path) as pool:
        assert pool.home.record().addresses == list(pool.endpoint.addresses)  # this machine's commands find it
        async with pool.client(credentials) as client:
            seen = await client.call(pool.endpoint, "GET", "/map", None, PoolMap)
            assert [peer.node for peer in seen.peers] == [node]
            assert seen.version > version
            (volume,) = await client.call(pool.endpoint, "GET", "/volumes", None, list[VolumeInfo])
            assert volume.volume == VOLUME
            await client.request(
                pool.endpoint, "POST", f"/sessions/{session}/ids", parts=(b"\x81\xa5count\x01",), timeout_s=5
            )
            await client.call(pool.endpoint, "DELETE", f"/sessions/{session}", None, type(None))
            with pytest.raises(Fenced):
                await client.request(
                    pool.endpoint, "POST", f"/sessions/{session}/ids", parts=(b"\x81\xa5count\x01",), timeout_s=5
                )
        with pytest.raises((Denied, Unavailable)):
            async with pool.client(gone_credentials) as client:
                await client.call(pool.endpoint, "GET", "/map", None, PoolMap)


async def test_a_lapsed_certificate_renews_and_works_again(tmp_path: Path) -> None:
    async with live(tmp_path) as pool:
        node, _ = await pool.join("anna@laptop", Role.CLIENT)
        authority, _ = CoordinatorFiles(pool.home).load(pool.running.record.pool)
        key, now_s = new_key(), SystemClock().time()
        lapsed = authority.issue(
            key.public_key(), NodeId(node), roles=[Role.CLIENT], now_s=now_s - 100 * 86400, lifetime_s=90 * 86400
        )
        async with pool.client(pool.keep("lapsed", lapsed.der, key)) as client:
            with pytest.raises(Denied, match="expired"):
                await client.call(pool.endpoint, "GET", "/map", None, PoolMap)
            message = RenewRequest(certificate_request(key))
            answer = await client.call(pool.endpoint, "POST", "/renew", message, RenewAnswer)
        async with pool.client(pool.keep("renewed", answer.certificate, key)) as client:
            await client.call(pool.endpoint, "GET", "/map", None, PoolMap)


async def test_unknown_volumes_and_sessions_are_refused(tmp_path: Path) -> None:
    async with live(tmp_path) as pool, pool.client() as client:
        with pytest.raises(NotFound):
            await client.request(pool.endpoint, "GET", "/volumes/0000000000000009/slots", timeout_s=5)
        with pytest.raises(NotFound):
            await client.request(pool.endpoint, "GET", "/volumes/nonsense/slots", timeout_s=5)
        with pytest.raises(Fenced):
            await client.request(pool.endpoint, "DELETE", "/sessions/nonsense", timeout_s=5)


async def test_the_coordinator_renews_its_own_certificate(tmp_path: Path) -> None:
    async with live(tmp_path) as pool:
        before = pool.home.certificate_path.read_bytes()
        clock = FakeClock(x509.load_pem_x509_certificate(before).not_valid_after_utc.timestamp() - 31 * 86400)
        membership = pool.running.services.membership
        worker = OwnCertificate(pool.home, membership, renew_after_s=60 * 86400, clock=clock)
        await worker.look()
        assert pool.home.certificate_path.read_bytes() == before
        clock.advance(2 * 86400)
        await worker.look()
        after = pool.home.certificate_path.read_bytes()
        assert after != before
        loaded = x509.load_pem_x509_certificate(after)
        assert loaded.public_key() == x509.load_pem_x509_certificate(before).public_key()
        identity = identity_of(loaded.public_bytes(Encoding.DER))
        assert identity.roles == NODE_ROLES
        async with pool.client() as client:  # with the new files
            await client.call(pool.endpoint, "GET", "/map", None, PoolMap)


@pytest.mark.parametrize(("advertise", "usual"), [("nas", 9470), ("nas:9475,10.0.0.7", 9475), ("", 9470)])
async def test_where_it_listened_once_is_not_where_it_listens_for_ever(
    advertise: str, usual: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def listen(where: str) -> list[trio.SocketListener]:
        asked.append(where)
        return await open_listeners("127.0.0.1:0")

    monkeypatch.setattr(daemon, "open_listeners", listen)
    home = new_pool(tmp_path / "home")
    for given in ({"listen": "127.0.0.1:9998"}, {"listen": ""}):
        async with open_coordinator(home, home.settings({"advertise": advertise, **given})):
            pass
    assert asked == ["127.0.0.1:9998", f":{usual}"]


async def test_addresses_that_are_taken_are_a_clear_mistake(tmp_path: Path) -> None:
    async with live(tmp_path) as pool:
        other = new_pool(tmp_path / "other")
        with pytest.raises(UserError) as caught:
            async with open_coordinator(other, other.settings({"listen": pool.endpoint.addresses[0]})):
                pass
        assert caught.value.exit_code == exitcodes.BUSY


@pytest.mark.parametrize("missing", ["ca.key", "secrets.json", "meta.sqlite"])
async def test_a_home_that_is_no_coordinator_cannot_run_one(missing: str, tmp_path: Path) -> None:
    home = new_pool(tmp_path)
    (tmp_path / "coordinator" / missing).unlink()
    with pytest.raises(UserError, match=missing):
        async with open_coordinator(home, home.settings()):
            pass
    assert not (tmp_path / "coordinator" / missing).exists()


async def test_an_empty_database_is_none(tmp_path: Path) -> None:
    home = new_pool(tmp_path)
    os.truncate(tmp_path / "coordinator" / "meta.sqlite", 0)
    with pytest.raises(UserError, match="empty"):
        async with open_coordinator(home, home.settings()):
            pass


PROGRAM = """
import sys
from pathlib import Path
from p2pfs.coordinator import daemon
from p2pfs.errors import UserError
from p2pfs.runtime import log
from p2pfs.runtime.home import NodeHome
log.setup("info")
home = NodeHome(Path(sys.argv[1]))
try:
    sys.exit(daemon.run(home, home.settings()))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


async def test_the_process_serves_until_sigterm_and_is_alone_in_its_home(tmp_path: Path) -> None:
    home = new_pool(tmp_path)
    notify, ours = tmp_path / "notify", trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM)
    await ours.bind(str(notify))
    command = [sys.executable, "-c", PROGRAM, str(home.path)]
    environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
    with trio.fail_after(60), ours:
        async with trio.open_nursery() as nursery:
            process = await nursery.start(_start, command, environment)
            assert await ours.recv(100) == b"READY=1"
            second = await trio.run_process(command, check=False, capture_stderr=True)
            assert second.returncode == exitcodes.BUSY
            assert b"another coordinator process" in second.stderr
            process.send_signal(signal.SIGTERM)
            assert await ours.recv(100) == b"STOPPING=1"
            assert await process.wait() == exitcodes.OK


async def _start(
    command: list[str], environment: dict[str, str], *, task_status: trio.TaskStatus[trio.Process]
) -> None:
    await trio.run_process(command, env=environment, stderr=subprocess.DEVNULL, task_status=task_status)


async def test_an_invite_names_addresses_that_work(tmp_path: Path) -> None:
    async with live(tmp_path) as pool, pool.client() as client:
        text = (
            await client.call(pool.endpoint, "POST", "/invites", InviteRequest("anna@pc", ["client"]), InviteAnswer)
        ).invite
        assert decode_invite(text).addresses == pool.endpoint.addresses
