"""The file system exerciser (after fsx of Apple and NeXT): random operations on one file, each read compared with what
the file must hold. Reads, writes, truncations, mappings and reopened descriptors meet in the kernel's page cache.

    python3 fsx.py OPERATIONS [SEED]
"""

import mmap
import os
import random
import sys
from collections.abc import Callable

LARGEST = 3_000_000
MOST = 200_000


class Exerciser:
    """One file and what it must hold."""

    def __init__(self, path: str, seed: int) -> None:
        self.path, self.dice, self.fill = path, random.Random(seed), 0
        self.model = bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.done: list[str] = []

    def content(self, length: int) -> bytes:
        self.fill = self.fill % 251 + 1
        return bytes([self.fill]) * length

    def span(self, end: int) -> tuple[int, int]:
        """Offset and length, often at the edge of a page, and sometimes small."""
        offset = self.dice.randrange(max(1, end))
        if self.dice.random() < 0.3:
            offset &= ~4095
        return offset, self.dice.randrange(1, self.dice.choice((10, 5000, MOST)))

    def keep(self, offset: int, data: bytes) -> None:
        self.model.extend(bytes(max(0, offset - len(self.model))))
        self.model[offset : offset + len(data)] = data

    def compare(self, offset: int, data: bytes, length: int) -> None:
        expected = bytes(self.model[offset : offset + length])
        if data != expected:
            shorter = min(len(data), len(expected))
            at = next((n for n in range(shorter) if data[n] != expected[n]), shorter)
            raise AssertionError(
                f"at {offset + at}: {len(data)} bytes read, {len(expected)} expected, "
                f"{data[at : at + 8]!r} instead of {expected[at : at + 8]!r}"
            )

    # ---- operations; each returns what it did

    def write(self) -> str:
        offset, length = self.span(min(LARGEST - MOST, len(self.model) + 10_000))
        data = self.content(length)
        assert os.pwrite(self.fd, data, offset) == length
        self.keep(offset, data)
        return f"write {offset} {length}"

    def append(self) -> str:
        data = self.content(self.span(1)[1])
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        assert os.write(fd, data) == len(data)
        os.close(fd)
        self.model += data
        return f"append {len(data)}"

    def read(self) -> str:
        offset, length = self.span(len(self.model))
        self.compare(offset, os.pread(self.fd, length, offset), length)
        return f"read {offset} {length}"

    def truncate(self) -> str:
        size = self.dice.randrange(min(LARGEST, 2 * len(self.model) + 1000))
        if self.dice.random() < 0.5:
            os.ftruncate(self.fd, size)
        else:
            os.truncate(self.path, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))
        return f"truncate {size}"

    def mapped(self, change: bool) -> str:
        if not self.model:
            return "nothing to map"
        offset, length = self.span(len(self.model))
        length = min(length, len(self.model) - offset)
        with mmap.mmap(self.fd, len(self.model)) as area:
            if change:
                data = self.content(length)
                area[offset : offset + length] = data
                self.keep(offset, data)
                if self.dice.random() < 0.5:
                    area.flush()
            else:
                self.compare(offset, area[offset : offset + length], length)
        return f"{'mapped write' if change else 'mapped read'} {offset} {length}"

    def map_write(self) -> str:
        return self.mapped(True)

    def map_read(self) -> str:
        return self.mapped(False)

    def reopen(self) -> str:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)
        return "reopen"

    def sync(self) -> str:
        self.dice.choice((os.fsync, os.fdatasync))(self.fd)
        return "sync"

    def drop_pages(self) -> str:
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return "drop pages"

    def size(self) -> str:
        found = os.fstat(self.fd).st_size, os.stat(self.path).st_size, os.lseek(self.fd, 0, os.SEEK_END)
        assert found == (len(self.model),) * 3, f"sizes {found}, and {len(self.model)} expected"
        return "size"

    def copy_range(self) -> str:
        source, length = self.span(len(self.model))
        target = self.dice.randrange(LARGEST - MOST)
        length = min(length, abs(target - source), max(0, len(self.model) - source))
        length = os.copy_file_range(self.fd, self.fd, length, source, target) if length else 0
        if length:
            self.keep(target, bytes(self.model[source : source + length]))
        return f"copy {source} {length} to {target}"

    def run(self, operations: int) -> None:
        kinds: list[Callable[[], str]] = [
            self.write, self.write, self.read, self.read, self.map_write, self.map_read, self.append,
            self.truncate, self.reopen, self.sync, self.drop_pages, self.size, self.copy_range,
        ]  # fmt: skip
        for _ in range(operations):
            operation = self.dice.choice(kinds)
            try:
                self.done.append(operation())
            except (AssertionError, OSError):
                print("\n".join(self.done[-40:]), f"{operation.__name__} failed", sep="\n")
                raise
        self.compare(0, os.pread(self.fd, LARGEST + MOST, 0), LARGEST + MOST)
        os.close(self.fd)


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print(f"seed {seed}", flush=True)
    Exerciser("exercised", seed).run(int(sys.argv[1]))
