"""A network from which nothing can be dialled but some ports of this machine's loopback, for whole processes.

    narrow.py inside SOCKET PORT…   listens on 127.0.0.1:PORT…; each connection goes on to the Unix socket SOCKET.PORT
    narrow.py outside SOCKET PORT…  listens on those; each goes on to 127.0.0.1:PORT

`inside` runs in a network of its own (`unshare -n`), where nothing else listens; Unix sockets lead out of it.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import trio

from p2pfs.net.splice import splice

IDLE_S = 600.0


async def join(there: str, port: int, is_inside: bool, here: trio.SocketStream) -> None:
    try:
        if is_inside:
            other = await trio.open_unix_socket(there)
        else:
            other = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        await trio.aclose_forcefully(here)
        return
    async with here, other:
        await splice(here, other, idle_s=IDLE_S, moved=lambda _size: None)


async def run(is_inside: bool, sockets: str, ports: Sequence[int]) -> None:
    async with trio.open_nursery() as nursery:
        for port in ports:
            path = f"{sockets}.{port}"
            if is_inside:
                listeners: list[trio.SocketListener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
            else:
                listening = trio.socket.socket(trio.socket.AF_UNIX)
                await listening.bind(path)
                listening.listen(64)
                listeners = [trio.SocketListener(listening)]
            nursery.start_soon(partial(trio.serve_listeners, partial(join, path, port, is_inside), listeners))
        print("ready", flush=True)


@contextlib.contextmanager
def narrow_network(directory: Path, ports: Sequence[int]) -> Iterator[list[str]]:
    """The words before a command that shall run there."""
    script = [sys.executable, str(Path(__file__))]
    rest = [str(directory / "way"), *map(str, ports)]
    inside = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *script, "inside", *rest]
    processes = []
    try:
        for words in ([*script, "outside", *rest], inside):
            process = subprocess.Popen(words, stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield ["nsenter", "-t", str(processes[1].pid), "-n"]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


if __name__ == "__main__":
    trio.run(run, sys.argv[1] == "inside", sys.argv[2], [int(word) for word in sys.argv[3:]])
