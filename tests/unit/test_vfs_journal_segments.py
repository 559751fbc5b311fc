"""The files of a journal: in which order the disk gets them, and when they go."""

import os
from pathlib import Path

import pytest
from volumes import KEYS, VOLUME

from p2pfs.vfs.journal.segments import Segment, Segments

pytestmark = pytest.mark.l1


def begun(directory: Path, *, live: int = 0) -> tuple[Segments, list[Segment]]:
    """Three segments with a record each."""
    segments = Segments(directory, KEYS, VOLUME)
    made = []
    for _ in range(3):
        segments.begin()
        made.append(segments.append(b"record"))
        made[-1].live = live
    return segments, made


def sync(segments: Segments) -> None:
    segments.sync(unsynced := segments.unsynced())
    segments.synced(unsynced)


def test_segments_that_others_followed_are_synced_too_and_before_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    segments, made = begun(tmp_path, live=1)
    assert segments.is_unsynced
    sync(segments)
    assert synced == [one.path.stat().st_ino for one in made]
    assert not segments.is_unsynced
    synced.clear()
    segments.append(b"more")
    sync(segments)
    assert synced == [made[-1].path.stat().st_ino]
    segments.close()


def test_a_segment_goes_once_what_was_written_before_it_became_unneeded_is_on_the_disk(tmp_path: Path) -> None:
    segments, made = begun(tmp_path, live=1)
    unsynced = segments.unsynced()
    segments.append(b"what takes the place of the first")
    made[0].live = 0
    segments.trim()
    segments.sync(unsynced)
    segments.synced(unsynced)
    assert made[0].path.exists()
    sync(segments)
    assert [one.path.exists() for one in made] == [False, True, True]
    made[1].live = 0
    segments.trim()
    assert not made[1].path.exists()
    segments.close()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    segments, _ = begun(tmp_path)
    sync(segments)
    segments.begin()
    segments.delete()
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []
