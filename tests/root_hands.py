"""What root gives away, recorded: a test's own user may be anybody's."""

import os

import pytest

Given = list[tuple[str, int, int]]
"""The name a file was opened under, its new user and group."""


def as_root(monkeypatch: pytest.MonkeyPatch, *, owner: int) -> Given:
    """From now on this process seems to be root, whose files have `owner` before they are given away."""
    given: Given = []
    fstat = os.fstat

    def seen(fd: int) -> os.stat_result:
        found = fstat(fd)
        return os.stat_result((*found[:4], owner, *found[5:]))

    def fchown(fd: int, uid: int, gid: int) -> None:
        given.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), uid, gid))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fstat", seen)
    monkeypatch.setattr(os, "fchown", fchown)
    return given
