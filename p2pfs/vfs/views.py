"""`.p2pfs/search/<query>/`: what a search finds, as a directory of symbolic links. Not part of the volume: nothing of
it is stored or told to anybody.

    .p2pfs ── search ── invoice 2026 ── bill.pdf → ../../../papers/bill.pdf

The directories are not listed and can be looked up; a file of the volume that has the name of the first keeps it. A
query is asked when its directory is looked up or listed, and again after some seconds. Called by `p2pfs_mount.views`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import trio

from p2pfs.errors import Invalid, NotDirectory, NotFound
from p2pfs.types import MAX_NAME_BYTES, ROOT_INODE, InodeId, Kind
from p2pfs.vfs.inodes import Stat
from p2pfs.vfs.query import Query
from p2pfs.vfs.search import Found

NAME: Final = b".p2pfs"
FIRST: Final = 1 << 63
"""Inode numbers from here on are never those of a volume's inodes, which have 63 bits."""
TOP, SEARCH = InodeId(FIRST), InodeId(FIRST + 1)
LIMIT: Final = 500
MOST_QUERIES: Final = 32
FRESH_S: Final = 5.0
"""For how long an answer is given again."""


@dataclass(slots=True)
class _Result:
    """One query's directory. `names` are those of the links, which keep their numbers while they are there."""

    number: InodeId
    query: Query
    fresh_until_s: float = 0.0
    time_ns: int = 0
    names: dict[bytes, InodeId] = field(default_factory=dict)


class SearchView:
    """The directories of one mount, for `owner` (uid, gid) alone: links tell of names in directories that others of
    this machine may not read."""

    def __init__(
        self, find: Callable[[Query, int], Awaitable[list[Found]]], *, owner: tuple[int, int], now_ns: Callable[[], int]
    ) -> None:
        self._find, self._owner, self._now_ns = find, owner, now_ns
        self._numbers = count(SEARCH + 1)
        self._queries: dict[bytes, _Result] = {}  # the last used last
        self._directories: dict[InodeId, _Result] = {}
        self._links: dict[InodeId, tuple[bytes, int]] = {}  # target and time

    async def lookup(self, parent: InodeId, name: bytes) -> Stat:
        """What a name leads to. Raises NotFound, NotDirectory, and what asking raises."""
        if parent == ROOT_INODE and name == NAME:
            return self.stat(TOP)
        if parent == TOP and name == b"search":
            return self.stat(SEARCH)
        if parent == SEARCH:
            return self.stat((await self._result(name)).number)
        result = self._directories.get(parent)
        if result is None:
            raise NotDirectory("a link") if parent in self._links else NotFound("there is no such name")
        if name not in result.names:
            raise NotFound("there is no such name")
        return self.stat(result.names[name])

    def stat(self, number: InodeId) -> Stat:
        """Raises NotFound."""
        if number in self._links:
            target, time_ns = self._links[number]
            return self._stat(number, Kind.SYMLINK, time_ns, len(target))
        if number in (TOP, SEARCH) or number in self._directories:
            result = self._directories.get(number)
            return self._stat(number, Kind.DIRECTORY, result.time_ns if result else self._now_ns(), 0)
        raise NotFound("this was found no more")

    async def listing(self, number: InodeId) -> list[tuple[bytes, Stat]]:
        """What is in a directory; of queries none is shown. Raises NotFound, NotDirectory, and what asking raises."""
        if number == TOP:
            return [(b"search", self.stat(SEARCH))]
        if number == SEARCH:
            return []
        result = self._directories.get(number)
        if result is None:
            raise NotDirectory("a link") if number in self._links else NotFound("this was found no more")
        await self._refresh(result)
        return [(name, self.stat(link)) for name, link in result.names.items()]

    def parent(self, number: InodeId) -> InodeId:
        """The directory above one."""
        return {TOP: ROOT_INODE, SEARCH: TOP}.get(number, SEARCH)

    def target(self, number: InodeId) -> bytes:
        """Raises NotFound, Invalid."""
        if number not in self._links:
            self.stat(number)
            raise Invalid("not a symbolic link")
        return self._links[number][0]

    async def _result(self, name: bytes) -> _Result:
        result = self._queries.pop(name, None)
        if result is None:
            try:
                if name.startswith(b"."):  # what programs look for everywhere
                    raise Invalid("hidden")
                query = Query.parse(name.decode())
            except (Invalid, UnicodeDecodeError):
                raise NotFound("nobody can look for this") from None
            result = _Result(InodeId(next(self._numbers)), query)
            self._directories[result.number] = result
        self._queries[name] = result
        while len(self._queries) > MOST_QUERIES:
            self._drop(self._queries.pop(next(iter(self._queries))))
        try:
            await self._refresh(result)
        except Invalid:  # beginnings of words are not indexed
            raise NotFound("nobody can look for this") from None
        return result

    async def _refresh(self, result: _Result) -> None:
        if trio.current_time() < result.fresh_until_s:
            return
        found = await self._find(result.query, LIMIT)
        if self._directories.get(result.number) is not result:
            raise NotFound("this was found no more")
        result.fresh_until_s, result.time_ns = trio.current_time() + FRESH_S, self._now_ns()
        old = {self._links[link][0]: link for link in result.names.values()}
        result.names = {}
        for one in found:
            if not one.path:  # the volume itself
                continue
            target = b"../../../" + one.path
            link = old.pop(target, None) or InodeId(next(self._numbers))
            self._links[link] = target, result.time_ns
            result.names[_free(result.names, one.path.rpartition(b"/")[2])] = link
        for gone in old.values():
            del self._links[gone]

    def _drop(self, result: _Result) -> None:
        del self._directories[result.number]
        for link in result.names.values():
            del self._links[link]

    def _stat(self, number: InodeId, kind: Kind, time_ns: int, size: int) -> Stat:
        mode, links = (0o777, 1) if kind is Kind.SYMLINK else (0o500, 2)
        uid, gid = self._owner
        return Stat(number, kind, mode, links, uid, gid, 0, size, time_ns, time_ns, time_ns, 0)


def _free(taken: dict[bytes, InodeId], name: bytes) -> bytes:
    """The name, or another one like it that is free: the same file name is found in several directories."""
    candidate, tries = name, 1
    while candidate in taken:
        tries += 1
        stem, dot, end = name.rpartition(b".")
        suffix = b" (%d)" % tries
        is_plain = not stem or len(end) > 16
        candidate = name[: MAX_NAME_BYTES - len(suffix)] + suffix
        if not is_plain:
            candidate = stem[: MAX_NAME_BYTES - len(suffix) - 1 - len(end)] + suffix + dot + end
    return candidate
