"""Removing, expiring and bringing back with the commands a person uses, on a pool of real processes."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import DemoPool, demo_pool

from p2pfs import exitcodes

pytestmark = pytest.mark.l5


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("trash"), peers=2) as started:
        yield started


def asked(pool: DemoPool, *words: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads(pool.p2pfs(*words, "--json").stdout)


def plant(at: Path) -> dict[str, bytes]:
    """A small tree with a file of several chunks and a symbolic link; what is in it."""
    (at / "sub").mkdir(parents=True)
    (at / "sub" / "large").write_bytes(os.urandom(3 << 20))
    (at / "small").write_bytes(b"small")
    (at / "link").symlink_to("small")
    os.utime(at / "small", ns=(10**18, 10**18))
    return contents(at)


def contents(at: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(at)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in at.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_removed_tree_comes_back_with_its_bytes_and_times(pool: DemoPool) -> None:
    top = pool.mount / "tree"
    before = plant(top)
    shutil.rmtree(top)
    assert not top.exists()
    listed = asked(pool, "trash", "list", str(pool.mount))
    assert {str(top / name) for name in before} <= {item["path"] for item in listed}
    back = asked(pool, "undelete", str(top))
    assert {item["path"] for item in back} >= {str(top / name) for name in before}
    assert contents(top) == before
    assert (top / "small").stat().st_mtime_ns == 10**18
    pool.p2pfs("undelete", str(top), expect=exitcodes.NOT_FOUND)


def test_what_was_saved_over_is_there_at_a_time(pool: DemoPool) -> None:
    file, new = pool.mount / "letter", pool.mount / "letter.new"
    file.write_text("first")
    time_s = time.time()
    new.write_text("second")
    new.rename(file)
    (item,) = asked(pool, "undelete", str(file), "--at", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s)))
    assert item["was"] == str(file) != item["path"]
    assert Path(item["path"]).read_text() == "first"
    assert file.read_text() == "second"


def test_what_is_purged_is_gone_for_good_and_the_command_asks_before(pool: DemoPool) -> None:
    file = pool.mount / "secret"
    file.write_text("secret")
    file.unlink()
    (number,) = [item["inode"] for item in asked(pool, "trash", "list", str(file))]
    refused = pool.p2pfs("trash", "purge", str(pool.mount), str(number), expect=exitcodes.USAGE)  # nobody is there
    assert "Destroy 1 file" in refused.stderr
    assert [item["inode"] for item in asked(pool, "trash", "list", str(file))] == [number]
    assert asked(pool, "trash", "purge", str(pool.mount), str(number), "--yes") == {"purged": 1}
    pool.p2pfs("trash", "restore", str(pool.mount), str(number), expect=exitcodes.NOT_FOUND)
    pool.p2pfs("trash", "purge", str(pool.mount), expect=exitcodes.USAGE)


def test_a_volume_may_keep_no_trash(pool: DemoPool) -> None:
    file = pool.mount / "kept"
    file.touch()
    assert asked(pool, "volume", "set", "demo", "trash_removed=0")["trash_removed_s"] == 0
    try:
        file.unlink()
        assert str(file) not in {item["path"] for item in asked(pool, "trash", "list", str(pool.mount))}
    finally:
        pool.p2pfs("volume", "set", "demo", "trash_removed=1d")
    pool.p2pfs("volume", "set", "demo", "small_file=1K", expect=exitcodes.USAGE)


def test_a_lease_is_set_extended_listed_and_ends(pool: DemoPool) -> None:
    top = pool.mount / "leased"
    before = plant(top)
    now_s = time.time()
    assert asked(pool, "lease", "show", str(top))["expires_s"] == 0
    given = asked(pool, "lease", "set", str(top), "3d")
    assert given["changed"] == 5
    assert abs(given["expires_s"] - now_s - 3 * 86400) < 60
    (top / "new").touch()
    assert asked(pool, "lease", "show", str(top / "new"))["expires_s"] == given["expires_s"]
    longer = asked(pool, "lease", "extend", str(top / "small"), "1w")
    assert longer["expires_s"] == given["expires_s"] + 7 * 86400
    soon = asked(pool, "lease", "list", str(top), "--expiring", "7d")
    assert {item["path"] for item in soon} >= {str(top), str(top / "new"), str(top / "sub" / "large")}
    assert str(top / "small") not in {item["path"] for item in soon}
    for words in (("set", str(top), "30"), ("set", str(top), "soon"), ("extend", str(top), "never")):
        pool.p2pfs("lease", *words, expect=exitcodes.USAGE)
    pool.p2pfs("lease", "show", str(top / "missing"), expect=exitcodes.NOT_FOUND)
    pool.p2pfs("lease", "show", "/", expect=exitcodes.NOT_MOUNTED)
    assert asked(pool, "lease", "set", str(top / "sub" / "large"), "1s")["changed"] == 1
    until_s = time.monotonic() + 60
    while (top / "sub" / "large").exists():
        assert time.monotonic() < until_s
        time.sleep(0.2)
    assert asked(pool, "undelete", str(top / "sub" / "large"))[0]["path"] == str(top / "sub" / "large")
    assert contents(top) == before | {"new": b""}
    assert asked(pool, "lease", "show", str(top / "sub" / "large"))["expires_s"] > now_s + 6 * 86400
