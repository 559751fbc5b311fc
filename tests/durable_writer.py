"""A program for tests of P1: writes to a mount from several threads and says in a manifest what it was promised.

    python durable_writer.py DIRECTORY MANIFEST SEED

A line of the manifest is one JSON object and is written outside the mount: `begin` before the first byte of a version
goes to the mount, `done` only after fsync or close (or the rename behind it) returned. It ends at the first error, and
says so there. `Promises` reads manifests back; nothing else belongs here.
"""

import hashlib
import json
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KIB = 1 << 10
SIZES = (1, 700, 16 * KIB, 16 * KIB + 1, 300 * KIB, (1 << 20) - 5, (1 << 20) + 9, 3 << 20)
PIECE = 128 * KIB


class Manifest:
    """Appends lines; each is one write(2), so that a kill leaves no half of one."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, what: str, path: Path, **more: Any) -> None:  # noqa: ANN401 - what JSON holds
        os.write(self._fd, json.dumps({"what": what, "path": str(path), **more}).encode() + b"\n")


class Job:
    """One thread's files: new ones, replaced ones, and a log that grows."""

    def __init__(self, directory: Path, manifest: Manifest, seed: str) -> None:
        self._directory, self._manifest, self._chance = directory, manifest, random.Random(seed)
        self._log = bytearray()

    def run(self) -> None:
        self._directory.mkdir()
        ways: list[Callable[[int], None]] = [self._closed, self._synced, self._replaced, self._appended]
        number = 0
        while True:
            number += 1
            self._chance.choice(ways)(number)

    def _content(self) -> bytes:
        return self._chance.randbytes(self._chance.choice(SIZES))

    def _begin(self, path: Path, content: bytes) -> dict[str, Any]:
        version = {"size": len(content), "sha": hashlib.sha256(content).hexdigest()}
        self._manifest.say("begin", path, **version)
        return version

    def _closed(self, number: int) -> None:
        path, content = self._directory / f"closed-{number}", self._content()
        version = self._begin(path, content)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, content)
        finally:
            os.close(fd)
        self._manifest.say("done", path, by="close", **version)

    def _synced(self, number: int) -> None:
        path, content = self._directory / f"synced-{number}", self._content()
        version = self._begin(path, content)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, content)
            os.fsync(fd)
            self._manifest.say("done", path, by="fsync", **version)
        finally:
            os.close(fd)

    def _replaced(self, number: int) -> None:
        path, content = self._directory / f"replaced-{number % 3}", self._content()
        version = self._begin(path, content)
        new = self._directory / f"new-{number}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, path)
        self._manifest.say("done", path, by="rename", **version)

    def _appended(self, _number: int) -> None:
        path, content = self._directory / "log", self._content()
        self._log += content
        version = self._begin(path, bytes(self._log))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._manifest.say("done", path, by="append", **version)


def write_all(fd: int, content: bytes) -> None:
    for at in range(0, len(content), PIECE):
        piece = content[at : at + PIECE]
        if os.write(fd, piece) != len(piece):
            raise OSError("a short write")


# ---- reading a manifest ---------------------------------------------------------------------------------------------


@dataclass
class Promise:
    """What one path may hold: the last version that was done, or one begun after it."""

    done: dict[str, Any] | None = None
    begun: list[dict[str, Any]] = field(default_factory=list)


class Promises:
    """A manifest read back."""

    def __init__(self, manifest: Path) -> None:
        self.by_path: dict[Path, Promise] = {}
        self.ended: list[str] = []
        self.done = 0
        for line in manifest.read_text().splitlines() if manifest.exists() else ():
            self._take(json.loads(line))

    def _take(self, said: dict[str, Any]) -> None:
        if said["what"] == "ended":
            self.ended.append(said["error"])
            return
        promise = self.by_path.setdefault(Path(said["path"]), Promise())
        if said["what"] == "begin":
            promise.begun.append(said)
        else:
            promise.done, promise.begun = said, []
            self.done += 1

    @property
    def in_flight(self) -> int:
        """Versions begun and not done."""
        return sum(len(promise.begun) for promise in self.by_path.values())

    def broken(self) -> list[str]:
        """Reads every path; what is not as promised."""
        return [f"{path}: {wrong}" for path, promise in self.by_path.items() if (wrong := _wrong(path, promise))]


def _wrong(path: Path, promise: Promise) -> str:
    if promise.done is None:
        return ""
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"{error} ({promise.done['by']})"
    if promise.done["by"] == "append":  # what was begun later may be there in part
        content = content[: promise.done["size"]]
    sha = hashlib.sha256(content).hexdigest()
    if sha in {version["sha"] for version in (promise.done, *promise.begun)}:
        return ""
    return f"{len(content)} bytes are not those of {promise.done} nor of {promise.begun}"


def main() -> None:
    directory, manifest = Path(sys.argv[1]), Manifest(Path(sys.argv[2]))
    directory.mkdir()

    def run(number: int) -> None:
        try:
            Job(directory / f"{number}", manifest, f"{sys.argv[3]} {number}").run()
        except OSError as error:
            manifest.say("ended", directory, error=str(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
