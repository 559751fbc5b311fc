"""What root gives away, and files of other users, whoever the tests run as."""

import os

import pytest

Given = list[tuple[str, int, int]]
"""The name a file was opened under, its new user and group."""


def owned_by(owner: int, found: os.stat_result) -> os.stat_result:
    """What was found, as if it were somebody else's."""
    return os.stat_result((*found[:4], owner, *found[5:]))


def as_root(monkeypatch: pytest.MonkeyPatch, *, owner: int) -> Given:
    """From now on this process seems to be root, whose files have `owner` before they are given away."""
    given: Given = []
    fstat = os.fstat

    def seen(fd: int) -> os.stat_result:
        return owned_by(owner, fstat(fd))

    def fchown(fd: int, uid: int, gid: int) -> None:
        given.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), uid, gid))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fstat", seen)
    monkeypatch.setattr(os, "fchown", fchown)
    return given
