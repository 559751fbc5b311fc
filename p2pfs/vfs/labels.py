"""Tags and notes of one volume's inodes as its mount makes them: words become tokens here, and labels are sealed here.

The coordinator keeps both, and knows nothing of words. Those of names go with the batches that make the names
(`name_operations`). What is found by them is `search`'s.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from p2pfs.errors import Conflict, Corrupt, NotFound, Semantic, TooLarge, Unavailable
from p2pfs.format import search as words_of
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.search import Content, Label, seal_label
from p2pfs.meta.protocol import Namespace
from p2pfs.types import InodeId, Kind, VolumeId
from p2pfs.vfs.below import pages_below
from p2pfs.vfs.label_rows import AT_ONCE, LabelRows
from p2pfs.wire.found import Labelled
from p2pfs.wire.namespace import Operation
from p2pfs.wire.search import BATCH_ROWS, IndexName, SetLabel, rows

MOST_BELOW: Final = 2_000_000
"""Files of a tree that are labelled in one go: their numbers are in memory, about 100 bytes each."""
CONFLICTS: Final = 10
_PAGE: Final = 1000


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


Show = Callable[[int, int, int], Awaitable[None]]
"""Is told now and then: how many inodes are done, of how many, and how many bytes of contents were read."""
Digest = Callable[[InodeId, Callable[[int], Awaitable[None]]], Awaitable[tuple[bytes, int]]]
"""BLAKE3 of the whole content of a file, and the change it is of; tells how many bytes it has read each time."""


class Labels:
    """See the module. `names`, `prefixes`: whether the volume's names, and beginnings of words, are indexed."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        *,
        digest: Digest,
        names: bool = False,
        prefixes: bool = False,
    ) -> None:
        self._keys, self._volume, self._namespace = keys, volume, namespace
        self._rows = LabelRows(keys, volume, namespace)
        self._digest, self._names, self._prefixes = digest, names, prefixes

    async def label(self, number: InodeId) -> Label:
        """What is said of an inode. Raises NotFound, Corrupt."""
        return self._rows.label(await self._rows.one(number))

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
                there = await self._rows.some(some)
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
            there = await self._rows.some(found[first : first + AT_ONCE])
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
            async with aclosing(self._rows.places(row)) as places:
                async for place in places:
                    try:
                        words = words_of.name_words(self._rows.name(row, place)) if self._names else []
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
                row = await self._rows.one(number)
                content = await self._content(row, task.count) if task.change.has_content else None
                if content is not None:  # which may have taken long
                    row = await self._rows.one(number)
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
        before = self._rows.readable(row)
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
        head, known = self._rows.head(row), (self._rows.readable(row) or Label()).content
        if head.kind is not Kind.FILE or (known is not None and known.change == head.change):
            return None
        digest, change = await self._digest(InodeId(row.attributes.inode), count)
        return Content(words_of.content_token(self._keys, self._volume, digest), change)

    async def _below(self, top: InodeId, show: Show) -> list[InodeId]:
        """Everything below a directory, each once, directories before what is in them. Raises TooLarge."""
        (row,) = (await self._namespace.labels([top])).rows or (None,)
        if row is None or row.attributes.kind != Kind.DIRECTORY:
            return []
        found = {top: None}
        async with aclosing(pages_below(self._namespace, top, limit=_PAGE)) as pages:
            async for entries, waiting in pages:
                found |= dict.fromkeys(InodeId(entry.attributes.inode) for entry in entries)
                if len(found) > MOST_BELOW:
                    raise TooLarge(f"more than {MOST_BELOW} files: take the directories in it one by one")
                await show(0, len(found) + waiting, 0)  # never all
        del found[top]
        return list(found)


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
