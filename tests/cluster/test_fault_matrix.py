"""Six faults × three kinds of parts, on real processes while a writer of four threads is at work.

              a peer                          the coordinator              a mount
SIGKILL       writes go on; copies are made   writes wait for its          writers get errors; a fresh
              again elsewhere; once back,     restart and go on            mount has what was promised
              what is too much is trimmed
SIGSTOP       writes go on                    writes wait and go on        writes wait and go on
disk full     writes go round it, until       changes are refused; they    of its cache: nobody notices
              there is room again             are possible when there
                                              is room again
store deleted copies are made again, on it    its database: no change is   its cache: nobody notices
              too; while it runs, and while   accepted any more, and no
              it does not                     start without it
bit flips     all are found and the copies    its database: right bytes    of its cache: nobody notices
              made again                      or an error; no start
                                              where it is none any more
network cut   as SIGKILL, but nobody says     writes wait and go on        writes wait and go on
              a word

A cell counts only if requests were in flight when the fault struck: the part is stopped, the fault is made once
requests wait for it unanswered (bytes in its sockets that it did not take, writers' threads that sleep in FUSE), and
then it goes on with the fault. Afterwards everything the writer was promised is read back by hash, and where copies
were taken away the pool is watched until it has healed: `status` says that all chunks have their copies, and the peers'
disks, looked at without the pool, have a whole file for each (`copies`). At the end everything is read again through a
mount that knows nothing. `P2PFS_SEED` is the seed of what is written and flipped.
"""

import contextlib
import errno
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cuts
import pytest
from durable_writer import Promises
from pools import COMMAND, DemoPool, drop_kernel_caches
from written import Writer, writing

from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.cli import connect
from p2pfs.errors import PoolError, UserError
from p2pfs.format.chunk import BlockHasher
from p2pfs.runtime.home import NodeHome
from p2pfs.types import KIB, volume_name

pytestmark = [
    pytest.mark.l5,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems of its own: needs root"),
]

SEED = int(os.environ.get("P2PFS_SEED", "1"))
COPIES = 2
PEERS = 3
VICTIM, SMALL = "peer-2", "peer-3"
DOWN_S, DELAY_S = 4, 3
SETTINGS = {
    "heartbeat": "1s", "suspect": "2s", "down": f"{DOWN_S}s", "repair_delay": f"{DELAY_S}s", "audit_interval": "1s",
    "io_timeout": "20s", "memory_cache": "1M", "cache_size": "1G", "reserve": "1M", "scrub_period": "15s",
    "inventory_interval": "20s",
}  # fmt: skip
DISKS = {SMALL: "peer-3/chunks", "coordinator": "coordinator", "mount": "mount/cache"}
"""What of each part is on a file system of its own, so that it can be full."""
GROUPS = (VICTIM, "coordinator", "mount")
PAGE = 4096
"""Of the database; the first says what tables there are, and damage there keeps the coordinator from starting."""
WITHIN_S = 60.0
_UNTIL_S = 0.05
PAUSE_S = 0.25
"""Of each of the writer's threads: about 10 MiB a second, so that a gigabyte lasts for all cells."""
STANDSTILL_S = 0.5
"""A part that stood still for longer would already suffer from that."""


def await_that(what: str, is_so: Callable[[], Any], within_s: float = WITHIN_S) -> Any:  # noqa: ANN401 - what it found
    """Ask until the answer is true, which is returned."""
    limit = time.monotonic() + within_s
    while not (found := is_so()):
        assert time.monotonic() < limit, f"not within {within_s} s: {what}"
        time.sleep(_UNTIL_S)
    return found


