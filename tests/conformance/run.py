"""Runs public programs on a mount of a pool of its own, and what fails again on a pass-through over the local disk.

A case counts as failed when it fails in the mount, passes on the pass-through, and docs/posix.md does not list it as
known. `make conformance` and `make conformance-sample` call this, as root; `cases.py` has the cases.
"""

import argparse
import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from conformance.cases import PROGRAMS, Case, stressors
from pools import DemoPool

from p2pfs.runtime import mounts

HERE: Final = Path(__file__).resolve().parent
PAGE: Final = HERE.parents[1] / "docs" / "posix.md"
MOST_KNOWN: Final = 10
SAMPLE_S: Final = 170.0
"""The whole sample, the start of the pool included."""
ANSWER_S: Final = 20.0
"""A mount that does not answer for so long hangs."""
CLEANUP_S: Final = 120.0
SHOWN_LINES: Final = 30


class Result(StrEnum):
    PASSED = "passed"
    FAILED = "FAILED"
    KNOWN = "known"
    NOT_OURS = "not ours"  # fails on the pass-through too


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a case in one place. `problem` is empty if it passed."""

    problem: str
    seconds: float
    output: str


@dataclass(slots=True)
class Verdict:
    """What became of one case."""

    case: str
    result: Result
    seconds: float
    problem: str = ""
    note: str = ""
    output: str = field(default="", repr=False)


class Place(Protocol):
    """Where cases are run."""

    mount: Path

    def complaints(self) -> str:
        """What the file system's processes logged as errors since the last call."""


class Pool:
    """A demo pool of three peers and two copies; a new one when the old does not answer any more."""

    def __init__(self, root: Path, options: str) -> None:
        self._root, self._options, self._number, self._seen = root, options, 0, dict[str, int]()
        self._start()

    def _start(self) -> None:
        self._number += 1
        root = self._root / f"pool-{self._number}"
        root.mkdir()
        self._pool, self._seen = DemoPool(root, options=self._options), {}
        self._pool.start()
        self.mount = self._pool.mount

    def complaints(self) -> str:
        found: list[str] = []
        for log in sorted((self._pool.root / "log").glob("*.log")):
            text = log.read_text(encoding="utf-8", errors="replace")
            new = text[self._seen.get(log.name, 0) :]
            self._seen[log.name] = len(text)
            found += [f"{log.name}: {line}" for line in new.splitlines() if re.match(r"\S+ (ERROR|CRITICAL) ", line)]
        return "\n".join(found)

    def revive(self) -> None:
        """After a case that failed: begin again with a new pool unless this one answers."""
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["stat", "-f", str(self.mount)], capture_output=True, timeout=ANSWER_S, check=True)
            return
        print("the mount does not answer: a new pool", file=sys.stderr)
        self.stop()
        self._start()

    def stop(self) -> None:
        try:
            self._pool.stop()
        except (AssertionError, subprocess.SubprocessError) as error:
            print(f"the pool did not end in order: {error}", file=sys.stderr)
            subprocess.run(["fusermount3", "-u", "-z", str(self.mount)], check=False)


class PassThrough:
    """`passthrough.py` over an empty directory of the local disk."""

    def __init__(self, root: Path) -> None:
        self.mount, directory = root / "passthrough", root / "local"
        for path in (self.mount, directory):
            path.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "passthrough.py"), str(directory), str(self.mount)]
        )
        until = time.monotonic() + ANSWER_S
        while mounts.mounted_type(self.mount) is None:
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError("the pass-through does not mount")
            time.sleep(0.05)

    def complaints(self) -> str:
        return ""

    def stop(self) -> None:
        subprocess.run(["fusermount3", "-u", "-z", str(self.mount)], check=False)
        self._process.terminate()
        self._process.wait(ANSWER_S)


def attempt(case: Case, command: str, place: Place, timeout_s: float) -> Attempt:
    """Run one case in a fresh directory, in namespaces of its own: no process and no mount outlives it."""
    directory = place.mount / re.sub(r"\W", "-", case.name)
    local = Path(tempfile.mkdtemp(prefix="conformance-"))
    begin = time.monotonic()
    try:
        code, output = _bounded(_script(case, command, directory, local), timeout_s, local)
        problem = f"no end within {timeout_s:.0f} s" if code is None else f"exit status {code}" if code else ""
        if not problem and case.fails_on and (said := re.search(f".*(?:{case.fails_on}).*", output, re.MULTILINE)):
            problem = f"it says: {said[0].strip()}"
        seconds = time.monotonic() - begin
        code, left = _bounded(f"rm -rf {directory}", CLEANUP_S, local)
        if code != 0 and not problem:
            problem, output = "its directory cannot be removed", left
        complaints = place.complaints()
        if complaints and not problem:
            problem = "the file system logged errors"
        return Attempt(problem, seconds, output + complaints)
    finally:
        shutil.rmtree(local, ignore_errors=True)


