"""Who remembers what a volume held at every moment, and tells correct bytes from older ones and from wrong ones.

`Witness` is filled while a volume is written; `look` then reads all of the volume through a file system, whatever
was done to what is stored, and says what came back. For the tests of promise P3.
"""

import random
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sparse import Sparse

from p2pfs.errors import Corrupt, IsDirectory, NotDirectory, NotFound, Unavailable
from p2pfs.types import ROOT_INODE, DentryId, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.tree import Owner

REFUSALS = (Corrupt, Unavailable, NotFound, NotDirectory, IsDirectory)
Name = tuple[InodeId, bytes]
Window = tuple[int, int]


@dataclass
class Item:
    """An inode over its whole life."""

    kind: Kind
    versions: list[Sparse] = field(default_factory=list)
    target: bytes = b""
    windows: list[Window] = field(default_factory=list)  # what is read of it; none: all


@dataclass
class Witness:
    """Everything that ever was true of a volume; `names` holds the inodes a name led to, the last one now (or None)."""

    items: dict[InodeId, Item] = field(default_factory=lambda: {ROOT_INODE: Item(Kind.DIRECTORY)})
    names: dict[Name, list[InodeId | None]] = field(default_factory=dict)

    def directories(self) -> list[InodeId]:
        return [number for number, item in self.items.items() if item.kind is Kind.DIRECTORY]


@dataclass
class Seen:
    """What reading everything gave. `older` are whole earlier states; `wrong` should not exist."""

    count: Counter[str] = field(default_factory=Counter)
    older: list[str] = field(default_factory=list)
    older_names: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def attempt(self, what: str, *, is_there: bool = True) -> Iterator[None]:
        """One question; a refusal is an answer, anything else that is raised is a fault."""
        try:
            yield
        except REFUSALS:
            self.count["refused" if is_there else "correct"] += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.wrong.append(f"{what}: raised {error!r} at {where.filename}:{where.lineno}, which is no refusal")


class Author:
    """Writes a volume and tells the witness. Every method leaves everything stored."""

    def __init__(self, fs: Filesystem, witness: Witness) -> None:
        self.fs, self.witness = fs, witness

    async def directory(self, parent: InodeId, name: bytes) -> InodeId:
        inode = await self.fs.tree.make(parent, name, Kind.DIRECTORY, 0o755, Owner(0, 0))
        return self._made(parent, name, inode, Item(Kind.DIRECTORY))

    async def symlink(self, parent: InodeId, name: bytes, target: bytes) -> InodeId:
        inode = await self.fs.tree.make(parent, name, Kind.SYMLINK, 0o777, Owner(0, 0), target=target)
        return self._made(parent, name, inode, Item(Kind.SYMLINK, target=target))

    async def file(self, parent: InodeId, name: bytes, data: bytes = b"", *, windows: list[Window] = []) -> InodeId:  # noqa: B006
        inode = await self.fs.tree.make(parent, name, Kind.FILE, 0o644, Owner(0, 0))
        number = self._made(parent, name, inode, Item(Kind.FILE, [Sparse()], windows=windows))
        if data:
            await self.write(number, 0, data)
        return number

    async def write(self, number: InodeId, offset: int, data: bytes) -> None:
        handle = await self.fs.open(number)
        await self.fs.write(handle, offset, data)
        await self.fs.fsync(handle)
        await self.fs.release(handle)
        version = self.witness.items[number].versions[-1].copy()
        version.write(offset, data)
        self.witness.items[number].versions.append(version)

    async def truncate(self, number: InodeId, size: int) -> None:
        await self.fs.attributes.set(number, size=size)
        version = self.witness.items[number].versions[-1].copy()
        version.truncate(size)
        self.witness.items[number].versions.append(version)

    async def link(self, number: InodeId, parent: InodeId, name: bytes) -> None:
        await self.fs.tree.link(number, parent, name)
        self._named(parent, name, number)

    async def unlink(self, parent: InodeId, name: bytes) -> None:
        await self.fs.tree.remove(parent, name, directory=False)
        self._named(parent, name, None)

    async def rename(self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes) -> None:
        await self.fs.tree.rename(parent, name, new_parent, new_name, 0)
        self._named(new_parent, new_name, self.witness.names[parent, name][-1])
        self._named(parent, name, None)

    def _made(self, parent: InodeId, name: bytes, inode: Inode, item: Item) -> InodeId:
        self.witness.items[inode.id] = item
        self._named(parent, name, inode.id)
        return inode.id

    def _named(self, parent: InodeId, name: bytes, number: InodeId | None) -> None:
        self.witness.names.setdefault((parent, name), []).append(number)


