"""The file system against a dictionary: random operations, each step compared, across flushes and fresh mounts."""

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Exists, NotFound, PoolError
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import CHUNK_BYTES, KIB, ROOT_INODE, DentryId, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l2

NAMES = [b"a", b"b", b"c"]
# sizes around every border the formats have, kept few so that a run meets each often
EDGES = [0, 1, 4 * KIB, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB, 300 * KIB, CHUNK_BYTES - 1, CHUNK_BYTES]
OFFSETS = [0, 1, 100, 16 * KIB - 10, 64 * KIB, CHUNK_BYTES - 5, CHUNK_BYTES, 2 * CHUNK_BYTES + 77]


@dataclass
class Model:
    """What the volume should hold: names to contents; two names may share one."""

    files: dict[bytes, bytearray] = field(default_factory=dict)


Step = tuple[str, bytes, int, int, int]
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"), st.sampled_from(NAMES), st.sampled_from(OFFSETS), st.sampled_from(EDGES[1:]),
            st.integers(0, 255),
        ),
        st.tuples(
            st.just("truncate"), st.sampled_from(NAMES), st.sampled_from(EDGES + OFFSETS), st.just(0), st.just(0)
        ),
        st.tuples(
            st.sampled_from(["create", "unlink", "fsync", "read", "remount", "rename", "link", "freeze", "exchange"]),
            st.sampled_from(NAMES), st.sampled_from(OFFSETS), st.sampled_from(EDGES), st.integers(0, 255),
        ),
    ),
    max_size=25,
)  # fmt: skip


def namespace() -> MemoryNamespace:
    return MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()


