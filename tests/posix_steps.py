"""Random steps of a file system's users, comparing two directories after them, and the search for fewer steps.

A step is a tuple of literals, (who, verb, …), as `posix_hands` does them; a log of steps prints as Python and runs
again as it is. Nothing here knows p2pfs: `Pair` holds a directory that is tried and a local one that is right.
"""

import hashlib
import os
import random
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from posix_hands import Hands, described, pattern

Step = tuple[Any, ...]
ROOT, ANNA, BERT = 0, 1, 2
USERS: Final = {ROOT: (0, 0, [0]), ANNA: (4001, 4001, [4100]), BERT: (4002, 4002, [4100, 4200])}
UIDS, GIDS = (0, 4001, 4002, -1), (0, 4001, 4002, 4100, 4200, -1)
SLOTS: Final = 6
NAMES: Final = (b"a", b"b", b"c", b"d", b"\xff\xfe\x01", b"n" * 255, b"with\nline and space", b".hidden")
ODD_NAMES: Final = (b"n" * 256, b"", b".", b"\xf0\x9f\x98\x80" * 63 + b"abc", b"x" * 254 + b"\xc3")
SIZES: Final = (0, 1, 100, 4095, 4096, 16383, 16384, 16385, 65536, 300_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 7)
OFFSETS: Final = (*SIZES, 2_100_000, 268_435_456 - 50, 5_000_000_000)
LENGTHS: Final = (0, 1, 10, 1000, 4096, 16384, 20_000, 131_072, 200_000, (1 << 20) + 3)
MODES: Final = (0o644, 0o600, 0o666, 0o755, 0o777, 0o700, 0o000, 0o4755, 0o2755, 0o6777, 0o1777, 0o2770, 0o2644, 0o444)
TIMES: Final = ("now", "omit", 0, 1, 1_000_000_001, 123_456_789_987_654_321, 4_000_000_000_000_000_000)
FLAGS: Final = (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW)
NEAR_NS: Final = 60 * 10**9
"""Times are those of the step, on both sides, or as they were set."""
CONTENT_BYTES: Final = 4 << 20
"""Of a longer file this much of the beginning and of the end is compared."""
MANY_PATHS: Final = 60


class Difference(AssertionError):
    """The two sides are not alike."""


