"""A volume written once, damaged again and again, each time read through a fresh file system: promise P3 in process.

`Stage.build` writes it; `round` damages it, looks, judges and mends it. A round is told by its number and the seed, so
that any of them can be repeated alone.
"""

import os
import random
import shutil
import sqlite3
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio
from tampering import Damage, Tables, Vandal, damaged_bytes, damaged_chunk, damaged_message, tables
from volumes import ROOT_HEAD, VOLUME, filesystem
from witness import Author, Seen, Witness, look

from p2pfs.chunks.blocks import span
from p2pfs.chunks.cached import CachedStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Blocks, Check, ChunkStore
from p2pfs.errors import NotFound
from p2pfs.format.ranges import SEALED_BLOCK_BYTES
from p2pfs.meta import sessions, volumes
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.local import LocalNamespace
from p2pfs.meta.protocol import Namespace
from p2pfs.runtime.clocks import SystemClock
from p2pfs.types import KIB, MIB, ROOT_INODE, ChunkId, NodeId, SessionId, VolumeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.wire.volumes import CreateVolume, OpenSession

T = TypeVar("T")

LIMITS = Limits(WriteLimits(small_file=4 * KIB), memory_cache=8 * MIB)
FAR = 256 * MIB + 5 * MIB
KINDS = {"rows": 40, "chunks": 22, "rows and chunks": 8, "answers": 10, "cache": 5}
"""What a round damages, and how often."""


class OpenDatabase:
    """The engine's database within one transaction that is never committed: mending is a rollback."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    async def write(
        self, change: Callable[[sqlite3.Connection], T], *, committed: Callable[[T], None] | None = None
    ) -> T:
        return change(self.connection)

    def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        return question(self.connection)

    async def scan(self, question: Callable[[sqlite3.Connection], T]) -> T:
        return question(self.connection)


class LyingStore:
    """Serves what it was given as chunks, true or not, and leaves it to the caller's check."""

    def __init__(self, chunks: dict[ChunkId, bytes]) -> None:
        self.chunks = chunks

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        await trio.lowlevel.checkpoint()
        data = self.chunks.get(chunk)
        if data is None:
            raise NotFound("no peer has this chunk")
        start, stop = span(size, blocks)
        view = memoryview(data)[start:stop]
        if check is not None:
            check(view)
        return view

    put = has = delete = None  # nothing here writes


class LyingNamespace:
    """Passes questions on and damages an answer now and then. `told` keeps true answers of every moment."""

    def __init__(self, inner: Namespace, told: dict[str, list[Any]]) -> None:
        self.inner, self.told = inner, told
        self.chance: random.Random | None = None
        self.lies: list[str] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        async def ask(*arguments: Any) -> Any:  # noqa: ANN401
            answer = await getattr(self.inner, name)(*arguments)
            known = self.told.setdefault(name, [])
            if self.chance is None:
                if len(known) < 2000 and answer not in known:
                    known.append(answer)
                return answer
            if self.chance.random() > 0.15:
                return answer
            lie = damaged_message(answer, self.chance, known)
            if lie == answer:
                return answer
            self.lies.append(f"{name}{arguments[:1]}: a lie")
            return lie

        return ask


@dataclass
class Tally:
    """What many rounds gave."""

    damages: int = 0
    rounds: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.damages} damages in {self.rounds} rounds {dict(self.by_kind)}: {dict(self.outcomes)}"


