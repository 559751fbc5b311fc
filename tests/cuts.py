"""Cuts the network of single processes, as root: what they send is lost and so is what is sent to them.

A process begins in a control group of its own (`started_in`), and `cut` attaches a BPF program of two instructions,
"drop it", to both directions of that group: no address, port or route is touched, connections stay as they are, and
both ends notice by silence alone.
"""

import contextlib
import ctypes
import os
import select
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import pytest

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LOAD, _ATTACH, _DETACH = 5, 8, 9  # commands of bpf(2)
_CGROUP_SKB = 8  # BPF_PROG_TYPE_CGROUP_SKB
_DIRECTIONS = (0, 1)  # BPF_CGROUP_INET_INGRESS, …EGRESS
_DROP = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit

_EMPTY_S: Final = 30.0
"""How long processes that were told to end may take to be gone from a group."""


class Group:
    """A control group whose network can be cut."""

    def __init__(self, path: Path, program: int) -> None:
        self.path, self._program = path, program

    def started_in(self, command: Sequence[str]) -> None:
        """Run a command; it, and what it leaves running, belongs to the group from the first socket on."""
        inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path), *command]
        subprocess.run(inside, check=True, stdout=subprocess.DEVNULL, timeout=90)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing passes while the block runs."""
        fd = os.open(self.path, os.O_RDONLY)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            for direction in _DIRECTIONS:
                attached = struct.pack("<IIII", fd, self._program, direction, 0)
                _bpf(_ATTACH, attached)
                stack.callback(_bpf, _DETACH, attached)
            yield


@contextlib.contextmanager
def groups(name: str, parts: Sequence[str]) -> Iterator[dict[str, Group]]:
    """One group for each part, which must have ended with the block; skips the test where this machine does not let us,
    and fails it if that must not be (`P2PFS_REQUIRE_FUSE`)."""
    above = next((Path(line.split()[1]) for line in _mounts() if line.split()[2] == "cgroup2"), None)
    if above is None or os.geteuid() != 0:
        _cannot("cutting the network of a process needs root and cgroup2")
    try:
        code, licence = ctypes.create_string_buffer(_DROP), ctypes.create_string_buffer(b"GPL")
        count = len(_DROP) // 8
        loaded = struct.pack("<IIQQ", _CGROUP_SKB, count, ctypes.addressof(code), ctypes.addressof(licence))
        program = _bpf(_LOAD, loaded)
        paths = {part: above / f"p2pfs-{name}-{os.getpid()}-{part}" for part in parts}
        for path in paths.values():
            path.mkdir()
    except OSError as error:
        _cannot(f"this machine does not let us cut the network of a process: {error}")
    try:
        yield {part: Group(path, program) for part, path in paths.items()}
    finally:
        os.close(program)
        for path in paths.values():
            _await_empty(path)
            path.rmdir()


def _await_empty(path: Path) -> None:
    """A process that was killed is of its group until the kernel is through with it, which is after its parent, or who
    waits for its pid file, heard of it."""
    limit = time.monotonic() + _EMPTY_S
    with (path / "cgroup.events").open() as events:
        changes = select.poll()
        changes.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            left_s = limit - time.monotonic()
            assert left_s > 0, f"still running: {(path / 'cgroup.procs').read_text().split()}"
            changes.poll(1000 * left_s)
            events.seek(0)


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("P2PFS_REQUIRE_FUSE") == "1" and os.geteuid() == 0:
        pytest.fail(reason)
    pytest.skip(reason)


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    memory = ctypes.create_string_buffer(attributes, 128)
    result = int(libc.syscall(_SYSCALL[os.uname().machine], command, memory, ctypes.c_uint(128)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _mounts() -> list[str]:
    return Path("/proc/mounts").read_text().splitlines()
