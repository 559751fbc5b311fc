"""Opening a volume's key slots in a process of its own.

Argon2id takes 256 MiB or more for a second. A mount that lives for months should not carry that in its memory, and need
not: the work is done by a child that ends with it. Slots and passphrase go in and the master key comes out by pipes.
"""

import sys
from collections.abc import Sequence
from typing import Final

import trio

from p2pfs.errors import PoolError, Unavailable
from p2pfs.format.keys import unwrap_any
from p2pfs.runtime import process
from p2pfs.wire import answers, codec
from p2pfs.wire.volumes import KeySlot

_COMMAND: Final = (sys.executable, "-P", "-m", "p2pfs.vfs.unlock")
_TIMEOUT_S: Final = 120.0


async def unlock(slots: Sequence[KeySlot], secret: str) -> bytes:
    """The master key behind one of the slots, by a passphrase or recovery phrase.

    Raises:
        Denied: The secret opens none of them.
        Corrupt: A slot is damaged or weaker than we accept.
        Unavailable: The child could not do its work (memory).
    """
    with trio.move_on_after(_TIMEOUT_S):
        child = await trio.run_process(
            _COMMAND, stdin=codec.encode((list(slots), secret)), capture_stdout=True, capture_stderr=True, check=False
        )
        if child.returncode == 0:
            return answers.unwrap(codec.decode(child.stdout, answers.Answer), bytes)
    raise Unavailable("the key slots could not be opened: is there enough memory for Argon2id?")


def main() -> None:
    """The child: (slots, secret) on standard input, an Answer with the key or the refusal on standard output."""
    process.harden()
    slots, secret = codec.decode(sys.stdin.buffer.read(), tuple[list[KeySlot], str])
    try:
        answer = answers.answer(unwrap_any(slots, secret))
    except PoolError as error:
        answer = answers.refusal(error)
    sys.stdout.buffer.write(codec.encode(answer))


if __name__ == "__main__":
    main()
