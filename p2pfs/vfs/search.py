"""Search in one volume as its mount does it: what the coordinator finds by tokens is checked and ranked here.

It tells inodes with their sealed labels and names. What a label or a name does not bear out is not shown: an answer may
be left out, but not made up. Relevance is reckoned here too, as the coordinator knows nothing of words.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from p2pfs.errors import Corrupt, Invalid
from p2pfs.format import search as words_of
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.search import Label
from p2pfs.meta.protocol import Namespace
from p2pfs.types import InodeId, Kind, VolumeId
from p2pfs.vfs.label_rows import AT_ONCE, LabelRows, entry
from p2pfs.vfs.paths import Paths, is_below
from p2pfs.vfs.query import Query
from p2pfs.wire.found import Labelled
from p2pfs.wire.search import MOST_COUNTED, NOTE, TAG, Hit

LIMIT: Final = 100
MOST_SHOWN: Final = 10_000
CANDIDATES: Final = 2000
"""Inodes that are ranked together; before others come those that have the rarest word as a tag, then in the note."""
PAGE: Final = 1000
_WEIGHTS: Final = {TAG: 4.0, NOTE: 2.0}
_NAME_WEIGHT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """Something that was found, with one of its paths from the volume's root."""

    inode: int
    path: bytes
    kind: Kind
    size: int
    expires_s: int  # UTC; 0: for ever
    copies: int  # the fewest of a chunk; -1: no chunks
    label: Label
    relevance: float = 0.0
    is_stale: bool = False  # found by a content that it does not have any more


@dataclass(slots=True)
class _Question:
    """What is asked of the coordinator, page by page."""

    tokens: list[bytes]
    after: tuple[int, int, int] = (0, 0, 0)
    is_complete: bool = False


