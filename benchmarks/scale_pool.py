"""A coordinator process under a thousand peers and two hundred mounts, over TLS. Called by `scale`.

The nodes are rows and certificates made here; each has a connection of its own, and each mount one more that waits for
events. What is measured is the coordinator's process alone: the load comes from this one.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio
from scale_fill import VOLUME, heartbeat

from p2pfs.coordinator.authority import Authority, key_pem, new_key, to_pem
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.errors import Unavailable
from p2pfs.meta import members
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.members import Node
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.identity import Credentials, client_context
from p2pfs.runtime.home import NodeHome
from p2pfs.types import NodeId, Role, volume_name
from p2pfs.wire.events import Events, WaitEvents
from p2pfs.wire.membership import HeartbeatAnswer
from p2pfs.wire.volumes import OpenSession, RenewedSession, RenewSession, SessionGrant

BEAT_S = 5.0
WAIT_S = 20.0
SETTLE_S = 15.0
_PROCESS = [sys.executable, "-m", "p2pfs.cli.main", "coordinator", "start"]


class Coordinator:
    """The process, on a home that is filled."""

    def __init__(self, home: NodeHome, **settings: str) -> None:
        self.home, self._log = home, home.path / "bench.log"
        self._words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]

    def __enter__(self) -> "Coordinator":
        self._log.unlink(missing_ok=True)
        words = ["--home", str(self.home.path), "--log-file", str(self._log), *self._words]
        began = time.perf_counter()
        self._process = subprocess.Popen([*_PROCESS, *words])
        while not self._log.exists() or "is at" not in self._log.read_text():
            if self._process.poll() is not None:
                raise SystemExit("the coordinator does not start")
            time.sleep(0.02)
        self.started_s = time.perf_counter() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def cpu_s(self) -> float:
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self, what: str = "VmRSS") -> float:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def join_clients(home: NodeHome, count: int) -> list[NodeId]:
    """Nodes of the volume's owner, who mount it. The coordinator must be stopped."""
    database = InlineDatabase(CoordinatorFiles(home).database)
    found = []
    for at in range(count):
        node = Node(
            NodeId(f"c{at:031x}"), f"owner0@laptop{at}", "owner0", "", frozenset({Role.CLIENT}),
            capacity_limit=0, joined_s=1.0,
        )  # fmt: skip
        database.write_now(partial(members.add_node, node=node))
        found.append(node.id)
    database.close()
    return found


async def load(
    coordinator: Coordinator, peers: Sequence[NodeId], mounts: Sequence[NodeId], seconds: float
) -> dict[str, float]:
    """Share of a core, resident MiB and median ms of a heartbeat, while peers beat every 5 s and mounts renew as often
    and wait for events."""
    home = coordinator.home
    record, (authority, _) = home.record(), CoordinatorFiles(home).load(home.record().pool)
    endpoint = Endpoint(record.coordinator, Role.COORDINATOR, tuple(record.addresses))
    taken: list[float] = []

    # Before anything is timed: a context takes some milliseconds, in which nobody else is heard.
    contexts = {
        node: client_context(_credentials(home, authority, node, role))
        for role, nodes in ((Role.PEER, peers), (Role.CLIENT, mounts))
        for node in nodes
    }

    def client(node: NodeId) -> Client:
        return Client(contexts[node], record.pool)

    async def beat(at: int, node: NodeId) -> None:
        async with client(node) as own:
            await trio.sleep(SETTLE_S * at / len(peers))
            while True:
                began = trio.current_time()
                with contextlib.suppress(Unavailable):  # the load alone may take a moment too long
                    await own.call(endpoint, "POST", "/heartbeat", heartbeat(at, time.time()), HeartbeatAnswer)
                    taken.append(trio.current_time() - began)
                await trio.sleep(max(0.0, began + BEAT_S - trio.current_time()))

    async def mount(at: int, node: NodeId) -> None:
        async with client(node) as own, trio.open_nursery() as nursery:
            await trio.sleep(SETTLE_S * at / len(mounts))
            path, session = f"/volumes/{volume_name(VOLUME)}/sessions", ""
            while not session:
                with contextlib.suppress(Unavailable):
                    session = (await own.call(endpoint, "POST", path, OpenSession(), SessionGrant)).session
            nursery.start_soon(wait, own, session)
            while True:
                with contextlib.suppress(Unavailable):
                    await own.call(endpoint, "POST", f"/sessions/{session}/renew", RenewSession(0), RenewedSession)
                await trio.sleep(BEAT_S)

    async def wait(own: Client, session: str) -> None:
        stream = last = 0
        while True:
            asked = WaitEvents(stream, last, WAIT_S)
            with contextlib.suppress(Unavailable):
                told = await own.call(endpoint, "POST", f"/sessions/{session}/events", asked, Events, timeout_s=60.0)
                stream, last = told.stream, told.last

    async with trio.open_nursery() as nursery:
        for at, node in enumerate(peers):
            nursery.start_soon(beat, at, node)
        for at, node in enumerate(mounts):
            nursery.start_soon(mount, at, node)
        await trio.sleep(SETTLE_S + BEAT_S)
        taken.clear()
        before, began = coordinator.cpu_s(), time.perf_counter()
        await trio.sleep(seconds)
        share = (coordinator.cpu_s() - before) / (time.perf_counter() - began)
        found = {
            "cores": share,
            "resident": coordinator.resident_mib(),
            "beats": len(taken) / seconds,
            "beat_ms": 1000 * statistics.median(taken),
        }
        nursery.cancel_scope.cancel()
    return found


_KEY = new_key()


def _credentials(home: NodeHome, authority: Authority, node: NodeId, role: Role) -> Credentials:
    """Files for a certificate; all nodes have one key."""
    directory = home.path / "bench-nodes"
    directory.mkdir(exist_ok=True)
    key = directory / "key.pem"
    if not key.exists():
        key.write_bytes(key_pem(_KEY))
    path = directory / f"{node}.pem"
    issued = authority.issue(_KEY.public_key(), node, roles={role}, now_s=time.time(), lifetime_s=86400.0)
    path.write_bytes(to_pem(issued.der))
    return Credentials(home.ca_path, path, key)
