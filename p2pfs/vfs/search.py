"""Tags, notes and search of one volume as its mount does them: words become tokens here, and answers are checked here.

The coordinator finds inodes by tokens and tells their sealed labels and names. What a label or a name does not bear out
is not shown: an answer may be left out, but not made up. Relevance is reckoned here too, as the coordinator knows
nothing of words.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from p2pfs.errors import Conflict, Corrupt, Invalid, NotFound, Semantic, TooLarge, Unavailable
from p2pfs.format import search as words_of
from p2pfs.format.heads import Head, open_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.search import Content, Label, open_label, seal_label
from p2pfs.meta.protocol import Namespace
from p2pfs.types import DentryId, InodeId, Kind, VolumeId
from p2pfs.vfs.paths import Paths, is_below, names
from p2pfs.vfs.query import Query
from p2pfs.wire.found import MOST_PLACES, Labelled, Place
from p2pfs.wire.namespace import Entry, Operation
from p2pfs.wire.search import BATCH_ROWS, MOST_COUNTED, NOTE, TAG, Hit, IndexName, SetLabel, rows

LIMIT: Final = 100
MOST_SHOWN: Final = 10_000
CANDIDATES: Final = 2000
"""Inodes that are ranked together; before others come those that have the rarest word as a tag, then in the note."""
PAGE: Final = 1000
AT_ONCE: Final = 100
"""Labels asked for, or set, in one go."""
MOST_BELOW: Final = 2_000_000
"""Files of a tree that are labelled in one go: their numbers are in memory, about 100 bytes each."""
CONFLICTS: Final = 10
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


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of labels. `has_content`: their content's token is made, which reads all of it. `is_anew`: also the
    tokens of what stays as it is are made."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    note: str | None = None
    has_content: bool = False
    is_anew: bool = False

    def of(self, label: Label) -> Label:
        """The label it makes of one."""
        kept = [tag for tag in (*label.tags, *self.add) if tag not in self.remove]
        return replace(
            label, tags=tuple(dict.fromkeys(kept)), note=label.note if self.note is None else self.note.strip()
        )


@dataclass(slots=True)
class _Labelling:
    """A change on its way. What is labelled alone must be there, and loses a label that cannot be read; of several the
    unreadable ones are left as they are."""

    change: Change
    is_alone: bool
    count: Callable[[int], Awaitable[None]]  # is told of bytes read
    unreadable: set[int] = field(default_factory=set)

    def check(self) -> None:
        """Raises Corrupt."""
        if self.unreadable:
            labels = "1 label" if len(self.unreadable) == 1 else f"{len(self.unreadable)} labels"
            raise Corrupt(
                f"{labels} could not be read and stayed (inode {min(self.unreadable)}): to tag such a file alone gives"
                " it a new one; all else is done"
            )


@dataclass(slots=True)
class _Question:
    """What is asked of the coordinator, page by page."""

    tokens: list[bytes]
    after: tuple[int, int, int] = (0, 0, 0)
    is_complete: bool = False


Show = Callable[[int, int, int], Awaitable[None]]
"""Is told now and then: how many inodes are done, of how many, and how many bytes of contents were read."""
Digest = Callable[[InodeId, Callable[[int], Awaitable[None]]], Awaitable[tuple[bytes, int]]]
"""BLAKE3 of the whole content of a file, and the change it is of; tells how many bytes it has read each time."""


class Search:
    """See the module. `names`, `prefixes`: whether the volume's names, and beginnings of words, are indexed."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        *,
        digest: Digest,
        is_unsaved: Callable[[InodeId], bool] = lambda _: False,
        names: bool = False,
        prefixes: bool = False,
    ) -> None:
        """`is_unsaved`: whether this mount has bytes of a file that are not committed."""
        self._keys, self._volume, self._namespace = keys, volume, namespace
        self._digest, self._is_unsaved = digest, is_unsaved
        self._names, self._prefixes = names, prefixes

    # ---- labels -----------------------------------------------------------------------------------------------------

    async def label(self, number: InodeId) -> Label:
        """What is said of an inode. Raises NotFound, Corrupt."""
        return self._opened(await self._labelled(number))

    async def change(self, number: InodeId, change: Change, show: Show, *, is_deep: bool) -> None:
        """Label an inode, and `is_deep` everything below it. What is removed meanwhile is left out. Raises Invalid,
        NotFound, what reading a content raises, and Corrupt at the end if labels could not be read."""
        found = [number, *(await self._below(number, show) if is_deep else ())]
        done = read = 0

        async def count(bytes_: int) -> None:
            nonlocal read
            read += bytes_
            await show(done, len(found), read)

        task = _Labelling(change, len(found) == 1, count)
        for first in range(0, len(found), AT_ONCE):
            some = found[first : first + AT_ONCE]
            if change.has_content:
                for one in some:
                    done += await self._change_alone(one, task)
                    await show(done, len(found), read)
            else:
                there = await self._rows(some)
                if task.is_alone and not there:
                    raise NotFound("there is no such inode")
                done += await self._change_some(there, task)
                await show(done, len(found), read)
        task.check()

    async def index(self, number: InodeId, show: Show, *, is_deep: bool) -> None:
        """Make the tokens of labels and names anew, as the volume's settings are now. Raises Corrupt at the end if some
        could not be read."""
        found = [number, *(await self._below(number, show) if is_deep else ())]

        async def count(_: int) -> None:
            return

        task = _Labelling(Change(is_anew=True), is_alone=False, count=count)
        for first in range(0, len(found), AT_ONCE):
            there = await self._rows(found[first : first + AT_ONCE])
            await self._index_names(there, task)
            await self._change_some(there, task)
            await show(min(first + AT_ONCE, len(found)), len(found), 0)
        await self._namespace.settle()
        task.check()

    def name_operations(self, number: InodeId, dentry: int, name: bytes) -> list[Operation]:
        """What goes with a batch that gives an inode a name: nothing unless names are indexed."""
        return [self._index_name(number, dentry, words_of.name_words(name))] if self._names else []

    def _index_name(self, number: int, dentry: int, words: Sequence[str]) -> IndexName:
        return IndexName(number, dentry, self._tokens(words))

    async def _index_names(self, there: Sequence[Labelled], task: _Labelling) -> None:
        operations: list[Operation] = []
        for row in there:
            async with aclosing(self._places(row)) as places:
                async for place in places:
                    try:
                        words = words_of.name_words(self._name(row, place)) if self._names else []
                    except Corrupt:
                        task.unreadable.add(row.attributes.inode)
                        continue
                    operations.append(self._index_name(row.attributes.inode, place.dentry, words))
                    if len(operations) >= AT_ONCE:  # about 200 tokens each at most
                        await self._namespace.apply(operations)
                        operations = []
        if operations:
            await self._namespace.apply(operations)

    async def _change_some(self, there: Sequence[Labelled], task: _Labelling) -> int:
        """How many there were."""
        operations = [operation for row in there for operation in self._changed(row, task, None)]
        try:
            for some in _batches(operations):
                await self._namespace.apply(some)
        except Semantic:  # one is gone, or somebody else labelled it: one by one
            return sum([await self._change_alone(InodeId(row.attributes.inode), task) for row in there])
        return len(there)

    async def _change_alone(self, number: InodeId, task: _Labelling) -> bool:
        for _ in range(CONFLICTS):
            try:
                row = await self._labelled(number)
                content = await self._content(row, task.count) if task.change.has_content else None
                if content is not None:  # which may have taken long
                    row = await self._labelled(number)
                operations = self._changed(row, task, content)
                if operations:
                    await self._namespace.apply(operations)
            except Conflict:
                await trio.lowlevel.checkpoint()
                continue
            except NotFound:
                if task.is_alone:
                    raise
                return False
            return True
        raise Unavailable("somebody else keeps labelling this")

    def _changed(self, row: Labelled, task: _Labelling, content: Content | None) -> list[Operation]:
        before = self._readable(row)
        if before is None and not task.is_alone:
            task.unreadable.add(row.attributes.inode)
            return []
        label = task.change.of(before or Label())
        if content is not None:
            label = replace(label, content=content)
        if label == before and not (task.change.is_anew and row.sealed):
            return []
        return [self._set_label(InodeId(row.attributes.inode), row.revision, label)]

    def _set_label(self, number: InodeId, revision: int, label: Label) -> SetLabel:
        if not label:
            return SetLabel(number, revision, b"")
        sealed = seal_label(self._keys, self._volume, number, label)
        note = words_of.words(label.note)[: words_of.MAX_NOTE_WORDS]
        content = label.content or Content(b"", 0)
        return SetLabel(
            number, revision, sealed, self._tokens(label.tags), self._tokens(note), content.token, content.change
        )

    def _tokens(self, words: Iterable[str]) -> list[bytes]:
        return words_of.tokens(self._keys, self._volume, words, with_prefixes=self._prefixes)

    async def _content(self, row: Labelled, count: Callable[[int], Awaitable[None]]) -> Content | None:
        """Of a file; None of what is none, or has its content's token already."""
        head, known = self._head(row), (self._readable(row) or Label()).content
        if head.kind is not Kind.FILE or (known is not None and known.change == head.change):
            return None
        digest, change = await self._digest(InodeId(row.attributes.inode), count)
        return Content(words_of.content_token(self._keys, self._volume, digest), change)

    async def _below(self, top: InodeId, show: Show) -> list[InodeId]:
        """Everything below a directory, each once, directories before what is in them. Raises TooLarge."""
        (row,) = (await self._namespace.labels([top])).rows or (None,)
        waiting = [top] if row is not None and row.attributes.kind == Kind.DIRECTORY else []
        seen = {top: None}
        while waiting:
            directory, after, complete = waiting.pop(), DentryId(0), False
            while not complete:
                try:
                    page = await self._namespace.directory(directory, after, PAGE)
                except NotFound:
                    break
                for entry in page.entries:
                    after, number = DentryId(entry.dentry), InodeId(entry.attributes.inode)
                    if entry.attributes.kind == Kind.DIRECTORY and number not in seen:
                        waiting.append(number)
                    seen[number] = None
                if len(seen) > MOST_BELOW:
                    raise TooLarge(f"more than {MOST_BELOW} files: take the directories in it one by one")
                await show(0, len(seen) + len(waiting), 0)  # never all
                complete = page.complete or not page.entries
        del seen[top]
        return list(seen)

    # ---- finding ----------------------------------------------------------------------------------------------------

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
                there = await self._rows([InodeId(number) for number in best[first : first + AT_ONCE]])
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
            there = await self._rows([InodeId(number) for number in numbers])
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
        label = self._opened(row)
        said = [*label.tags, *words_of.words(label.note)]
        path = await self._path(paths, row, below, lambda words: query.fits([*said, *words]))
        return None if path is None else self._shown(row, label, path)

    async def _having(self, paths: Paths, row: Labelled, below: bytes, token: bytes) -> Found | None:
        """None if its label does not say that it has, or had, this content, or it has no name below."""
        label = self._opened(row)
        if label.content is None or label.content.token != token:
            return None
        path = await self._path(paths, row, below, lambda _: True)
        if path is None:
            return None
        is_stale = self._head(row).change != label.content.change or self._is_unsaved(InodeId(row.attributes.inode))
        return replace(self._shown(row, label, path), is_stale=is_stale)

    async def _path(
        self, paths: Paths, row: Labelled, below: bytes, fits: Callable[[Iterable[str]], bool]
    ) -> bytes | None:
        """Of the first name below whose words fit, or else the first below if all of them together do."""
        if not row.places:  # the root
            return b"" if not below and fits(()) else None
        first, every = None, set[str]()
        async with aclosing(self._places(row)) as places:
            async for place in places:
                path = await paths.of_entry(place.parent, _entry(row, place))
                if not is_below(path, below):
                    continue
                words = words_of.name_words(path.rpartition(b"/")[2])
                if fits(words):
                    return path
                first = path if first is None else first
                every.update(words)
        return first if first is not None and fits(every) else None

    async def _places(self, row: Labelled) -> AsyncGenerator[Place, None]:
        """Its names, of which the row has the first few."""
        for place in row.places:
            yield place
        if len(row.places) < MOST_PLACES:
            return
        last = row.places[-1]
        behind = names(self._namespace, row.attributes.inode, (last.parent, last.dentry))
        async with aclosing(behind) as others:
            async for named in others:
                yield Place(named.parent, named.entry.dentry, named.entry.name, named.entry.tag)

    def _shown(self, row: Labelled, label: Label, path: bytes) -> Found:
        head, of = self._head(row), row.attributes
        return Found(of.inode, path, head.kind, head.size, of.expires_s, row.copies, label)

    # ---- what is told -----------------------------------------------------------------------------------------------

    async def _labelled(self, number: InodeId) -> Labelled:
        found = await self._rows([number])
        if not found:
            raise NotFound("there is no such inode")
        return found[0]

    async def _rows(self, numbers: Sequence[InodeId]) -> list[Labelled]:
        """Those that have a name. Raises Corrupt when others are told of."""
        found: list[Labelled] = []
        left = list(numbers)
        while left:
            page = await self._namespace.labels(left)
            if page.done < 1 or not {row.attributes.inode for row in page.rows} <= set(left):
                raise Corrupt("the coordinator tells of other inodes than were asked for")
            found += page.rows
            left = left[page.done :]
        return found

    def _opened(self, row: Labelled) -> Label:
        if not row.sealed:
            return Label()
        return open_label(self._keys, self._volume, InodeId(row.attributes.inode), row.sealed)

    def _readable(self, row: Labelled) -> Label | None:
        """None if it is not what a member sealed."""
        try:
            return self._opened(row)
        except Corrupt:
            return None

    def _head(self, row: Labelled) -> Head:
        return open_head(self._keys, self._volume, InodeId(row.attributes.inode), row.attributes.head)

    def _name(self, row: Labelled, place: Place) -> bytes:
        return Paths(self._keys, self._volume, self._namespace).name(place.parent, _entry(row, place))


def relevance_of(hit: Hit, counts: Sequence[int]) -> float:
    """How much a hit says: the rarer its words, and the nearer to what somebody said of the file, the more."""
    return sum(
        _WEIGHTS.get(place, _NAME_WEIGHT) * math.log(1 + MOST_COUNTED / max(count, 1))
        for place, count in zip(hit.places, counts, strict=False)
    )


def _entry(row: Labelled, place: Place) -> Entry:
    return Entry(place.dentry, place.name, place.tag, row.attributes)


def _batches(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """In portions that the coordinator takes."""
    some: list[Operation] = []
    of = 0
    for operation in operations:
        more = rows(operation)
        if some and of + more > BATCH_ROWS:
            yield some
            some, of = [], 0
        some.append(operation)
        of += more
    if some:
        yield some