class Search:
    """See the module. `prefixes`: whether beginnings of words are indexed in the volume."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        *,
        is_unsaved: Callable[[InodeId], bool] = lambda _: False,
        prefixes: bool = False,
    ) -> None:
        """`is_unsaved`: whether this mount has bytes of a file that are not committed."""
        self._keys, self._volume, self._namespace = keys, volume, namespace
        self._rows = LabelRows(keys, volume, namespace)
        self._is_unsaved, self._prefixes = is_unsaved, prefixes

    async def find(
        self,
        query: Query,
        *,
        limit: int = LIMIT,
        below: bytes = b"",
        unreadable: Callable[[int], None] = lambda _: None,
    ) -> list[Found]:
        """What fits, the most relevant first, at most `limit`. `unreadable` is told of inodes whose label or name is
        not what a member sealed. Raises Invalid."""
        if query.beginnings and not self._prefixes:
            raise Invalid("the beginnings of words are not indexed in this volume: see index_prefixes of `volume set`")
        asked = [words_of.word_token(self._keys, self._volume, word) for word in query.words]
        asked += [
            words_of.prefix_token(self._keys, self._volume, beginning[: words_of.LONGEST_PREFIX])
            for beginning in query.beginnings
        ]
        paths, found, seen = Paths(self._keys, self._volume, self._namespace), list[Found](), set[int]()
        # of one word the coordinator knows the order
        window = limit if len(asked) == 1 else CANDIDATES
        questions = [_Question([token]) for token in asked] if query.is_any else [_Question(asked)]
        while len(found) < limit and not all(question.is_complete for question in questions):
            relevance: dict[int, float] = {}
            for question in questions:
                for number, value in (await self._candidates(question, window)).items():
                    if number not in seen:
                        relevance[number] = relevance.get(number, 0.0) + value
            seen.update(relevance)
            best = sorted(relevance, key=lambda number: (-relevance[number], -number))
            for first in range(0, len(best), AT_ONCE):
                there = await self._rows.some([InodeId(number) for number in best[first : first + AT_ONCE]])
                await paths.learn(place.parent for row in there for place in row.places)
                for row in there:
                    try:
                        shown = await self._fitting(paths, row, below, query)
                    except Corrupt:
                        unreadable(row.attributes.inode)
                        continue
                    if shown is not None:
                        found.append(replace(shown, relevance=relevance[shown.inode]))
                if len(found) >= limit:
                    break
        return found[:limit]

    async def find_content(
        self,
        digest: bytes,
        *,
        limit: int = LIMIT,
        below: bytes = b"",
        unreadable: Callable[[int], None] = lambda _: None,
    ) -> list[Found]:
        """Files that have, or had when they were labelled, the content whose BLAKE3 this is; those that have it first.
        Of what this mount has changed and not saved yet nobody knows. `unreadable` as in `find`. Raises Invalid."""
        token = words_of.content_token(self._keys, self._volume, digest)
        paths, fresh, stale = Paths(self._keys, self._volume, self._namespace), list[Found](), list[Found]()
        after, numbers = 0, [0]
        while numbers and len(fresh) < limit:
            numbers = await self._namespace.find_content(token, after, AT_ONCE)
            there = await self._rows.some([InodeId(number) for number in numbers])
            await paths.learn(place.parent for row in there for place in row.places)
            for row in there:
                try:
                    shown = await self._having(paths, row, below, token)
                except Corrupt:
                    unreadable(row.attributes.inode)
                    continue
                if shown is not None and len(stale if shown.is_stale else fresh) < limit:
                    (stale if shown.is_stale else fresh).append(shown)
            after = numbers[-1] if numbers else after
        return (fresh + stale)[:limit]

    async def _candidates(self, question: "_Question", most: int) -> dict[int, float]:
        """The next ones, about so many, with their relevance by this question."""
        best: dict[int, float] = {}
        while not question.is_complete and len(best) < most:
            page = await self._namespace.find(question.tokens, question.after, min(most, PAGE))
            for hit in page.hits:
                best[hit.inode] = max(best.get(hit.inode, 0.0), relevance_of(hit, page.counts))
            question.after, question.is_complete = page.after, page.complete
        return best

    async def _fitting(self, paths: Paths, row: Labelled, below: bytes, query: Query) -> Found | None:
        """None if label and names below do not bear out that it was meant."""
        label = self._rows.label(row)
        said = [*label.tags, *words_of.words(label.note)]
        path = await self._path(paths, row, below, lambda words: query.fits([*said, *words]))
        return None if path is None else self._shown(row, label, path)

    async def _having(self, paths: Paths, row: Labelled, below: bytes, token: bytes) -> Found | None:
        """None if its label does not say that it has, or had, this content, or it has no name below."""
        label = self._rows.label(row)
        if label.content is None or label.content.token != token:
            return None
        path = await self._path(paths, row, below, lambda _: True)
        if path is None:
            return None
        is_stale = self._rows.head(row).change != label.content.change or self._is_unsaved(
            InodeId(row.attributes.inode)
        )
        return replace(self._shown(row, label, path), is_stale=is_stale)

    async def _path(
        self, paths: Paths, row: Labelled, below: bytes, fits: Callable[[Iterable[str]], bool]
    ) -> bytes | None:
        """Of the first name below whose words fit, or else the first below if all of them together do."""
        if not row.places:  # the root
            return b"" if not below and fits(()) else None
        first, every = None, set[str]()
        async with aclosing(self._rows.places(row)) as places:
            async for place in places:
                path = await paths.of_entry(place.parent, entry(row, place))
                if not is_below(path, below):
                    continue
                words = words_of.name_words(path.rpartition(b"/")[2])
                if fits(words):
                    return path
                first = path if first is None else first
                every.update(words)
        return first if first is not None and fits(every) else None

    def _shown(self, row: Labelled, label: Label, path: bytes) -> Found:
        head, of = self._rows.head(row), row.attributes
        return Found(of.inode, path, head.kind, head.size, of.expires_s, row.copies, label)


def relevance_of(hit: Hit, counts: Sequence[int]) -> float:
    """How much a hit says: the rarer its words, and the nearer to what somebody said of the file, the more."""
    return sum(
        _WEIGHTS.get(place, _NAME_WEIGHT) * math.log(1 + MOST_COUNTED / max(count, 1))
        for place, count in zip(hit.places, counts, strict=False)
    )
