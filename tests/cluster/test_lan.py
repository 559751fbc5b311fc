"""A machine joins although the invite's addresses lead nowhere: the coordinator is found on the local network.

Two network namespaces with a cable between them stand for two machines; processes, multicast and TLS are real.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from p2pfs import exitcodes
from p2pfs.coordinator.init import initialise
from p2pfs.runtime.home import NodeHome

pytestmark = [
    pytest.mark.l5,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]

COMMAND = [sys.executable, "-m", "p2pfs.cli.main"]
SERVER, LAPTOP = "10.97.83.1", "10.97.83.2"
NOWHERE = "10.97.83.99:9470"
"""What the coordinator believes that others reach it at; only the server itself does."""


@dataclass(frozen=True)
class Machine:
    """A network namespace with one address on the cable, and a home."""

    namespace: str
    home: Path

    def popen(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.namespace}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, P2PFS_HOME=str(self.home)),
        )

    def p2pfs(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        with self.popen(*COMMAND, *words) as process:
            out, err = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    homes = tmp_path_factory.mktemp("lan")
    names = [f"p2pfs-lan-{os.getpid()}-{end}" for end in ("server", "laptop")]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, (SERVER, LAPTOP), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "address", "add", f"{NOWHERE.partition(':')[0]}/32", "dev", "lo")
        yield Machine(names[0], homes / "server"), Machine(names[1], homes / "laptop")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, timeout=20)


def test_join_finds_the_coordinator_on_the_local_network(machines: tuple[Machine, Machine]) -> None:
    server, laptop = machines
    settings = {"listen": f"{SERVER}:9470,{NOWHERE}"}
    initialise(server.home, pool_name="club", name="anna@server", addresses=[NOWHERE], settings=settings)
    with server.popen(*COMMAND, "coordinator", "start") as coordinator:
        try:
            assert coordinator.stderr is not None
            next(line for line in coordinator.stderr if "the coordinator of pool" in line)
            invite = server.p2pfs("invite", "anna@laptop")
            assert invite.returncode == exitcodes.OK, invite.stderr
            ip("-n", server.namespace, "address", "delete", f"{NOWHERE.partition(':')[0]}/32", "dev", "lo")
            joined = laptop.p2pfs("join", stdin=invite.stdout)
            assert joined.returncode == exitcodes.OK, joined.stderr
            assert f"{SERVER}:9470" in joined.stderr.partition("Found: ")[2]
            assert NodeHome(laptop.home).record().addresses == [f"{SERVER}:9470", NOWHERE]
            strayed = msgspec.structs.replace(NodeHome(laptop.home).record(), addresses=[NOWHERE])
            NodeHome(laptop.home).save(strayed)
            found = laptop.p2pfs("coordinator", "find", "--json")
            assert json.loads(found.stdout)["found"] == f"{SERVER}:9470", found.stderr
        finally:
            coordinator.send_signal(signal.SIGTERM)
            coordinator.communicate(timeout=60)
