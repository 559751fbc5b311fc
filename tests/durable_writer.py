"""A program for tests of P1: writes to a mount from several threads and says in a manifest what it was promised.

    python durable_writer.py DIRECTORY MANIFEST SEED [PAUSE_S]

A line of the manifest is one JSON object and is written outside the mount: `begin` before the first byte of a version
goes to the mount, `done` only after fsync or close returned, or for names the fsync of a directory behind it. A name
that is to go has the version `ABSENT`. It ends at the first error, and says so there. `Promises` reads manifests back;
nothing else belongs here.
"""

import hashlib
import json
import os
import random
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KIB = 1 << 10
SIZES = (1, 700, 16 * KIB, 16 * KIB + 1, 300 * KIB, (1 << 20) - 5, (1 << 20) + 9, 3 << 20)
PIECE = 128 * KIB
SMALL = (0, 700, 16 * KIB + 1, 300 * KIB)
"""Of files that are renamed, linked, overwritten and removed: less than a MiB, so that one commit changes one."""
ABSENT = {"size": -1, "sha": "absent"}
MOST_NAMES = 8


class Manifest:
    """Appends lines; each is one write(2), so that lines of several threads do not mix."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, what: str, path: Path, **more: Any) -> None:  # noqa: ANN401 - what JSON holds
        line = json.dumps({"what": what, "path": str(path), **more}).encode() + b"\n"
        if os.write(self._fd, line) != len(line):
            raise OSError("a short write")


class Job:
    """One thread's files: new ones, replaced ones, and a log that grows."""

    def __init__(self, directory: Path, manifest: Manifest, seed: str, pause_s: float = 0.0) -> None:
        self._directory, self._manifest, self._chance = directory, manifest, random.Random(seed)
        self._pause_s = pause_s  # between versions: for who watches for long and has a small disk
        self._log = bytearray()
        self._files: dict[Path, bytes] = {}  # what may be moved, changed and removed

    def run(self) -> None:
        self._directory.mkdir()
        ways: list[Callable[[int], None]] = [
            self._closed, self._synced, self._replaced, self._appended,
            self._made, self._made, self._moved, self._linked, self._overwritten, self._removed, self._directories,
        ]  # fmt: skip
        number = 0
        while True:
            number += 1
            self._chance.choice(ways)(number)
            time.sleep(self._pause_s)

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
        self._sync_names()
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

    # ---- names: each call is a promise once the directory was synced; a delegated volume's are committed later

    def _sync_names(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _made(self, number: int) -> None:
        if len(self._files) >= MOST_NAMES:
            return self._removed(number)
        path, content = self._directory / f"name-{number}", self._chance.randbytes(self._chance.choice(SMALL))
        version = self._begin(path, content)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, content)
        finally:
            os.close(fd)
        self._manifest.say("done", path, by="close", **version)
        self._files[path] = content
        return None

    def _moved(self, number: int) -> None:
        """To a new name or over another file."""
        if not self._files:
            return
        old = self._chance.choice(list(self._files))
        new = self._chance.choice([self._directory / f"moved-{number}", *(set(self._files) - {old})])
        version = self._begin(new, self._files[old])
        self._manifest.say("begin", old, moves_to=str(new), **ABSENT)
        os.rename(old, new)
        self._sync_names()
        self._manifest.say("done", new, by="rename", **version)
        self._manifest.say("done", old, by="rename", **ABSENT)
        self._files[new] = self._files.pop(old)

    def _linked(self, number: int) -> None:
        """A second name, which stays."""
        if not self._files:
            return
        old, new = self._chance.choice(list(self._files)), self._directory / f"linked-{number}"
        version = self._begin(new, self._files[old])
        os.link(old, new)
        self._sync_names()
        self._manifest.say("done", new, by="link", **version)
        del self._files[old]  # changing the one would change the other

    def _overwritten(self, _number: int) -> None:
        long = [path for path, content in self._files.items() if content]
        if not long:
            return
        path = self._chance.choice(long)
        content = bytearray(self._files[path])
        at = self._chance.randrange(len(content))
        piece = self._chance.randbytes(min(len(content) - at, PIECE))
        content[at : at + len(piece)] = piece
        version = self._begin(path, bytes(content))
        fd = os.open(path, os.O_WRONLY)
        try:
            if os.pwrite(fd, piece, at) != len(piece):
                raise OSError("a short write")
        finally:
            os.close(fd)
        self._manifest.say("done", path, by="close", **version)
        self._files[path] = bytes(content)

    def _removed(self, _number: int) -> None:
        if not self._files:
            return
        path = self._chance.choice(list(self._files))
        self._manifest.say("begin", path, **ABSENT)
        os.unlink(path)
        self._sync_names()
        self._manifest.say("done", path, by="unlink", **ABSENT)
        del self._files[path]

    def _directories(self, number: int) -> None:
        """One that stays, with a symbolic link in it, and one that goes."""
        path = self._directory / f"directory-{number}"
        made = {"size": 0, "sha": "directory"}
        self._manifest.say("begin", path, **made)
        path.mkdir()
        self._sync_names()
        self._manifest.say("done", path, by="mkdir", **made)
        if self._chance.random() < 0.5:
            self._manifest.say("begin", path, **ABSENT)
            path.rmdir()
            self._sync_names()
            self._manifest.say("done", path, by="rmdir", **ABSENT)
            return
        link = {"size": 0, "sha": f"link to {number}"}
        self._manifest.say("begin", path / "link", **link)
        (path / "link").symlink_to(str(number))
        self._sync_names()
        self._manifest.say("done", path / "link", by="symlink", **link)


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
    """A manifest read back, also while it is written.

    A last line without its end does not count: a file grows page by page, so that a reader can see a write(2) half
    done, and a kill can leave it so. Nothing was promised by it yet.
    """

    def __init__(self, manifest: Path) -> None:
        self.by_path: dict[Path, Promise] = {}
        self.ended: list[str] = []
        self.done = 0
        lines = manifest.read_bytes().split(b"\n")[:-1] if manifest.exists() else []
        for line in lines:
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
        """Reads every path; what is not as promised, and renames that are half done."""
        wrong = [f"{path}: {wrong}" for path, promise in self.by_path.items() if (wrong := _wrong(path, promise))]
        moves = [(path, begun) for path, promise in self.by_path.items() for begun in promise.begun]
        for path, begun in moves:
            if "moves_to" in begun:
                new = Path(begun["moves_to"])
                before, after = self.by_path[new].done, self.by_path[new].begun[-1]
                if before is not None and before["sha"] == after["sha"]:
                    continue  # two equal files, empty ones most often: the one does not tell whether it was replaced
                is_done = _state(new, None)["sha"] == after["sha"]
                if is_done == (_state(path, None) != ABSENT):
                    wrong.append(f"{path}: its rename to {new} is {'half' if is_done else 'neither'} done")
        return wrong


