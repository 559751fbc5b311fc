"""Every copy of every chunk, from its own holder: who lies, lost it or is silent is found, and the whole one opens."""

import pytest
import trio

from p2pfs.chunks.protocol import Blocks, Check
from p2pfs.errors import Misuse, NotFound, PoolError, Unavailable
from p2pfs.format.chunk import seal
from p2pfs.format.extents import Extent, seal_extent
from p2pfs.format.heads import Head, seal_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.types import ChunkId, InodeId, Kind, PeerNumber, VolumeId
from p2pfs.vfs.fsck.asking import Asked
from p2pfs.vfs.fsck.copies import Chunks
from p2pfs.vfs.fsck.findings import Code, Findings, Remedy
from p2pfs.vfs.fsck.walk import Item
from p2pfs.wire import answers
from p2pfs.wire.answers import Answer
from p2pfs.wire.membership import PeerInfo, PoolMap
from p2pfs.wire.namespace import Attributes, ChunkPlace, ExtentPage, GetAttributes, Question, Space

pytestmark = pytest.mark.l0

VOLUME, FILE = VolumeId(7), InodeId(10)
KEYS = VolumeKeys.derive(bytes(range(32)))
CHUNK = seal(KEYS, [b"content" * 1000])
SEALED = bytes(CHUNK.data)


class Peer:
    """Answers with some bytes, or with an error; `asked` counts."""

    def __init__(self, answer: bytes | PoolError) -> None:
        self.answer, self.asked = answer, 0

    async def get(
        self, _volume: VolumeId, _chunk: ChunkId, _size: int, _blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if isinstance(self.answer, PoolError):
            raise self.answer
        assert check is not None
        check(memoryview(self.answer))
        return memoryview(self.answer)


def flipped(at: int) -> bytes:
    return SEALED[:at] + bytes((SEALED[at] ^ 1,)) + SEALED[at + 1 :]


async def checked(
    peers: dict[int, Peer],
    *,
    states: dict[int, str] | None = None,
    key: bytes = CHUNK.key,
    replicas: int = 2,
    times: int = 1,
) -> Findings:
    """Check the copies of one chunk that all of them are said to have."""
    infos = [
        PeerInfo(number, "", f"peer-{number}", "anna", "", ["x:1"], 1, 1, (states or {}).get(number, "up"))
        for number in peers
    ]
    pool, findings = PoolMap("", 1, 1, replicas, 1, infos), Findings()
    stores = {PeerNumber(number): peer for number, peer in peers.items()}
    chunks = Chunks(KEYS, VOLUME, pool, stores.get, findings, data=True)  # type: ignore[arg-type]
    for number in range(times):
        chunk = CHUNK.id if not number else ChunkId(bytes((number,)) * 32)
        row = seal_extent(KEYS, VOLUME, FILE, Extent(0, 1, 0, 7000, chunk, 0, key))  # type: ignore[arg-type]
        head = Head(1, 7000, Kind.FILE)
        attributes = Attributes(
            FILE, Kind.FILE, 0, 0, 0, 0, 1, 7000, 1, 0, 0, 0, 0, seal_head(KEYS, VOLUME, FILE, head)
        )  # fmt: skip
        place = ChunkPlace(chunk, len(SEALED), list(peers))
        chunks.page(Item(b"/f", attributes, None, head), head, ExtentPage(attributes, [row], [place]))
    await chunks.run()
    chunks.finish()
    return findings


def said(findings: Findings) -> list[tuple[Code, int | None, Remedy]]:
    return sorted((one.code, one.peer, one.remedy) for one in findings.kept if one.code is not Code.SHORT)


async def test_whole_copies_are_counted_and_opened_once() -> None:
    findings = await checked({1: Peer(SEALED), 2: Peer(SEALED)})
    assert findings.kept == []
    assert (findings.tally.chunks, findings.tally.copies, findings.tally.bytes_read) == (1, 2, 2 * len(SEALED))


@pytest.mark.parametrize("at", [0, len(SEALED) // 2, len(SEALED) - 1])
async def test_a_flipped_bit_is_found_on_whichever_peer(at: int) -> None:
    for liar in (1, 2):
        findings = await checked({peer: Peer(flipped(at) if peer == liar else SEALED) for peer in (1, 2)})
        assert said(findings) == [(Code.COPY, liar, Remedy.COPY)]


async def test_what_is_missing_can_be_stored_again_while_one_is_whole() -> None:
    assert said(await checked({1: Peer(NotFound("")), 2: Peer(SEALED)})) == [(Code.COPY, 1, Remedy.COPY)]
    lost = await checked({1: Peer(NotFound("")), 2: Peer(flipped(5))})
    assert said(lost) == [(Code.COPY, 1, Remedy.NONE), (Code.COPY, 2, Remedy.NONE), (Code.LOST, None, Remedy.NONE)]


async def test_a_silent_peer_is_told_of_once_and_not_waited_for_without_end() -> None:
    silent, other = Peer(Unavailable("")), Peer(SEALED)
    findings = await checked({1: silent, 2: other}, times=40)
    assert silent.asked < 10
    (one,) = [one for one in findings.kept if one.code is Code.UNCHECKED]
    assert one.peer == 1
    assert one.message.startswith("40 copies on peer-1")


async def test_who_is_down_is_not_asked() -> None:
    down = Peer(SEALED)
    findings = await checked({1: down, 2: Peer(SEALED)}, states={1: "down"})
    assert said(findings) == [(Code.UNCHECKED, 1, Remedy.NONE)]
    assert down.asked == 0
    assert Code.LOST in {one.code for one in (await checked({1: Peer(SEALED)}, states={1: "down"})).kept}


async def test_a_chunk_that_does_not_open_is_told_from_a_damaged_copy() -> None:
    assert said(await checked({1: Peer(SEALED), 2: Peer(SEALED)}, key=bytes(32))) == [(Code.BLOCK, None, Remedy.NONE)]


async def test_too_few_copies_are_told_by_the_index() -> None:
    findings = await checked({1: Peer(SEALED)}, replicas=2)
    assert findings.kept == []  # a pool of one peer wants no more
    more = await checked({1: Peer(SEALED), 2: Peer(SEALED), 3: Peer(SEALED)}, replicas=3)
    assert more.kept == []


async def test_what_is_too_long_for_one_answer_is_asked_for_in_parts() -> None:
    asked: list[int] = []

    class Calls:
        async def ask(self, _method: str, _path: str, questions: list[Question], _kind: object) -> list[Answer]:
            asked.append(len(questions))
            if len(questions) > 3:
                raise Misuse("too long")
            return [answers.answer(Space(1, 2, 3)) for _ in questions]

    found = await Asked(Calls(), VOLUME, KEYS).ask_all([GetAttributes(1)] * 10, Space)  # type: ignore[arg-type]
    assert found == [Space(1, 2, 3)] * 10
    assert max(size for size in asked if size <= 3) <= 3 < asked[0]