async def look(fs: Filesystem, witness: Witness, *, chance: random.Random | None = None, steady: bool = True) -> Seen:
    """Read everything there is and was: names, listings, kinds, sizes, contents, targets.

    `chance` reads pieces besides whole windows. `steady` False: what is stored changes while this reads, so that two
    reads of one file may come of two of its versions.
    """
    seen = Seen()
    for number in witness.directories():
        await _list(fs, witness, number, seen)
    for parent, name in witness.names:
        with seen.attempt(f"name {name!r} in {parent}", is_there=witness.names[parent, name][-1] is not None):
            _judge_name(witness, (parent, name), await fs.lookup(parent, name), seen)
    there = {ROOT_INODE, *(history[-1] for history in witness.names.values())}
    for number, item in witness.items.items():
        with seen.attempt(f"inode {number}", is_there=number in there):
            await _look_into(fs, number, item, seen, chance, steady)
    return seen


async def _list(fs: Filesystem, witness: Witness, number: InodeId, seen: Seen) -> None:
    after, complete = DentryId(0), False
    with seen.attempt(f"listing {number}"):
        for _ in range(5):  # cookies are the coordinator's: it can make a listing endless
            listed, complete = await fs.directory(number, after, 100)
            for entry in listed:
                if (number, entry.name) not in witness.names:
                    seen.wrong.append(f"directory {number} lists {entry.name!r}, which never was there")
                else:
                    _judge_name(witness, (number, entry.name), entry.inode, seen)
                after = entry.cookie
            if complete:
                break


def _judge_name(witness: Witness, name: Name, inode: Inode, seen: Seen) -> None:
    history = witness.names[name]
    if inode.id not in history:
        seen.wrong.append(f"name {name} leads to inode {inode.id}, which it never named")
    elif inode.kind is not witness.items[inode.id].kind or inode.stat().mode & ~0o7777:
        seen.wrong.append(f"name {name} leads to a {inode.kind!r} of mode {inode.stat().mode:o}")
    elif inode.id != history[-1]:
        seen.older_names.append(f"name {name} leads to inode {inode.id} as it once did")
    else:
        _judge_size(witness.items[inode.id], inode, seen)


def _judge_size(item: Item, inode: Inode, seen: Seen) -> None:
    """The size that a listing or lookup shows."""
    if item.kind is not Kind.FILE or inode.size == item.versions[-1].size:
        seen.count["correct"] += 1
    elif any(inode.size == version.size for version in item.versions):
        seen.older.append(f"inode {inode.id} shows the size {inode.size} that it once had")
    else:
        seen.wrong.append(f"inode {inode.id} shows {inode.size} bytes, a size it never had")


async def _look_into(
    fs: Filesystem, number: InodeId, item: Item, seen: Seen, chance: random.Random | None, steady: bool
) -> None:
    inode = await fs.inode(number)
    if inode.id != number or inode.kind is not item.kind:
        seen.wrong.append(f"inode {number}: a {inode.kind!r} with the number {inode.id} instead of a {item.kind!r}")
    elif item.kind is Kind.SYMLINK:
        if fs.tree.target(inode) != item.target:
            seen.wrong.append(f"inode {number}: another target")
        seen.count["correct"] += 1
    elif item.kind is Kind.FILE:
        await _compare(fs, number, item, seen, chance, steady)


async def _compare(
    fs: Filesystem, number: InodeId, item: Item, seen: Seen, chance: random.Random | None, steady: bool
) -> None:
    handle = await fs.open(number)
    try:
        size = handle.inode.size
        candidates = [version for version in item.versions if version.size == size]
        if not candidates:
            seen.wrong.append(f"inode {number}: {size} bytes long, which it never was")
            return
        for offset, length in _reads(item, size, chance):
            data = bytes(await fs.read(handle, offset, length))
            among = candidates if steady else item.versions
            is_window = (offset, length) in item.windows or (not item.windows and offset == 0)
            fitting = [version for version in among if _bytes(version, offset, length, is_window) == data]
            if not fitting:
                seen.wrong.append(f"inode {number}: bytes {offset}+{length} are of none of its versions")
                return
            candidates = fitting
    finally:
        await fs.release(handle)
    if item.versions[-1] in candidates:
        seen.count["correct"] += 1
    else:
        seen.older.append(f"inode {number}: version {item.versions.index(candidates[-1])} of {len(item.versions) - 1}")


def _bytes(version: Sparse, offset: int, length: int, is_window: bool) -> bytes:
    return version.known(offset, length) if is_window else version.read(offset, length)


def _reads(item: Item, size: int, chance: random.Random | None) -> list[Window]:
    windows = item.windows or [(0, size + 1)]
    if chance is None or chance.random() < 0.5:
        return windows
    reads = []
    for offset, length in windows:
        start = chance.randrange(length)
        reads += [(offset + start, chance.randint(1, 5000)), (offset, length)]
    return reads
