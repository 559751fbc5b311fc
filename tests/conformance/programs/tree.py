"""A tree with a little of everything a file system keeps: sizes, modes, times, links, holes, strange names.

python3 tree.py DIRECTORY FILES
"""

import os
import random
import sys
from pathlib import Path

NAMES = ("plain", "with space", "ünïcödé", "-dash", "new\nline", "$(quoted)'\"", ".hidden", "n" * 200)
SIZES = (0, 1, 511, 4096, 4097, 16_384, 16_385, 70_000, 300_000)
BASE_NS = 1_600_000_000_123_456_789


def make(top: Path, files: int) -> None:
    dice = random.Random(files)
    folders = [top]
    for number in range(files // 10 + 1):
        folder = dice.choice(folders) / f"{dice.choice(NAMES)}-{number}"
        folder.mkdir(parents=True)
        folders.append(folder)
    made: list[Path] = []
    for number in range(files):
        path = dice.choice(folders) / f"{number}-{dice.choice(NAMES)}"
        path.write_bytes(dice.randbytes(dice.choice(SIZES)))
        path.chmod(dice.choice((0o600, 0o644, 0o755, 0o444, 0o000)))
        os.utime(path, ns=(BASE_NS + number, BASE_NS + number * 1000))
        made.append(path)
    for number in range(files // 10 + 1):
        dice.choice(folders).joinpath(f"hard-{number}").hardlink_to(dice.choice(made))
        dice.choice(folders).joinpath(f"soft-{number}").symlink_to(dice.choice(made).name)
    with top.joinpath("holes").open("wb") as sparse:
        sparse.seek(3_000_000)
        sparse.write(b"end")
    os.mkfifo(top / "fifo")
    for folder in reversed(folders):
        folder.chmod(dice.choice((0o755, 0o700, 0o1777)))
        os.utime(folder, ns=(BASE_NS, BASE_NS))


if __name__ == "__main__":
    os.umask(0o022)
    make(Path(sys.argv[1]), int(sys.argv[2]))
