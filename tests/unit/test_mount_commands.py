"""What a mount answers to commands over its socket: lines, refusals with their class, and nonsense without ending."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
from blake3 import blake3
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.fetching import Told, Warmth
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.labels import Change
from p2pfs.vfs.tree import Owner
from p2pfs.wire.volumes import VolumeInfo, VolumeSettings
from p2pfs_mount import life
from p2pfs_mount.cache_commands import CacheCommands
from p2pfs_mount.commands import Commands
from p2pfs_mount.operations import Operations
from p2pfs_mount.volume_commands import VolumeCommands

pytestmark = [pytest.mark.l2, pytest.mark.trio]


@pytest.fixture
async def fs() -> AsyncIterator[Filesystem]:
    model = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, trash_s=60.0, wanted_min=0, room=(10_000_000, 4_000_000))
    async with filesystem(model.session(), MemoryStore()) as served:
        yield served


async def _idle() -> None:
    return


async def _store(_report: object) -> None:
    return


async def _leave() -> str:
    return ""


async def ask(fs: Filesystem, path: Path, *requests: object) -> list[list[dict[str, Any]]]:
    """The lines of each answer."""
    return await ask_table(Commands(fs, _idle).table(), path, *requests)


async def ask_table(table: Mapping[str, life.Command], path: Path, *requests: object) -> list[list[dict[str, Any]]]:
    control = life.Control(_store, _leave, dict, table)
    answers = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.serve, path)
        await wait_all_tasks_blocked()  # it listens
        for request in requests:
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(json.dumps(request).encode() + b"\n")
                text = b"".join([part async for part in stream])
            answers.append([json.loads(line) for line in text.splitlines()])
        nursery.cancel_scope.cancel()
    return answers


async def test_what_was_removed_is_listed_and_brought_back(fs: Filesystem, tmp_path: Path) -> None:
    name = b"caf\xe9"  # no UTF-8
    inode = await fs.make(ROOT_INODE, name, Kind.FILE, 0o644, Owner(0, 0))
    await fs.remove(ROOT_INODE, name, directory=False)
    listed, undeleted, again, empty = await ask(
        fs, tmp_path / "s", {"op": "trash list"}, {"op": "undelete", "path": "caf\udce9"},
        {"op": "undelete", "path": "caf\udce9"}, {"op": "trash list"},
    )  # fmt: skip
    assert [(line.get("inode"), line.get("path")) for line in listed] == [(inode.id, "caf\udce9"), (None, None)]
    assert undeleted == [{"path": "caf\udce9", "was": "caf\udce9"}, {"done": True}]
    assert again[-1]["code"] == "NotFound"
    assert empty == [{"done": True}]
    assert (await fs.lookup(ROOT_INODE, name)).id == inode.id


async def test_one_that_cannot_come_back_keeps_no_other_in_the_trash(fs: Filesystem, tmp_path: Path) -> None:
    top = await fs.make(ROOT_INODE, b"top", Kind.DIRECTORY, 0o755, Owner(0, 0))
    below = await fs.make(top.id, b"below", Kind.FILE, 0o644, Owner(0, 0))
    other = await fs.make(ROOT_INODE, b"other", Kind.FILE, 0o644, Owner(0, 0))
    await fs.remove(top.id, b"below", directory=False)
    await fs.remove(ROOT_INODE, b"top", directory=True)
    await fs.remove(ROOT_INODE, b"other", directory=False)
    with_child, with_nonsense = await ask(
        fs, tmp_path / "s", {"op": "trash restore", "inodes": [top.id, below.id]},
        {"op": "trash restore", "inodes": [4711, other.id]},
    )  # fmt: skip
    assert [line.get("path") for line in with_child] == ["top", "top/below", None]
    assert with_child[-1] == {"done": True}
    assert with_nonsense[0] == {"path": "other", "was": "other"}
    assert with_nonsense[-1]["code"] == "NotFound"


async def test_leases_are_set_shown_and_listed(fs: Filesystem, tmp_path: Path) -> None:
    inode = (await fs.make(ROOT_INODE, b"file", Kind.FILE, 0o644, Owner(0, 0))).id
    changed, shown, extended, listed = await ask(
        fs, tmp_path / "s", {"op": "lease set", "inode": 1, "expires_s": 500}, {"op": "lease show", "inode": inode},
        {"op": "lease extend", "inode": inode, "span_s": 50, "now_s": 100},
        {"op": "lease list", "before_s": 600},
    )  # fmt: skip
    assert changed[-2:] == [{"changed": 2}, {"done": True}]
    assert shown == [{"expires_s": 500}, {"done": True}]
    assert extended[-1] == {"done": True}
    assert [(line.get("path"), line.get("expires_s")) for line in listed[:-1]] == [("", 500), ("file", 550)]


async def test_nonsense_is_refused_and_the_mount_goes_on(fs: Filesystem, tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is not understood", count=3)
    answers = await ask(
        fs, tmp_path / "s", {"op": "undelete"}, {"op": "trash purge", "inodes": "x"},
        {"op": "lease set", "inode": None}, {"op": "none"}, [1], {"op": "trash list"},
    )  # fmt: skip
    assert [lines[-1].get("code") for lines in answers[:3]] == ["Misuse"] * 3
    assert answers[3] == answers[4] == [{"error": "this request is not known"}]
    assert answers[5] == [{"done": True}]


async def test_settings_are_changed_for_who_asks_of_this_volume_only(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is not understood", count=2)
    given: list[VolumeSettings] = []

    async def configure(settings: VolumeSettings) -> VolumeInfo:
        await trio.lowlevel.checkpoint()
        given.append(settings)
        return VolumeInfo(VOLUME, "photos", "anna", b"", 0, True, 0)

    answers = await ask_table(
        VolumeCommands(VOLUME, configure).table(), tmp_path / "s",
        {"op": "volume set", "volume": VOLUME, "settings": {"trash_removed_s": 0.0, "index_names": True}},
        {"op": "volume set", "volume": VOLUME + 1, "settings": {"trash_removed_s": 0.0}},
        {"op": "volume set", "settings": {}}, {"op": "volume set", "volume": VOLUME, "settings": {"owner": "bob"}},
    )  # fmt: skip
    assert answers[0] == [{"done": True}]  # and no key
    assert [lines[-1].get("code") for lines in answers[1:]] == ["NotFound", "Misuse", "Misuse"]
    assert given == [VolumeSettings(trash_removed_s=0.0, index_names=True)]


async def test_df_counts_what_only_the_trash_holds_as_free_but_not_as_available(fs: Filesystem) -> None:
    operations = Operations(fs, io_timeout_s=30.0)
    handle = await fs.create(ROOT_INODE, b"file", 0o644, Owner(0, 0))
    await fs.write(handle, 0, bytes(409_600))
    await fs.fsync(handle)
    await fs.release(handle)
    before = await operations.statfs(None)  # type: ignore[arg-type]
    await fs.remove(ROOT_INODE, b"file", directory=False)
    after = await operations.statfs(None)  # type: ignore[arg-type]
    assert before.f_bavail == before.f_bfree == after.f_bavail
    assert after.f_bfree == before.f_bfree + 100


async def test_what_cannot_be_read_is_counted_by_a_search(fs: Filesystem, tmp_path: Path) -> None:
    for name in (b"good", b"bad"):
        inode = await fs.make(ROOT_INODE, name, Kind.FILE, 0o644, Owner(0, 0))
        await fs.labels.change(inode.id, Change(("word",), has_content=True), lambda *_: _idle(), is_deep=False)
    row = await fs.labels._rows.one(inode.id)
    change = fs.labels._set_label(inode.id, row.revision, fs.labels._rows.label(row))
    await fs.labels._namespace.apply([msgspec.structs.replace(change, sealed=b"junk" * 20)])
    requests = [{"op": "search", "query": "word"}, {"op": "search hash", "blake3": blake3(b"").hexdigest()}]
    for answer in await ask(fs, tmp_path / "socket", *requests):
        found, told, done = answer
        assert (found["path"], told, done) == ("good", {"unreadable": 1}, {"done": True})


@pytest.mark.parametrize(("request_", "tops"), [({"inode": 5}, [5]), ({"inodes": [5, 7]}, [5, 7])])
async def test_what_is_warmed_up_may_be_several(request_: dict[str, object], tops: list[int]) -> None:
    class Warming:
        async def warm(self, asked: Sequence[InodeId], _told: Told, *, most: int | None, **_: object) -> Warmth:
            assert (asked, most) == (tops, 9)
            return Warmth(files=len(asked))

    said: list[dict[str, object]] = []

    async def say(message: dict[str, object]) -> None:
        said.append(message)

    filesystem: Any = SimpleNamespace(warming=Warming())
    kernel: Any = None
    await CacheCommands(filesystem, kernel).warm({**request_, "most": 9}, say)
    assert said[-1]["files"] == len(tops)


async def test_who_reads_slowly_is_not_told_twice_at_once(autojump_clock: object) -> None:
    """Chunks come in tasks of their own, and a stream takes one line at a time."""
    sending, receiving = trio.testing.lockstep_stream_pair()
    left = 3

    class Warming:
        async def warm(self, _tops: Sequence[InodeId], told: Told, **_: object) -> Warmth:
            async def come(after_s: float) -> None:
                await trio.sleep(after_s)
                await told(Warmth(files=1))
                nonlocal left
                left -= 1

            async with trio.open_nursery() as nursery:
                for number in range(left):
                    nursery.start_soon(come, float(number))
            return Warmth(files=3)

    async def say(message: dict[str, object]) -> None:
        await sending.send_all(json.dumps(message).encode() + b"\n")

    async def warm() -> None:
        filesystem: Any = SimpleNamespace(warming=Warming())
        kernel: Any = None
        await CacheCommands(filesystem, kernel).warm({"inode": ROOT_INODE}, say)
        await sending.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm)
        await trio.sleep(10)  # whoever asked was stopped
        assert left == 1  # the others have gone on
        lines = b"".join([part async for part in receiving]).splitlines()
    assert [json.loads(line)["files"] for line in lines] == [1, 3]
