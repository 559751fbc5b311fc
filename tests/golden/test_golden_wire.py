"""Frozen vectors of what peers keep on disk and what travels: a header page, a token, a receipt, every operation.

If one of these fails, a peer of the version before would not be understood, or its files not read: add fields at the
end, with a default, and leave the vectors alone.
"""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfs.chunks.header import HEADER_BYTES, Header, pack, unpack
from p2pfs.format.chunk import block_hashes, chunk_id
from p2pfs.types import ChunkId, NodeId, PeerNumber, PoolId, VolumeId
from p2pfs.wire import (
    bookings,
    codec,
    delegations,
    events,
    found,
    fsck,
    jobs,
    leases,
    membership,
    namespace,
    offers,
    orders,
    plans,
    search,
    usage,
    usefulness,
    volumes,
)
from p2pfs.wire.chunks import Receipt, Token, receipt_message, token_message

pytestmark = pytest.mark.l0

PATH = Path(__file__).parent / "wire.json"
POOL = PoolId("00112233445566778899aabbccddeeff")
NODE = NodeId("ffeeddccbbaa99887766554433221100")
VOLUME = VolumeId(0x0123456789ABCDEF)
SEALED = bytes(range(256)) * 300
CHUNK = ChunkId(bytes(range(32)))
RECEIPT = Receipt(7, 1234567890123, bytes(range(16)))
TOKEN = Token(0x1122334455667788, NODE, VOLUME, 7, 1 << 30, 1_800_000_000, bytes(range(64)))
ROW = namespace.ExtentRow(3, 5 << 20, CHUNK, b"sealed extent")
OPERATIONS: list[Any] = [
    namespace.Make(1, b"name", 11, b"tag", 10, 1, 0o644, 1000, 1000, 0, b"head", 10**18, b"target", True),
    namespace.Link(1, b"name", 12, b"tag", 10, 10**18),
    namespace.Unlink(1, b"name", 10, False, 10**18),
    namespace.Rename(1, b"old", 10, 2, b"new", 13, b"tag", 9, 2, 10**18, b"back"),
    namespace.SetAttributes(10, 10**18, 0o600, 1, 2, 3, 4),
    namespace.Commit(
        10, 4, 3_145_729, b"head", 10**18, [ROW], [namespace.NewChunk(CHUNK, 76_820, [RECEIPT])], [(3, 1 << 20)],
        b"inline", True, 4, 5 << 20, 0o644,
    ),
    namespace.AddReplicas([namespace.NewChunk(CHUNK, 76_820, [RECEIPT])]),
    namespace.Opened(10),
    namespace.Released(10),
]  # fmt: skip
XATTR_OPERATIONS: list[Any] = [
    namespace.SetXattr(10, b"name", b"value", namespace.XATTR_REPLACE, 10**18),
    namespace.RemoveXattr(10, b"name", 10**18),
]
ATTRIBUTES = namespace.Attributes(
    10, 1, 0o644, 1000, 1000, 0, 1, 77, 5, 6, 1, 2, 3, b"head", b"inline", b"target", 1_900_000_000
)  # fmt: skip
UNLEASED = namespace.Attributes(
    10, 1, 0o644, 1000, 1000, 0, 1, 77, 5, 6, 1, 2, 3, b"head", b"inline", b"target"
)  # fmt: skip
ENTRY = namespace.Entry(11, b"name", b"tag", ATTRIBUTES)
LEASES: list[Any] = [
    leases.Restore(10, 1, b"name", 11, b"tag", 10**18),
    leases.PurgeTrash(10),
    leases.SetLease(10, 1_900_000_000),
]
LEASE_QUESTIONS = [
    leases.ReadTrash(9, 100, 1),
    leases.ReadNames(10, (1, 11)),
    leases.ReadExpiring(2_000_000_000, (5, 6), 100),
]
TRASH_PAGE = namespace.TrashPage([namespace.TrashRow(1, ENTRY, leases.Reason.EXPIRED, 1.8e9, 1.9e9)], True)
EXPIRING_PAGE = namespace.ExpiringPage([namespace.Named(1, ENTRY)], False)
SEARCHES: list[Any] = [
    search.SetLabel(10, 3, b"sealed", [b"tag"], [b"note"], b"content", 5),
    search.IndexName(10, 11, [b"name"]),
]
SEARCH_QUESTIONS = [
    search.Find([b"one", b"two"], (1, 0, 9), 100), search.FindContent(b"content", 9, 100), search.ReadLabels([10, 11]),
]  # fmt: skip
HITS = search.Hits([search.Hit(10, [search.TAG, 11])], [3, 10_000], (1, 0, 10), False)
LABEL_PAGE = found.LabelPage([found.Labelled(UNLEASED, 4, b"sealed", [found.Place(1, 11, b"name", b"tag")], 2)], 3)

