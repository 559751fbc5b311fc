"""Fills a coordinator's database with the rows of many files, and a peer's home with the files of many chunks.

Through the real schema, but by SQL: what a mount does in days is here in a minute. What is sealed is random bytes of
the length it has in life, since the coordinator cannot read it either. Called by `scale`.
"""

import os
import random
import sqlite3
from pathlib import Path

from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.meta import members, volumes
from p2pfs.meta.members import Node
from p2pfs.types import CHUNK_BYTES, ROOT_INODE, Kind, NodeId, PeerNumber, Role, VolumeId
from p2pfs.wire.membership import Heartbeat, Resources
from p2pfs.wire.volumes import CreateVolume

VOLUME = VolumeId(7)
PEERS = 12
COPIES = 2
EXTENTS = 10
"""Of each file, each with a chunk of its own."""
DIRECTORY = 100
"""Files in each directory."""
_SEALED_CHUNK = CHUNK_BYTES + 256
_FILL_CACHE = "PRAGMA cache_size = -2000000"  # KiB; random ids go to all places of an index at once
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
_STEP = 50_000
FIRST_FREE = 1 << 40
"""Numbers from here on are for who makes inodes later."""


def join_peers(connection: sqlite3.Connection, count: int, *, now_s: float) -> list[Node]:
    """Peers that have served, of an owner each, by number; they offer 100 TiB each."""
    joined = []
    for at in range(count):
        node = Node(
            NodeId(f"{at + 1:032x}"), f"owner{at}@host", f"owner{at}", "", frozenset({Role.PEER, Role.CLIENT}),
            capacity_limit=0, joined_s=now_s,
        )  # fmt: skip
        members.add_node(connection, node)
        number = members.add_peer(connection, node.id, now_s=now_s)
        members.record_heartbeat(connection, number, heartbeat=heartbeat(at), capacity=100 << 40, now_s=now_s)
        members.appear(connection, PeerNumber(number))
        joined.append(node)
    return joined


def heartbeat(at: int, now_s: float = 0.0) -> Heartbeat:
    """What peer number `at` says of itself."""
    return Heartbeat(
        addresses=[f"127.0.0.1:{20000 + at}"],
        capacity=100 << 40,
        used=1 << 40,
        trash=0,
        chunks=1 << 20,
        clock_s=now_s,
        resources=Resources(1 << 50, 1 << 49, 1 << 34, 1 << 33, 4, 0.1, 0, 0),
        map_version=0,
        revocations_version=0,
        put_seq=0,
        run=1,
    )


def fill(connection: sqlite3.Connection, first: int, last: int, *, first_peer: int) -> None:
    """Add inodes `first` to `last` (2: the volume is made): directories of `DIRECTORY` files of `EXTENTS` chunks each,
    on the `PEERS` peers from `first_peer` on. Commits as it goes."""
    connection.execute(_FILL_CACHE)
    connection.execute("PRAGMA synchronous = OFF")
    connection.create_function("name_of", 1, name_of, deterministic=True)
    if first == ROOT_INODE + 1:
        message = CreateVolume(VOLUME, "scale", b"c" * 16, [], b"h" * 60, 0o755, 0, 0, 1)
        connection.execute("BEGIN")
        volumes.create_volume(connection, message, owner="owner0", now_s=0.0)
        connection.execute("UPDATE volume SET next_id = ?", (FIRST_FREE,))
        connection.execute("COMMIT")
    for start in range(first, last + 1, _STEP):
        connection.execute("BEGIN")
        _add_inodes(connection, start, min(last, start + _STEP - 1), first_peer)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def is_directory(number: int) -> bool:
    """Every (DIRECTORY + 1)th inode; the first is the root."""
    return (number - 2) % (DIRECTORY + 1) == 0


def parent_of(number: int) -> int:
    """The directory a file is in; directories are in the root."""
    return ROOT_INODE if is_directory(number) else number - (number - 2) % (DIRECTORY + 1)


