"""Starts the pool's processes for the soak, which must not fork itself: a child closes the files it inherits before it
becomes another program, and the close of a file in a mount waits for the coordinator that the child is to be.

    python -m soak.launcher

Reads a JSON object a line and answers each with one: `start` (words, environment, log) with the new id, `poll` (an
id) with its exit status, or null while it runs. `Launcher` is the other end. Ends with its input.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Launcher:
    """Made before the first mount. For one thread."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "soak.launcher"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def start(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """The id of a process that was started and may not be ready yet."""
        return int(self._ask(start=list(words), environment=dict(environment), log=str(log)))

    def poll(self, pid: int) -> int | None:
        """The exit status of one of its processes; None while it runs."""
        code: int | None = self._ask(poll=pid)
        return code

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, **what: Any) -> Any:  # noqa: ANN401 - JSON
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        return json.loads(self._process.stdout.readline())


def main() -> None:
    children: dict[int, subprocess.Popen[bytes]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "poll" in asked:
            answer = children[asked["poll"]].poll()
        else:
            with open(asked["log"], "ab") as log:
                child = subprocess.Popen(
                    asked["start"], env=asked["environment"], cwd="/", start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            children[child.pid] = child
            answer = child.pid
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
