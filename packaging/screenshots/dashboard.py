#!/usr/bin/env python3
"""Pictures of the dashboard for the documentation, from a pool of friends' machines in a few places.

usage: dashboard.py DIRECTORY, with p2pfs installed, as root, beside Debian's chromium; called by `make screenshots`.

The pool is real: a coordinator, seven peers and a mount, each a process, with some files; one peer is away, one is
being drained. Only the day before it began is made up, since nobody waits that long for a picture.
"""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, sync_playwright

from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.meta.rounds import Rounds
from p2pfs.runtime.home import NodeHome
from p2pfs.types import GIB, MIB

P2PFS: Final = [sys.executable, "-m", "p2pfs.cli.main"]
CHROMIUM: Final = "/usr/bin/chromium"
FRIENDS: Final = (
    ("anna@nas", "home", "6G"),
    ("anna@desktop", "home", "3G"),
    ("ben@tower", "office", "4G"),
    ("ben@laptop", "office", "1G"),
    ("carla@attic", "lakeside", "5G"),
    ("dora@box", "lakeside", "2G"),
    ("emil@server", "cellar", "4G"),
)
"""Peer, zone, what it offers."""
AWAY: Final = "ben@laptop"
LEAVING: Final = "anna@desktop"
FAST: Final = ("heartbeat=1s", "suspect=5s", "down=20s")
DESKTOP: Final = {"width": 1280, "height": 860}
PHONE: Final = {"width": 390, "height": 844}