class Disk:
    """A small file system that can be filled without writing: it is made as small as what it holds."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=700", "p2pfs-test", str(path)], check=True)

    @contextlib.contextmanager
    def filled(self) -> Iterator[Callable[[], None]]:
        """From the call of what it gives until the end of the block there is no room."""
        try:
            yield self._fill
        finally:
            self._resize(2 << 30)

    def _fill(self) -> None:
        state = os.statvfs(self.path)
        self._resize((state.f_blocks - state.f_bfree) * state.f_frsize + 8 * KIB)

    def _resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)


@dataclass
class Matrix:
    """The pool, its disks and everything that was promised so far."""

    pool: DemoPool
    disks: dict[str, Disk]
    groups: dict[str, cuts.Group]
    manifests: list[Path] = field(default_factory=list)
    changes: int = 0
    seen: object = None
    _grouped: set[str] = field(default_factory=set)
    _looked_at: dict[tuple[Path, int, int], bool] = field(default_factory=dict)

    # ---- how it is --------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """As `p2pfs status --json`; empty while the coordinator does not answer."""
        try:
            found: dict[str, Any] = json.loads(connect.fetch(NodeHome(self.pool.root / "mount"), "/status"))
        except (PoolError, UserError):
            return {}
        return found

    def peer(self, part: str) -> dict[str, Any]:
        """What `status` says of a peer."""
        return next((peer for peer in self.status().get("peers", []) if peer["name"].endswith(part)), {})

    def await_state(self, part: str, state: str) -> None:
        await_that(f"{part} is {state}", lambda: self.peer(part).get("state") == state)

    def copies(self) -> Counter[int]:
        """Whole files on the peers' disks, by chunk that is named: how many chunks have how many. Asks nobody."""
        chunks = self._rows("SELECT volume, id FROM chunk WHERE refs > 0")
        roots = [self.chunks(f"peer-{number}") for number in range(1, PEERS + 1)]
        paths = [Path(volume_name(volume), chunk.hex()[:2], chunk.hex()[2:]) for volume, chunk in chunks]
        return Counter(
            sum(self._is_whole(root / path, chunk) for root in roots)
            for path, (_, chunk) in zip(paths, chunks, strict=True)
        )

    def receipts(self, part: str) -> tuple[int, int]:
        """The lowest and the highest put_seq of the copies that the index places on a peer."""
        ((first, last),) = self._rows(
            "SELECT coalesce(min(put_seq), 0), coalesce(max(put_seq), 0) FROM replica WHERE peer = ?",
            self.peer(part)["number"],
        )
        return first, last

    def _rows(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """From the coordinator's database, without asking it."""
        database = self.pool.root / "coordinator" / "coordinator" / "meta.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(question, values).fetchall()

    def _is_whole(self, path: Path, chunk: bytes) -> bool:
        """Whether a peer's file has the bytes of this chunk, by its id alone."""
        try:
            state = path.stat()
            key = path, state.st_ino, state.st_mtime_ns
            if key not in self._looked_at:
                hasher = BlockHasher()
                hasher.update(path.read_bytes()[HEADER_BYTES:])
                self._looked_at[key] = hasher.id() == chunk
        except OSError:
            return False
        return self._looked_at[key]

    def chunks(self, part: str) -> Path:
        return self.pool.root / part / "chunks"

    def chunk_files(self, part: str) -> list[Path]:
        return sorted(self.chunks(part).glob("????????????????/??/*"))

    def await_healed(self, *, exactly: bool = False) -> None:
        """Until `status` says that every chunk has its copies and the disks have them. `exactly`: and no more, such as
        those whose receipts a mount could not tell, which the next inventory finds. How long all of it takes is the
        machine's affair, but it goes on: audits that must come before a copy is trimmed are one a second."""
        fewest, limit = math.inf, time.monotonic() + WITHIN_S
        while wrong := self._wrong(exactly=exactly):
            if wrong < fewest:
                fewest, limit = wrong, time.monotonic() + WITHIN_S
            assert time.monotonic() < limit, f"nothing has healed for {WITHIN_S} s: {self.seen}"
            time.sleep(_UNTIL_S)

    def _wrong(self, *, exactly: bool) -> float:
        """How many chunks have not their copies, as `status` says and the disks show; infinite if it says nothing."""
        self.seen = (self.status().get("chunks"), self.copies())
        said, found = self.seen
        if not said:
            return math.inf
        told = sum(count for copies, count in said["by_copies"].items() if copies != str(COPIES))
        return told + sum(count for copies, count in found.items() if copies < COPIES or (exactly and copies > COPIES))

    # ---- under load -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self, name: str) -> Iterator[Writer]:
        """A writer that has begun; everything it was promised is compared when the block ends."""
        with writing(self.pool, name, f"{SEED} {name}", pause_s=PAUSE_S) as writer:
            self.manifests.append(self.pool.root / f"{name}.manifest")
            writer.until(8)
            yield writer
        assert writer.promises().broken() == [], f"seed {SEED}"

    @contextlib.contextmanager
    def struck(self, part: str, writer: Writer) -> Iterator[None]:
        """The block runs while the part stands still and requests wait for it; then it goes on if it is still there."""
        limit = time.monotonic() + WITHIN_S
        try:
            while not self._met(part, writer):
                self.pool.signal(part, signal.SIGCONT)
                assert time.monotonic() < limit, f"nobody asks {part} for anything"
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.pool.signal(part, signal.SIGCONT)

    def _met(self, part: str, writer: Writer) -> bool:
        """Stop the part; whether requests wait for it soon."""
        before = self._unread(part)
        self.pool.signal(part, signal.SIGSTOP)
        limit = time.monotonic() + STANDSTILL_S
        while time.monotonic() < limit:
            waits = self._unread(part) > before + 4 * KIB if part.startswith("peer") else sleepers(writer) >= 2
            if waits and writer.promises().in_flight:
                return True
            time.sleep(0.005)
        return False

    def _unread(self, part: str) -> int:
        """Bytes that a peer's sockets have received and it did not take; 0 for other parts."""
        if not part.startswith("peer"):
            return 0
        plan = json.loads((self.pool.root / "demo.json").read_text())
        port = plan["peer_ports"][int(part.removeprefix("peer-")) - 1]
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(int(words[4].split(":")[1], 16) for words in lines if int(words[1].split(":")[1], 16) == port)

    def goes_on(self, writer: Writer, count: int = 12) -> None:
        """Nobody was told of an error, and new versions are done."""
        promises = writer.until(writer.promises().done + count)
        assert promises.ended == []

    def read_again(self, writer: Writer) -> None:
        """What was promised up to now, past the kernel's caches, while nobody changes it."""
        with writer.held():
            drop_kernel_caches()
            assert writer.promises().broken() == [], f"seed {SEED}"

    def refused(self) -> int | None:
        """Make one more directory for good: why the pool did not let us."""
        self.changes += 1
        try:
            (self.pool.mount / f"change-{self.changes}").mkdir()
            fd = os.open(self.pool.mount, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            return error.errno
        return None

    def group(self, part: str) -> cuts.Group:
        """The part, restarted in a control group of its own if it is not in it yet."""
        group = self.groups[part]
        if part not in self._grouped:
            self.pool.unmount() if part == "mount" else self.pool.kill(part)
            group.started_in([*COMMAND, "demo", "start", "-q", "--root", str(self.pool.root)])
            self._grouped.add(part)
        return group

    def restart(self, part: str) -> None:
        """What is dead comes back, in no group."""
        self._grouped.discard(part)
        self.pool.start()


def sleepers(writer: Writer) -> int:
    """The writer's threads that wait for an answer of the mount."""
    waits = 0
    for task in Path(f"/proc/{writer.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            waits += any(word in (task / "wchan").read_text() for word in ("request_wait", "fuse"))
    return waits


def flip(path: Path, chance: random.Random, *, start: int = 0) -> None:
    """One bit of a file, behind `start`."""
    with path.open("r+b", buffering=0) as file:
        at = chance.randrange(start, path.stat().st_size)
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << chance.randrange(8)]), at)
        os.fsync(file.fileno())