MENDS: list[Any] = [
    fsck.Recount(10), fsck.Adopt(10, 1, b"name", 11, b"tag", 10**18), fsck.DropDangling(1, 11),
    fsck.Reseal(10, b"head"),
]  # fmt: skip
CHECKS = [fsck.ReadInodes(9, 500), fsck.ReadDangling((1, 11)), usage.ReadUsage(1, 11), usage.ReadFileUsage(10, 3)]
INODE_PAGE = fsck.InodePage([fsck.InodeFacts(10, 1, 1, 77, 0, 1, 1, fsck.OPEN, True, b"head")], False)
DANGLING_PAGE = fsck.DanglingPage([fsck.Dangling(1, 11, 10, b"name", True)], (1, 11))
USAGE_PAGE = usage.UsagePage([usage.FileUsage(10, 1, 2, 77, 99, [usage.ChunkUsage(5, 76_820, 2)], -1)], 11, True)

ORDERS = orders.Orders(
    [
        orders.Transfer(1, VOLUME, CHUNK, 76_820, [7, 9]), orders.Delete(2, VOLUME, CHUNK, 42),
        orders.Audit(3, VOLUME, CHUNK, 76_820, 1), orders.Digest(4), orders.List(5, 255, (VOLUME, CHUNK)),
        orders.Steer(6, "pause"),
    ]
)  # fmt: skip
REPORT = orders.Report(
    [
        orders.Stored(1, VOLUME, CHUNK, 76_820, RECEIPT), orders.Deleted(2, VOLUME, CHUNK, 42),
        orders.Audited(3, [CHUNK, CHUNK], b"block"), orders.Digested(4, [CHUNK]),
        orders.Listed(5, 42, [orders.Entry(VOLUME, CHUNK, 76_820, 42, 1_800_000_000)], True), orders.Steered(6),
        orders.Failed(8, "NotFound", "no such chunk here", [7]),
    ],
    [9], 12,
)  # fmt: skip
RESOURCES = membership.Resources(1 << 40, 1 << 39, 1 << 34, 1 << 33, 4, 0.25, 5, 6)
HEARTBEAT = membership.Heartbeat(
    ["192.0.2.7:9471", "relay"], 1 << 40, 1 << 30, 4096, 1000, 1.8e9, RESOURCES, 3, 2, [(VOLUME, CHUNK)], "0.1.0", 42,
    run=1 << 62, scrub=membership.Scrub("running", 1, 2, 3, 4, 1.8e9, 0.0, 1), served=[(20_000, NODE, 1 << 30)],
    withdrawn_seq=1 << 33, draining=[5], received=1 << 40, sent=1 << 41,
    offers=[offers.Offered("storage", "bytes", 1 << 40, 4, "1 TiB"), offers.Offered("upload", "bytes/s", None, 5)],
)  # fmt: skip
UNMETERED = msgspec.structs.replace(HEARTBEAT, received=0, sent=0, offers=[])
GAVE = usefulness.Gave(1, 2, 3, 4)
USEFULNESS = usefulness.UsefulnessReport(
    usefulness.Rules("fair", 1.0, 2.0, grant=1 << 30, replicas=3, min_replicas=2, windows=30, half_life=7.0),
    [usefulness.OwnerUsefulness("anna", 0.5, GAVE, 5, 6, 1, 2, allowed=1 << 30, left=7, priority=1)],
    [usefulness.NodeUsefulness(NODE, "anna@nas", "anna", math.inf, GAVE)],
)
HEARTBEAT_ANSWER = membership.HeartbeatAnswer(
    7,
    3,
    CHUNK,
    CHUNK,
    1 << 40,
    5.0,
    membership.Revocations(2, [NODE], ["1f"]),
    1.8e9,
    True,
    "up",
    False,
    1 << 33,
    [(5, 1_800_000_000)],
)
PEER_INFO = membership.PeerInfo(
    7, NODE, "anna@nas", "anna", "home", ["192.0.2.7:9471"], 1 << 40, 1 << 39, "draining", True
)
JOB = jobs.JobInfo(
    9, "repair", "anna@nas", "running", done=1, total=2, done_bytes=3, total_bytes=4, rate=5.0, left_s=6.0,
    started_s=1.8e9, ended_s=None, error="",
)  # fmt: skip
PLAN = plans.PlanAnswer(
    1, 2, short=3, short_bytes=4, unreadable=5, unreadable_bytes=6,
    files=[plans.FilesAtRisk("0123456789abcdef", "photos", "anna", files=1, inodes=[10])], room_bytes=7, staying=2,
    wanted=2, rate=8.0, is_measured=True, thinned=3, replicas=4,
)  # fmt: skip
WAIT = events.WaitEvents(0x1122334455667788, 41, 20.0)
EVENTS = events.Events(
    0x1122334455667788, 45, False,
    [events.ChangedInode(10, 5, 6), events.ChangedInode(11, events.REMOVED, events.REMOVED)],
    [events.ChangedName(1, b"name")], [11],
)  # fmt: skip
BOOK = bookings.Book(50 << 30, 7200.0)
BOOKING = bookings.BookingInfo(3, VOLUME, "anna", 50 << 30, 40 << 30, 1 << 20, 1.8e9, 1.9e9)
DELEGATION = delegations.Delegation(1 << 40, 30.0)
BATCHES = {
    "batch": namespace.Batch(9, 8, OPERATIONS),
    "accessed": namespace.Batch(10, 9, [namespace.Accessed(10, 10**18)]),
    "xattr_batch": namespace.Batch(9, 8, XATTR_OPERATIONS),
    "lease_batch": namespace.Batch(11, 10, LEASES),
    "search_batch": namespace.Batch(12, 11, SEARCHES),
    "mending_batch": namespace.Batch(13, 12, MENDS),
    "delegated_batch": namespace.Batch(9, 8, [namespace.Opened(10)], 1 << 40),
}
BEFORE = {
    "batch_without_epoch": "batch",
    "accessed_without_epoch": "accessed",
    "xattr_batch_without_epoch": "xattr_batch",
    "events_without_recall": "events",
}
"""As the version before wrote them, which had fewer fields: only read."""


