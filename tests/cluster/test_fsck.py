"""`p2pfs fsck` on a pool of real processes whose files were really damaged: every damage is found and named by its
path, what can be mended is, and nothing that could be read before cannot be read after it."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from broken_rows import broken_invariants
from pools import DemoPool, demo_pool

from p2pfs import exitcodes

pytestmark = pytest.mark.l5

LARGE = 3 << 20


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("fsck"), peers=2) as started:
        yield started


def fsck(pool: DemoPool, *words: str, expect: int | None) -> dict[str, Any]:
    passphrase = str(pool.root / "passphrase")
    result = pool.p2pfs("fsck", *words, "--json", "--passphrase-file", passphrase, expect=expect)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def database(pool: DemoPool) -> sqlite3.Connection:
    return sqlite3.connect(pool.root / "coordinator" / "coordinator" / "meta.sqlite", isolation_level=None)


def copied(pool: DemoPool) -> sqlite3.Connection:
    """The database as it is now; the coordinator relies on being the only one at its own."""
    place = pool.root / "copied"
    place.mkdir(exist_ok=True)
    with pool.frozen("coordinator"):  # its log and what the log is of go together
        for part in (pool.root / "coordinator" / "coordinator").glob("meta.sqlite*"):
            shutil.copy(part, place)
    return sqlite3.connect(place / "meta.sqlite")


def chunk_files(pool: DemoPool, path: Path) -> list[Path]:
    """A chunk file of the first chunk of a file, on each peer that has it."""
    where = json.loads(pool.p2pfs("where", "--json", str(path)).stdout)
    chunk = where["chunks"][0]["chunk"]
    return sorted(
        found for part in pool.root.glob("peer-*/chunks") for found in part.glob(f"*/{chunk[:2]}/{chunk[2:]}*")
    )


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1,)))


def said(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["code"], one["path"]) for one in found["findings"]}


def test_damaged_copies_are_found_on_every_peer_and_stored_again(pool: DemoPool) -> None:
    top = pool.mount / "copies"
    top.mkdir()
    contents = {name: os.urandom(LARGE) for name in ("flipped", "missing", "lost", "whole")}
    for name, data in contents.items():
        (top / name).write_bytes(data)
    (top / "again").write_bytes(contents["flipped"])  # the same chunks by another name
    checked = fsck(pool, str(pool.mount), "--data", expect=exitcodes.OK)
    assert checked["checked"]["copies"] == 2 * checked["checked"]["chunks"] >= 2 * 3 * len(contents)
    first, second = chunk_files(pool, top / "flipped")
    flip(first if os.urandom(1)[0] & 1 else second, 4096 + 700_000)
    chunk_files(pool, top / "missing")[1].unlink()
    for copy in chunk_files(pool, top / "lost"):
        copy.unlink()
    found = fsck(pool, str(top), "--data", "--repair", expect=exitcodes.FSCK_LEFT)
    by_path = {(one["code"], path): one for one in found["findings"] for path in one["paths"]}
    assert by_path["copy", "/copies/flipped"]["state"] == "mended"
    assert by_path["copy", "/copies/again"] is by_path["copy", "/copies/flipped"]
    assert by_path["copy", "/copies/missing"]["state"] == "mended"
    assert by_path["lost", "/copies/lost"]["state"] == "left"
    assert not any(path == "/copies/whole" for _, path in by_path)
    (top / "lost").unlink()
    assert fsck(pool, "demo", "--data", expect=exitcodes.OK)["findings"] == []
    for name in ("flipped", "missing", "whole"):
        assert (top / name).read_bytes() == contents[name]


def test_damaged_rows_are_found_by_path_and_mended(pool: DemoPool) -> None:
    top = pool.mount / "rows"
    (top / "sub").mkdir(parents=True)
    (top / "counted" / "below").mkdir(parents=True)
    contents = {name: os.urandom(LARGE) for name in ("tagged", "headless", "cut", "sub/inside")}
    contents |= {name: name.encode() for name in ("linked", "sized", "orphan", "fine")}
    for name, data in contents.items():
        (top / name).write_bytes(data)
    os.mkfifo(top / "nowhere")
    inodes = {path.name: path.lstat().st_ino for path in top.rglob("*")}
    pool.stop()
    with closing(database(pool)) as rows:
        assert broken_invariants(rows) == []
        rows.execute("UPDATE dentry SET tag = zeroblob(16) WHERE inode = ?", (inodes["tagged"],))
        for name in ("headless", "sub"):
            (head,) = rows.execute("SELECT head FROM inode WHERE inode = ?", (inodes[name],)).fetchone()
            rows.execute(
                "UPDATE inode SET head = ? WHERE inode = ?", (head[:-1] + bytes((head[-1] ^ 1,)), inodes[name])
            )
        rows.execute("DELETE FROM extent WHERE inode = ? AND mib = 1", (inodes["cut"],))
        rows.execute("UPDATE inode SET links = 0 WHERE inode = ?", (inodes["linked"],))
        rows.execute("UPDATE inode SET links = 9 WHERE inode = ?", (inodes["counted"],))
        rows.execute("UPDATE inode SET size = 4711 WHERE inode = ?", (inodes["sized"],))
        rows.execute("DELETE FROM dentry WHERE inode = ?", (inodes["orphan"],))
        rows.execute("DELETE FROM inode WHERE inode = ?", (inodes["nowhere"],))
        rows.execute("UPDATE volume SET inodes = inodes + 7")
    pool.start()
    refused = fsck(pool, "demo", "--repair", expect=exitcodes.FSCK_LEFT)  # nobody is there to say yes
    assert said(refused) == {
        ("name", "/rows/tagged"),
        ("head", "/rows/headless"),
        ("head", "/rows/sub"),
        ("content", "/rows/cut"),
        ("links", "/rows/linked"),
        ("links", "/rows/counted"),
        ("size", "/rows/sized"),
        ("orphan", f"#{inodes['orphan']}"),
        ("dangling", "/rows/nowhere"),
        ("counters", ""),
    }
    assert {one["code"] for one in refused["findings"] if one["state"] == "left"} == {
        "name", "head", "content", "dangling",
    }  # fmt: skip
    assert sorted(one["path"] for one in refused["findings"] if one["state"] == "left") == [
        "/rows/cut", "/rows/headless", "/rows/nowhere", "/rows/tagged",
    ]  # fmt: skip
    fsck(pool, "demo", "--repair", "--yes", expect=exitcodes.FSCK_MENDED)
    assert fsck(pool, "demo", "--data", expect=exitcodes.OK)["findings"] == []
    lost = {path.name.partition("-")[0]: path.read_bytes() for path in (pool.mount / "lost+found").iterdir()}
    assert lost["tagged"] == contents["tagged"]
    assert lost["headless"] == contents["headless"]
    assert lost[f"#{inodes['orphan']}"] == b"orphan"
    assert lost["cut"][: 1 << 20] == contents["cut"][: 1 << 20]
    assert lost["cut"][2 << 20 :] == contents["cut"][2 << 20 :]
    assert lost["cut"][1 << 20 : 2 << 20] == bytes(1 << 20)
    for name in ("sub/inside", "linked", "sized", "fine"):
        assert (top / name).read_bytes() == contents[name]
    assert not os.path.lexists(top / "nowhere")
    with closing(copied(pool)) as rows:
        assert set(broken_invariants(rows)) <= {"a chunk counts other references than it has"}  # of the removed extent


def test_what_files_take_counts_equal_content_once(pool: DemoPool) -> None:
    top = pool.mount / "taken"
    (top / "below" / "deep").mkdir(parents=True)
    content = os.urandom(LARGE)
    (top / "below" / "one").write_bytes(content)
    (top / "below" / "deep" / "same").write_bytes(content)
    (top / "small").write_bytes(b"small")
    os.link(top / "small", top / "below" / "linked")
    found = {one["path"]: one for one in json.loads(pool.p2pfs("du", "--json", str(top)).stdout)}
    whole = found[str(top)]
    assert list(found) == [str(top / "below" / "deep"), str(top / "below"), str(top)]
    assert (whole["size"], whole["files"], whole["directories"]) == (2 * LARGE + 5, 3, 3)
    assert LARGE < whole["stored"] < LARGE + 4096
    assert whole["with_copies"] == 2 * whole["stored"]
    (one,) = json.loads(pool.p2pfs("du", "-s", "--json", str(top / "below" / "deep" / "same")).stdout)
    assert (one["size"], one["stored"]) == (LARGE, whole["stored"])
    assert [line.split()[-1] for line in pool.p2pfs("du", "-d", "1", str(top)).stdout.splitlines()[1:]] == [
        str(top / "below"), str(top),
    ]  # fmt: skip
    pool.p2pfs("du", "/proc", expect=exitcodes.NOT_MOUNTED)


def test_what_is_warmed_up_is_read_without_the_network_and_what_is_evicted_is_not(pool: DemoPool) -> None:
    top = pool.mount / "warm"
    top.mkdir()
    contents = {name: os.urandom(LARGE) for name in ("one", "two")}
    for name, data in contents.items():
        (top / name).write_bytes(data)

    def read() -> int:
        """How many bytes came from peers for reading all of it."""
        before = pool.stats()["fetched_bytes"]
        for name, data in contents.items():
            assert (top / name).read_bytes() == data
        return pool.stats()["fetched_bytes"] - before

    dropped = json.loads(pool.p2pfs("evict", "--json", str(top)).stdout)
    assert dropped["files"] == 2
    assert read() >= 2 * LARGE  # of the kernel's pages and of memory nothing is left either
    pool.p2pfs("evict", str(top))
    warmed = json.loads(pool.p2pfs("warmup", "--json", str(top)).stdout)
    assert (warmed["files"], warmed["of_files"], warmed["failed"], warmed["cached_bytes"]) == (2, 2, 0, 0)
    assert warmed["fetched_bytes"] >= 2 * LARGE
    assert read() == 0
    again = json.loads(pool.p2pfs("warmup", "--json", str(top / "one"), str(top / "two")).stdout)
    assert (again["fetched_bytes"], again["cached_bytes"]) == (0, warmed["fetched_bytes"])
    pool.p2pfs("warmup", "/proc", expect=exitcodes.NOT_MOUNTED)


def test_what_is_no_volume_and_no_path_is_refused(pool: DemoPool) -> None:
    passphrase = str(pool.root / "passphrase")
    pool.p2pfs("fsck", "nothing", "--passphrase-file", passphrase, expect=exitcodes.NOT_FOUND)
    pool.p2pfs("fsck", "/proc/self", "--passphrase-file", passphrase, expect=exitcodes.NOT_MOUNTED)
