"""Writers at work on a pool: durable_writer.py as a process, and what it was promised."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import durable_writer
from durable_writer import Promises
from pools import DemoPool


class Writer:
    """The writing process and what it was promised."""

    def __init__(self, directory: Path, manifest: Path, seed: str, pause_s: float) -> None:
        self._manifest = manifest
        words = [str(directory), str(manifest), seed, str(pause_s)]
        self.process = subprocess.Popen([sys.executable, durable_writer.__file__, *words])

    def promises(self) -> Promises:
        return Promises(self._manifest)

    def until(self, count: int) -> Promises:
        """Wait until so many versions are done."""
        return self.wait(lambda promises: promises.done >= count)

    def wait(self, wanted: Callable[[Promises], bool], within_s: float = 60.0) -> Promises:
        limit = time.monotonic() + within_s
        while True:
            promises = self.promises()
            if wanted(promises):
                return promises
            assert self.process.poll() is None, f"the writer has ended: {promises.ended}"
            assert time.monotonic() < limit, f"only {promises.done} versions are done"
            time.sleep(0.005)

    @contextmanager
    def held(self) -> Iterator[None]:
        """It stands still while the block runs, and no call of its threads is under way."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # once its last thread has stopped
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def wait_end(self) -> Promises:
        """After the mount was killed: every call fails, so it ends by itself."""
        self.process.wait(60)
        return self.promises()


@contextmanager
def writing(pool: DemoPool, name: str, seed: str, *, pause_s: float = 0.0) -> Iterator[Writer]:
    writer = Writer(pool.mount / name, pool.root / f"{name}.manifest", seed, pause_s)
    try:
        yield writer
    finally:
        writer.process.kill()
        writer.process.wait(30)
