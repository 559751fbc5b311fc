"""Numbered files: added at the end, never replaced, cut from the end, found again."""

from pathlib import Path

import pytest

from p2pfs.errors import Conflict, Exists, NotFound
from p2pfs.runtime.parts import PartFiles, Row, newest_whole

pytestmark = pytest.mark.l0


def filled(root: Path) -> PartFiles:
    files = PartFiles(root)
    for number, is_state in enumerate([False, True, False, True, False]):
        files.keep(7, number, b"part %d" % number, is_state=is_state)
    files.keep(9, 0, b"other", is_state=True)
    return files


def test_parts_are_found_again_as_they_were(tmp_path: Path) -> None:
    files = filled(tmp_path / "backups")
    assert files.rows() == PartFiles(tmp_path / "backups").rows()
    assert files.rows()[7] == Row([6] * 5, [1, 3])
    assert (files.rows()[7].last_state, files.bytes) == (3, 6 * 4096)
    assert PartFiles(tmp_path / "backups").read(7, 4) == b"part 4"
    assert PartFiles(tmp_path / "backups").bytes == 6 * 4096


def test_a_part_is_never_replaced_and_never_follows_a_gap(tmp_path: Path) -> None:
    files = filled(tmp_path)
    files.keep(7, 2, b"part 2", is_state=False)  # again is fine: its answer was lost
    with pytest.raises(Exists):
        files.keep(7, 2, b"other", is_state=False)
    with pytest.raises(Conflict):
        files.keep(7, 6, b"part 6", is_state=False)
    with pytest.raises(Conflict):
        files.keep(8, 1, b"part 1", is_state=False)
    assert files.read(7, 2) == b"part 2"
    for generation, number in ((7, 5), (8, 0), (7, -1)):
        with pytest.raises(NotFound):
            files.read(generation, number)


def test_cutting_leaves_a_whole_beginning(tmp_path: Path) -> None:
    files = filled(tmp_path)
    files.cut(7, 3)
    assert files.rows()[7] == Row([6] * 3, [1])
    assert PartFiles(tmp_path).rows() == files.rows()
    files.cut(7, 0)
    files.cut(7, 0)
    assert list(files.rows()) == [9]
    assert files.bytes == PartFiles(tmp_path).bytes == 4096
    files.clear()
    assert (files.rows(), files.bytes) == ({}, 0)
    files.keep(1, 0, b"x", is_state=True)
    assert files.read(1, 0) == b"x"


def test_what_a_crash_left_does_not_count(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / f"{7:016x}" / "00000002.part").unlink()  # as after a cut that lost its order on the disk
    (tmp_path / f"{9:016x}" / ".00000001.part.abcd.tmp").write_bytes(b"half")
    (tmp_path / f"{11:016x}").mkdir()
    files = PartFiles(tmp_path)
    assert {generation: len(row.sizes) for generation, row in files.rows().items()} == {7: 2, 9: 1}
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "00000000.part", "00000000.state", "00000001.state",
    ]  # fmt: skip


def test_the_newest_whole_ones(tmp_path: Path) -> None:
    files = filled(tmp_path)
    files.keep(12, 0, b"begun", is_state=False)
    files.keep(10, 0, b"whole", is_state=True)
    assert newest_whole(files.rows(), 2) == [10, 9]
