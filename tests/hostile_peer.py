"""A program for tests of P2: a peer daemon with a real identity and real chunks that misbehaves on command.

    python hostile_peer.py MODE_FILE p2pfs.cli.main WORDS…

WORDS are those of the command line, named before them so that `p2pfs demo` knows its part again. What it does wrong is
the word in MODE_FILE, read at every request, so that a test can turn it on while reads go on. Each wrong answer adds a
byte to MODE_FILE's neighbour .count, each read to .served.
"""

import os
import sys
from pathlib import Path

import trio

from p2pfs.cli.main import main
from p2pfs.errors import NoSpace, NotFound, Unavailable
from p2pfs.net.server import Request, Response
from p2pfs_peerd.app import PeerApp

SLOW_S = 3.0
LATE_S = 0.2
"""So late that a mount asks another peer first from then on, and not so late that it asks two at once."""
MODE = Path(sys.argv[1])


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def mode() -> str:
    """The word in force; counted by the caller once it acts on it."""
    return MODE.read_text().strip()


def count(suffix: str = ".count") -> None:
    fd = os.open(MODE.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, b".")
    os.close(fd)


class HostileApp(PeerApp):
    """`PeerApp`, but."""

    _earlier = b""

    async def get(self, request: Request) -> Response:
        wrong = mode()
        count(".served")
        if wrong in ("missing", "slow-missing", "failing", "slow"):
            count()
        if wrong == "late":  # and right
            await trio.sleep(LATE_S)
        if wrong.startswith("slow"):
            await trio.sleep(SLOW_S)
        if wrong.endswith("missing"):
            raise NotFound("no such chunk here")
        if wrong == "failing":
            raise Unavailable("the disk does not answer")
        return self._changed(wrong, await super().get(request))

    def _changed(self, wrong: str, answer: Response) -> Response:
        """Wrong bytes under right headers."""
        assert isinstance(answer.body, memoryview)
        body = bytes(answer.body)
        earlier, self._earlier = self._earlier, body
        if wrong == "flipped":
            body = flipped(body)
        elif wrong == "cut":
            body = body[: len(body) // 2]
        elif wrong == "swapped" and len(earlier) == len(body):
            body = earlier
        else:
            return answer
        count()
        return Response(answer.status, body, answer.content_type, answer.headers)

    async def put(self, request: Request) -> Response:
        if mode() == "full":
            count()
            raise NoSpace("this peer is full")
        return await super().put(request)


if __name__ == "__main__":
    import p2pfs_peerd.composition

    p2pfs_peerd.composition.PeerApp = HostileApp  # type: ignore[misc]  # that is the point
    sys.argv = ["p2pfs", *sys.argv[3:]]
    sys.exit(main())
