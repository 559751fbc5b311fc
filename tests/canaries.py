"""Canaries: things nobody but the owner may learn, and looking for them in whatever was kept, logged or sent."""

import base64
import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_ETH_P_ALL = 3
_SHORTEST = 12


@dataclass(frozen=True)
class Canary:
    """One secret under the name that a report uses."""

    name: str
    secret: bytes

    def forms(self) -> dict[str, bytes]:
        """How it could appear: as it is, in hexadecimal, in base64 at any of the three alignments, in UTF-16."""
        found = {"raw": self.secret, "hex": self.secret.hex().encode(), "HEX": self.secret.hex().upper().encode()}
        for offset in range(3):
            text = base64.b64encode(bytes(offset) + self.secret)
            # only digits that no neighbour has a share in
            core = text[-(-offset * 8 // 6) : (offset + len(self.secret)) * 8 // 6]
            found[f"base64+{offset}"] = core
            found[f"base64url+{offset}"] = core.translate(bytes.maketrans(b"+/", b"-_"))
        with contextlib.suppress(UnicodeDecodeError):
            text = self.secret.decode("utf-8")
            found["utf-16-le"], found["utf-16-be"] = text.encode("utf-16-le"), text.encode("utf-16-be")
        return {form: pattern for form, pattern in found.items() if len(pattern) >= _SHORTEST}


def search(places: Iterable[tuple[str, bytes]], canaries: Iterable[Canary]) -> list[str]:
    """Which canary is where, in words."""
    wanted = [(canary.name, form, pattern) for canary in canaries for form, pattern in canary.forms().items()]
    found = []
    for place, data in places:
        found += [f"{name} ({form}) in {place}" for name, form, pattern in wanted if pattern in data]
    return found


def files(root: Path, *, but: Iterable[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Every file below `root`, and every name of one. `but` are paths below it."""
    left_out = {root / path for path in but}
    for path in sorted(root.rglob("*")):
        if any(path == other or other in path.parents for other in left_out):
            continue
        yield f"the name {path}", str(path.relative_to(root)).encode()
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):  # databases drop their logs
                yield str(path), path.read_bytes()


def processes(pids: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Command lines and environments, as other users of the machine may see them."""
    for pid in pids:
        for name in ("cmdline", "environ"):
            yield f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes()


def memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """What a process has in its memory. Needs root."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in maps:
            words = line.split()
            if not words[1].startswith("rw") or line.rstrip().endswith("[vvar]"):
                continue
            start, stop = (int(address, 16) for address in words[0].split("-"))
            mem.seek(start)
            with contextlib.suppress(OSError):
                yield f"the memory of {pid} at {words[0]}", mem.read(stop - start)


class LoopbackCapture:
    """Every packet on the loopback device between `start` and `stop`. Needs root."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind(("lo", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.settimeout(0.2)
        self._data = bytearray()
        self._stop = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "LoopbackCapture":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        _, self.dropped = struct.unpack("II", self._socket.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                packet, (_, _, kind, *_) = self._socket.recvfrom(1 << 17)
                if kind != 4:  # PACKET_OUTGOING: on this device each packet is seen twice
                    self._data += _payload(packet)

    @property
    def bytes(self) -> bytes:
        """The payloads of all TCP packets, in the order they came."""
        return bytes(self._data)


def _payload(packet: bytes) -> bytes:
    """What a TCP packet in IPv4 on Ethernet carries; of other packets everything."""
    if len(packet) < 54 or packet[12:14] != b"\x08\x00" or packet[23] != 6:
        return packet
    ip = (packet[14] & 15) * 4
    total = struct.unpack_from(">H", packet, 16)[0] or len(packet) - 14  # 0: larger than the field
    tcp = (packet[14 + ip + 12] >> 4) * 4
    return packet[14 + ip + tcp : 14 + total]