class Stage:
    """The written volume and everything needed to damage and read it."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self.connection, self.directory = connection, directory
        self.witness = Witness()
        self.past: list[Tables] = []
        self.chunks: dict[ChunkId, bytes] = {}
        self.cached: list[Path] = []  # below a cache's root
        self.told: dict[str, list[Any]] = {}
        self.vandal: Vandal

    @classmethod
    async def build(cls, directory: Path) -> "Stage":
        database = InlineDatabase()
        stage = cls(database._connection, directory)  # damaged below the engine
        weakref.finalize(stage, database.close)
        await database.write(_make_volume)
        store = MemoryStore()
        namespace = LyingNamespace(await _open(database), stage.told)
        async with filesystem(namespace, store, limits=LIMITS) as fs:  # type: ignore[arg-type]
            author = Author(fs, stage.witness)
            for step in _story(author):
                await step()
                stage.past.append(tables(stage.connection))
                async with filesystem(namespace, store, limits=LIMITS) as other:  # type: ignore[arg-type]
                    seen = await look(other, stage.witness)
                    assert [*seen.wrong, *seen.older, *seen.older_names] == []
        stage.chunks = {chunk: bytes(data) for (_, chunk), data in store.chunks.items()}
        await stage._fill_cache()
        stage.vandal = Vandal(stage.past.pop(), stage.past)
        return stage

    async def _fill_cache(self) -> None:
        """A cache of every chunk, whose files later caches share (they replace files, never write into them)."""
        for chunk, data in self.chunks.items():
            await _cache(self.directory / "cache", chunk, data, len(data))
        self.cached = [path.relative_to(self.directory / "cache") for path in _cache_files(self.directory / "cache")]
        assert len(self.cached) == len(self.chunks)

    # ---- rounds

    async def round(self, name: str, tally: Tally, kinds: dict[str, int]) -> None:
        """Damage, look, judge, mend. `name` is the seed."""
        chance = random.Random(name)
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        is_warm = kind != "cache" and chance.random() < 0.2
        database = OpenDatabase(self.connection)
        self.connection.execute("BEGIN")
        try:
            namespace = LyingNamespace(await _open(database), self.told)
            chunks = dict(self.chunks)
            store: LyingStore = LyingStore(chunks)
            async with self._store(store, kind, chance) as (reading, cache_damages):
                async with filesystem(namespace, reading, limits=LIMITS) as fs:  # type: ignore[arg-type]
                    if is_warm:
                        assert (await look(fs, self.witness)).count["refused"] == 0
                        if chance.random() < 0.5:
                            _forget(fs)
                    damages = [*cache_damages, *self._damage(kind, chance, chunks)]
                    if kind == "answers":
                        namespace.chance = chance
                    seen = await look(fs, self.witness, chance=chance, steady=kind != "answers")
                damages += [Damage(lie, replays=True) for lie in namespace.lies]
        finally:
            self.connection.execute("ROLLBACK")
        self._judge(name, kind, damages, seen, tally, is_warm)

    def _damage(self, kind: str, chance: random.Random, chunks: dict[ChunkId, bytes]) -> list[Damage]:
        damages = []
        for _ in range(chance.randint(1, 4)):
            if kind in ("rows", "rows and chunks"):
                damages.append(self.vandal.strike(self.connection, chance))
            if kind in ("chunks", "rows and chunks"):
                damages.append(self._damage_chunk(chance, chunks))
        return damages

    def _damage_chunk(self, chance: random.Random, chunks: dict[ChunkId, bytes]) -> Damage:
        """A chunk's bytes; often its size is said to be what it is then."""
        whole = list(self.chunks.values())
        while True:
            chunk = chance.choice(list(self.chunks))
            data = damaged_chunk(self.chunks[chunk], chance, whole, SEALED_BLOCK_BYTES)
            if data != self.chunks[chunk]:
                break
        if data is None:
            chunks.pop(chunk, None)
            return Damage(f"chunk {chunk[:4].hex()}: gone")
        chunks[chunk] = data
        if len(data) != len(self.chunks[chunk]) and chance.random() < 0.7:
            self.connection.execute("UPDATE chunk SET size = ? WHERE id = ?", (len(data), chunk))
        return Damage(f"chunk {chunk[:4].hex()}: {len(data)} other bytes")

    @asynccontextmanager
    async def _store(
        self, store: LyingStore, kind: str, chance: random.Random
    ) -> AsyncIterator[tuple[ChunkStore, list[Damage]]]:
        if kind != "cache":
            yield store, []  # type: ignore[misc]
            return
        root = self.directory / f"cache-{chance.getrandbits(64):x}"
        damages = await self._damaged_cache(root, chance)
        if chance.random() < 0.5:
            store.chunks = {}
        try:
            async with trio.open_nursery() as nursery:
                yield await CachedStore.open(store, root, budget=64 * MIB, nursery=nursery), damages  # type: ignore[arg-type]
                nursery.cancel_scope.cancel()
        finally:
            shutil.rmtree(root, ignore_errors=True)

    async def _damaged_cache(self, root: Path, chance: random.Random) -> list[Damage]:
        """Other bytes in files, files under each other's names, and files that a cache itself made of lies."""
        good = self.directory / "cache"
        for path in self.cached:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(good / path, root / path)
        damages = []
        for _ in range(chance.randint(1, 4)):
            path = chance.choice(self.cached)
            was, act = (good / path).read_bytes(), chance.choice(["forged", "damaged", "exchanged"])
            if act == "forged":
                await self._forge(root, chance)
                damages.append(Damage("a cache file: forged"))
                continue
            other = (good / chance.choice(self.cached)).read_bytes()
            now = other if act == "exchanged" else damaged_bytes(was, chance, [other])
            if now != was:
                (root / path).unlink()
                (root / path).write_bytes(now)
                damages.append(Damage(f"cache file {path.name}: {act}"))
        return damages

    async def _forge(self, root: Path, chance: random.Random) -> None:
        chunk = chance.choice(list(self.chunks))
        data = self.chunks[chunk]
        lie = damaged_chunk(data, chance, list(self.chunks.values()), SEALED_BLOCK_BYTES) or bytes(len(data))
        for path in _cache_files(root):
            if path.name.startswith(chunk.hex()[1:]):
                path.unlink()
        await _cache(root, chunk, lie, len(data))

    def _judge(self, name: str, kind: str, damages: list[Damage], seen: Seen, tally: Tally, is_warm: bool) -> None:
        tally.rounds += 1
        tally.damages += len(damages)
        tally.by_kind[kind] += len(damages)
        tally.outcomes.update(seen.count)
        tally.outcomes["older"] += len(seen.older) + len(seen.older_names)
        tally.outcomes["rounds with refusals"] += bool(seen.count["refused"])
        wrong = list(seen.wrong)
        if is_warm:
            wrong += [f"{line}, and this mount has seen a newer one" for line in seen.older]
        if not any(damage.replays for damage in damages):
            wrong += [f"{line}, and nobody brought that back" for line in (*seen.older, *seen.older_names)]
        if wrong:
            did = "; ".join(damage.what for damage in damages)
            tally.wrong.append(f"round {name!r} ({'warm, ' if is_warm else ''}{kind}): {did}: {'; '.join(wrong)}")


