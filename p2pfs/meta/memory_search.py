"""Labels and tokens over dictionaries: the part of `memory_rules` that search is about."""

from collections.abc import Sequence

from msgspec.structs import replace

from p2pfs.errors import Conflict, Misuse
from p2pfs.meta.memory_state import BatchLog, MemoryState, Name
from p2pfs.wire.found import MOST_PLACES, Labelled, LabelPage, Place
from p2pfs.wire.search import MOST_COUNTED, NOTE, TAG, Hit, Hits, IndexName, SetLabel


class MemorySearch(MemoryState):
    """See Namespace for the questions and wire.search for the operations."""

    def set_label(self, batch: BatchLog, op: SetLabel) -> None:
        _check(op.tags, op.note, [op.content] if op.content else [])
        if len(op.sealed) > 32 << 10 or op.revision < 0:
            raise Misuse("this is no sealed label")
        if not op.sealed and (op.tags or op.note or op.content):
            raise Misuse("tokens of no label")
        self.attributes(op.inode)
        revision = self._labels[op.inode][0] if op.inode in self._labels else 0
        if revision != op.revision:
            raise Conflict("labelled meanwhile")
        self.put(batch, self._labels, op.inode, value=(revision + 1, op))
        self._put_words(batch, op.inode, TAG, op.tags)
        self._put_words(batch, op.inode, NOTE, op.note)

    def index_name(self, batch: BatchLog, op: IndexName) -> None:
        _check(op.tokens)
        if any(named.entry.dentry == op.dentry for named in (self.names(op.inode) if op.inode in self._inodes else ())):
            self._put_words(batch, op.inode, op.dentry, op.tokens)

    def exchange_names(self, batch: BatchLog, one: Name, two: Name) -> None:
        was = [self._words.get(name.inode, {}).get(name.dentry) for name in (one, two)]
        for name, other, words in ((one, two, was[0]), (two, one, was[1])):
            self.drop_words(batch, name.inode, name.dentry)
            if words is not None:
                self._put_words(batch, other.inode, name.dentry, list(words))

    def _put_words(self, batch: BatchLog, inode: int, place: int, tokens: Sequence[bytes]) -> None:
        if inode not in self._words:
            self.put(batch, self._words, inode, value={})
        self.put(batch, self._words[inode], place, value=frozenset(tokens))

    def find(self, tokens: Sequence[bytes], after: tuple[int, int, int], limit: int) -> Hits:
        """See Namespace; `after` is about all, the rarest token's best places first."""
        if not 1 <= len(tokens) <= 16 or limit < 1:
            raise Misuse("1 to 16 tokens")
        holders = [
            sorted((place, i) for i, of in self._words.items() for place, words in of.items() if token in words)
            for token in tokens
        ]
        kept = [words for lost in self._trash.values() if lost.was for words in (lost.was[-1] or {}).values()]
        in_trash = [sum(token in words for words in kept) for token in tokens]
        counts = [min(len(rows) + more, MOST_COUNTED) for rows, more in zip(holders, in_trash, strict=True)]
        driver = after[0] if after[2] else counts.index(min(counts))
        if not 0 <= driver < len(tokens):
            raise Misuse("follows nothing")
        found = [
            (place, inode)
            for place, inode in holders[driver]
            if (place, inode) > after[1:] and self._is_named(inode) and all(self._best(inode, t) >= 0 for t in tokens)
        ]
        hits = [
            Hit(i, [place if t == tokens[driver] else self._best(i, t) for t in tokens]) for place, i in found[:limit]
        ]
        is_all = len(found) <= limit
        return Hits(hits, counts, (0, 0, 0) if is_all else (driver, *found[limit - 1]), is_all)

    def find_content(self, token: bytes, after: int, limit: int) -> list[int]:
        """See Namespace."""
        if limit < 1:
            raise Misuse("a page has at least one row")
        having = (i for i, (_, label) in self._labels.items() if label.content == token)
        return sorted(i for i in having if i > after and self._is_named(i))[:limit]

    def labels(self, inodes: Sequence[int]) -> LabelPage:
        """See Namespace."""
        if len(inodes) > 100:
            raise Misuse("too many at once")
        once = dict.fromkeys(inodes)
        return LabelPage([self._labelled(inode) for inode in once if self._is_named(inode)], len(inodes))

    def _labelled(self, inode: int) -> Labelled:
        row = replace(self._inodes[inode], inline=None, target=None)
        revision, label = self._labels.get(inode, (0, None))
        names = self.names(inode)[:MOST_PLACES]
        places = [Place(one.parent, one.entry.dentry, one.entry.name, one.entry.tag) for one in names]
        chunks = [extent.chunk for extent in self._extents.get(inode, {}).values() if extent.chunk is not None]
        copies = min((len(self._chunks[chunk].holders) for chunk in chunks), default=-1)
        return Labelled(row, revision, label.sealed if label else b"", places, copies)

    def _is_named(self, inode: int) -> bool:
        return inode in self._inodes and self._inodes[inode].links > 0

    def _best(self, inode: int, token: bytes) -> int:
        """The best place where the inode has a token; -1: it has it nowhere."""
        return min((place for place, words in self._words.get(inode, {}).items() if token in words), default=-1)


def _check(*tokens: Sequence[bytes]) -> None:
    if any(len(some) > 2048 or any(len(token) != 16 for token in some) for some in tokens):
        raise Misuse("these are no tokens")
