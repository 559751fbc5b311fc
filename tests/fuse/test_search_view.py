"""`.p2pfs/search/<query>/` in a real mount: hidden, read-only; and what the volume has by that name wins."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pools import DemoPool

from p2pfs import exitcodes

pytestmark = pytest.mark.l4


def refused(number: int, change: Callable[[], object]) -> bool:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        change()
    return caught.value.errno == number


def test_what_is_found_is_a_directory_of_links(pool: DemoPool, mounted: Path) -> None:
    one, two = mounted / "bill.txt", mounted / "sub" / "bill.txt"
    two.parent.mkdir()
    one.write_text("one")
    two.write_text("two")
    for path in (one, two):
        pool.p2pfs("tag", str(path), "viewed", "2026")
    search = pool.mount / ".p2pfs" / "search"
    view = search / "2026 Viewed"
    assert sorted(os.listdir(view)) == ["bill (2).txt", "bill.txt"]
    assert {path.read_text() for path in view.iterdir()} == {"one", "two"}
    assert {path.resolve() for path in view.iterdir()} == {one, two}
    assert all(path.is_symlink() for path in view.iterdir())
    assert ".p2pfs" not in os.listdir(pool.mount)
    assert os.listdir(search) == []
    assert os.listdir(search / "nothinghasthisword") == []
    assert not (search / "!!").exists()
    assert os.stat(view / "..").st_ino == os.stat(search).st_ino
    assert os.stat(view).st_ino >= 1 << 63


def test_nothing_there_can_be_changed(pool: DemoPool, mounted: Path) -> None:
    file = mounted / "file"
    file.touch()
    pool.p2pfs("tag", str(file), "lasting")
    top = pool.mount / ".p2pfs"
    view = top / "search" / "lasting"
    changes: list[Callable[[], object]] = [
        (view / "new").touch,
        (view / "new").mkdir,
        (view / "file").unlink,
        view.rmdir,
        top.rmdir,
        lambda: view.chmod(0o777),
        lambda: os.utime(view),
        lambda: (view / "file").rename(view / "other"),
        lambda: (view / "file").rename(mounted / "moved"),
        lambda: file.rename(view / "moved"),
        lambda: os.link(file, view / "linked"),
        lambda: os.symlink("x", view / "link"),
        lambda: os.mkfifo(view / "queue"),
        lambda: top.rename(mounted / "top"),
    ]
    assert [refused(errno.EROFS, change) for change in changes] == [True] * len(changes)
    assert os.listdir(view) == ["file"]
    assert file.exists()
    file.unlink()


def test_what_the_volume_has_by_that_name_is_not_hidden(pool: DemoPool, mounted: Path) -> None:
    """A directory moved there: everything else the kernel refuses, as the name is taken."""
    top = pool.mount / ".p2pfs"
    assert refused(errno.EEXIST, top.mkdir)
    (mounted / "real").mkdir()
    (mounted / "real" / "file").write_text("real")
    (mounted / "real").rename(top)
    assert os.listdir(top) == ["file"]
    assert ".p2pfs" in os.listdir(pool.mount)
    (top / "file").unlink()
    top.rmdir()
    until_s = time.monotonic() + 30
    while not (top / "search").is_dir():  # the kernel believes for a second what it was told
        assert time.monotonic() < until_s
        os.sched_yield()
    assert ".p2pfs" not in os.listdir(pool.mount)


def test_a_link_there_can_be_tagged_as_what_it_leads_to(pool: DemoPool, mounted: Path) -> None:
    file, link = mounted / "meant", mounted / "link"
    file.touch()
    link.symlink_to("meant")
    for path in (file, link):
        pool.p2pfs("tag", str(path), "shown")
    view = pool.mount / ".p2pfs" / "search" / "shown"
    pool.p2pfs("tag", str(view / "meant"), "again")
    pool.p2pfs("tag", str(view / "link"), "itself")
    assert json.loads(pool.p2pfs("tag", str(file), "--json").stdout)["tags"] == ["shown", "again"]
    assert json.loads(pool.p2pfs("tag", str(link), "--json").stdout)["tags"] == ["shown", "itself"]
    result = pool.p2pfs("tag", str(view), "x", expect=exitcodes.USAGE)
    assert "not in the volume" in result.stderr
