"""Adds up what files take, directory by directory, asking the coordinator for many at once. For `p2pfs du`."""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from p2pfs.cli import asking, connect
from p2pfs.cli.members import find_volume
from p2pfs.errors import Misuse, NotDirectory, NotFound, Unsupported
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Kind, VolumeId, volume_name
from p2pfs.wire.answers import Answer, unwrap
from p2pfs.wire.usage import FileUsage, ReadFileUsage, ReadUsage, UsagePage
from p2pfs.wire.volumes import VolumeInfo

AT_ONCE: Final = 16
"""Directories asked about with one request."""

Show = Callable[[int, int | None], None]


@dataclass(slots=True)
class Usage:
    """What is below one path, as a person named it. Bytes."""

    path: str
    size: int = 0
    stored: int = 0  # sealed, each chunk once
    with_copies: int = 0
    inline: int = 0  # sealed, in the coordinator's metadata
    files: int = 0  # all that is no directory
    directories: int = 0

    def add(self, other: "Usage") -> None:
        for name in ("size", "stored", "with_copies", "inline", "files", "directories"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True, eq=False)
class _Place:
    """A directory that has a line of its own. `at`: where its names are read; None: what is below has no lines."""

    usage: Usage
    above: "_Place | None"
    at: Path | None
    depth: int
    names: dict[int, str] | None = None
    """Of its subdirectories, by their inodes' numbers, while it is being looked at."""


class Seen:
    """Numbers that were met: a bit each, as they are small and most of them come."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def is_new(self, number: int) -> bool:
        """Whether it is the first time."""
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(self._bits):
            self._bits.extend(bytes(at + 1 - len(self._bits) + (len(self._bits) >> 3)))
        is_new = not self._bits[at] & bit
        self._bits[at] |= bit
        return is_new


def measure(paths: Sequence[Path], depth: int, show: Show) -> list[Usage]:
    """Lines in the order of `du`: what is below a directory before it.

    Raises:
        UserError: A path is not there, or in no mount.
        Unsupported: The coordinator is of an older version.
    """
    found: list[Usage] = []
    measures: dict[tuple[str, str], _Measure] = {}
    for path in paths:
        mounted, inode = asking.located(path)
        key = mounted.record.home, mounted.record.identity
        measure = measures.setdefault(key, _Measure(depth, show))
        found += measure.run(NodeHome(Path(mounted.record.home)), mounted.record.identity, path, inode)
    return found


class _Measure:
    """All paths of one volume."""

    def __init__(self, depth: int, show: Show) -> None:
        self._depth, self._show = depth, show
        self._chunks = Seen()
        self._linked: set[int] = set()
        self._looked = 0

    def run(self, home: NodeHome, volume: str, path: Path, inode: int) -> list[Usage]:
        is_directory = stat.S_ISDIR(path.lstat().st_mode)

        async def talk(coordinator: connect.Coordinator) -> list[Usage]:
            volumes = await coordinator.call("GET", "/volumes", None, list[VolumeInfo])
            asked = _Asked(coordinator, VolumeId(find_volume(volumes, volume).volume))
            top = _Place(Usage(str(path)), None, path if self._depth else None, 0)
            if is_directory:
                return await self._tree(asked, top, inode)
            await self._file(asked, top.usage, await asked.file(inode, 0))
            return [top.usage]

        return connect.converse(home, talk)

    async def _tree(self, asked: "_Asked", top: _Place, inode: int) -> list[Usage]:
        waiting: list[tuple[int, int, _Place]] = [(inode, 0, top)]  # directory, where to go on, where it counts
        top.usage.directories += 1
        places = [top]
        while waiting:
            some, waiting = waiting[-AT_ONCE:], waiting[:-AT_ONCE]
            pages = await asked.pages([ReadUsage(directory, after) for directory, after, _ in some])
            for (directory, _, place), page in zip(some, pages, strict=True):
                if page is None:  # removed meanwhile
                    continue
                if place.names is None:
                    place.names = await _names(place)
                names = place.names
                if page.complete:
                    place.names = None
                else:
                    waiting.append((directory, page.after, place))
                for row in page.rows:
                    if row.kind == Kind.DIRECTORY:
                        below = self._below(place, names.get(row.inode), places)
                        below.usage.directories += 1
                        waiting.append((row.inode, 0, below))
                    else:
                        await self._file(asked, place.usage, row)
                self._looked += len(page.rows)
                self._show(self._looked, None)
        for place in reversed(places):
            if place.above is not None:
                place.above.usage.add(place.usage)
        return _ordered(places)

    def _below(self, place: _Place, name: str | None, places: list[_Place]) -> _Place:
        """Where a subdirectory counts: by itself, if it is to have a line."""
        if place.at is None or name is None:
            return place if place.at is None else _Place(place.usage, place.above, None, place.depth, {})
        depth = place.depth + 1
        path = place.at / name
        below = _Place(Usage(os.path.join(place.usage.path, name)), place, path if depth < self._depth else None, depth)
        places.append(below)
        return below

    async def _file(self, asked: "_Asked", usage: Usage, row: FileUsage) -> None:
        if row.links > 1:
            if row.inode in self._linked:
                return
            self._linked.add(row.inode)
        usage.files += 1
        usage.inline += row.inline
        if row.kind == Kind.FILE:
            usage.size += row.size
        while True:
            for chunk in row.chunks:
                if self._chunks.is_new(chunk.number):
                    usage.stored += chunk.size
                    usage.with_copies += chunk.size * chunk.copies
            if row.next_mib < 0:
                return
            try:
                row = await asked.file(row.inode, row.next_mib)
            except NotFound:
                return


class _Asked:
    """Questions of `p2pfs.wire.usage` about one volume."""

    def __init__(self, coordinator: connect.Coordinator, volume: VolumeId) -> None:
        self._coordinator, self._path = coordinator, f"/volumes/{volume_name(volume)}/questions"

    async def file(self, inode: int, from_mib: int) -> FileUsage:
        (answer,) = await self._answers([ReadFileUsage(inode, from_mib)])
        return unwrap(answer, FileUsage)

    async def pages(self, questions: Sequence[ReadUsage]) -> list[UsagePage | None]:
        """None for what is no directory any more."""
        found: list[UsagePage | None] = []
        for answer in await self._answers(questions):
            try:
                found.append(unwrap(answer, UsagePage))
            except (NotFound, NotDirectory):
                found.append(None)
        return found

    async def _answers(self, questions: Sequence[Any]) -> list[Answer]:
        try:
            return await self._coordinator.call("POST", self._path, list(questions), list[Answer])
        except Misuse as error:
            raise Unsupported(f"the coordinator is of an older version, which cannot tell ({error})") from None


async def _names(place: _Place) -> dict[int, str]:
    """Of the subdirectories of a directory whose subdirectories have lines, by their inodes' numbers."""
    if place.at is None:
        return {}

    def read(path: Path) -> dict[int, str]:
        try:
            with os.scandir(path) as entries:
                return {entry.inode(): entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        except OSError:
            return {}

    return await trio.to_thread.run_sync(read, place.at)


def _ordered(places: Sequence[_Place]) -> list[Usage]:
    """What is below before what it is in, by name: as du."""
    below: dict[int, list[_Place]] = {}
    for place in places[1:]:
        below.setdefault(id(place.above), []).append(place)
    ordered: list[Usage] = []
    waiting = [places[0]]
    while waiting:
        place = waiting.pop()
        ordered.append(place.usage)
        waiting += sorted(below.get(id(place), ()), key=lambda one: one.usage.path)
    return ordered[::-1]