def flip_all(path: Path, count: int) -> None:
    """Every bit of the first bytes."""
    with path.open("r+b") as file:
        head = file.read(count)
        file.seek(0)
        file.write(bytes(byte ^ 0xFF for byte in head))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    pool = DemoPool(tmp_path_factory.mktemp("matrix"), peers=PEERS, settings=SETTINGS)
    with contextlib.ExitStack() as stack:
        groups = stack.enter_context(cuts.groups("matrix", GROUPS))
        disks = {}
        for part, path in DISKS.items():
            disks[part] = Disk(pool.root / path)
            stack.callback(disks[part].remove)
        stack.callback(pool.stop)
        pool.start()
        yield Matrix(pool, disks, groups)


@pytest.fixture(autouse=True)
def _nobody_failed(matrix: Matrix) -> Iterator[None]:
    """A traceback in any log is a bug, whatever happened."""
    yield
    for path in sorted((matrix.pool.root / "log").iterdir()):
        assert "Traceback" not in path.read_text(), path


# ---- a peer ---------------------------------------------------------------------------------------------------------


def test_peer_sigkill(matrix: Matrix) -> None:
    with matrix.load("peer-sigkill") as writer:
        with matrix.struck(VICTIM, writer):
            matrix.pool.kill(VICTIM)
        matrix.goes_on(writer)
    before = len(matrix.chunk_files(VICTIM))
    shutil.rmtree(matrix.chunks(VICTIM))  # for good: its files are no copies
    assert before
    matrix.await_healed()
    matrix.restart(VICTIM)
    matrix.await_healed()