def page() -> bytes:
    hashes = tuple(block_hashes(SEALED))
    written = bytearray(HEADER_BYTES)
    pack(Header(VOLUME, chunk_id(hashes), len(SEALED), 42, hashes), memoryview(written))
    return bytes(written)


def made() -> dict[str, str]:
    """Everything as this version writes it."""
    return {
        "header_page": page().hex(),
        "receipt_message": receipt_message(POOL, PeerNumber(7), VOLUME, CHUNK, 76_820, 42).hex(),
        "token_message": token_message(POOL, TOKEN).hex(),
        "receipt": codec.encode(RECEIPT).hex(),
        "token": codec.encode(TOKEN).hex(),
        "applied": codec.encode(namespace.Applied([ATTRIBUTES], [3])).hex(),
        "extent_page": codec.encode(
            namespace.ExtentPage(ATTRIBUTES, [ROW], [namespace.ChunkPlace(CHUNK, 76_820, [1, 7])])
        ).hex(),
        "directory_page": codec.encode(
            namespace.DirectoryPage([namespace.Entry(11, b"name", b"tag", ATTRIBUTES)], True)
        ).hex(),
        "xattr_page": codec.encode(namespace.XattrPage(ATTRIBUTES, [namespace.Xattr(b"name", b"value")])).hex(),
        "listing_question": codec.encode([namespace.ReadDirectory(1, 10, 1000, False)]).hex(),
        "xattr_question": codec.encode([namespace.GetXattrs(10)]).hex(),
        "orders": codec.encode(ORDERS).hex(),
        "report": codec.encode(REPORT).hex(),
        "heartbeat": codec.encode(HEARTBEAT).hex(),
        "renew_session": codec.encode(volumes.RenewSession(3, [(20_000, 7, 1 << 30)])).hex(),
        "usefulness": codec.encode(USEFULNESS).hex(),
        "heartbeat_answer": codec.encode(HEARTBEAT_ANSWER).hex(),
        "peer_info": codec.encode(PEER_INFO).hex(),
        "job": codec.encode(JOB).hex(),
        "plan": codec.encode(PLAN).hex(),
        "lease_questions": codec.encode(LEASE_QUESTIONS).hex(),
        "trash_page": codec.encode(TRASH_PAGE).hex(),
        "expiring_page": codec.encode(EXPIRING_PAGE).hex(),
        "search_questions": codec.encode(SEARCH_QUESTIONS).hex(),
        "hits": codec.encode(HITS).hex(),
        "checks": codec.encode(CHECKS).hex(),
        "inode_page": codec.encode(INODE_PAGE).hex(),
        "dangling_page": codec.encode(DANGLING_PAGE).hex(),
        "usage_page": codec.encode(USAGE_PAGE).hex(),
        "label_page": codec.encode(LABEL_PAGE).hex(),
        "space": codec.encode(namespace.Space(1, 2, 3, 4, 5, 6, 7)).hex(),
        "wait_events": codec.encode(WAIT).hex(),
        "events": codec.encode(EVENTS).hex(),
        "recall": codec.encode(events.Events(1, 2, recall=1 << 40)).hex(),
        "ask_delegation": codec.encode(delegations.AskDelegation(1 << 40)).hex(),
        "delegation": codec.encode(DELEGATION).hex(),
        "return_delegation": codec.encode(delegations.ReturnDelegation(1 << 40, 2.5)).hex(),
        "book": codec.encode(BOOK).hex(),
        "booking": codec.encode(BOOKING).hex(),
        **{name: codec.encode(batch).hex() for name, batch in BATCHES.items()},
    }