def _script(case: Case, command: str, directory: Path, local: Path) -> str:
    user = pwd.getpwnam(case.user)
    become = f"setpriv --reuid {user.pw_uid} --regid {user.pw_gid} --init-groups"
    own = f"chown {user.pw_uid}:{user.pw_gid}"
    return (
        f"set -e; chmod 755 {local}; mkdir $LOCAL {directory}; {own} $LOCAL {directory}; cd {directory}; "
        f"exec {become} bash -c '{command}'"
    )


def _bounded(script: str, timeout_s: float, local: Path) -> tuple[int | None, str]:
    """Exit status, None if it took too long, and what was said."""
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script]
    said = local / "output"
    here = {"PROGRAMS": str(HERE / "programs"), "PYTHON": sys.executable, "LOCAL": str(local / "work")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | here
    with said.open("w") as output:
        process = subprocess.Popen(
            apart, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
            process.kill()
            process.wait()
    return code, said.read_text(encoding="utf-8", errors="replace")


def known(page: str) -> dict[str, str]:
    """The cases docs/posix.md lists as failing, with the reasons. Raises ValueError if they are too many."""
    inside = page.split("<!-- conformance -->", 1)[1].split("<!-- /conformance -->", 1)[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in inside.strip().splitlines()][2:]
    if len(rows) > MOST_KNOWN or not all(len(row) == 2 and all(row) for row in rows):
        raise ValueError(f"docs/posix.md lists at most {MOST_KNOWN} cases, each with its reason")
    return dict(rows)


def judge(case: str, ours: Attempt, on_disk: Callable[[], Attempt], listed: dict[str, str]) -> Verdict:
    """What an attempt in the mount means; the pass-through is asked only if it failed."""
    verdict = Verdict(case, Result.PASSED, round(ours.seconds, 1), ours.problem, output=ours.output)
    if not ours.problem:
        verdict.note = "listed as known, and passes" if case in listed else ""
    elif other := on_disk().problem:
        verdict.result, verdict.note = Result.NOT_OURS, f"on the pass-through: {other}"
    elif case in listed:
        verdict.result, verdict.note = Result.KNOWN, listed[case]
    else:
        verdict.result = Result.FAILED
    return verdict


@contextlib.contextmanager
def places(root: Path, options: str) -> Iterator[tuple[Pool, Callable[[], PassThrough]]]:
    """The pool, and the pass-through once it is needed."""
    with contextlib.ExitStack() as stack:
        pool = Pool(root, options)
        stack.callback(pool.stop)
        started: list[PassThrough] = []

        def passthrough() -> PassThrough:
            if not started:
                started.append(PassThrough(root))
                stack.callback(started[0].stop)
            return started[0]

        yield pool, passthrough


def run(cases: list[Case], *, sample: bool, until: float, options: str) -> Iterator[Verdict]:
    """Each case in turn; `until` (monotonic) is when all must be over. The verdicts come as they are known."""
    listed = known(PAGE.read_text(encoding="utf-8"))
    root = Path(tempfile.mkdtemp(prefix="p2pfs-conformance-"))
    root.chmod(0o755)
    try:
        with places(root, options) as (pool, passthrough):
            for case in cases:
                command = case.sample if sample else case.command

                def on_disk(case: Case = case, command: str = command) -> Attempt:
                    return attempt(case, command, passthrough(), case.timeout_s)

                ours = attempt(case, command, pool, max(1.0, min(case.timeout_s, until - time.monotonic())))
                yield judge(case.name, ours, on_disk, listed)
                if ours.problem:
                    pool.revive()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def chosen(only: list[str], *, sample: bool) -> list[Case]:
    """The cases to run. Raises SystemExit if a name is none."""
    cases = [case for case in PROGRAMS if case.sample] if sample else [*PROGRAMS, *stressors()]
    unknown = set(only) - {case.name for case in cases}
    if unknown:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in cases)}")
    return [case for case in cases if not only or case.name in only]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="the short form of some cases, three minutes at most")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this case; may be repeated")
    parser.add_argument("-o", dest="options", default="", metavar="OPTIONS", help="options of the mount, as xattr")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there too")
    arguments = parser.parse_args()
    if os.geteuid():
        raise SystemExit("cases run as several users: start this as root")
    begin = time.monotonic()
    until = begin + SAMPLE_S if arguments.sample else float("inf")
    verdicts: list[Verdict] = []
    print(f"{'case':24} {'result':8} seconds")
    cases = chosen(arguments.only, sample=arguments.sample)
    for verdict in run(cases, sample=arguments.sample, until=until, options=arguments.options):
        verdicts.append(verdict)
        why = "; ".join(filter(None, (verdict.problem, verdict.note)))
        print(f"{verdict.case:24} {verdict.result:8} {verdict.seconds:7.1f}  {why}".rstrip(), flush=True)
        if verdict.result in (Result.FAILED, Result.NOT_OURS):
            print("\n".join(f"    {line}" for line in verdict.output.splitlines()[-SHOWN_LINES:]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1))
    counts = Counter(verdict.result for verdict in verdicts)
    results = [f"{counts[result]} {result}" for result in Result if counts[result]]
    print(", ".join([f"{len(verdicts)} cases in {time.monotonic() - begin:.0f} s", *results]))
    return 1 if counts[Result.FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