def pattern(length: int, seed: int) -> bytes:
    return bytes((seed + i * 7) & 0xFF for i in range(min(length, 251))) * (length // 251 + 1)


class Runner:
    """Does each step to the file system and to the model and compares."""

    def __init__(self) -> None:
        self.namespace = namespace()
        self.store = MemoryStore()
        self.model = Model()

    async def run(self, script: list[Step]) -> None:
        remaining = list(script)
        while True:
            limits = Limits(WriteLimits(dirty_bytes=8 << 20), memory_cache=1 << 20)
            async with filesystem(self.namespace, self.store, limits=limits) as fs:
                while remaining and remaining[0][0] != "remount":
                    await self.step(fs, remaining.pop(0))
                await fs.settler.settle_all()
                await self.compare_all(fs)
            if not remaining:
                return
            remaining.pop(0)

    async def step(self, fs: Filesystem, step: Step) -> None:
        verb, name, offset, length, seed = step
        expected = actual = None
        try:
            expected = self.on_model(verb, name, offset, length, seed)
        except (KeyError, FileExistsError) as error:
            expected = type(error)
        try:
            actual = await self.on_filesystem(fs, verb, name, offset, length, seed)
        except NotFound:
            actual = KeyError
        except Exists:
            actual = FileExistsError
        assert actual == expected, f"{step}: {_short(actual)} instead of {_short(expected)}"

    def on_model(self, verb: str, name: bytes, offset: int, length: int, seed: int) -> object:
        files = self.model.files
        if verb == "create":
            if name in files:
                raise FileExistsError
            files[name] = bytearray()
        elif verb == "write":
            data = files.setdefault(name, bytearray())
            data.extend(bytes(max(0, offset + length - len(data))))
            data[offset : offset + length] = pattern(length, seed)[:length]
        elif verb == "truncate":
            data = files[name]
            del data[offset:]
            data.extend(bytes(offset - len(data)))
        elif verb == "unlink":
            del files[name]
        elif verb in ("rename", "exchange", "link"):
            other = NAMES[seed % len(NAMES)]
            content = files[name]
            if verb == "link":
                if other in files:
                    raise FileExistsError
                files[other] = content
            elif verb == "exchange":
                files[name], files[other] = files[other], content
            elif other != name and files.get(other) is not content:
                files[other] = files.pop(name)
        elif verb == "read":
            return bytes(files[name][offset : offset + length])
        elif verb in ("fsync", "freeze"):
            _ = files[name]
        return None

    async def on_filesystem(
        self, fs: Filesystem, verb: str, name: bytes, offset: int, length: int, seed: int
    ) -> object:
        owner = Owner(0, 0)
        if verb == "create":
            handle = await fs.create(ROOT_INODE, name, 0o644, owner)
            await fs.release(handle)
            return None
        if verb == "write":
            try:
                handle = await fs.open((await fs.lookup(ROOT_INODE, name)).id)
            except NotFound:
                handle = await fs.create(ROOT_INODE, name, 0o644, owner)
            await fs.write(handle, offset, pattern(length, seed)[:length])
            await fs.release(handle)
            return None
        if verb == "unlink":
            await fs.tree.remove(ROOT_INODE, name, directory=False)
            return None
        if verb in ("rename", "exchange"):
            other = NAMES[seed % len(NAMES)]
            await fs.tree.rename(ROOT_INODE, name, ROOT_INODE, other, 2 if verb == "exchange" else 0)
            return None
        inode = await fs.lookup(ROOT_INODE, name)
        if verb == "link":
            await fs.tree.link(inode.id, ROOT_INODE, NAMES[seed % len(NAMES)])
        elif verb == "truncate":
            assert (await fs.attributes.set(inode.id, size=offset)).size == offset
        elif verb == "freeze":
            fs.writer.freeze(inode)
            await trio.lowlevel.checkpoint()
        elif verb == "fsync":
            handle = await fs.open(inode.id)
            await fs.fsync(handle)
            await fs.release(handle)
        elif verb == "read":
            handle = await fs.open(inode.id)
            data = bytes(await fs.read(handle, offset, length))
            await fs.release(handle)
            return data
        return None

    async def compare_all(self, fs: Filesystem) -> None:
        listed, complete = await fs.directory(ROOT_INODE, DentryId(0), 100)
        assert complete
        assert sorted(entry.name for entry in listed) == sorted(self.model.files)
        for entry in listed:
            content = self.model.files[entry.name]
            handle = await fs.open(InodeId(entry.inode.id))
            assert handle.inode.kind is Kind.FILE
            assert handle.inode.size == len(content)
            assert bytes(await fs.read(handle, 0, len(content) + 1)) == content, entry.name
            await fs.release(handle)


def _short(value: object) -> str:
    return f"{len(value)} bytes {value[:20]!r}" if isinstance(value, bytes) else repr(value)


@given(steps)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([("write", b"a", 0, 16384, 1), ("write", b"a", 16384 - 10, 4096, 2), ("read", b"a", 0, 1048576, 0)])
@example([("write", b"a", 2 * CHUNK_BYTES + 77, 100, 1), ("remount", b"a", 0, 0, 0), ("truncate", b"a", 100, 0, 0)])
@example(
    [
        ("write", b"a", 0, CHUNK_BYTES, 1),
        ("fsync", b"a", 0, 0, 0),
        ("truncate", b"a", 100, 0, 0),
        ("truncate", b"a", CHUNK_BYTES, 0, 0),
        ("read", b"a", 0, CHUNK_BYTES, 0),
    ]
)
# committed before its upload had begun, when the freeze before it was committed by the other's task
@example([("write", b"a", 100, 1, 204), ("write", b"a", 65536, 4096, 96)])
def test_random_operations_give_what_a_dictionary_gives(script: list[Step]) -> None:
    trio.run(Runner().run, script)


async def test_a_mib_of_many_layers_is_compacted() -> None:
    meta, store = namespace(), MemoryStore()
    async with filesystem(meta, store) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        content = bytearray(200_000)
        await fs.write(handle, 0, bytes(content))
        await fs.fsync(handle)
        for step in range(60):
            offset = step * 3001 % 190_000
            await fs.write(handle, offset, bytes([step + 1]) * 500)
            content[offset : offset + 500] = bytes([step + 1]) * 500
            await fs.fsync(handle)
            page = await meta.extents(handle.inode.id, 0)
            assert len(page.extents) <= 17
        assert bytes(await fs.read(handle, 0, 200_000)) == content


async def test_an_error_of_a_background_store_is_raised_once_and_the_bytes_are_kept() -> None:
    meta, store = namespace(), MemoryStore(capacity=0)
    async with filesystem(meta, store) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"x" * 100_000)
        with pytest.raises(PoolError):
            await fs.fsync(handle)
        store.capacity = None
        await fs.fsync(handle)
        assert bytes(await fs.read(handle, 0, 100_000)) == b"x" * 100_000
