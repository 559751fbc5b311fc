"""All tests in two runs of pytest side by side: whole pools of real processes, which mostly wait, and the others.

    python tests/halves.py [PYTEST_OPTIONS]

The second run is nicer, so that what others wait for comes first. What the first says is shown when both have ended.
Exit status: that of the first run that failed. Called by `make test`.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
POOLS: Final = HERE / "cluster"
NICER: Final = 5
NO_TESTS: Final = 5
"""pytest's status where nothing was chosen."""


def run(options: Sequence[str]) -> int:
    """Both; the exit status."""
    words = [sys.executable, "-m", "pytest", *options]
    with tempfile.TemporaryFile() as said:
        pools = subprocess.Popen([*words, str(POOLS)], stdout=said, stderr=subprocess.STDOUT)
        others = subprocess.Popen(["nice", f"-n{NICER}", *words, f"--ignore={POOLS}", str(HERE)])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # both runs get it, and clean up
        codes = [others.wait(), pools.wait()]
        print(f"\n== {POOLS.relative_to(HERE.parent)}", flush=True)
        said.seek(0)
        shutil.copyfileobj(said, sys.stdout.buffer)
        sys.stdout.flush()
    return verdict(codes)


def verdict(codes: Sequence[int]) -> int:
    """The status of the first that failed. That the options choose no test of one half is no failure."""
    if all(code == NO_TESTS for code in codes):
        return NO_TESTS
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