def test_peer_sigstop(matrix: Matrix) -> None:
    with matrix.load("peer-sigstop") as writer:
        with matrix.struck(VICTIM, writer):
            matrix.goes_on(writer)
            matrix.await_state(VICTIM, "down")
        matrix.await_state(VICTIM, "up")
        matrix.goes_on(writer)
    matrix.await_healed()


def test_peer_disk_full(matrix: Matrix) -> None:
    disk = matrix.disks[SMALL]
    with matrix.load("peer-full") as writer:
        with disk.filled() as fill:
            with matrix.struck(SMALL, writer):
                fill()
            matrix.goes_on(writer)
            await_that("no room", lambda: not matrix.peer(SMALL).get("free", 1))
            matrix.goes_on(writer)
            full = set(matrix.chunk_files(SMALL))
        await_that("chunks on it again", lambda: set(matrix.chunk_files(SMALL)) - full)
        matrix.goes_on(writer)
    matrix.await_healed()


def test_peer_store_deleted(matrix: Matrix) -> None:
    with matrix.load("peer-deleted") as writer:
        with matrix.struck(VICTIM, writer):
            shutil.rmtree(matrix.chunks(VICTIM))
        matrix.goes_on(writer)
    matrix.await_healed()
    assert matrix.chunk_files(VICTIM), "it holds nothing any more"
    matrix.pool.kill(VICTIM)
    _, newest = matrix.receipts(VICTIM)
    shutil.rmtree(matrix.chunks(VICTIM))  # with the numbers of its receipts
    matrix.restart(VICTIM)
    matrix.await_healed()
    await_that("receipts, all newer than those of what is gone", lambda: matrix.receipts(VICTIM)[0] > newest)
    with matrix.load("peer-deleted-again") as writer:
        matrix.goes_on(writer)
    matrix.await_healed()


def test_peer_bit_flips(matrix: Matrix) -> None:
    chance = random.Random(SEED)
    with matrix.load("peer-flips") as writer:
        with matrix.struck(VICTIM, writer):
            for path in chance.sample(matrix.chunk_files(VICTIM), 10):
                flip(path, chance, start=HEADER_BYTES)
            for path in chance.sample(matrix.chunk_files(VICTIM), 3):
                flip(path, chance)
        matrix.goes_on(writer)
    assert COPIES - 1 in matrix.copies()
    matrix.await_healed()


