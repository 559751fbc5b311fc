"""The pool that is soaked: made, broken as the schedule says, healed, looked at and ended. Real processes, real FUSE.

One thread controls it. Each fault is an effect on processes and disks; whether what follows is right is seen by the
workers, by `look` and by the end of the run.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from pools import drop_kernel_caches
from soak.launcher import Launcher
from soak.parts import Commands, Failed, Part, Version, running, users_of
from soak.schedule import Fault, Step
from soak.warnings import Past
from soak.worker import Gate, Silence, Worker

from p2pfs.exitcodes import BUSY, OK

PEERS: Final = 5
SETTINGS: Final = {
    "heartbeat": "1s", "suspect": "4s", "down": "8s", "repair_delay": "4s", "audit_interval": "5s",
    "inventory_interval": "60s", "scrub_period": "10min", "capacity": "8G", "reserve": "64M",
    "memory_cache": "16M", "cache_size": "64M", "write_buffer": "16M", "backup_interval": "2s", "backup_image": "5min",
    "trash_removed": "60s", "trash_keep": "30s", "purge_grace": "10s", "purge_latest": "5s", "orphan_grace": "60s",
}  # fmt: skip
"""What takes hours and days elsewhere takes seconds here; caches are small, so that they are full soon."""
MOUNTS: Final = ("mount", "second", "anna")
"""One volume twice, closed files stored at once; and another owner's, alone with it, that waits for fsync only."""
VETERANS: Final = ("coordinator", "peer-1", "mount", "anna")
HEALED_S: Final = 180.0
STEP_S: Final = 120.0
"""No call of a program may take longer, whatever is broken."""