VECTORS: dict[str, str] = msgspec.json.decode(PATH.read_bytes()) if PATH.exists() else {}


@pytest.mark.parametrize("name", sorted(made()))
def test_it_is_written_as_ever(name: str) -> None:
    assert made()[name] == VECTORS[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("receipt", RECEIPT),
        ("token", TOKEN),
        ("applied", namespace.Applied([ATTRIBUTES], [3])),
        ("xattr_page", namespace.XattrPage(ATTRIBUTES, [namespace.Xattr(b"name", b"value")])),
        ("orders", ORDERS),
        ("report", REPORT),
        ("heartbeat", HEARTBEAT),
        ("heartbeat_without_reads", msgspec.structs.replace(UNMETERED, served=[], withdrawn_seq=-1, draining=[])),
        ("heartbeat_of_old_tokens", msgspec.structs.replace(UNMETERED, withdrawn_seq=-1, draining=[])),
        ("heartbeat_without_traffic", UNMETERED),
        ("answer_without_tokens", msgspec.structs.replace(HEARTBEAT_ANSWER, withdrawn_seq=0, withdrawn=[])),
        ("renew_session", volumes.RenewSession(3, [(20_000, 7, 1 << 30)])),
        ("usefulness", USEFULNESS),
        ("heartbeat_answer", HEARTBEAT_ANSWER),
        ("peer_info", PEER_INFO),
        ("job", JOB),
        ("plan", PLAN),
        ("plan_without_thinned", msgspec.structs.replace(PLAN, thinned=0, replicas=0)),
        ("trash_page", TRASH_PAGE),
        ("expiring_page", EXPIRING_PAGE),
        ("hits", HITS),
        ("inode_page", INODE_PAGE),
        ("dangling_page", DANGLING_PAGE),
        ("usage_page", USAGE_PAGE),
        ("label_page", LABEL_PAGE),
        ("space", namespace.Space(1, 2, 3, 4, 5, 6, 7)),
        ("space_without_quota", namespace.Space(1, 2, 3, 4)),
        ("applied_without_lease", namespace.Applied([UNLEASED], [3])),
        ("xattr_page_without_lease", namespace.XattrPage(UNLEASED, [namespace.Xattr(b"name", b"value")])),
        ("wait_events", WAIT),
        ("events", EVENTS),
        ("recall", events.Events(1, 2, recall=1 << 40)),
        ("ask_delegation", delegations.AskDelegation(1 << 40)),
        ("delegation", DELEGATION),
        ("return_delegation", delegations.ReturnDelegation(1 << 40, 2.5)),
        ("book", BOOK),
        ("booking", BOOKING),
        *BATCHES.items(),
        *((name, EVENTS if now == "events" else BATCHES[now]) for name, now in BEFORE.items()),
    ],
)
def test_it_is_read_as_ever(name: str, expected: object) -> None:
    assert codec.decode(bytes.fromhex(VECTORS[name]), type(expected)) == expected


@pytest.mark.parametrize("name", BEFORE)
def test_the_version_before_finds_all_it_knows(name: str) -> None:
    before, now = (msgspec.msgpack.decode(bytes.fromhex(VECTORS[one])) for one in (name, BEFORE[name]))
    assert len(before) < len(now)
    assert now[: len(before)] == before


def test_who_asked_for_a_directory_before_content_could_be_left_out_gets_it() -> None:
    assert codec.decode(codec.encode([[3, 1, 10, 1000]]), list[namespace.Question]) == [
        namespace.ReadDirectory(1, 10, 1000, content=True)
    ]


def test_an_old_header_page_is_read() -> None:
    header = unpack(bytes.fromhex(VECTORS["header_page"]))
    assert (header.volume, header.size, header.put_seq) == (VOLUME, len(SEALED), 42)
    assert header.hashes == tuple(block_hashes(SEALED))


def test_fields_of_a_later_version_are_passed_over() -> None:
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(bytes.fromhex(VECTORS["receipt"])), "new"])
    assert codec.decode(longer, Receipt) == RECEIPT


if __name__ == "__main__":
    PATH.write_text(json.dumps({**VECTORS, **made()}, indent=1) + "\n")