class Pool:
    """The machines, below one directory."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self._stack = stack
        self.home = root / "coordinator"
        self.mount = root / "mnt"
        self.peers: dict[str, subprocess.Popen[bytes]] = {}

    def p2pfs(self, *words: str, home: Path | None = None) -> str:
        environment = dict(os.environ, P2PFS_HOME=str(home or self.home))
        done = subprocess.run(
            [*P2PFS, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode and words[0] != "status":
            sys.exit(f"p2pfs {' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    def daemon(self, home: Path, *words: str) -> subprocess.Popen[bytes]:
        """Runs until the pictures are taken."""
        log = self._stack.enter_context((self.root / f"{home.name}.log").open("wb"))
        started = subprocess.Popen([*P2PFS, *words, "--home", str(home)], stdout=log, stderr=log)

        def end() -> None:
            started.terminate()
            started.wait(30)

        self._stack.callback(end)
        return started

    def start(self) -> None:
        settings = [word for one in (*FAST, "listen=127.0.0.1:0", "replicas=3") for word in ("--set", one)]
        kit = self.root / "kit"
        self.p2pfs(
            "init",
            "--name",
            "friends",
            "--node",
            "anna@home-server",
            "--zone",
            "home",
            "--kit-file",
            str(kit),
            *settings,
        )
        remember(CoordinatorFiles(NodeHome(self.home)).history)
        self.daemon(self.home, "coordinator", "start")
        self.until(lambda status: status["pool"] is not None)
        for name, zone, size in FRIENDS:
            self.join(name, zone, "peer")
            home = self.root / name
            settings = ("listen=127.0.0.1:0", f"capacity={size}", "reserve=0", "repair_rate=1M")  # drains take a while
            self.peers[name] = self.daemon(
                home, "peer", "start", *(word for one in settings for word in ("--set", one))
            )
        self.until(lambda status: sum(peer["state"] == "up" for peer in status["peers"]) == len(FRIENDS))

    def join(self, name: str, zone: str, roles: str) -> None:
        invite = self.root / "invite"
        invite.write_text(self.p2pfs("invite", name, "--zone", zone, "--roles", roles))
        self.p2pfs("join", str(invite), home=self.root / name)

    def fill(self) -> None:
        """Two volumes, one of them mounted and with files."""
        passphrase = self.root / "passphrase"
        passphrase.write_text("a long and winding phrase\n")
        for owner, volume in (("anna@laptop", "photos"), ("ben@phone", "music")):
            self.join(owner, "", "client,admin" if owner == "anna@laptop" else "client")
            words = ("--passphrase-file", str(passphrase), "--recovery-file", str(self.root / f"{volume}.recovery"))
            self.p2pfs("volume", "create", volume, *words, home=self.root / owner)
        self.mount.mkdir()
        words = ("photos", str(self.mount), "-d", "--passphrase-file", str(passphrase))
        self.p2pfs("mount", *words, home=self.root / "anna@laptop")
        self._stack.callback(self.unmount)
        noise = random.Random(1)
        for number in range(12):
            folder = self.mount / f"2026-{number + 1:02}"
            folder.mkdir()
            for file in range(4):
                (folder / f"{file}.raw").write_bytes(noise.randbytes(noise.randrange(2, 14) * MIB))
        shutil.rmtree(self.mount / "2026-03")

    def unmount(self) -> None:
        """Something may look into it for a moment: whatever watches the files of this machine."""
        for _ in range(20):
            if (
                subprocess.run([*P2PFS, "umount", str(self.mount)], stderr=subprocess.DEVNULL, check=False).returncode
                == 0
            ):
                return
            time.sleep(1)

    def change(self) -> None:
        """What makes a pool worth looking at."""
        self.p2pfs("peer", "away", "3h", home=self.root / AWAY)
        self.peers[AWAY].terminate()
        self.until(lambda status: any(peer["state"] == "away" for peer in status["peers"]))
        self.p2pfs("lease", "set", str(self.mount / "2026-01"), "3d", home=self.root / "anna@laptop")
        self.p2pfs("peer", "drain", "--yes", "--no-wait", LEAVING)
        self.until(lambda status: any(job["done"] > 3 for job in status["jobs"]))

    def until(self, holds: Any) -> None:  # noqa: ANN401 - a test of the status
        for _ in range(300):
            if holds(json.loads(self.p2pfs("status", "--json"))):
                return
            time.sleep(0.2)
        sys.exit("the pool did not become what it should")


def remember(path: Path) -> None:
    """A day that was not: files came, a machine went for a while, and its copies were made anew. The minutes in which
    the pool is made count little beside it."""
    path.parent.mkdir(exist_ok=True)
    rounds, noise, now_s = Rounds(path), random.Random(7), time.time()
    for minute in [*range(1440, 0, -5), *(-number // 8 for number in range(160))]:
        at = min(1.0, 1 - minute / 1440)
        chunks = round(335 * min(1.0, 0.3 + 0.8 * at))
        lost = max(0.0, 1 - abs(at - 0.6) / 0.05)
        short, gone = round(0.3 * chunks * lost), round(0.02 * chunks * lost)
        traffic = 1.5 * MIB * (1 + math.sin(9 * at)) + (9 * MIB * lost) + noise.random() * MIB
        rounds.add(
            now_s - 60 * minute,
            {
                "chunks.copies.1": gone,
                "chunks.copies.2": short,
                "chunks.copies.3": chunks - short - gone,
                "space.capacity": 25 * GIB,
                "space.used": 3 * MIB * chunks,
                "space.trash": 40 * MIB * at,
                "traffic.in": traffic,
                "traffic.out": traffic * (0.7 + 0.2 * noise.random()),
                "queue.copies": short + gone,
                "queue.deletions": 8 * noise.random() * at,
            },
        )
    rounds.close()


def picture(page: Page, path: Path, *, whole: bool = False) -> None:
    page.locator("canvas").first.wait_for() if page.locator("[data-chart]").count() else None
    page.wait_for_timeout(300)
    page.screenshot(path=path, full_page=whole)
    shrink(path)


def shrink(path: Path) -> None:
    """A palette is enough for pages, and a third of the size."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path} ({path.stat().st_size >> 10} KiB)")


def take(pool: Pool, out: Path) -> None:
    url = json.loads(pool.p2pfs("dashboard", "--json"))["url"]
    site = url.partition("/login")[0]
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(ignore_https_errors=True, viewport=DESKTOP).new_page()
        page.goto(url)
        page.get_by_role("heading", name="Overview").wait_for()
        page.goto(f"{site}/?span=day")
        picture(page, out / "dashboard-overview.png", whole=True)
        page.emulate_media(color_scheme="dark")
        page.goto(f"{site}/peers")
        picture(page, out / "dashboard-peers-dark.png", whole=True)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(PHONE)
        page.goto(f"{site}/peers")
        picture(page, out / "dashboard-phone.png")
        if os.environ.get("P2PFS_ALL_PAGES"):
            page.set_viewport_size(DESKTOP)
            for name in ("data?span=day", "volumes", "jobs", "usefulness", "members"):
                page.goto(f"{site}/{name}")
                picture(page, out / f"more-{name.partition('?')[0]}.png", whole=True)
        browser.close()


def main(arguments: Sequence[str]) -> None:
    out = Path(arguments[0])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="p2pfs-pictures-") as directory, ExitStack() as stack:
        pool = Pool(Path(directory), stack)
        pool.start()
        pool.fill()
        pool.change()
        take(pool, out)


if __name__ == "__main__":
    main(sys.argv[1:])
