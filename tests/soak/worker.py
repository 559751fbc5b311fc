"""One worker of the soak: a thread that works in a directory of a mount and compares what it reads with its tree.

What to do is `tree`'s affair. An error ends it with what it was doing, unless the fault that was just made explains it
(`Gate.expects_death`): then it waits until its mount is back and sees whether what was promised is there.
"""

import contextlib
import math
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from soak.tree import PIECE, Content, Kind, Operation, Tree, temporary

SEEN_WITHIN_S: Final = 5.0
"""P9 says one second for names of another mount; the rest is the busy machine's. Counted while the coordinator
answers."""
Command = Callable[..., None]
"""`p2pfs` with these words. Raises OSError if it fails."""


class Broken(Exception):
    """A promise of the pool that was not kept, or an error that nothing explains."""


class Gate:
    """Holds the workers of one mount while it is unmounted or looked at. Made for one controlling thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_open = True
        self._inside = 0
        self.expects_death = False

    @contextlib.contextmanager
    def step(self):  # noqa: ANN201 - a context manager
        """Around each of a worker's steps."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_open)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self, within_s: float) -> bool:
        """No step begins from now on; whether all that were under way ended in time."""
        with self._changed:
            self._is_open = False
            return self._changed.wait_for(lambda: not self._inside, within_s)

    def open(self) -> None:
        with self._changed:
            self._is_open, self.expects_death = True, False
            self._changed.notify_all()


class Silence:
    """Whether the coordinator answers: while it is away, mounts go on from what they know. Made for one controlling
    thread, read by the workers'."""

    def __init__(self) -> None:
        self._over_s = -math.inf

    @contextlib.contextmanager
    def lasting(self):  # noqa: ANN201 - a context manager
        """It does not answer within the block."""
        self._over_s = math.inf
        try:
            yield
        finally:
            self._over_s = time.monotonic()

    def over_s(self) -> float:
        """When the last one was over, by `time.monotonic`: inf while one lasts."""
        return self._over_s