class Pool:
    """Everything below `root`. `say` gets a sentence of each thing that is done."""

    def __init__(self, root: Path, old: Version, new: Version, say: Callable[[str], None]) -> None:
        self.root, self.old, self.new, self._say = root, old, new, say
        self.commands, self.launcher = Commands(new), Launcher()
        self.admin = root / "mount"
        self.parts: dict[str, Part] = {}
        self.gates = {name: Gate() for name in MOUNTS}
        self.silence = Silence()
        self.workers: list[Worker] = []
        self.history: list[Past] = []

    # ---- making it -------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """A pool of the old version, with all its mounts."""
        settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
        Commands(self.old).run(
            "demo", "start", "--root", str(self.root), "--mount", str(self.root / "mnt" / "mount"),
            "--peers", str(PEERS), "--replicas", "3", "-o", "xattr", *settings, home=self.root,
        )  # fmt: skip
        for name in ("coordinator", *(f"peer-{number}" for number in range(1, PEERS + 1)), "mount"):
            point = self.root / "mnt" / name if name == "mount" else None
            self.parts[name] = running(self.root, name, self.old, self.launcher, point)
        self._join("demo@second", "client", self.root / "second")
        self._join("anna@laptop", "client", self.root / "anna")
        phrase = self.root / "anna.passphrase"
        phrase.write_text("a long and winding phrase\n")
        words = ("--passphrase-file", str(phrase), "--recovery-file", str(self.root / "anna.recovery"))
        self.commands.run("volume", "create", "hers", *words, *self._settings(), home=self.root / "anna")
        self._add_mount("second", "demo", self.root / "passphrase", ())
        self._add_mount("anna", "hers", phrase, ("--set=durability=fsync",))

    def _join(self, name: str, roles: str, home: Path) -> None:
        invite = self.root / f"{name}.invite"
        invite.write_text(self.commands.run("invite", name, "--roles", roles, home=self.admin))
        self.commands.run("join", str(invite), home=home)
        invite.unlink()

    def _add_mount(self, name: str, volume: str, phrase: Path, more: tuple[str, ...]) -> None:
        point = self.root / "mnt" / name
        point.mkdir(parents=True)
        words = ["mount", "-o", "xattr", "--passphrase-file", str(phrase), volume, str(point)]
        self._add(name, [*words, *self._settings(), *more], point)
        self.parts[name].start()

    def _add(self, name: str, words: list[str], point: Path | None = None) -> None:
        home = self.root / name
        self.parts[name] = Part(
            name,
            home,
            [*words, "--home", str(home), "--pid-file", str(self.root / "run" / f"{name}.pid")],
            self.root / "log" / f"{name}.log",
            self.new if name.startswith("peer") else self.old,
            self.launcher,
            mount=point,
        )

    def _settings(self) -> list[str]:
        return [f"--set={key}={value}" for key, value in SETTINGS.items()]

    def employ(self, seed: str, pause_s: float) -> None:
        """Two workers on each mount; those of one volume look at each other's files."""
        for name in MOUNTS:
            point = self.parts[name].mount
            assert point is not None
            for number in (1, 2):
                command = self._worker_command(name)
                worker = Worker(f"{name}-{number}", seed, point, self.gates[name], command, pause_s, self.silence)
                self.workers.append(worker)
        for worker in self.workers:
            worker.others = [other for other in self.workers if self._volume(other) == self._volume(worker)]
        for worker in self.workers:
            worker.start()

    def _worker_command(self, name: str) -> Callable[..., None]:
        def run(*words: str) -> None:
            try:
                self.commands.run(*words, home=self.root / name)
            except Failed as error:
                raise OSError(str(error)) from error

        return run

    @staticmethod
    def _volume(worker: Worker) -> str:
        return "hers" if worker.name.startswith("anna") else "demo"

    # ---- how it is -------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.commands.json("status", home=self.admin, expect=None)
        return answer

    def await_healed(self, *, healthy: bool = False) -> dict[str, Any]:
        """Until every chunk has its copies, and with `healthy` the pool nothing to complain of.

        Raises:
            Failed: Not in time.
        """

        def healed(report: dict[str, Any]) -> bool:
            chunks, is_well = report["chunks"], report["health"] == "healthy" or not healthy
            return bool(report["pool"]) and not chunks["under_replicated"] and not chunks["lost"] and is_well

        return self._await("that everything has its copies", self.status, healed, HEALED_S)

    def _await(self, what: str, ask: Callable[[], Any], is_so: Callable[[Any], bool], within_s: float) -> Any:  # noqa: ANN401 - the answer
        limit = time.monotonic() + within_s
        while not is_so(answer := ask()):
            if time.monotonic() > limit:
                raise Failed(f"waited {within_s:.0f} s in vain: {what}; {answer}")
            self.require_workers()
            time.sleep(0.5)
        return answer

    def require_workers(self) -> None:
        """Raises what a worker has found."""
        for worker in self.workers:
            if worker.error is not None:
                raise worker.error

    @contextmanager
    def parked(self, *names: str) -> Iterator[None]:
        """No step is under way in these mounts while the block runs."""
        for name in names or MOUNTS:
            self._park(name)
        try:
            yield
        finally:
            for name in names or MOUNTS:
                self.gates[name].open()

    def _park(self, name: str) -> None:
        if not self.gates[name].close(STEP_S):
            busy = [str(worker.tree.doubt) for worker in self.workers if worker.gate is self.gates[name]]
            raise Failed(f"a call in {name} has hung for {STEP_S} s: {busy}")
        self.require_workers()

    # ---- breaking it -----------------------------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """One step of the schedule; the pool may be short of copies afterwards, for a while."""
        self._say(str(step))
        begun_s = time.time()
        if step.fault in (Fault.LOSE, Fault.DRAIN, Fault.RESTORE):
            self.await_healed()
            begun_s = time.time()
        effect = {
            Fault.KILL: self._kill, Fault.RESTART: self._restart, Fault.PAUSE: self._pause, Fault.LOSE: self._lose,
            Fault.DRAIN: self._drain, Fault.JOIN: self._welcome, Fault.UPGRADE: self._upgrade,
            Fault.RESTORE: self._restore, Fault.LOOK: self._look,
        }[step.fault]  # fmt: skip
        try:
            with self.silence.lasting() if step.part == "coordinator" else nullcontext():
                effect(step)
        finally:
            self.history.append(Past(step.fault, step.part or "coordinator", begun_s, time.time()))
        self.require_workers()
        dead = [part.name for part in self.parts.values() if not part.is_there()]
        if dead:
            raise Failed(f"after {step} there is no process any more of {', '.join(dead)}")

    def _kill(self, step: Step) -> None:
        part = self.parts[step.part]
        if part.mount is None:
            part.end(signal.SIGKILL)
            part.start()
            return
        gate = self.gates[part.name]
        gate.expects_death = True
        part.end(signal.SIGKILL)
        self._park(part.name)
        self.commands.run("umount", "--if-dead", str(part.mount), home=part.home)
        part.start()
        gate.open()

    def _restart(self, step: Step, version: Version | None = None) -> None:
        part = self.parts[step.part]
        if part.mount is None:
            part.end(signal.SIGTERM)
            part.version = version or part.version
            part.start()
            return
        with self.parked(part.name):
            self._unmount(part)
            part.version = version or part.version
            part.start()

    def _unmount(self, part: Part) -> None:
        assert part.mount is not None
        code = self.commands.exit_code("umount", "-q", str(part.mount), home=part.home, expect=(OK, BUSY))
        if code == BUSY:  # somebody searches the disk, perhaps, or the machine is busy: it ends all the same
            self._say(f"{part.name} is in use by {', '.join(users_of(part.mount)) or 'nobody any more'}")
        if not part.await_end(STEP_S):
            raise Failed(f"{part.name} is unmounted, and its process still there")
        if part.is_ours and (code := self.launcher.poll(part.pid)):
            raise Failed(f"{part.name} ended with {code}")

    def _pause(self, step: Step) -> None:
        part = self.parts[step.part]
        part.send(signal.SIGSTOP)
        try:
            time.sleep(step.seconds)
        finally:
            part.send(signal.SIGCONT)

    def _lose(self, step: Step) -> None:
        part = self.parts.pop(step.part)
        part.end(signal.SIGKILL)
        shutil.rmtree(part.home)
        down = lambda report: self._peer(report, part.name).get("state") == "down"  # noqa: E731
        self._await(f"{part.name} is down", self.status, down, 60)
        self.commands.run("peer", "forget", f"demo@{part.name}", "--yes", home=self.admin)
        self.await_healed()

    def _drain(self, step: Step) -> None:
        part = self.parts[step.part]
        self.commands.run("peer", "drain", f"demo@{part.name}", "--yes", home=self.admin)
        del self.parts[step.part]
        part.end(signal.SIGTERM)
        shutil.rmtree(part.home)
        self.await_healed()

    @staticmethod
    def _peer(report: dict[str, Any], name: str) -> dict[str, Any]:
        return next((peer for peer in report["peers"] if peer["name"] == f"demo@{name}"), {})

    def _welcome(self, step: Step) -> None:
        self._join(f"demo@{step.part}", "peer", self.root / step.part)
        self._add(step.part, ["peer", "start", "--set=listen=127.0.0.1:0", *self._settings()])
        self.parts[step.part].start()

    def _upgrade(self, step: Step) -> None:
        self._restart(step, self.new)

    def _restore(self, _step: Step) -> None:
        """The coordinator's disk is lost behind a backup that has everything."""
        coordinator = self.parts["coordinator"]
        with self.parked():
            for name in MOUNTS:
                self._unmount(self.parts[name])
            since_s = time.time()
            for _ in range(2):  # `status` tells of the peer that is ahead: after another round all have the one before

                def is_kept(report: dict[str, Any], since_s: float = since_s) -> bool:
                    return report["backup"]["holders"] >= 3 and time.time() - report["backup"]["age_s"] > since_s

                self._await("a backup", self.status, is_kept, 60)
                since_s = time.time()
            coordinator.end(signal.SIGKILL)
            shutil.rmtree(coordinator.home)
            peer = next(word for word in self.parts["peer-1"].words if "advertise=" in word).partition("advertise=")[2]
            self.commands.run(
                "coordinator", "restore", "--yes", "--home", str(coordinator.home),
                "--kit", str(self.root / "recovery-kit"), "--peer", peer, home=self.admin,
            )  # fmt: skip
            coordinator.start()
            for name in MOUNTS:
                self.parts[name].start()
        self.await_healed()
        self.commands.run("coordinator", "confirm", "orphans", home=coordinator.home)

    def _look(self, _step: Step) -> None:
        """Compare everything with what was promised, past the kernel's caches, through every mount."""
        with self.parked():
            self.require_whole()

    def require_whole(self) -> None:
        """Raises Failed: something is not as it was promised. Only while all are parked."""
        drop_kernel_caches()
        wrong = []
        for worker in self.workers:
            for name in MOUNTS:
                point = self.parts[name].mount
                assert point is not None
                if (name == "anna") == (self._volume(worker) == "hers"):
                    wrong += [f"through {name}: {one}" for one in worker.check(point)]
        if wrong:
            raise Failed("not as it was promised: " + "; ".join(wrong[:20]))

    # ---- its end ---------------------------------------------------------------------------------------------------

    def remount_empty(self) -> None:
        """Every mount anew, with nothing in any cache. Only while all are parked."""
        for name in MOUNTS:
            self._unmount(self.parts[name])
            shutil.rmtree(self.root / name / "cache", ignore_errors=True)
        drop_kernel_caches()
        for name in MOUNTS:
            self.parts[name].start()

    def end(self) -> None:
        """Every part asked to end, mounts first. Raises Failed if one does not."""
        for name in MOUNTS:
            self._unmount(self.parts[name])
        for name in sorted(set(self.parts) - {"coordinator", *MOUNTS}):
            self.parts[name].end(signal.SIGTERM)
        self.parts["coordinator"].end(signal.SIGTERM)

    def abandon(self) -> None:
        """After a failure: everything is killed and unmounted, so that nothing is left but what it wrote."""
        for part in self.parts.values():
            part.send(signal.SIGKILL)
        for name in MOUNTS:
            if name in self.parts and self.parts[name].mount_is_there():
                self.commands.run("umount", "--force", str(self.parts[name].mount), home=self.root, expect=None)
