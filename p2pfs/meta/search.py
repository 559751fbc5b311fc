"""Labels and the tokens that inodes are found by: rows of `label` and `keyword`, inside the caller's transaction.

Rows stay as long as their inode, in the trash too; what has no name is not found. The tokens of a name go with the
name, but for the last one, which the trash keeps.
"""

import sqlite3
from typing import Final

from p2pfs.errors import Conflict, Misuse
from p2pfs.meta import chunks_index, inodes, keywords
from p2pfs.meta.work import Work
from p2pfs.types import VolumeId
from p2pfs.wire.found import MOST_PLACES, Labelled, LabelPage, Place
from p2pfs.wire.namespace import Attributes
from p2pfs.wire.search import (
    MOST_ASKED,
    MOST_COUNTED,
    MOST_TOKENS,
    NOTE,
    TAG,
    Find,
    FindContent,
    Hit,
    Hits,
    IndexName,
    ReadLabels,
    SetLabel,
)

TOKEN_BYTES: Final = 16
MAX_SEALED_LABEL_BYTES: Final = 32 << 10
MOST_KEYWORDS: Final = 8192
"""Rows of one inode, whatever its names: they go in one transaction. What is beyond is not found."""
MAX_PAGE: Final = 1000
SCANNED: Final = 5000
"""Rows of the rarest token that one question looks at for one token; for more that many times fewer, as each row is
looked up among the others. Within about 10 ms; then the page ends, however few were found."""
MOST_LABELS: Final = 100
PAGE_BYTES: Final = 1 << 20
"""Labels and heads beyond which a page ends early."""
COPIES_OF: Final = 256
"""Extents of a file whose copies are counted: so many rows, not so many chunks, of which there may be one."""
MOST_COPIES_OF: Final = 10_000
"""Extents and their chunks' copies of all files of a page together, within about 5 ms; then it ends early."""


# ---- changes --------------------------------------------------------------------------------------------------------


def set_label(work: Work, operation: SetLabel) -> None:
    """Another label, or none: the row stays then, so that its revision never comes again."""
    _check_label(operation)
    work.inode(operation.inode)
    at = work.volume, operation.inode
    row = work.connection.execute("SELECT revision FROM label WHERE volume = ? AND inode = ?", at).fetchone()
    if (row[0] if row else 0) != operation.revision:
        raise Conflict("somebody else labelled this meanwhile")
    work.connection.execute("DELETE FROM keyword WHERE volume = ? AND inode = ? AND place IN (0, 1)", at)
    work.connection.execute(
        "INSERT OR REPLACE INTO label VALUES (?, ?, ?, ?, ?, ?)",
        (*at, operation.revision + 1, operation.sealed, operation.content or None, operation.change),
    )
    _add(work, operation.inode, TAG, operation.tags)
    _add(work, operation.inode, NOTE, operation.note)


def index_name(work: Work, operation: IndexName) -> None:
    """Other tokens of a name."""
    _check_tokens(operation.tokens)
    there = work.connection.execute(
        "SELECT 1 FROM dentry INDEXED BY dentry_inode WHERE volume = ? AND inode = ? AND dentry = ?",
        (work.volume, operation.inode, operation.dentry),
    ).fetchone()
    if there is None:
        return
    keywords.drop_name(work.connection, work.volume, operation.inode, dentry=operation.dentry)
    _add(work, operation.inode, operation.dentry, operation.tokens)


def _check_label(operation: SetLabel) -> None:
    _check_tokens(operation.tags)
    _check_tokens(operation.note)
    if len(operation.sealed) > MAX_SEALED_LABEL_BYTES or operation.revision < 0:
        raise Misuse("this is no sealed label")
    if operation.content and len(operation.content) != TOKEN_BYTES:
        raise Misuse("this is no token")
    if not operation.sealed and (operation.tags or operation.note or operation.content):
        raise Misuse("tokens of no label")


def _check_tokens(tokens: list[bytes]) -> None:
    if len(tokens) > MOST_TOKENS or any(len(token) != TOKEN_BYTES for token in tokens):
        raise Misuse(f"tokens have {TOKEN_BYTES} bytes, and there are at most {MOST_TOKENS}")


def _add(work: Work, inode: int, place: int, tokens: list[bytes]) -> None:
    if not tokens:
        return
    (there,) = work.connection.execute(
        "SELECT count(*) FROM keyword WHERE volume = ? AND inode = ?", (work.volume, inode)
    ).fetchone()
    work.connection.executemany(
        "INSERT OR IGNORE INTO keyword VALUES (?, ?, ?, ?)",
        [(work.volume, token, place, inode) for token in tokens[: max(0, MOST_KEYWORDS - there)]],
    )


# ---- questions ------------------------------------------------------------------------------------------------------


def find(connection: sqlite3.Connection, volume: VolumeId, question: Find) -> Hits:
    """See Namespace.find."""
    if not 1 <= len(question.tokens) <= MOST_ASKED or question.limit < 1:
        raise Misuse(f"1 to {MOST_ASKED} tokens are looked for")
    often = {token: _count(connection, volume, token) for token in set(question.tokens)}
    counts = [often[token] for token in question.tokens]
    driver, _, goes_on = question.after
    if not goes_on:
        driver = counts.index(min(counts))
    elif not 0 <= driver < len(question.tokens):  # else as before: counts may have changed, the order must not
        raise Misuse("this page follows no other")
    return _page(connection, volume, question, question.tokens[driver], counts)