async def rounds(
    stage: Stage, seed: str, *, damages: int, kinds: dict[str, int] | None = None, until_wrong: bool = False
) -> Tally:
    """Rounds until that much was damaged, or until something wrong was found."""
    tally = Tally()
    while tally.damages < damages and not (until_wrong and tally.wrong):
        await stage.round(f"{seed}:{tally.rounds}", tally, kinds or KINDS)
    return tally


def _forget(fs: Filesystem) -> None:
    """As if many other inodes had been met since: only the changes of these are remembered."""
    table = fs._table
    for known in (table._inodes, table._glimpses):
        for number, inode in list(known.items()):
            table._idle.pop(number, None)
            del known[number]
            table._remember_change(inode)


async def _cache(root: Path, chunk: ChunkId, data: bytes, size: int) -> None:
    """Have a cache keep these bytes as those of a chunk."""
    async with trio.open_nursery() as nursery:  # whose end waits for the fill
        store = await CachedStore.open(LyingStore({chunk: data}), root, budget=64 * MIB, nursery=nursery)  # type: ignore[arg-type]
        whole = Blocks(0, -(-size // SEALED_BLOCK_BYTES))
        await store.get(VOLUME, chunk, size, whole, check=lambda _: None)


def _cache_files(root: Path) -> list[Path]:
    return sorted(root.rglob("*-*+*"))


async def _open(database: Any) -> LocalNamespace:  # noqa: ANN401
    grant = await database.write(
        lambda c: sessions.open_session(
            c, VOLUME, node=NodeId("ab" * 16), owner="anna", request=OpenSession(), now_s=0.0, lifetime_s=1e9
        )
    )
    return LocalNamespace(
        database, VOLUME, SessionId(grant.session), verify=lambda volume, new: None, wanted_min=lambda: 1,
        clock=SystemClock(),
    )  # fmt: skip


def _make_volume(connection: sqlite3.Connection) -> None:
    made = CreateVolume(VOLUME, "home", b"c" * 16, [], ROOT_HEAD, 0o755, 0, 0, 1)
    volumes.create_volume(connection, made, owner="anna", now_s=0.0)


def _story(author: Author) -> list[Callable[[], Any]]:
    """A volume with some of everything, in steps between which its state is remembered."""
    noise = random.Random(7)
    ids: dict[str, Any] = {}

    async def directories() -> None:
        ids["d"] = await author.directory(ROOT_INODE, b"d")
        ids["e"] = await author.directory(ROOT_INODE, b"e")

    async def small() -> None:
        ids["empty"] = await author.file(ROOT_INODE, b"empty")
        ids["small"] = await author.file(ROOT_INODE, b"small", noise.randbytes(100))
        ids["in d"] = await author.file(ids["d"], b"x", noise.randbytes(300))
        ids["in e"] = await author.file(ids["e"], b"x", noise.randbytes(300))

    async def links() -> None:
        await author.symlink(ROOT_INODE, b"to-small", b"small")
        await author.symlink(ids["d"], b"to-e", b"../e/x")
        await author.link(ids["in d"], ids["e"], b"hard")

    async def chunked() -> None:
        ids["plain"] = await author.file(ROOT_INODE, b"plain", noise.randbytes(20_000))
        ids["twin"] = await author.file(ids["d"], b"twin", noise.randbytes(20_000))
        blocks = noise.randbytes(230_000)
        await author.file(ROOT_INODE, b"blocks", blocks)
        await author.file(ids["e"], b"same blocks", blocks)
        windows = [(0, 9000), (MIB - 5000, 20_000), (MIB + 65_000, 9000)]
        await author.file(ROOT_INODE, b"mib", noise.randbytes(MIB + 70_000), windows=windows)

    async def layered() -> None:
        ids["layered"] = await author.file(ROOT_INODE, b"layered", noise.randbytes(90_000))
        for step in range(5):
            await author.write(ids["layered"], 10_000 * step + 3000, noise.randbytes(6000))

    async def cut() -> None:
        windows = [(index * MIB, 9000) for index in range(4)]
        ids["cut"] = await author.file(ROOT_INODE, b"cut", windows=windows)
        for index in range(4):
            await author.write(ids["cut"], index * MIB + 500, noise.randbytes(5000))
        await author.truncate(ids["cut"], MIB + 2000)

    async def holes() -> None:
        ids["holes"] = await author.file(ids["e"], b"holes", noise.randbytes(30_000))
        await author.truncate(ids["holes"], 12_000)
        await author.truncate(ids["holes"], 40_000)

    async def far() -> None:
        windows = [(0, 9000), (5 * MIB, 4000), (FAR - 100, 9000)]
        ids["far"] = await author.file(ROOT_INODE, b"far", noise.randbytes(8000), windows=windows)
        await author.write(ids["far"], FAR, noise.randbytes(8000))

    async def again() -> None:
        await author.write(ids["small"], 50, noise.randbytes(200))
        await author.write(ids["plain"], 0, noise.randbytes(20_000))
        await author.write(ids["far"], FAR + 2000, noise.randbytes(500))
        await author.write(ids["cut"], 3 * MIB, noise.randbytes(5000))
        await author.truncate(ids["small"], 20)
        await author.truncate(ids["twin"], 25_000)

    async def names() -> None:
        await author.file(ROOT_INODE, b"gone", noise.randbytes(5000))
        await author.unlink(ROOT_INODE, b"gone")
        await author.file(ROOT_INODE, b"new", noise.randbytes(600))
        await author.rename(ROOT_INODE, b"new", ids["d"], b"x")
        await author.rename(ROOT_INODE, b"empty", ids["e"], b"moved")

    async def inline_no_more() -> None:
        await author.write(ids["in e"], 200, noise.randbytes(9000))
        await author.write(ids["layered"], 0, noise.randbytes(4500))

    return [directories, small, links, chunked, layered, cut, holes, far, again, names, inline_no_more]