class Dice:
    """Makes steps. Looks at the local side to meet what is there more often than chance would."""

    def __init__(self, seed: object) -> None:
        self._chance = random.Random(f"posix {seed}")
        self._paths: list[bytes] = []
        self._verbs: dict[str, tuple[int, Callable[[], tuple[Any, ...]]]] = {
            "open": (14, self._open),
            "close": (5, lambda: (self._slot(),)),
            "dup": (1, lambda: (self._slot(), self._slot())),
            "read": (4, lambda: (self._slot(), self._pick(LENGTHS))),
            "write": (9, lambda: (self._slot(), self._seed(), self._pick(LENGTHS))),
            "pread": (4, lambda: (self._slot(), self._pick(OFFSETS), self._pick(LENGTHS))),
            "pwrite": (7, lambda: (self._slot(), self._pick(OFFSETS), self._seed(), self._pick(LENGTHS))),
            "lseek": (3, lambda: (self._slot(), self._pick((*OFFSETS, -1, -100)), self._pick((0, 1, 2)))),
            "mmap": (
                2,
                lambda: (self._slot(), self._pick(SIZES), self._seed(), self._pick((1, 100, 9000)), self._bit()),
            ),
            "ftruncate": (4, lambda: (self._slot(), self._pick((*OFFSETS, -1)))),
            "fsync": (2, lambda: (self._slot(), self._bit())),
            "fstat": (3, lambda: (self._slot(),)),
            "fchmod": (2, lambda: (self._slot(), self._pick(MODES))),
            "fchown": (2, lambda: (self._slot(), self._pick(UIDS), self._pick(GIDS))),
            "futimens": (2, lambda: (self._slot(), self._pick(TIMES), self._pick(TIMES))),
            "flist": (1, lambda: (self._slot(),)),
            "flink": (1, lambda: (self._slot(), self._path())),
            "openat": (2, lambda: (self._slot(), self._slot(), self._pick(NAMES), self._flags(), self._pick(MODES))),
            "truncate": (4, lambda: (self._path(), self._pick((*OFFSETS, -1)))),
            "mkdir": (7, lambda: (self._path(new=True), self._pick(MODES), self._umask())),
            "rmdir": (4, lambda: (self._path(),)),
            "unlink": (6, lambda: (self._path(),)),
            "rename": (9, lambda: (self._path(), self._path(new=self._bit()), self._pick((0, 0, 0, 1, 2, 3, 4 + 4)))),
            "link": (4, lambda: (self._path(), self._path(new=True), self._bit())),
            "symlink": (4, self._symlink),
            "readlink": (1, lambda: (self._path(),)),
            "mknod": (2, self._mknod),
            "chmod": (5, lambda: (self._path(), self._pick(MODES))),
            "chown": (5, lambda: (self._path(), self._pick(UIDS), self._pick(GIDS), self._bit())),
            "utimens": (4, lambda: (self._path(), self._pick(TIMES), self._pick(TIMES), self._bit())),
            "access": (3, lambda: (self._path(), self._chance.randrange(8))),
            "stat": (4, lambda: (self._path(), self._bit())),
            "listdir": (3, lambda: (self._path(),)),
            "cat": (5, lambda: (self._path(),)),
        }

    def step(self, paths: Sequence[bytes]) -> Step:
        """The next one; `paths` are what is there, in an order that depends on them alone."""
        self._paths = list(paths)
        names = list(self._verbs)
        weights = [self._verbs[name][0] for name in names]
        if len(paths) > MANY_PATHS:  # enough: let some go
            weights = [
                5 * w if name in ("unlink", "rmdir", "rename") else w for name, w in zip(names, weights, strict=True)
            ]
        (verb,) = self._chance.choices(names, weights)
        who = self._chance.choices((ROOT, ANNA, BERT), (5, 3, 2))[0]
        return (who, verb, *self._verbs[verb][1]())

    def wants_look(self) -> bool:
        """Whether to compare attributes after this step: looking moves caches, so not always."""
        return self._chance.random() < 0.7

    def _pick(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - one of them
        return self._chance.choice(values)

    def _bit(self) -> int:
        return self._chance.getrandbits(1)

    def _slot(self) -> int:
        return self._chance.randrange(SLOTS)

    def _seed(self) -> int:
        return self._chance.randrange(1 << 30)

    def _umask(self) -> int:
        return self._chance.choice((0, 0o022, 0o022, 0o077, 0o777))

    def _path(self, *, new: object = False) -> bytes:
        roll = self._chance.random()
        if self._paths and roll < (0.15 if new else 0.7):
            return self._dressed(self._chance.choice(self._paths))
        if roll > 0.97:
            name: bytes = self._chance.choice(ODD_NAMES)
        else:
            name = self._chance.choice(NAMES)
        above = self._chance.choice([b"", *self._paths]) if self._paths and self._chance.random() < 0.6 else b""
        return self._dressed(os.path.join(above, name) if above else name)

    def _dressed(self, path: bytes) -> bytes:
        """Sometimes as people write paths, sometimes as long as a path may be, and one byte longer."""
        roll = self._chance.random()
        if roll < 0.90:
            return path
        if roll < 0.93:
            return path + b"/"
        if roll < 0.95:
            return path + b"/."
        if roll < 0.97:
            return b".//" + path
        wanted = self._chance.choice((4094, 4095, 4096)) - len(path)
        return b"./" * (wanted // 2) + b"/" * (wanted % 2) + path if wanted > 1 else path

    def _flags(self) -> int:
        flags = self._chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        for flag, likely in zip(FLAGS, (0.55, 0.15, 0.2, 0.2, 0.06, 0.1), strict=True):
            flags |= flag if self._chance.random() < likely else 0
        return flags

    def _open(self) -> tuple[Any, ...]:
        flags = self._flags()
        return (
            self._slot(),
            self._path(new=flags & os.O_CREAT and self._bit()),
            flags,
            self._pick(MODES),
            self._umask(),
        )

    def _symlink(self) -> tuple[Any, ...]:
        target = self._chance.choice([*NAMES, *self._paths, b"", b"missing/x", b"t" * 4095, b"t" * 4096, b"t" * 60])
        return target, self._path(new=True)

    def _mknod(self) -> tuple[Any, ...]:
        kind = self._chance.choice(
            (stat.S_IFIFO, stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
        )
        device = os.makedev(1, 3) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        return self._path(new=True), kind | self._chance.choice(MODES), device, self._umask()


@dataclass(frozen=True)
class Seen:
    """One inode as one side shows it."""

    inode: int
    what: tuple[object, ...]
    times: tuple[int, ...]
    content: object = None


class Pair:
    """A fresh directory on each side, the users in them, and what was last seen of each inode."""

    def __init__(self, tried: Path, right: Path, *, times: Sequence[str] = ("atime", "mtime", "ctime")) -> None:
        self._bases, self._times = [tried, right], tuple(times)
        self._hands = {who: Hands(*user, self._bases) for who, user in USERS.items()}
        self._roots: list[int] = []
        self._last: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {}

    def end(self) -> None:
        """Keep nothing open; what was seen is remembered."""
        for hands in self._hands.values():
            hands.end()
        self._hands.clear()
        self._leave()

    def look_again(self, name: str) -> None:
        """After `end`: compare a directory with what was last seen of it. Raises Difference."""
        self._roots = [os.open(base / name, os.O_RDONLY | os.O_DIRECTORY) for base in self._bases]
        self.survey()
        self._leave()

    def _leave(self) -> None:
        for fd in self._roots:
            os.close(fd)
        self._roots = []

    def enter(self, name: str) -> None:
        """Go on in a new directory; every descriptor is closed."""
        self._leave()
        self._last.clear()
        for base in self._bases:
            (base / name).mkdir()
            (base / name).chmod(0o777)
            self._roots.append(os.open(base / name, os.O_RDONLY | os.O_DIRECTORY))
        for hands in self._hands.values():
            hands.do("enter", name)

    def do(self, step: Step) -> None:
        """Raises Difference."""
        who, *rest = step
        try:
            tried, right = self._hands[who].do(*rest)
        except TimeoutError as error:
            raise Difference(str(error)) from None
        if tried != right:
            raise Difference(f"gives {tried!r} instead of {right!r}")

    def close_all(self) -> None:
        for who in self._hands:
            for slot in range(SLOTS):
                self.do((who, "close", slot))

    # ---- looking

    def paths(self) -> list[bytes]:
        """Everything on the right side; looking leaves atime alone."""
        found: list[bytes] = []
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            fd = os.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME, dir_fd=self._roots[1])
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        found.append(os.path.join(directory, os.fsencode(entry.name)))
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(found[-1])
            finally:
                os.close(fd)
        return sorted(found)

    def look(self, path: bytes) -> None:
        """Compare one name's attributes. Raises Difference."""
        seen = [self._seen(root, path) for root in self._roots]
        self._compare(path, seen[0], seen[1])

    def survey(self) -> None:
        """Compare everything: listings, attributes, contents, and who shares an inode. Raises Difference."""
        pairs: dict[int, int] = {}
        for path in [b".", *self.paths()]:
            tried, right = (self._seen(root, path, content=True) for root in self._roots)
            self._compare(path, tried, right)
            if tried is not None and right is not None and pairs.setdefault(tried.inode, right.inode) != right.inode:
                raise Difference(f"{shown(path)}: another inode than another name's")

    def _seen(self, root: int, path: bytes, *, content: bool = False) -> Seen | None:
        try:
            found = os.lstat(path, dir_fd=root)
        except OSError:
            return None
        times = tuple(getattr(found, f"st_{name}_ns") for name in self._times)
        device = found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0
        held: object = device
        if content and stat.S_ISREG(found.st_mode):
            held = _content(root, path, found.st_size)
        elif content and stat.S_ISDIR(found.st_mode):
            fd = os.open(path, os.O_RDONLY, dir_fd=root)
            try:
                held = sorted(os.fsencode(name) for name in os.listdir(fd))
            finally:
                os.close(fd)
        elif stat.S_ISLNK(found.st_mode):
            held = os.readlink(path, dir_fd=root)
        return Seen(found.st_ino, described(found), times, held)

    def _compare(self, path: bytes, tried: Seen | None, right: Seen | None) -> None:
        if tried is None or right is None:
            if tried is not right:
                raise Difference(f"{shown(path)}: {tried} instead of {right}")
            return
        if (tried.what, tried.content) != (right.what, right.content):
            raise Difference(f"{shown(path)}: {tried.what, tried.content} instead of {right.what, right.content}")
        key = tried.inode, right.inode
        last = self._last.get(key)
        for number, name in enumerate(self._times):
            ours, local = tried.times[number], right.times[number]
            is_still, was_still = last is not None and ours == last[0][number], last is None or local == last[1][number]
            if name == "atime" and (is_still or ours in TIMES):
                continue  # nobody tells a mount of what the kernel answers from its own pages, also after utimens
            if abs(ours - local) > NEAR_NS:
                raise Difference(f"{shown(path)}: {name} {ours} instead of {local}")
            if name != "atime" and last is not None and is_still != was_still:  # atime may follow later
                raise Difference(f"{shown(path)}: {name} {'stays' if is_still else 'moves'}")
        self._last[key] = tried.times, right.times


def _content(root: int, path: bytes, size: int) -> object:
    fd = os.open(path, os.O_RDONLY, dir_fd=root)
    try:
        hashed = hashlib.sha256()
        for at in sorted({0, max(0, size - CONTENT_BYTES)}):
            hashed.update(os.pread(fd, CONTENT_BYTES, at))
        return hashed.hexdigest()
    finally:
        os.close(fd)


def shown(value: object) -> str:
    """As Python, without the many letters of long names."""
    return re.sub(
        r"b'((?:[^\\'/])|(?:\./))\1{30,}'",
        lambda found: f"b'{found[1]}' * {(len(found[0]) - 3) // len(found[1])}",
        repr(value),
    )


def mentioned(step: Step) -> list[bytes]:
    """The names whose attributes the step may have moved, and the directories they are in."""
    paths = {word.rstrip(b"/.") for word in step[2:] if isinstance(word, bytes) and 0 < len(word) < 1000}
    paths |= {os.path.dirname(path) or b"." for path in paths}
    return sorted(path for path in paths if path)


def run_round(pair: Pair, name: str, seed: object, count: int) -> list[Step]:
    """Random steps in a fresh directory. Raises Difference with the steps so far as `steps`."""
    dice, steps = Dice(seed), []
    pair.enter(name)
    try:
        paths: list[bytes] = []
        for number in range(count):
            if number % 4 == 0:
                paths = pair.paths()
            steps.append(dice.step(paths))
            pair.do(steps[-1])
            if dice.wants_look():
                for path in mentioned(steps[-1]):
                    pair.look(path)
        pair.survey()
        pair.close_all()
        pair.survey()
    except Difference as difference:
        difference.steps = steps  # type: ignore[attr-defined]
        raise
    return steps


def replay(pair: Pair, name: str, steps: Sequence[Step]) -> str:
    """The first difference these steps make in a fresh directory, or "". Looks after each step."""
    pair.enter(name)
    at = "the start"
    try:
        for step in steps:
            at = shown(step)
            pair.do(step)
            for path in mentioned(step):
                pair.look(path)
        at = "all steps"
        pair.survey()
        at = "closing"
        pair.close_all()
        pair.survey()
    except Difference as difference:
        return f"{difference}, after {at}"
    return ""


def fewer(steps: list[Step], fails: Callable[[list[Step]], bool], *, tries: int = 150) -> list[Step]:
    """Leave out what is not needed for the failure, in halves, quarters and so on."""
    portion = len(steps) // 2
    while portion >= 1 and tries > 0:
        at = 0
        while at < len(steps) and tries > 0:
            tries -= 1
            shorter = steps[:at] + steps[at + portion :]
            if fails(shorter):
                steps = shorter
            else:
                at += portion
        portion //= 2
    return steps


__all__ = ["Dice", "Difference", "Pair", "fewer", "pattern", "replay", "run_round"]
