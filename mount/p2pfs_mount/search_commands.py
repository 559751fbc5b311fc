"""What `p2pfs tag` and `p2pfs search` ask a mount to do, as `commands` answers them: it has the volume's keys.

Every list in a request is bounded by the length of the request; every answer by its `limit`.
"""

import os
import time
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Final

from p2pfs.errors import Invalid
from p2pfs.format.search import words
from p2pfs.types import InodeId
from p2pfs.vfs.labels import Change, Labels, Show
from p2pfs.vfs.query import Query
from p2pfs.vfs.search import MOST_SHOWN, Found, Search
from p2pfs_mount.life import Command, Say

_EVERY_S: Final = 0.2
"""Progress is told so often."""

Request = dict[str, Any]


class SearchCommands:
    """Those of one mount. Numbers of inodes are those the kernel shows."""

    def __init__(self, labels: Labels, search: Search) -> None:
        self._labels, self._search = labels, search

    def table(self) -> Mapping[str, Command]:
        """By name."""
        return {
            "tag show": self.show,
            "tag change": self.change,
            "tag reindex": self.reindex,
            "search": self.search,
            "search hash": self.search_content,
        }

    async def show(self, request: Request, say: Say) -> None:
        """{"inode": N} → {"tags": […], "note": …, "content": whether its content is known}."""
        label = await self._labels.label(InodeId(int(request["inode"])))
        await say({"tags": list(label.tags), "note": label.note, "content": label.content is not None})

    async def change(self, request: Request, say: Say) -> None:
        """{"inode": N, "add": [text…], "remove": [text…], "note": text or null, "content": bool, "deep": bool} →
        {"changed": so many by now, "of": …, "read_bytes": …} …"""
        note = request.get("note")
        change = Change(
            _words(request.get("add", [])),
            _words(request.get("remove", [])),
            None if note is None else str(note),
            bool(request.get("content", False)),
        )
        is_deep = bool(request.get("deep", False))
        await self._labels.change(InodeId(int(request["inode"])), change, _progress(say), is_deep=is_deep)

    async def reindex(self, request: Request, say: Say) -> None:
        """{"inode": N, "deep": bool} → as `tag change`."""
        is_deep = bool(request.get("deep", False))
        await self._labels.index(InodeId(int(request["inode"])), _progress(say), is_deep=is_deep)

    async def search(self, request: Request, say: Say) -> None:
        """{"query": text, "any": bool, "limit": N, "below": path} → a line for each that was found, the best first, and
        {"unreadable": N} if labels or names could not be read."""
        query = Query.parse(str(request["query"]), is_any=bool(request.get("any", False)))
        bad = set[int]()
        found = await self._search.find(query, limit=_limit(request), below=_below(request), unreadable=bad.add)
        await _tell(found, bad, say)

    async def search_content(self, request: Request, say: Say) -> None:
        """{"blake3": hex of a whole content's, "limit": N, "below": path} → as `search`."""
        digest, bad = bytes.fromhex(request["blake3"]), set[int]()
        found = await self._search.find_content(
            digest, limit=_limit(request), below=_below(request), unreadable=bad.add
        )
        await _tell(found, bad, say)


def _words(texts: list[Any]) -> tuple[str, ...]:
    """Raises Invalid when there is none in a text."""
    found: dict[str, None] = {}
    for text in texts:
        of = words(str(text))
        if not of:
            raise Invalid(f"“{text}” is no word: tags have letters and digits")
        found.update(dict.fromkeys(of))
    return tuple(found)


def _progress(say: Say) -> Show:
    """Tells the last state and, meanwhile, now and then."""
    told_s = 0.0

    async def show(done: int, of: int, read_bytes: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if done == of or now_s - told_s >= _EVERY_S:
            told_s = now_s
            await say({"changed": done, "of": of, "read_bytes": read_bytes})

    return show


def _limit(request: Request) -> int:
    limit = int(request.get("limit", 100))
    if not 1 <= limit <= MOST_SHOWN:
        raise Invalid(f"between 1 and {MOST_SHOWN} can be shown")
    return limit


def _below(request: Request) -> bytes:
    return os.fsencode(request.get("below", ""))


async def _tell(found: Sequence[Found], unreadable: Sized, say: Say) -> None:
    for one in found:
        await say(_found(one))
    if unreadable:
        await say({"unreadable": len(unreadable)})


def _found(found: Found) -> dict[str, object]:
    return {
        "inode": found.inode,
        "path": os.fsdecode(found.path),
        "kind": found.kind.name.lower(),
        "size": found.size,
        "expires_s": found.expires_s,
        "copies": None if found.copies < 0 else found.copies,
        "tags": list(found.label.tags),
        "note": found.label.note,
        "relevance": round(found.relevance, 3),
        "stale": found.is_stale,
    }
