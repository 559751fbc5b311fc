"""What a store says it holds and proves it holds: digests, listings, audits."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from bits import flipped
from plugins.checklogs import Claims
from sealed import OTHER_VOLUME, VOLUME, Sealed, sealed

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.files import Held
from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.inventory import MOST_LISTED
from p2pfs.chunks.receipts import sign_for
from p2pfs.errors import Corrupt, Misuse, NotFound
from p2pfs.format.chunk import block_hashes, check_audit, chunk_id
from p2pfs.format.inventory import BUCKETS, EMPTY, bucket_of, digest
from p2pfs.types import GIB, KIB, MIB, ChunkId, PeerNumber, VolumeId

pytestmark = pytest.mark.l0

Key = tuple[VolumeId, ChunkId]


async def opened(root: Path, disk: Disk | None = None) -> DirectoryStore:
    return await DirectoryStore.open(root, sign=sign_for(PeerNumber(1)), capacity=GIB, disk=disk)


def path_of(root: Path, volume: VolumeId, chunk: ChunkId) -> Path:
    return root / f"{volume:016x}" / chunk.hex()[:2] / chunk.hex()[2:]


def alike(count: int) -> Iterator[Sealed]:
    """Chunks of one bucket."""
    seed = found = 0
    while found < count:
        chunk = sealed(seed, 10)
        seed += 1
        if chunk.id[0] < 8 and bucket_of(chunk.id) == bucket_of(sealed(FIRST, 10).id):
            found += 1
            yield chunk


FIRST = next(seed for seed in range(1000) if sealed(seed, 10).id[0] < 8)
BUCKET = bucket_of(sealed(FIRST, 10).id)


# ---- digests --------------------------------------------------------------------------------------------------------


def test_a_digest_is_of_the_set_and_not_of_its_order() -> None:
    keys: list[Key] = [(VolumeId(1 + seed % 3), sealed(seed, 10).id) for seed in range(9)]
    whole = digest(keys)
    assert whole == digest(reversed(keys)) == digest(keys[4:], digest(keys[:4]))
    assert digest([]) == EMPTY
    assert digest(keys[:1], whole) == digest(keys[1:])  # removing is adding once more
    assert len({digest(keys[:at]) for at in range(10)}) == 10


def test_a_digest_tells_volumes_apart() -> None:
    chunk = sealed(1, 10).id
    assert digest([(VOLUME, chunk)]) != digest([(OTHER_VOLUME, chunk)])


def test_the_digest_is_frozen() -> None:
    """Both sides compute it: another one would make every bucket of every peer be listed."""
    found = digest([(VolumeId(7), ChunkId(bytes(range(32)))), (VolumeId(1 << 62), ChunkId(bytes(32)))])
    assert found.hex() == "a5ee6cf3ff231b345124c8523b2bbc454781d2542f606661737ba2d4b57ad4c1"


async def test_the_digests_of_a_store_are_those_of_what_it_holds(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    assert await store.digests() == [EMPTY] * BUCKETS
    held: list[Key] = []
    for seed in range(30):
        chunk, volume = sealed(seed, 10), (VOLUME, OTHER_VOLUME)[seed % 2]
        (receipt,) = await store.put(volume, chunk.id, [chunk.data])
        if seed % 5:
            held.append((volume, chunk.id))
        else:
            await store.delete(volume, chunk.id, receipt.put_seq)
    (tmp_path / f"{VOLUME:016x}" / "00" / "not a chunk").write_bytes(b"")
    (tmp_path / "not a volume").mkdir()
    expected = [digest(key for key in held if bucket_of(key[1]) == bucket) for bucket in range(BUCKETS)]
    assert await store.digests() == expected
    assert await (await opened(tmp_path)).digests() == expected


async def test_no_step_through_a_store_is_longer_than_a_directory(tmp_path: Path) -> None:
    """However many chunks there are: the disk's deadline is for each step."""
    store = await opened(tmp_path)
    chunk = sealed(1, 10)
    for volume in (VOLUME, OTHER_VOLUME):
        await store.put(volume, chunk.id, [chunk.data])
    listdir, hop = os.listdir, store.inventory._hop
    read: list[object] = []
    steps: list[int] = []

    async def counting(work: Callable[[], object]) -> object:
        before = len(read)
        result = await hop(work)
        steps.append(len(read) - before)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", lambda path: read.append(path) or listdir(path))
        patch.setattr(store.inventory, "_hop", counting)
        await store.digests()
    assert steps == [1] * (1 + 2 * BUCKETS)