def test_peer_network_cut(matrix: Matrix) -> None:
    group = matrix.group(VICTIM)
    with matrix.load("peer-cut") as writer:
        with contextlib.ExitStack() as cut:
            with matrix.struck(VICTIM, writer):
                cut.enter_context(group.cut())
            matrix.goes_on(writer)
            matrix.await_state(VICTIM, "down")
            matrix.goes_on(writer)
        matrix.await_state(VICTIM, "up")
        matrix.goes_on(writer)
    matrix.await_healed()


# ---- the coordinator ------------------------------------------------------------------------------------------------


COORDINATOR = "coordinator"


def test_coordinator_sigkill(matrix: Matrix) -> None:
    with matrix.load("coordinator-sigkill") as writer:
        with matrix.struck(COORDINATOR, writer):
            matrix.pool.kill(COORDINATOR)
        matrix.restart(COORDINATOR)
        matrix.goes_on(writer)
    matrix.await_healed()


def test_coordinator_sigstop(matrix: Matrix) -> None:
    with matrix.load("coordinator-sigstop") as writer:
        with matrix.struck(COORDINATOR, writer):
            await_that("everybody waits", lambda: sleepers(writer) >= 4)
            time.sleep(DOWN_S)  # for as long as makes a silent peer one that is down
        matrix.goes_on(writer)
    matrix.await_healed()


def test_coordinator_network_cut(matrix: Matrix) -> None:
    group = matrix.group(COORDINATOR)
    with matrix.load("coordinator-cut") as writer:
        with contextlib.ExitStack() as cut:
            with matrix.struck(COORDINATOR, writer):
                cut.enter_context(group.cut())
            await_that("everybody waits", lambda: sleepers(writer) >= 4)
            time.sleep(DOWN_S)
        matrix.goes_on(writer)
    matrix.await_healed()


def test_coordinator_disk_full(matrix: Matrix) -> None:
    with matrix.load("coordinator-full") as writer:
        with matrix.disks[COORDINATOR].filled() as fill:
            with matrix.struck(COORDINATOR, writer):
                fill()
            refusal = await_that("a change is refused", matrix.refused)
            assert refusal in (errno.ENOSPC, errno.EROFS, errno.EIO), os.strerror(refusal)
        await_that("changes are possible", lambda: matrix.refused() is None)
    with matrix.load("coordinator-full-again") as writer:
        matrix.goes_on(writer)
    matrix.await_healed()


def test_coordinator_store_deleted(matrix: Matrix) -> None:
    """Nothing is accepted that is not in the directory as it was: it is put back at the end."""
    directory = matrix.pool.root / COORDINATOR / "coordinator"
    with matrix.load("coordinator-deleted") as writer:
        with matrix.struck(COORDINATOR, writer):
            shutil.copytree(directory, directory.with_name("kept"))
            shutil.rmtree(directory)
        assert writer.wait_end().ended
        assert "has been removed while it was in use" in matrix.pool.log(COORDINATOR)
        matrix.pool.kill(COORDINATOR)
        refusal = matrix.pool.p2pfs("demo", "start", "--root", str(matrix.pool.root), expect=None)
        assert refusal.returncode
        assert "cannot work" in refusal.stderr
        directory.with_name("kept").rename(directory)
        matrix.restart(COORDINATOR)
        assert await_that("changes are possible", lambda: matrix.refused() is None)
    matrix.await_healed()