class Worker(threading.Thread):
    """Works below `directory` until told to stop. `others` are whose files it looks at, through `mount`."""

    def __init__(
        self, name: str, seed: str, mount: Path, gate: Gate, command: Command, pause_s: float, silence: Silence
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.mount, self.gate, self._silence = mount, gate, silence
        self.tree, self.done = Tree(), Counter[Kind]()
        self.written_bytes = self.read_bytes = 0
        self.error: Exception | None = None
        self.others: Sequence[Worker] = ()
        self.lock = threading.Lock()  # held while its tree and its directory do not agree
        self.enough = threading.Event()
        self._chance, self._command, self._pause_s = random.Random(f"{seed} {name}"), command, pause_s

    @property
    def directory(self) -> Path:
        return self.mount / self.name

    def run(self) -> None:
        try:
            with self.gate.step():
                self.directory.mkdir()
                sync(self.mount)
            while not self.enough.is_set():
                with self.gate.step():
                    self._step()
                self.enough.wait(self._pause_s)
        except Exception as error:
            self.error = error

    def _step(self) -> None:
        operation = Operation(Kind.LIST) if self.tree.doubt is not None else self.tree.choose(self._chance)
        try:
            if self.tree.doubt is not None:
                self.settle()
            elif operation.kind is Kind.LOOK:
                self._look()
            else:
                with self.lock:
                    self.tree.begin(operation)
                    self._do(operation)
                    self.tree.finish()
        except OSError as error:
            if not self.gate.expects_death:
                raise Broken(f"{self.name}: {operation}: {error}") from error
        except Broken as error:
            raise Broken(f"{self.name}: {operation}: {error}") from error
        else:
            self.done[operation.kind] += 1

    # ---- what is there ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """After a crash: see that what was promised is there, and go on from what there is."""
        with self.lock:
            found = contents(self.directory)
            if wrong := self.tree.wrong(found):
                raise Broken(f"after a crash, with `{self.tree.doubt}` under way: {'; '.join(wrong)}")
            for path in [path for path in found if path.endswith(temporary(""))]:
                (self.directory / path).unlink()
                del found[path]
            sync(self.directory)
            self.tree.settle(found)

    def check(self, mount: Path | None = None) -> list[str]:
        """Compare everything, through any mount of the volume, while no step is under way."""
        if self.tree.doubt is not None:
            self.settle()
        found = contents((mount or self.mount) / self.name)
        self.read_bytes += sum(len(content) for content in found.values() if content)
        return [f"{self.name}/{wrong}" for wrong in self.tree.wrong(found)]

    def remove_everything(self) -> None:
        """Only while no step is under way."""
        shutil.rmtree(self.directory)
        sync(self.mount)
        self.tree = Tree(made=self.tree.made)

    # ---- the steps -------------------------------------------------------------------------------------------------

    def _do(self, operation: Operation) -> None:
        path, kind = self.directory / operation.path, operation.kind
        match kind:
            case Kind.PUT | Kind.SYNC | Kind.LARGE:
                self._write(path, operation, os.O_CREAT | os.O_EXCL, is_synced=kind is Kind.SYNC)
            case Kind.REPLACE:
                new = self.directory / temporary(operation.path)
                self._write(new, operation, os.O_CREAT | os.O_EXCL, is_synced=bool(operation.seed % 2))
                new.rename(path)
                sync(path.parent)
            case Kind.APPEND:
                self._write(path, operation, os.O_APPEND, is_synced=bool(operation.seed % 2))
            case Kind.PATCH:
                self._write(path, operation, 0, is_synced=bool(operation.seed % 2))
            case Kind.CUT:
                os.truncate(path, operation.at)
                sync(path)
            case Kind.RENAME:
                path.rename(self.directory / operation.other)
                sync(path.parent)
                sync((self.directory / operation.other).parent)
            case Kind.UNLINK:
                path.unlink()
                sync(path.parent)
            case Kind.MKDIR:
                path.mkdir()
                sync(path.parent)
            case Kind.RMDIR:
                shutil.rmtree(path)
                sync(path.parent)
            case Kind.RECALL:
                path.unlink()
                sync(path.parent)
                self._command("undelete", str(path))
                self._compare(path, self.tree.names[operation.path])
            case Kind.LEASE:
                self._command("lease", "set", str(path), f"{1 + operation.seed % 9}d")
            case Kind.TAG:
                self._command("tag", str(path), f"word{operation.seed % 100}")
            case Kind.READ:
                self._compare(path, self.tree.names[operation.path])
            case Kind.LIST:
                self._list()
            case _:
                raise AssertionError(kind)

    def _write(self, path: Path, operation: Operation, flags: int, *, is_synced: bool) -> None:
        data = operation.data()
        fd = os.open(path, os.O_WRONLY | flags, 0o600)
        try:
            for start in range(0, len(data), PIECE):
                piece = data[start : start + PIECE]
                appends = bool(flags & os.O_APPEND)
                count = os.write(fd, piece) if appends else os.pwrite(fd, piece, operation.at + start)
                if count != len(piece):
                    raise Broken(f"only {count} of {len(piece)} bytes were written")
            if is_synced:
                os.fsync(fd)
        finally:
            os.close(fd)
        self.written_bytes += len(data)

    def _compare(self, path: Path, wanted: Content) -> None:
        found = path.read_bytes()
        self.read_bytes += len(found)
        if found != wanted:
            raise Broken("; ".join(Tree({path.name: wanted}).wrong({path.name: found})))

    def _list(self) -> None:
        found, wanted = set(os.listdir(self.directory)), {path for path in self.tree.names if "/" not in path}
        if found != wanted:
            raise Broken(f"listed {sorted(found - wanted)} too much, and not {sorted(wanted - found)}")

    def _look(self) -> None:
        """Somebody else's file, as this mount sees it."""
        other = self._chance.choice(list(self.others)) if self.others else self
        if not other.lock.acquire(blocking=False):
            return
        try:
            files = other.tree.files()
            if other.tree.doubt is not None or not files:
                return
            name = self._chance.choice(files)
            self._await_seen(self.mount / other.name / name, other.tree.names[name])
        finally:
            other.lock.release()

    def _await_seen(self, path: Path, wanted: Content) -> None:
        began = time.monotonic()
        while True:
            try:
                return self._compare(path, wanted)
            except (Broken, FileNotFoundError):
                if time.monotonic() > max(began, self._silence.over_s()) + SEEN_WITHIN_S:
                    raise
            time.sleep(0.05)


def sync(path: Path) -> None:
    """fsync of a file or a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def contents(directory: Path) -> dict[str, Content]:
    """Everything below a directory."""
    found: dict[str, Content] = {}
    for path in sorted(directory.rglob("*")):
        found[str(path.relative_to(directory))] = None if path.is_dir() else path.read_bytes()
    return found
