"""The programs that `run.py` runs on a mount, as data: what is run, as whom, for how long, and how a failure shows.

Each command is bash's, in an empty directory of the mount that belongs to its user. `$PROGRAMS` is the folder beside
this file, `$PYTHON` the interpreter of the checkout, `$LOCAL` an empty directory of the local disk. A failure is an
exit status, or what `fails_on` finds in the output of a program that says it with words only.
"""

import subprocess
from dataclasses import dataclass
from typing import Final

PYTHON_TESTS: Final = "test_os test_posix test_shutil test_tempfile test_mmap test_largefile"
CPYTHON: Final = "HOME=$PWD TMPDIR=$PWD /usr/bin/python3 -m test --tempdir $PWD"
CPYTHON_FAILS: Final = r"^No tests ran|Tests result: (?!SUCCESS)"
STRESS: Final = "stress-ng --verify --temp-path ."
STRESS_FAILS: Final = (
    r"skipp(ed|ing)|No stress workers|stress-ng: fail:(?!.*fsize: (fallocate unexpectedly|expected a SIGXFSZ))"
)
"""stress-ng exits with 0 after what the file system does not offer. Where there is no fallocate(2), its fsize writes in
place of it, leaves that undone when its time is over, and takes this for a fault."""
TOGETHER: Final = (
    "--access 1 --chmod 1 --copy-file 1 --dentry 1 --dir 1 --fcntl 1 --filename 1 --flock 1 --fstat 1 --getdent 1 "
    "--hdd 1 --mknod 1 --open 1 --rename 1 --touch 1 --utime 1"
)
"""Stressors that are run at the same time."""


@dataclass(frozen=True, slots=True)
class Case:
    """One program. `sample` is its shorter command for CI, empty if it is not part of the sample."""

    name: str
    command: str
    timeout_s: float
    user: str = "root"
    sample: str = ""
    fails_on: str = ""


PROGRAMS: Final = (
    Case(
        "stress-ng",
        f"{STRESS} -t 60 {TOGETHER}",
        300,
        sample=f"{STRESS} -t 5 {TOGETHER}",
        fails_on=STRESS_FAILS,
    ),
    Case(
        "fio",
        "FIO_SIZE=32m fio $PROGRAMS/verify.fio",
        300,
        sample="FIO_SIZE=6m fio $PROGRAMS/verify.fio",
        fails_on=r"verify: bad|verify failed|err= *[1-9]",
    ),
    Case(
        "fsx",
        "for seed in 1 2 3 4 5; do python3 $PROGRAMS/fsx.py 2000 $seed; done",
        400,
        sample="python3 $PROGRAMS/fsx.py 500 1",
    ),
    Case("fs_mark", "fs_mark -d . -n 500 -s 10000 -S 1 -D 5 -t 2 -L 2", 300, fails_on=r"[Ff]ail|rror"),
    Case("dbench", "dbench -c /usr/share/dbench/client.txt -t 30 -D . 2", 180, fails_on=r"failed|ERROR"),
    Case("bonnie++", "bonnie++ -f -q -d . -s 64m -r 32m -n 1:4096:0:4 -u root", 300),
    Case("cpython/root", f"{CPYTHON} {PYTHON_TESTS}", 600, fails_on=CPYTHON_FAILS),
    Case(
        "cpython/nobody",
        f"{CPYTHON} {PYTHON_TESTS}",
        600,
        user="nobody",
        sample=f"{CPYTHON} test_posix test_mmap test_tempfile",
        fails_on=CPYTHON_FAILS,
    ),
    Case(
        "sqlite/rollback",
        "$PYTHON $PROGRAMS/sqlite_writers.py delete 5 40",
        400,
        sample="$PYTHON $PROGRAMS/sqlite_writers.py delete 1 10",
    ),
    Case(
        "sqlite/wal",
        "$PYTHON $PROGRAMS/sqlite_writers.py wal 5 40",
        400,
        sample="$PYTHON $PROGRAMS/sqlite_writers.py wal 1 20",
    ),
    Case("postgresql", "$PROGRAMS/postgres.sh 20", 500, user="postgres"),
    Case("git", "$PROGRAMS/git.sh 5000", 300, sample="$PROGRAMS/git.sh 100"),
    Case("rsync", "$PROGRAMS/rsync.sh 500", 300, sample="$PROGRAMS/rsync.sh 60"),
    Case("tar", "$PROGRAMS/tar.sh 1000", 200, sample="$PROGRAMS/tar.sh 100"),
    Case("make", "$PROGRAMS/make.sh 100", 200, sample="$PROGRAMS/make.sh 20"),
    Case("pip", "$PROGRAMS/pip.sh", 300),
)


def stressors() -> list[Case]:
    """Every stressor of stress-ng's file system class by itself, as the installed version has them."""
    listed = subprocess.run(["stress-ng", "--class", "filesystem?"], capture_output=True, text=True, check=False)
    names = (listed.stdout + listed.stderr).partition("stressors:")[2].split()
    return [Case(f"stress-ng/{name}", f"{STRESS} -t 10 --{name} 1", 150, fails_on=STRESS_FAILS) for name in names]