def _page(connection: sqlite3.Connection, volume: VolumeId, question: Find, rarest: bytes, counts: list[int]) -> Hits:
    _, place, inode = question.after
    limit = min(question.limit, MAX_PAGE)
    last = connection.execute(
        "SELECT place, inode FROM keyword WHERE volume = ? AND token = ? AND (place, inode) > (?, ?)"
        " ORDER BY place, inode LIMIT 1 OFFSET ?",
        (volume, rarest, place, inode, max(1, SCANNED // len(question.tokens)) - 1),
    ).fetchone()
    others = list(dict.fromkeys(token for token in question.tokens if token != rarest))
    best = "(SELECT min(o.place) FROM keyword o INDEXED BY keyword_inode"
    columns = "".join(
        f", {best} WHERE o.volume = k.volume AND o.inode = k.inode AND o.token = ?) p{at}" for at in range(len(others))
    )
    wanted = "".join(f" AND p{at} IS NOT NULL" for at in range(len(others)))
    bound = "AND (k.place, k.inode) <= (?, ?)" if last else ""
    cursor = connection.execute(
        f"SELECT k.place, k.inode{columns} FROM keyword k WHERE k.volume = ? AND k.token = ?"
        f" AND (k.place, k.inode) > (?, ?) {bound}{wanted} AND EXISTS (SELECT 1 FROM inode i"
        " WHERE i.volume = k.volume AND i.inode = k.inode AND i.links > 0) ORDER BY k.place, k.inode LIMIT ?",
        (*others, volume, rarest, place, inode, *(last or ()), limit + 1),
    ).fetchall()
    at_of = [[rarest, *others].index(token) for token in question.tokens]
    hits = [Hit(number, [(place, *best_of)[at] for at in at_of]) for place, number, *best_of in cursor[:limit]]
    driver = question.tokens.index(rarest)
    if len(cursor) > limit:
        at, number = cursor[limit - 1][:2]
        return Hits(hits, counts, (driver, at, number), False)
    return Hits(hits, counts, (driver, *last) if last else (0, 0, 0), last is None)


def _count(connection: sqlite3.Connection, volume: VolumeId, token: bytes) -> int:
    row = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM keyword WHERE volume = ? AND token = ? LIMIT ?)",
        (volume, token, MOST_COUNTED),
    ).fetchone()
    return int(row[0])


def find_content(connection: sqlite3.Connection, volume: VolumeId, question: FindContent) -> list[int]:
    """See Namespace.find_content."""
    if question.limit < 1:
        raise Misuse("a page has at least one row")
    rows = connection.execute(
        "SELECT l.inode, i.links > 0 FROM label l INDEXED BY label_content"
        " JOIN inode i ON i.volume = l.volume AND i.inode = l.inode"
        " WHERE l.volume = ? AND l.content = ? AND l.inode > ? ORDER BY l.inode LIMIT ?",
        (volume, question.token, question.after, SCANNED),
    )
    found: list[int] = []
    for at, (inode, is_named) in enumerate(rows, 1):
        if is_named or at == SCANNED:  # the last one looked at, whatever it is: others may follow
            found.append(inode)
        if len(found) >= min(question.limit, MAX_PAGE):
            break
    return found


def labels(connection: sqlite3.Connection, volume: VolumeId, question: ReadLabels) -> LabelPage:
    """See Namespace.labels."""
    if len(question.inodes) > MOST_LABELS:
        raise Misuse(f"at most {MOST_LABELS} labels are told at once")
    rows: dict[int, Labelled | None] = {}  # None: it has no name
    room, counts, done = PAGE_BYTES, MOST_COPIES_OF, 0
    for inode in question.inodes:
        if room < 0 or counts < 0:
            break
        done += 1
        if inode in rows:
            continue
        rows[inode], looked_at = _labelled(connection, volume, inode)
        counts -= looked_at
        if (found := rows[inode]) is not None:
            room -= len(found.sealed) + inodes.weight(found.attributes)
    return LabelPage([found for found in rows.values() if found is not None], done)


def _labelled(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> tuple[Labelled | None, int]:
    """What is told of it, and how many rows its copies took."""
    row = inodes.load(connection, volume, inode)
    if row is None or row.links == 0:
        return None, 0
    of: Attributes = inodes.attributes(connection, volume, row, content=False)
    label = connection.execute(
        "SELECT revision, sealed FROM label WHERE volume = ? AND inode = ?", (volume, inode)
    ).fetchone()
    places = connection.execute(
        "SELECT parent, dentry, name, tag FROM dentry INDEXED BY dentry_inode WHERE volume = ? AND inode = ?"
        " ORDER BY parent, dentry LIMIT ?",
        (volume, inode, MOST_PLACES),
    )
    revision, sealed = label or (0, b"")
    copies, looked_at = _copies(connection, volume, inode)
    return Labelled(of, revision, sealed, [Place(*place) for place in places], copies), looked_at


def _copies(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> tuple[int, int]:
    """The fewest copies of a chunk of its first extents, and how many rows that took. What an inode says of its size
    bounds nothing: its mount wrote that, and the extents too."""
    fewest, extents, copies = connection.execute(
        "SELECT min(copies), sum(extents), sum(copies) FROM (SELECT count(*) extents, CASE WHEN e.chunk IS NOT NULL"
        f" THEN (SELECT count(*) FROM replica r WHERE r.chunk = e.chunk AND {chunks_index.COUNTS}) END copies"
        " FROM (SELECT chunk FROM extent WHERE volume = ? AND inode = ? ORDER BY mib, seq LIMIT ?) e GROUP BY e.chunk)",
        (volume, inode, COPIES_OF),
    ).fetchone()
    return -1 if fewest is None else fewest, (extents or 0) + (copies or 0)