# ---- listings -------------------------------------------------------------------------------------------------------


async def test_a_listing_says_what_the_headers_say(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    expected: dict[int, list[Held]] = {}
    for volume in (VOLUME, OTHER_VOLUME):
        for seed in range(20):
            chunk = sealed(seed, 1000 + seed)
            (receipt,) = await store.put(volume, chunk.id, [chunk.data])
            os.utime(path_of(tmp_path, volume, chunk.id), (0, 1_700_000_000.9 + seed))
            held = Held(volume, chunk.id, chunk.size, receipt.put_seq, 1_700_000_000 + seed)
            expected.setdefault(bucket_of(chunk.id), []).append(held)
    for bucket in range(BUCKETS):
        listing = await store.listed(bucket)
        assert listing.entries == sorted(expected.get(bucket, []), key=lambda held: (held.volume, held.chunk))
        assert not listing.more
        assert listing.settled_seq == receipt.put_seq


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
async def test_a_listing_can_be_read_in_pages(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs.chunks.inventory._HEADS", 2)
    store = await opened(tmp_path)
    keys: list[Key] = []
    for volume in (VOLUME, OTHER_VOLUME):
        for chunk in alike(4):
            await store.put(volume, chunk.id, [chunk.data])
            keys.append((volume, chunk.id))
    found: list[Key] = []
    for _ in range(20):
        page = await store.listed(BUCKET, after=found[-1] if found else None, limit=limit)
        assert len(page.entries) <= limit
        found += [(held.volume, held.chunk) for held in page.entries]
        if not page.more:
            break
    assert found == sorted(keys)
    assert digest(found) == (await store.digests())[BUCKET]


async def test_a_page_in_which_everything_vanished_does_not_end_the_listing(tmp_path: Path) -> None:
    """`more` is about names, so a caller who continues behind the last entry it saw misses nothing."""
    store = await opened(tmp_path)
    chunks = sorted(alike(4), key=lambda chunk: chunk.id)
    for chunk in chunks:
        await store.put(VOLUME, chunk.id, [chunk.data])

    class Vanishing(Disk):
        def open(self, path: Path, *, direct: bool = False) -> int:
            if path == path_of(tmp_path, VOLUME, chunks[1].id):
                path.unlink(missing_ok=True)
            return super().open(path, direct=direct)

    store._files._disk = Vanishing()
    page = await store.listed(BUCKET, limit=3)
    assert [held.chunk for held in page.entries] == [chunks[0].id, chunks[2].id]
    assert page.more
    rest = await store.listed(BUCKET, after=(VOLUME, chunks[2].id), limit=3)
    assert [held.chunk for held in rest.entries] == [chunks[3].id]


async def test_a_put_under_way_is_above_what_a_listing_has_settled(tmp_path: Path) -> None:
    """Else the coordinator would take a chunk whose receipt it has for lost."""
    store, (first, second) = await opened(tmp_path), alike(2)
    await store.put(VOLUME, first.id, [first.data])
    names = store.inventory.names

    async def meanwhile(volume: VolumeId, bucket: int) -> list[ChunkId]:
        found = await names(volume, bucket)
        receipts.extend(await store.put(volume, second.id, [second.data]))
        return found

    receipts: list[object] = []
    store.inventory.names = meanwhile  # type: ignore[method-assign]
    listing = await store.listed(BUCKET)
    assert [held.chunk for held in listing.entries] == [first.id]
    assert listing.settled_seq < receipts[0].put_seq  # type: ignore[attr-defined]


async def test_a_damaged_header_is_found_by_a_listing(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=1)
    store, (chunk, other) = await opened(tmp_path), alike(2)
    for each in (chunk, other):
        await store.put(VOLUME, each.id, [each.data])
    path_of(tmp_path, VOLUME, chunk.id).write_bytes(path_of(tmp_path, VOLUME, other.id).read_bytes())
    assert [held.chunk for held in (await store.listed(BUCKET)).entries] == [other.id]
    assert store.damaged() == [(VOLUME, chunk.id)]


@pytest.mark.parametrize(("bucket", "limit"), [(-1, 1), (256, 1), (0, 0)])
async def test_what_is_no_bucket_is_not_listed(bucket: int, limit: int, tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        await (await opened(tmp_path)).listed(bucket, limit=limit)


def test_a_full_listing_fits_into_an_answer() -> None:
    entry = (1 << 62, bytes(32), MIB + 256, 1 << 62, 1 << 40)
    assert len(msgspec.msgpack.encode([entry] * MOST_LISTED)) < MIB


# ---- audits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [1, 64 * KIB, 64 * KIB + 1, MIB])
async def test_every_block_can_be_audited(plain: int, tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path), sealed(1, plain)
    await store.put(VOLUME, chunk.id, [chunk.data])
    for block in range(chunk.whole.count):
        check_audit(chunk.id, chunk.size, block, *await store.audit(VOLUME, chunk.id, block))


async def test_an_audit_reads_the_disk_and_a_sixteenth_of_the_chunk(tmp_path: Path, claim_logs: Claims) -> None:
    class Counting(Disk):
        read = forgotten = 0

        def read_into(self, fd: int, view: memoryview, offset: int, enough: int) -> int:
            count = super().read_into(fd, view, offset, enough)
            self.read += count
            return count

        def forget(self, fd: int) -> None:
            self.forgotten += 1
            super().forget(fd)

    claim_logs("moved to quarantine", count=1)
    disk, chunk = Counting(), sealed(1)
    store = await opened(tmp_path, disk)
    await store.put(VOLUME, chunk.id, [chunk.data])
    await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    disk.read = 0
    await store.audit(VOLUME, chunk.id, 7)
    assert 64 * KIB < disk.read <= HEADER_BYTES + 18 * 4096
    store._files._direct = False
    await store.audit(VOLUME, chunk.id, 7)
    assert disk.forgotten == 2  # before, so that it is the disk that answers, and after
    path = path_of(tmp_path, VOLUME, chunk.id)
    path.write_bytes(flipped(path.read_bytes(), 8 * 100))  # a hash in the header, though remembered from the read
    with pytest.raises(Corrupt):
        await store.audit(VOLUME, chunk.id, 7)
    assert store.damaged() == [(VOLUME, chunk.id)]


async def test_what_is_not_there_cannot_be_audited(tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    with pytest.raises(NotFound):
        await store.audit(VOLUME, chunk.id, 0)
    await store.put(VOLUME, chunk.id, [chunk.data])
    for block in (-1, 2):
        with pytest.raises(Misuse):
            await store.audit(VOLUME, chunk.id, block)
    assert store.damaged() == []


def test_no_other_answer_passes_an_audit() -> None:
    chunk, other = sealed(1, 200_000), sealed(2, 200_000)
    hashes, block = block_hashes(chunk.data), 64 * KIB + 16
    data = chunk.data[block : 2 * block]
    check_audit(chunk.id, chunk.size, 1, hashes, data)
    first, second, *rest = hashes
    lies: list[tuple[list[bytes], bytes]] = [
        (hashes, b""),
        (hashes, data[:-1]),
        (hashes, data + b"\0"),
        (hashes, flipped(data, 77)),
        (hashes, chunk.data[:block]),
        (block_hashes(other.data), other.data[block : 2 * block]),
        (hashes[:-1], data),
        ([*hashes, hashes[0]], data),
        ([second, first, *rest], chunk.data[:block]),
        ([first + second[:1], second[1:], *rest], data),
        ([], data),
    ]
    for answer in lies:
        with pytest.raises(Corrupt):
            check_audit(chunk.id, chunk.size, 1, *answer)


def test_an_audit_knows_how_many_blocks_there_must_be() -> None:
    """A chunk of fewer blocks has an id too; it is not that of the size in the books."""
    hashes = block_hashes(sealed(1, 200_000).data)
    short = chunk_id(hashes[:2])
    with pytest.raises(Corrupt):
        check_audit(short, sealed(1, 200_000).size, 0, hashes[:2], sealed(1, 200_000).data[: 64 * KIB + 16])
    with pytest.raises(Misuse):
        check_audit(short, sealed(1, 100_000).size, 2, hashes[:2], b"")


async def test_reading_everything_anew_drives_nothing_out_of_the_memory_of_hashes(tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    assert await store.verify(VOLUME, chunk.id) == HEADER_BYTES + chunk.size
    assert store._files._hashes.get(VOLUME, chunk.id, chunk.size) is None
    assert await store.verify(OTHER_VOLUME, chunk.id) is None
