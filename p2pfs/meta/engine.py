"""The rules of the namespace as SQL: which function does which operation, and which answers which question.

`apply` runs inside a write transaction that `sessions.apply_batch` has opened a batch in, `answer` inside any
transaction. The functions themselves are in `tree`, `content` and `questions`.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from p2pfs.errors import Misuse, PoolError
from p2pfs.meta import content, fsck, leases, questions, search, trash, tree, usage, xattrs
from p2pfs.meta.work import MAX_ANSWER_BYTES, Work
from p2pfs.types import VolumeId
from p2pfs.wire import answers
from p2pfs.wire.answers import Answer
from p2pfs.wire.fsck import Adopt, DropDangling, ReadDangling, ReadInodes, Recount, Reseal
from p2pfs.wire.leases import PurgeTrash, ReadExpiring, ReadNames, ReadTrash, Restore, SetLease
from p2pfs.wire.namespace import (
    Accessed,
    AddReplicas,
    Applied,
    Commit,
    GetAttributes,
    GetSpace,
    GetXattrs,
    Link,
    Locate,
    Lookup,
    Make,
    NewChunk,
    Opened,
    Operation,
    Question,
    ReadDirectory,
    ReadExtents,
    Released,
    RemoveXattr,
    Rename,
    SetAttributes,
    SetXattr,
    Unlink,
)
from p2pfs.wire.search import Find, FindContent, IndexName, ReadLabels, SetLabel, rows
from p2pfs.wire.usage import ReadFileUsage, ReadUsage

MAX_OPERATIONS: Final = 1000
MAX_ROWS: Final = 50_000
"""Most extents, dropped extents, chunks, receipts, tokens and parts of extended attributes of a batch together: at
worst half a second of the one writer everybody waits for. A mount commits at most 20 000 extents at once."""
ROW_BYTES: Final = 256
"""So much of an extended attribute counts as one of those rows."""
MAX_QUESTIONS: Final = 1000

_OPERATIONS: Final[dict[type, Callable[[Work, Any], None]]] = {
    Make: tree.make,
    Link: tree.link,
    Unlink: tree.unlink,
    Rename: tree.rename,
    SetAttributes: content.set_attributes,
    Commit: content.commit,
    AddReplicas: content.add_replicas,
    Opened: content.opened,
    Released: content.released,
    Accessed: content.accessed,
    SetXattr: xattrs.set_xattr,
    RemoveXattr: xattrs.remove_xattr,
    Restore: tree.restore,
    PurgeTrash: tree.purge_trash,
    SetLease: leases.set_lease,
    SetLabel: search.set_label,
    IndexName: search.index_name,
    Recount: fsck.recount,
    Adopt: fsck.adopt,
    DropDangling: fsck.drop_dangling,
    Reseal: fsck.reseal,
}

_MENDS: Final = (Recount, Adopt, DropDangling, Reseal)
"""They count what is in the database, where the other operations of a batch are not yet; and counting takes long."""

_QUESTIONS: Final[dict[type, Callable[[sqlite3.Connection, VolumeId, Any], Any]]] = {
    Lookup: questions.lookup,
    GetAttributes: questions.attributes,
    ReadDirectory: questions.directory,
    ReadExtents: questions.extents,
    Locate: questions.locate,
    GetXattrs: xattrs.xattrs,
    ReadTrash: trash.page,
    ReadNames: leases.names,
    ReadExpiring: leases.expiring,
    Find: search.find,
    FindContent: search.find_content,
    ReadLabels: search.labels,
    ReadInodes: fsck.inode_page,
    ReadDangling: fsck.dangling,
    ReadUsage: usage.directory,
    ReadFileUsage: usage.file,
}

_OUT_OF_RANGE: Final = "a number does not fit into 63 bits"


def check(operations: Sequence[Operation]) -> None:
    """Whether a batch may take its turn; looks at sizes only. Raises Misuse."""
    if len(operations) > MAX_OPERATIONS:
        raise Misuse(f"a batch has at most {MAX_OPERATIONS} operations")
    if sum(_rows(operation) for operation in operations) > MAX_ROWS:
        raise Misuse(f"a batch has at most {MAX_ROWS} extents, chunks, receipts and parts of attributes")
    if len(operations) > 1 and any(isinstance(operation, _MENDS) for operation in operations):
        raise Misuse("what mends a volume is a batch of its own")


def _rows(operation: Operation) -> int:
    match operation:
        case Commit():
            return len(operation.extents) + len(operation.drop) + _proofs(operation.chunks)
        case AddReplicas():
            return _proofs(operation.chunks)
        case SetXattr():
            return 1 + (len(operation.name) + len(operation.value)) // ROW_BYTES
        case _:
            return rows(operation)


def _proofs(chunks: Sequence[NewChunk]) -> int:
    return len(chunks) + sum(len(new.receipts) for new in chunks)


def apply(work: Work, operations: Sequence[Operation]) -> Applied:
    """Do all operations in order. On any error the caller undoes the transaction.

    Raises:
        Semantic: What the first refused operation raises.
        Misuse: An operation breaks the protocol.
    """
    check(operations)
    try:
        for operation in operations:
            _OPERATIONS[type(operation)](work, operation)
        return work.finish()
    except OverflowError:  # sqlite3 refuses integers beyond its own
        raise Misuse(_OUT_OF_RANGE) from None


def answer(
    connection: sqlite3.Connection, volume: VolumeId, question: Question, *, room: tuple[int, int] | None = None
) -> Any:  # noqa: ANN401 - the message that belongs to the question
    """The message that answers a question. Raises what the question says, and Misuse.

    `room` is (total, free) bytes after replication; None takes what the peers' rows say (`room.room`).
    """
    try:
        if isinstance(question, GetSpace):
            return questions.space(connection, volume, room)
        return _QUESTIONS[type(question)](connection, volume, question)
    except OverflowError:
        raise Misuse(_OUT_OF_RANGE) from None


def answer_all(
    connection: sqlite3.Connection,
    volume: VolumeId,
    asked: Sequence[Question],
    *,
    room: tuple[int, int] | None = None,
    most_bytes: int = MAX_ANSWER_BYTES,
) -> list[Answer]:
    """The answers to a list of questions from one state, refusals among them. What `POST …/questions` returns.

    Raises:
        Misuse: So much was asked for that the answer would be longer than `most_bytes`.
    """
    if len(asked) > MAX_QUESTIONS:
        raise Misuse(f"at most {MAX_QUESTIONS} questions can be asked at once")
    given = []
    for question in asked:
        try:
            given.append(answers.answer(answer(connection, volume, question, room=room)))
        except PoolError as error:
            given.append(answers.refusal(error))
        most_bytes -= len(memoryview(given[-1].value))
        if most_bytes < 0:
            raise Misuse("these answers would be too long: ask for fewer at once")
    return given