_IS_DIRECTORY = f"((i - 2) % {DIRECTORY + 1} = 0)"
_PARENT = f"CASE WHEN {_IS_DIRECTORY} THEN {ROOT_INODE} ELSE i - (i - 2) % {DIRECTORY + 1} END"


def name_of(number: int) -> bytes:
    """Its sealed name, which has the length of one with 15 letters; random order, as sealed names have."""
    return number.to_bytes(8, "big").translate(_SHUFFLED)[::-1] + b"n" * 32


_SHUFFLED = bytes(random.Random(1).sample(range(256), 256))


def _add_inodes(connection: sqlite3.Connection, first: int, last: int, first_peer: int) -> None:
    numbers = _NUMBERS.format(first=first, last=last)
    directory, file = int(Kind.DIRECTORY), int(Kind.FILE)
    connection.execute(
        f"{numbers} INSERT INTO inode SELECT {VOLUME}, i, CASE WHEN {_IS_DIRECTORY} THEN {directory} ELSE {file} END,"
        f" 420, 0, 0, 0, CASE WHEN {_IS_DIRECTORY} THEN 2 ELSE 1 END,"
        f" CASE WHEN {_IS_DIRECTORY} THEN 0 ELSE {EXTENTS * CHUNK_BYTES} END, 1, 1, 1, 1, 1,"
        f" CASE WHEN {_IS_DIRECTORY} THEN {ROOT_INODE} ELSE 0 END, 0, randomblob(92), 0 FROM n"
    )
    connection.execute(
        f"{numbers} INSERT INTO dentry SELECT {VOLUME}, {_PARENT}, i, i, name_of(i), randomblob(16) FROM n"
    )
    chunks = connection.execute("SELECT coalesce(max(number), 0) FROM chunk").fetchone()[0]
    files = [number for number in range(first, last + 1) if not is_directory(number)]
    connection.executemany(
        f"INSERT INTO extent VALUES ({VOLUME}, ?, ?, 0, ?, randomblob(72))",
        (
            (number, index, chunks + 1 + at * EXTENTS + index)
            for at, number in enumerate(files)
            for index in range(EXTENTS)
        ),
    )
    new = _NUMBERS.format(first=chunks + 1, last=chunks + len(files) * EXTENTS)
    connection.execute(
        f"{new} INSERT INTO chunk (number, volume, id, size, scheme, refs)"
        f" SELECT i, {VOLUME}, randomblob(32), {_SEALED_CHUNK}, 1, 1 FROM n"
    )
    for copy in range(COPIES):
        connection.execute(
            f"{new} INSERT INTO replica (chunk, part, peer, put_seq, proved)"
            f" SELECT i, 0, (i * 7 + {copy}) % {PEERS} + {first_peer}, 1, 1 FROM n"
        )
    made = sum(is_directory(number) for number in range(first, last + 1))
    connection.execute("UPDATE inode SET links = links + ? WHERE volume = ? AND inode = 1", (made, VOLUME))
    connection.execute(
        "UPDATE volume SET inodes = inodes + ?, bytes = bytes + ? WHERE id = ?",
        (last - first + 1, len(files) * EXTENTS * CHUNK_BYTES, VOLUME),
    )


def fill_peer(root: Path, chunks: int) -> None:
    """So many chunk files of full length without a byte in them, as the store names them."""
    root.mkdir(parents=True)
    (root / "put_seq").write_text("65536")  # as after a PUT; without it every header is read
    volume = root / f"{VOLUME:016x}"
    for prefix in range(256):
        directory = volume / f"{prefix:02x}"
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY)
        try:
            for _ in range(chunks // 256 + (prefix < chunks % 256)):
                file = os.open(os.urandom(31).hex(), os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)
                os.ftruncate(file, HEADER_BYTES + _SEALED_CHUNK)
                os.close(file)
        finally:
            os.close(fd)
