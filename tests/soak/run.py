"""`make soak`: a pool of real processes under load, broken, upgraded and restored; in the end all must be well.

    python -m soak.run --minutes 30 --seed 7 --out soak-results

What must be seen: everything that was promised is there, by comparison of every byte; memory, descriptors and threads
are flat; no log has a warning that no fault explains; `status` is healthy; what was deleted frees the disks; nothing is
left behind. A failure says which step it was and the seed, and leaves the pool's directory for whoever looks into it.
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from soak import memory, parts, report, warnings
from soak.memory import Sample
from soak.parts import Failed, Version
from soak.pool import MOUNTS, PEERS, VETERANS, Pool
from soak.schedule import Fault, Schedule, Step
from soak.worker import Broken

from p2pfs.runtime import mounts

SOURCES: Final = Path(__file__).resolve().parents[2]
SAMPLE_EVERY_S: Final = 1.0
FREED_S: Final = 300.0
RESTS: Final = (0.68, 0.77, 0.95)
"""How far the run is when nobody works for a while; the last one when nothing is broken any more."""


class Run:
    """One soak from start to end."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.options, self.seed = options, str(options.seed)
        self.problems: list[str] = []
        self.samples: list[Sample] = []
        self.rests: list[float] = []  # when each ended
        self.figures: dict[str, object] = {"seed": self.seed, "minutes": options.minutes}
        self._begun_s = time.monotonic()
        self._loaded_until_s = math.inf
        self._over = threading.Event()
        new = Version("newer", SOURCES)
        if options.previous:
            old = parts.of_commit(SOURCES, options.previous, root / "previous")
        else:
            old = parts.copied(SOURCES, root / "previous", "0.0.1")
        self.pool = Pool(root / "pool", old, new, self.say)
        self.schedule = Schedule.made(
            self.seed, peers=[f"peer-{n}" for n in range(1, PEERS + 1)], mounts=MOUNTS, veterans=VETERANS
        )

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun_s:7.1f} s  {text}", flush=True)

    def soak(self) -> None:
        """Everything; what is wrong is in `problems` then."""
        sampler = threading.Thread(target=self._sample, daemon=True)
        try:
            self.say(f"seed {self.seed}: making the pool, of version {self.pool.old.name}")
            self.pool.make()
            self.pool.employ(self.seed, self.options.pause)
            sampler.start()
            self._break()
            self._finish()
        except (Failed, Broken, AssertionError) as error:
            self.problems.append(f"{type(error).__name__}: {error}")
            self.say(self.problems[-1])
        finally:
            self._over.set()
            for worker in self.pool.workers:
                worker.enough.set()
            if self.problems:
                self.pool.abandon()
            self.pool.launcher.close()
        self._judge()

    def _break(self) -> None:
        start_s, length_s = time.monotonic(), 60.0 * self.options.minutes
        due = list(RESTS) if self.options.minutes >= memory.TELLING_MINUTES else []
        while (progress := (time.monotonic() - start_s) / length_s) < 1 or due:
            at_s = time.monotonic() - self._begun_s
            if memory.is_rest_due(due, self.rests, progress=progress, at_s=at_s):
                due.pop(0)
                self._rest()
                continue
            step = self.schedule.next(progress)
            self.pool.do(step)
            limit = time.monotonic() + step.rest_s
            while time.monotonic() < limit and (due or time.monotonic() < start_s + length_s):
                self.pool.require_workers()
                time.sleep(0.2)
        self._loaded_until_s = time.monotonic() - self._begun_s
        if self.schedule.old or not self.schedule.is_restored:
            raise Failed("the run was too short for upgrades and a restore")

    def _rest(self) -> None:
        """Each begins alike: nothing is broken, and everything was just read."""
        self.pool.await_healed()
        self.pool.do(Step(Fault.LOOK))
        self.say("rest")
        with self.pool.parked():
            time.sleep(memory.REST_S)
            self.rests.append(time.monotonic() - self._begun_s)

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        pool = self.pool
        self.say("waiting until the pool is whole and healthy")
        pool.await_healed(healthy=True)
        with pool.parked():
            self.say("comparing everything, through mounts that know nothing")
            pool.require_whole()
            pool.remount_empty()
            pool.require_whole()
        pool.await_healed(healthy=True)
        for worker in pool.workers:
            worker.enough.set()
        for worker in pool.workers:
            worker.join(60)
        pool.require_workers()
        self._count()
        self.say("deleting everything, and waiting until the disks are free")
        for worker in pool.workers:
            worker.remove_everything()
        self._await_freed()
        pool.await_healed(healthy=True)
        self._over.set()
        pool.end()
        self.problems += self._left_over()

    def _count(self) -> None:
        workers = self.pool.workers
        self.figures["steps of files"] = sum(sum(worker.done.values()) for worker in workers)
        self.figures["MiB written"] = sum(worker.written_bytes for worker in workers) >> 20
        self.figures["MiB read and compared"] = sum(worker.read_bytes for worker in workers) >> 20
        self.figures["files compared at the end"] = sum(len(worker.tree.files()) for worker in workers)

    def _await_freed(self) -> None:
        limit = time.monotonic() + FREED_S
        while left := self._stored():
            if time.monotonic() > limit:
                raise Failed(f"{FREED_S:.0f} s after everything was deleted, peers still hold {len(left)} chunks")
            time.sleep(1)

    def _stored(self) -> list[Path]:
        """Chunk files on peers, those in their trash included."""
        found: list[Path] = []
        for name, part in self.pool.parts.items():
            if name.startswith("peer"):
                found += [path for path in (part.home / "chunks").rglob("*") if path.is_file() and len(path.name) > 40]
        return found

    def _left_over(self) -> list[str]:
        said = [f"{part.name} is still there" for part in self.pool.parts.values() if part.is_there()]
        for name in MOUNTS:
            home, point = self.pool.parts[name].home, self.pool.parts[name].mount
            if point is not None and mounts.mounted_type(point) is not None:
                said.append(f"{point} is still mounted")
            said += [f"left in a journal: {path}" for path in (home / "journal").rglob("*") if path.is_file()
                     and path.stat().st_size and path.suffix != ".lock"]  # fmt: skip
            said += [f"a socket is left: {path}" for path in (home / "run").rglob("*.sock")]
        for part in self.pool.parts.values():
            said += [f"half written: {path}" for path in part.home.rglob("*.tmp*")]
        return said

    # ---- what is seen ----------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_EVERY_S):
            at_s = time.monotonic() - self._begun_s
            for part in list(self.pool.parts.values()):
                if (sample := memory.read(at_s, part.name, part.pid)) is not None:
                    self.samples.append(sample)

    def _judge(self) -> None:
        if not self.problems:
            # Not of the end, when everything is deleted and mounts are new.
            loaded = [sample for sample in self.samples if sample.at_s <= self._loaded_until_s]
            self.problems += memory.wrong(loaded, self.rests, self.options.minutes)
        warned = []
        for path in sorted((self.pool.root / "log").glob("*.log*")):
            warned += warnings.records(path.name.partition(".")[0], path.read_text(encoding="utf-8"))
        self.figures["warnings claimed by faults"] = len(warned)
        self.problems += [f"unclaimed: {one}" for one in warnings.unclaimed(warned, self.pool.history)]

    def write_report(self, to: Path) -> Path:
        to.mkdir(parents=True, exist_ok=True)
        steps: Counter[str] = Counter()
        for worker in self.pool.workers:
            steps.update({str(kind): count for kind, count in worker.done.items()})
        self.figures["versions"] = f"{self.pool.old.name}, then this checkout"
        title = f"Soak of {self.options.minutes:g} minutes, seed {self.seed}"
        (to / "memory.svg").write_text(report.picture(self.samples), encoding="utf-8")
        page = to / "report.md"
        page.write_text(
            report.text(
                title=title, problems=self.problems, history=self.pool.history, steps=steps, figures=self.figures,
                samples=self.samples, rests=self.rests,
            ),
            encoding="utf-8",
        )  # fmt: skip
        with (to / "samples.csv").open("w", encoding="utf-8") as file:
            file.write("at_s,part,pid,resident_bytes,descriptors,threads\n")
            for one in self.samples:
                file.write(f"{one.at_s:.1f},{one.part},{one.pid},{one.resident},{one.descriptors},{one.threads}\n")
        return page


def main() -> int:
    parser = argparse.ArgumentParser(description="Load, break, upgrade and restore a pool, and see that all is well.")
    parser.add_argument("--minutes", type=float, default=30.0, help="of load and faults (default: 30)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="default: any")
    parser.add_argument("--previous", metavar="COMMIT", default="", help="begin with this commit, and upgrade from it")
    parser.add_argument("--pause", type=float, default=0.03, help="seconds between a worker's steps (default: 0.03)")
    parser.add_argument("--out", type=Path, default=Path("soak-results"), help="where the report goes")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="p2pfs-soak-"))

    run = Run(root, options)
    print(f"p2pfs soak: {options.minutes:g} minutes, seed {options.seed}, in {root}", flush=True)
    run.soak()
    page = run.write_report(options.out)
    print(report.memory_table(run.samples, run.rests))
    for problem in run.problems:
        print(f"FAILED: {problem}")
    if run.problems:
        print(f"seed {options.seed}; the pool's directory and its logs are in {root}; the report is {page}")
        return 1
    shutil.rmtree(root)
    print(f"passed; the report is {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
