"""A mount with the delegation that is killed, stopped for too long, or whose coordinator is killed: real processes."""

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool

from p2pfs import exitcodes
from p2pfs.runtime import mounts

pytestmark = pytest.mark.l5

LONGEST_S = 60.0
KILLS = int(os.environ.get("P2PFS_KILLS", "2"))
SEED = int(os.environ.get("P2PFS_SEED", "1"))
DELEGATION_S = 4
STOPPED_SENDING_S = 0.5
MOST_MADE = 300
"""With fewer numbers than a mount has been granted: a fast one would have to ask the stopped coordinator for more."""


def await_that(what: str, condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < limit, f"never so: {what}"
        time.sleep(0.1)


def await_delegated(pool: DemoPool) -> None:
    await_that("the volume is delegated", lambda: delegated_to(pool).endswith(f":{pool.mount}"))


def delegated_to(pool: DemoPool) -> str:
    volumes = pool.status().get("volumes") or [{}]
    return str(volumes[0].get("delegated_to", ""))


def synced(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass
class Writer:
    """Makes, moves and removes numbered names until it fails. `states` has one more than was acknowledged, at most."""

    directory: Path
    chance: random.Random
    states: list[frozenset[str]] = field(default_factory=lambda: [frozenset()])
    acknowledged: int = 0
    promised: int = 0

    def run(self) -> None:
        with suppress(OSError):
            number = 0
            while True:
                number += 1
                self._step(number)
                self.acknowledged = len(self.states) - 1
                if self.chance.random() < 0.01:
                    synced(self.directory)
                    self.promised = self.acknowledged

    def _step(self, number: int) -> None:
        there = sorted(self.states[-1])
        kind = self.chance.random() if len(there) > 5 else 0.0
        if kind < 0.5:
            name = f"made-{number}"
            self.states.append(self.states[-1] | {name})
            if kind < 0.25:
                (self.directory / name).mkdir()
            else:
                (self.directory / name).symlink_to("somewhere")
            return
        name = self.chance.choice(there)
        path = self.directory / name
        if kind < 0.8:
            self.states.append(self.states[-1] - {name} | {f"moved-{number}"})
            path.rename(self.directory / f"moved-{number}")
        else:
            self.states.append(self.states[-1] - {name})
            path.unlink() if path.is_symlink() else path.rmdir()


def test_what_a_killed_mount_leaves_is_a_prefix_with_all_that_was_synced(tmp_path: Path) -> None:
    with demo_pool(tmp_path) as pool:
        for kill in range(KILLS):
            chance = random.Random(f"killed {SEED + kill}")
            await_delegated(pool)
            directory = pool.mount / f"run-{kill}"
            directory.mkdir()
            synced(pool.mount)
            writer = Writer(directory, chance)
            thread = threading.Thread(target=writer.run)
            thread.start()
            await_that("something was promised", lambda writer=writer: writer.promised)
            thread.join(chance.uniform(0, 2))
            pool.kill("mount")
            thread.join()
            pool.clear_dead_mount()
            pool.start()
            left = frozenset(os.listdir(directory))
            fitting = [number for number, state in enumerate(writer.states) if state == left]
            assert fitting, f"no prefix of {writer.acknowledged} operations"
            assert fitting[-1] >= writer.promised


@contextmanager
def second(pool: DemoPool, root: Path) -> Iterator[Callable[[], Path]]:
    """A second node of the same owner, which mounts the volume when it is told to."""
    home, mount, invite = root / "home", root / "second", root / "invite"
    mount.mkdir()
    invite.write_text(pool.p2pfs("invite", "demo@second", "--roles", "client").stdout)
    pool.p2pfs("join", str(invite), home=home)

    def begin() -> Path:
        pool.p2pfs("mount", "demo", str(mount), "-d", "--passphrase-file", str(pool.root / "passphrase"), home=home)
        return mount

    try:
        yield begin
    finally:
        if mounts.mounted_type(mount) is not None:
            pool.p2pfs("umount", str(mount), home=home)


def failure(step: Callable[[], object]) -> str:
    try:
        step()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


@pytest.mark.parametrize(
    ("durability", "fate"), [("close", "lost"), ("fsync", "left to the next mount of this node that may write")]
)
def test_a_mount_that_slept_through_its_delegation_loses_loudly_what_it_had_not_sent_or_leaves_it_to_the_next(
    tmp_path: Path, durability: str, fate: str
) -> None:
    settings = {"delegation": f"{DELEGATION_S}s", "durability": durability}
    with demo_pool(tmp_path, settings=settings) as pool, second(pool, tmp_path) as begin:
        await_delegated(pool)
        (pool.mount / "before").mkdir()
        synced(pool.mount)
        pool.signal("coordinator", signal.SIGSTOP)
        try:
            until, names = time.monotonic() + STOPPED_SENDING_S, []
            # The first are on their way, those behind them are not.
            while time.monotonic() < until and len(names) < MOST_MADE:
                names.append(f"late-{len(names):04}")
                (pool.mount / names[-1]).mkdir()
            assert pool.stats()["changes_waiting"] > 0
            pool.signal("mount", signal.SIGSTOP)
        finally:
            pool.signal("coordinator", signal.SIGCONT)
        try:
            other = begin()
            started = time.monotonic()
            (other / "theirs").mkdir()
            assert time.monotonic() - started < DELEGATION_S + 20
            there = sorted(os.listdir(other))
        finally:
            pool.signal("mount", signal.SIGCONT)
        assert failure(lambda: synced(pool.mount)) == "ESTALE"
        assert failure(lambda: (pool.mount / "more").mkdir()) == "ESTALE"
        assert failure(lambda: os.listdir(pool.mount)) in ("ESTALE", "done")
        assert f"changes of this mount are {fate}" in pool.log("mount")
        kept = [name for name in names if name in there]
        assert there == sorted(["before", "theirs", *kept])
        assert kept == names[: len(kept)]
        assert len(kept) < len(names)
        (other / "and more").mkdir()
        started = time.monotonic()
        result = pool.p2pfs("umount", str(pool.mount), expect=None)
        assert result.returncode == exitcodes.DATA_NOT_STORED, result.stderr
        assert f"were {fate}" in result.stderr
        assert time.monotonic() - started < 30
        assert sorted(os.listdir(other)) == sorted([*there, "and more"])
        if durability == "fsync":
            pool.mount_alone()
            assert sorted(os.listdir(pool.mount)) == sorted(["before", "theirs", "and more", *names])
            assert pool.stats()["journal_rejected"] == 0


def test_a_coordinator_that_is_killed_and_started_again_costs_nothing(tmp_path: Path) -> None:
    with demo_pool(tmp_path) as pool:
        await_delegated(pool)
        writer = Writer(pool.mount, random.Random(SEED))
        thread = threading.Thread(target=writer.run)
        thread.start()
        await_that("something was promised", lambda: writer.promised)
        pool.kill("coordinator")
        pool.start()
        promised = writer.promised
        await_that("it goes on", lambda: writer.promised > promised + 100)
        assert delegated_to(pool).endswith(f":{pool.mount}")
        pool.kill("mount")
        thread.join()
        pool.clear_dead_mount()
        pool.start()
        left = frozenset(os.listdir(pool.mount))
        assert left in writer.states[writer.promised :]