def test_coordinator_bit_flips(matrix: Matrix) -> None:
    """In its database, which is put back at the end."""
    chance = random.Random(SEED)
    directory = matrix.pool.root / COORDINATOR / "coordinator"
    with matrix.load("coordinator-flips") as writer:
        with matrix.struck(COORDINATOR, writer):
            matrix.pool.kill(COORDINATOR)
        writer.process.kill()
        shutil.copytree(directory, directory.with_name("kept"))
        for _ in range(300):
            flip(directory / "meta.sqlite", chance, start=PAGE)
        matrix.pool.kill("mount")
        matrix.pool.clear_dead_mount()
        matrix.pool.empty_caches()
        if not matrix.pool.p2pfs("demo", "start", "--root", str(matrix.pool.root), expect=None).returncode:
            wrong = [
                wrong for wrong in writer.promises().broken() if "'sha': 'absent'" not in wrong.split(" is not ")[0]
            ]
            assert not [line for line in wrong if " is not " in line], "wrong bytes"
            matrix.pool.kill("mount")
            matrix.pool.clear_dead_mount()
        with contextlib.suppress(OSError):
            matrix.pool.kill(COORDINATOR)
        flip_all(directory / "meta.sqlite", 16)  # the words that make it a database
        refusal = matrix.pool.p2pfs("demo", "start", "--root", str(matrix.pool.root), expect=None)
        assert refusal.returncode
        assert "damaged" in refusal.stderr
        shutil.rmtree(directory)
        directory.with_name("kept").rename(directory)
        matrix.pool.empty_caches()
        matrix.restart(COORDINATOR)
    matrix.await_healed()


# ---- a mount --------------------------------------------------------------------------------------------------------


def test_mount_sigkill(matrix: Matrix) -> None:
    with matrix.load("mount-sigkill") as writer:
        with matrix.struck("mount", writer):
            matrix.pool.kill("mount")
        assert writer.wait_end().ended
        matrix.pool.clear_dead_mount()
        matrix.pool.empty_caches()
        matrix.restart("mount")
    matrix.await_healed()


def test_mount_sigstop(matrix: Matrix) -> None:
    with matrix.load("mount-sigstop") as writer:
        with matrix.struck("mount", writer):
            await_that("everybody waits", lambda: sleepers(writer) >= 4)
            time.sleep(DOWN_S)
        matrix.goes_on(writer)
    matrix.await_healed()


def test_mount_network_cut(matrix: Matrix) -> None:
    group = matrix.group("mount")
    with matrix.load("mount-cut") as writer:
        with contextlib.ExitStack() as cut:
            with matrix.struck("mount", writer):
                cut.enter_context(group.cut())
            await_that("everybody waits", lambda: sleepers(writer) >= 4)
            time.sleep(DOWN_S)
        matrix.goes_on(writer)
    matrix.await_healed()


@pytest.mark.parametrize("fault", ["disk_full", "store_deleted", "bit_flips"])
def test_mount_cache(fault: str, matrix: Matrix) -> None:
    chance, cache = random.Random(SEED), matrix.disks["mount"]
    with matrix.load(f"mount-{fault}") as writer, cache.filled() as fill:
        matrix.read_again(writer)
        with matrix.struck("mount", writer):  # stopped: no file goes between being found and being damaged
            cached = [path for path in cache.path.rglob("*") if path.is_file()]
            assert cached, "nothing is in the cache"
            if fault == "disk_full":
                fill()
            elif fault == "store_deleted":
                for path in cached:
                    path.unlink()
            else:
                for path in cached:
                    flip(path, chance)
        before = matrix.pool.stats()["fetched_bytes"]
        matrix.goes_on(writer)
        matrix.read_again(writer)
        assert matrix.pool.stats()["fetched_bytes"] > before, "nothing was fetched again"
        assert matrix.pool.stats()["unexpected_errors"] == 0


# ---- at the end -----------------------------------------------------------------------------------------------------


def test_after_all_of_it_everything_is_there(matrix: Matrix) -> None:
    matrix.pool.remount_empty()
    assert [wrong for manifest in matrix.manifests for wrong in Promises(manifest).broken()] == [], f"seed {SEED}"
    matrix.await_healed(exactly=True)
    assert sum(Promises(manifest).done for manifest in matrix.manifests) > 0