def _state(path: Path, size: int | None) -> dict[str, Any]:
    """The version a path has now, or of a file's first `size` bytes. Raises OSError where it cannot be read."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return ABSENT
    if stat.S_ISDIR(mode):
        return {"size": 0, "sha": "directory"}
    if stat.S_ISLNK(mode):
        return {"size": 0, "sha": f"link to {path.readlink()}"}
    content = path.read_bytes()[:size]
    return {"size": len(content), "sha": hashlib.sha256(content).hexdigest()}


def _wrong(path: Path, promise: Promise) -> str:
    if promise.done is None:
        return ""
    try:  # of a log, what was begun later may be there in part
        found = _state(path, promise.done["size"] if promise.done["by"] == "append" else None)
    except OSError as error:
        return f"{error} ({promise.done['by']})"
    if found["sha"] in {version["sha"] for version in (promise.done, *promise.begun)}:
        return ""
    return f"{found} is not {promise.done} nor of {promise.begun}"


def main() -> None:
    directory, manifest = Path(sys.argv[1]), Manifest(Path(sys.argv[2]))
    pause_s = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    directory.mkdir()

    def run(number: int) -> None:
        try:
            Job(directory / f"{number}", manifest, f"{sys.argv[3]} {number}", pause_s).run()
        except OSError as error:
            manifest.say("ended", directory, error=str(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
