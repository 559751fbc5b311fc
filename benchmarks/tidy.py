"""How benchmarks end: cleanly, also on Ctrl-C and SIGTERM, without a mount or a process left behind."""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


def end_on_sigterm() -> None:
    """From now on SIGTERM goes the way of Ctrl-C, through every `finally`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Starting and cleaning up go to their end; Ctrl-C counts after them. Cut short they would leave things behind."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda got, _: caught.append(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


def remove(root: Path) -> None:
    """Delete a directory, but never through a mount that would not go."""
    left = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f" {root}/" in line]
    if left:
        print(f"still mounted, and left: {', '.join(left)}", file=sys.stderr)
        return
    shutil.rmtree(root, ignore_errors=True)
    os.sync()  # nobody else's turn pays for it
