#!/usr/bin/env python3
"""Pictures of commands in a terminal, for the docs: `make screenshots`.

Makes a pool in a temporary directory, runs each command in a terminal of its size, and draws what is on the screen, as
SVG that asks nobody for fonts. A command that goes on is watched for a while and then ended by Ctrl-C.
usage: terminal.py FOLDER [NAME…]; FOLDER gets NAME.svg of each, or of those named.
"""

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from screen import Screen

P2PFS: Final = [sys.executable, "-m", "p2pfs.cli.main"]
THEME: Final = TerminalTheme(
    (22, 27, 34), (214, 221, 229),
    [(48, 54, 61), (255, 123, 114), (87, 190, 125), (219, 171, 86),
     (108, 166, 235), (188, 140, 255), (86, 190, 200), (214, 221, 229)],
    [(110, 118, 129), (255, 161, 152), (126, 231, 135), (240, 200, 120),
     (121, 192, 255), (210, 168, 255), (118, 227, 234), (255, 255, 255)],
)  # fmt: skip
"""Readable on light and dark pages."""
LOAD: Final = "while cat harbour.raw > copy; do rm copy; done"
"""What somebody does meanwhile, while a command that goes on is watched."""
FONTS: Final = "ui-monospace, 'SFMono-Regular', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True, slots=True)
class Picture:
    """`line` is what stands behind the prompt; `live_s`: how long one that goes on is watched."""

    name: str
    line: str
    columns: int = 108
    rows: int = 40
    live_s: float = 0.0
    needs: str = ""


PICTURES: Final = (
    Picture("status", "p2pfs status", columns=128),
    Picture("doctor", "p2pfs doctor", columns=96),
    Picture("top", "p2pfs top", columns=120, rows=36, live_s=6.0, needs="top"),
)
"""`needs`: a command without which there is no such picture."""


@contextlib.contextmanager
def pool(root: Path) -> Iterator[dict[str, str]]:
    """One with some files, of which a peer has just died; the environment to ask it in."""
    home, mount = root / "pool" / "mount", root / "photos"
    environment = dict(os.environ, P2PFS_HOME=str(home), TERM="xterm-256color", COLORTERM="")
    environment.pop("NO_COLOR", None)
    subprocess.run(
        [*P2PFS, "demo", "start", "-q", "--root", str(root / "pool"), "--mount", str(mount), "--peers", "4",
         "--replicas", "3", "--set", "suspect=3s", "--set", "down=6s", "--set", "heartbeat=1s",
         "--set", "elect_after=0", "--set", "capacity=320M"],
        check=True,
    )  # fmt: skip
    try:
        for number, size in enumerate((21, 34, 8)):
            (mount / f"walk-{number}.raw").write_bytes(os.urandom(size << 20))
        (mount / "harbour.raw").write_bytes(os.urandom(13 << 20))
        os.kill(int((root / "pool" / "run" / "peer-4.pid").read_text()), signal.SIGKILL)
        await_down(environment)
        yield environment
    finally:
        subprocess.run([*P2PFS, "demo", "stop", "--root", str(root / "pool")], check=True, capture_output=True)


def await_down(environment: dict[str, str]) -> None:
    """Until the pool has noticed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told = subprocess.run([*P2PFS, "status", "--json"], env=environment, capture_output=True, check=False).stdout
        if b"PEER_DOWN" in told:
            return
        time.sleep(0.5)
    raise SystemExit("the pool did not notice that a peer is gone")


def watch(picture: Picture, environment: dict[str, str], folder: Path) -> str:
    """Everything that the command writes to its terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", picture.rows, picture.columns, 0, 0))
    words = [*P2PFS, *picture.line.split()[1:]]
    seconds = f"{max(picture.live_s, 0.01)}"
    load = subprocess.Popen(["timeout", seconds, "sh", "-c", LOAD], cwd=folder / "photos")
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=environment)
    os.close(slave)
    written = b""
    end = time.monotonic() + (picture.live_s or 60)
    while time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            try:
                written += os.read(master, 65536)
            except OSError:  # it has ended
                break
    process.send_signal(signal.SIGINT)
    process.wait(20)
    load.wait(20)
    os.close(master)
    return written.decode(errors="replace")


def draw(picture: Picture, written: str) -> str:
    """The screen as SVG."""
    screen = Screen(picture.columns, picture.rows)
    screen.feed(written)
    shown = [] if picture.live_s else [f"\x1b[1;32m$\x1b[0m {picture.line}"]
    console = Console(record=True, width=picture.columns, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for line in (*shown, *screen.lines()):
        console.print(Text.from_ansi(line), no_wrap=True, crop=True, highlight=False)
    drawn = console.export_svg(title=picture.line, theme=THEME, unique_id=picture.name)
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"font-family: [^;]*;", f"font-family: {FONTS};", drawn)
    return "\n".join(line.rstrip() for line in drawn.splitlines() if line.strip()) + "\n"


def exists(command: str) -> bool:
    """Whether this p2pfs has it."""
    told = subprocess.run([*P2PFS, command, "--help"], capture_output=True, check=False)
    return told.returncode == 0


def main(folder: str, *names: str) -> None:
    """Draw those named, or all that can be."""
    wanted = [picture for picture in PICTURES if not names or picture.name in names]
    with tempfile.TemporaryDirectory(prefix="p2pfs-pictures-") as root, pool(Path(root)) as environment:
        for picture in wanted:
            if picture.needs and not exists(picture.needs):
                print(f"there is no p2pfs {picture.needs}: no picture of it", file=sys.stderr)
                continue
            path = Path(folder) / f"{picture.name}.svg"
            path.write_text(draw(picture, watch(picture, environment, Path(root))), encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
