"""A check of a volume whose rows were damaged in thousands of ways: it ends, it finds what a reader meets, and what it
mends without asking makes nothing worse. The vandal is that of promise P3."""

import os
import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tampered import LIMITS, LyingStore, OpenDatabase, Stage, _open
from volumes import KEYS, VOLUME, filesystem, ticking
from witness import Seen, look

from p2pfs.errors import Misuse
from p2pfs.format.heads import Head, open_head, seal_head
from p2pfs.format.names import dentry_tag, seal_name
from p2pfs.meta import engine, volumes
from p2pfs.types import MAX_FILE_BYTES, ROOT_INODE, InodeId, Kind
from p2pfs.vfs.fsck.asking import Asked
from p2pfs.vfs.fsck.findings import Code, Finding, Findings, Remedy, State
from p2pfs.vfs.fsck.mending import Mender
from p2pfs.vfs.fsck.paths import Names
from p2pfs.vfs.fsck.survey import Survey
from p2pfs.vfs.fsck.walk import Walk
from p2pfs.wire.answers import Answer
from p2pfs.wire.fsck import ReadInodes
from p2pfs.wire.leases import ReadNames
from p2pfs.wire.namespace import Attributes, GetAttributes, ReadDirectory
from p2pfs.wire.volumes import VolumeInfo

pytestmark = pytest.mark.l3

ROUNDS = int(os.environ.get("P2PFS_MUTATIONS", "240")) // 2


class Calls:
    """The coordinator's answers without a network. `before` hears of each question, and may change what is there."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.before: Callable[[Any], None] = lambda _: None

    async def ask(self, _method: str, _path: str, questions: Sequence[Any], _kind: object) -> list[Answer]:
        for question in questions:
            self.before(question)
        return engine.answer_all(self._connection, VOLUME, questions)


class Checked:
    """A volume in one open transaction, and checks of it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.calls = connection, Calls(connection)
        self.asked = Asked(self.calls, VOLUME, KEYS)  # type: ignore[arg-type]

    async def check(self) -> Findings:
        findings = Findings()

        async def info() -> VolumeInfo:
            return volumes.volume(self.connection, VOLUME)

        walk = Walk(self.asked, findings, lambda *_: None, nothing)
        await walk.run(b"")
        if walk.directories:
            await Survey(self.asked, findings, walk, info).run()
        names = Names(self.asked, walk.paths)
        for finding in findings.kept:
            if not finding.path and finding.inode is not None:
                finding.path = await names.of(finding.inode)
        return findings

    async def mend(self, findings: Findings, *, asking: bool) -> None:
        namespace = await _open(OpenDatabase(self.connection))
        mender = Mender(
            self.asked, namespace, None, lambda _: None, None, owner=(0, 0), now_ns=ticking(),  # type: ignore[arg-type]
        )  # fmt: skip
        wanted = [*findings.mendable(asking=False), *(findings.mendable(asking=True) if asking else ())]
        await mender.run(wanted)
        assert all(one.state is not State.FOUND for one in wanted)

    def damage(self, statement: str, *values: object) -> None:
        assert self.connection.execute(statement, values).rowcount > 0


@pytest.fixture(scope="module")
def staged() -> dict[str, Stage]:
    return {}


async def on_stage(staged: dict[str, Stage], tmp_path: Path) -> Stage:
    if "stage" not in staged:
        staged["stage"] = await Stage.build(tmp_path)
    return staged["stage"]


async def within(stage: Stage, test: Callable[[Checked], Awaitable[None]]) -> None:
    """Run a test on the volume, and have it as it was."""
    stage.connection.execute("BEGIN")
    try:
        await test(Checked(stage.connection))
    finally:
        stage.connection.execute("ROLLBACK")


async def seen(stage: Stage) -> Seen:
    namespace = await _open(OpenDatabase(stage.connection))
    async with filesystem(namespace, LyingStore(dict(stage.chunks)), limits=LIMITS) as fs:  # type: ignore[arg-type]
        return await look(fs, stage.witness)


async def test_what_a_reader_meets_is_found_and_nothing_gets_worse(staged: dict[str, Stage], tmp_path: Path) -> None:
    stage = await on_stage(staged, tmp_path)
    found_ones = mended_ones = 0
    for number in range(ROUNDS):
        chance = random.Random(f"fsck {number}")

        async def round(checked: Checked, chance: random.Random = chance, number: int = number) -> None:
            nonlocal found_ones, mended_ones
            damages = [stage.vandal.strike(stage.connection, chance) for _ in range(chance.randint(1, 3))]
            did = f"round {number}: {'; '.join(damage.what for damage in damages)}"
            before = await seen(stage)
            findings = await checked.check()
            found_ones += len(findings)
            # what names lead to that are hidden altogether, nobody can know
            hides = any(word in did for word in ("removed", "moved", "exchanged", "once", "dentry", "chunk"))
            assert findings.kept or hides or not before.count["refused"], did
            await checked.mend(findings, asking=False)
            mended = [one for one in findings.kept if one.state is State.MENDED]
            mended_ones += len(mended)
            after = await seen(stage)
            assert [line for line in after.wrong if "lost+found" not in line] == [], did
            # by the number of a directory that is gone, what was in it could still be looked up
            is_adopted = any(one.code is Code.ORPHAN for one in mended)
            assert is_adopted or after.count["refused"] <= before.count["refused"], did
            await checked.mend(findings, asking=True)
            again = await checked.check()
            assert not {(one.code, one.inode) for one in mended} & {(one.code, one.inode) for one in again.kept}, did

        await within(stage, round)
    assert found_ones > ROUNDS / 2
    assert mended_ones > ROUNDS / 8


async def test_a_whole_volume_is_clean(staged: dict[str, Stage], tmp_path: Path) -> None:
    async def clean(checked: Checked) -> None:
        findings = await checked.check()
        assert (findings.kept, findings.notes) == ([], [])
        assert findings.tally.inodes > 10

    await within(await on_stage(staged, tmp_path), clean)


def inode_of(connection: sqlite3.Connection, parent: int, name: bytes) -> InodeId:
    sealed = seal_name(KEYS, VOLUME, InodeId(parent), name)
    found = connection.execute("SELECT inode FROM dentry WHERE parent = ? AND name = ?", (parent, sealed)).fetchone()
    return InodeId(found[0])


async def test_directories_that_are_each_below_the_other_come_to_lost_and_found(
    staged: dict[str, Stage], tmp_path: Path
) -> None:
    async def circle(checked: Checked) -> None:
        d, e = (inode_of(checked.connection, ROOT_INODE, name) for name in (b"d", b"e"))
        for inode, parent, name in ((d, e, b"d"), (e, d, b"e")):
            checked.damage(
                "UPDATE dentry SET parent = ?, name = ?, tag = ? WHERE inode = ?",
                parent, seal_name(KEYS, VOLUME, parent, name),
                dentry_tag(KEYS, VOLUME, parent, name, inode, Kind.DIRECTORY), inode,
            )  # fmt: skip
            checked.damage("UPDATE inode SET parent = ?, links = 3 WHERE inode = ?", parent, inode)
        checked.damage("UPDATE inode SET links = links - 2 WHERE inode = ?", ROOT_INODE)
        findings = await checked.check()
        (one,) = [one for one in findings.kept if one.code is Code.UNREACHABLE]
        assert one.inode == min(d, e)
        await checked.mend(findings, asking=True)
        lost = inode_of(checked.connection, ROOT_INODE, b"lost+found")
        entry = checked.connection.execute("SELECT inode FROM dentry WHERE parent = ?", (lost,)).fetchall()
        assert entry == [(one.inode,)]
        assert [again.code for again in (await checked.check()).kept] == []

    await within(await on_stage(staged, tmp_path), circle)


async def test_what_changes_while_it_is_checked_is_not_damaged(staged: dict[str, Stage], tmp_path: Path) -> None:
    """A directory comes between the listing of its parent's parent and that of its parent."""

    async def change(checked: Checked) -> None:
        d = inode_of(checked.connection, ROOT_INODE, b"d")
        listed: list[InodeId] = []

        def before(question: Any) -> None:  # noqa: ANN401
            if isinstance(question, ReadDirectory) and question.inode == d and d not in listed:
                listed.append(d)
                checked.damage("UPDATE inode SET parent = ? WHERE inode = ?", d, e)
                checked.damage(
                    "UPDATE dentry SET parent = ?, name = ?, tag = ? WHERE inode = ?",
                    d, seal_name(KEYS, VOLUME, d, b"e"), dentry_tag(KEYS, VOLUME, d, b"e", e, Kind.DIRECTORY), e,
                )  # fmt: skip
                checked.damage("UPDATE inode SET links = links + 1, attr_change = attr_change + 1 WHERE inode = ?", d)
                checked.damage(
                    "UPDATE inode SET links = links - 1, attr_change = attr_change + 1 WHERE inode = ?", ROOT_INODE
                )

        e = inode_of(checked.connection, ROOT_INODE, b"e")
        checked.calls.before = before
        assert (await checked.check()).kept == []
        assert listed

    await within(await on_stage(staged, tmp_path), change)


async def test_an_older_coordinator_is_told_from_a_damaged_volume(staged: dict[str, Stage], tmp_path: Path) -> None:
    async def old(checked: Checked) -> None:
        def refuse(question: Any) -> None:  # noqa: ANN401
            if isinstance(question, ReadInodes):
                raise Misuse("there is no such question")

        checked.calls.before = refuse
        with pytest.raises(Misuse):
            await checked.check()

    await within(await on_stage(staged, tmp_path), old)


def file_in(checked: Checked, parent: int, name: bytes) -> tuple[InodeId, Attributes]:
    inode = inode_of(checked.connection, parent, name)
    found = engine.answer(checked.connection, VOLUME, GetAttributes(inode))
    assert isinstance(found, Attributes)
    return inode, found


async def mended(checked: Checked, code: Code, inode: InodeId) -> Finding:
    """What became of the one finding of an inode."""
    findings = await checked.check()
    (one,) = [one for one in findings.kept if one.inode == inode]
    assert (one.code, one.remedy) == (code, Remedy.SALVAGE)
    await checked.mend(findings, asking=True)
    return one


def break_extent(checked: Checked, inode: InodeId) -> None:
    checked.damage("UPDATE extent SET sealed = x'00' WHERE inode = ? AND mib = 0", inode)


async def test_nothing_is_vouched_for_where_a_file_cannot_be_moved(staged: dict[str, Stage], tmp_path: Path) -> None:
    """What opens of it is not all of it: under its name it would pass for whole."""

    async def blocked(checked: Checked) -> None:
        _, taken = file_in(checked, ROOT_INODE, b"small")
        checked.damage(
            "UPDATE dentry SET name = ?, tag = ? WHERE inode = ?",
            seal_name(KEYS, VOLUME, ROOT_INODE, b"lost+found"),
            dentry_tag(KEYS, VOLUME, ROOT_INODE, b"lost+found", InodeId(taken.inode), Kind.FILE), taken.inode,
        )  # fmt: skip
        inode, before = file_in(checked, ROOT_INODE, b"mib")
        break_extent(checked, inode)
        one = await mended(checked, Code.CONTENT, inode)
        assert one.state is State.LEFT
        assert file_in(checked, ROOT_INODE, b"mib")[1].head == before.head

    await within(await on_stage(staged, tmp_path), blocked)


async def test_what_opens_of_a_file_is_moved_with_what_vouches_for_it(staged: dict[str, Stage], tmp_path: Path) -> None:
    async def moved(checked: Checked) -> None:
        inode, before = file_in(checked, ROOT_INODE, b"mib")
        break_extent(checked, inode)
        assert (await mended(checked, Code.CONTENT, inode)).state is State.MENDED
        assert (await checked.check()).kept == []
        lost = inode_of(checked.connection, ROOT_INODE, b"lost+found")
        assert checked.connection.execute("SELECT inode FROM dentry WHERE parent = ?", (lost,)).fetchall() == [(inode,)]
        now = engine.answer(checked.connection, VOLUME, GetAttributes(inode))
        assert isinstance(now, Attributes)
        assert (now.size, now.change) == (before.size, before.change + 1)

    await within(await on_stage(staged, tmp_path), moved)


async def test_what_is_whole_when_somebody_has_agreed_stays_where_it_is(
    staged: dict[str, Stage], tmp_path: Path
) -> None:
    """A person took their time, and a mount wrote the file anew."""

    async def written(checked: Checked) -> None:
        inode, before = file_in(checked, ROOT_INODE, b"mib")
        rows = checked.connection.execute("SELECT sealed FROM extent WHERE inode = ? AND mib = 0", (inode,))
        sealed = rows.fetchall()
        break_extent(checked, inode)
        findings = await checked.check()
        assert len(sealed) == 1
        checked.damage("UPDATE extent SET sealed = ? WHERE inode = ? AND mib = 0", sealed[0][0], inode)
        await checked.mend(findings, asking=True)
        assert file_in(checked, ROOT_INODE, b"mib")[1] == before
        assert (await checked.check()).kept == []

    await within(await on_stage(staged, tmp_path), written)


async def test_an_empty_file_with_a_damaged_head_is_mended(staged: dict[str, Stage], tmp_path: Path) -> None:
    async def empty(checked: Checked) -> None:
        rows = checked.connection.execute("SELECT inode FROM inode WHERE kind = 1 AND size = 0 AND links = 1")
        inode = InodeId(rows.fetchone()[0])
        checked.damage("UPDATE inode SET head = x'00' WHERE inode = ?", inode)
        assert (await mended(checked, Code.HEAD, inode)).state is State.MENDED
        assert (await checked.check()).kept == []

    await within(await on_stage(staged, tmp_path), empty)


@pytest.mark.parametrize("size", [-1, MAX_FILE_BYTES + 1, 1 << 62])
async def test_a_size_that_no_file_has_is_not_walked_through(
    staged: dict[str, Stage], tmp_path: Path, size: int
) -> None:
    async def huge(checked: Checked) -> None:
        inode, _ = file_in(checked, ROOT_INODE, b"plain")
        checked.damage("UPDATE inode SET head = x'00', size = ? WHERE inode = ?", size, inode)
        assert (await mended(checked, Code.HEAD, inode)).state is State.LEFT

    await within(await on_stage(staged, tmp_path), huge)


async def test_a_small_file_keeps_the_size_that_its_head_knows(staged: dict[str, Stage], tmp_path: Path) -> None:
    """A tail of zeros is in no content."""

    async def sparse(checked: Checked) -> None:
        inode, before = file_in(checked, ROOT_INODE, b"small")
        head = seal_head(KEYS, VOLUME, inode, Head(before.change, 5000, Kind.FILE, (4711,)))
        checked.damage("UPDATE inode SET head = ?, size = 5000 WHERE inode = ?", head, inode)
        checked.damage("UPDATE volume SET bytes = bytes + ?", 5000 - before.size)
        assert (await mended(checked, Code.CONTENT, inode)).state is State.MENDED
        now = engine.answer(checked.connection, VOLUME, GetAttributes(inode))
        assert isinstance(now, Attributes)
        assert (now.size, open_head(KEYS, VOLUME, inode, now.head).size) == (5000, 5000)

    await within(await on_stage(staged, tmp_path), sparse)


async def test_renames_between_two_questions_are_no_circle(staged: dict[str, Stage], tmp_path: Path) -> None:
    """`e` comes to be in `d` when the walk is done; then the other way round, between the questions where each is."""

    async def moved(checked: Checked) -> None:
        d, e = (inode_of(checked.connection, ROOT_INODE, name) for name in (b"d", b"e"))
        asked: list[int] = []

        def put(inode: InodeId, parent: InodeId, name: bytes) -> None:
            checked.damage(
                "UPDATE dentry SET parent = ?, name = ?, tag = ? WHERE inode = ?",
                parent, seal_name(KEYS, VOLUME, parent, name),
                dentry_tag(KEYS, VOLUME, parent, name, inode, Kind.DIRECTORY), inode,
            )  # fmt: skip
            checked.damage("UPDATE inode SET parent = ? WHERE inode = ?", parent, inode)

        def before(question: Any) -> None:  # noqa: ANN401
            if not isinstance(question, ReadNames):
                return
            asked.append(question.inode)
            if len(asked) == 2:  # after `d` in `e` was told, `e` is moved into `d`
                put(d, InodeId(ROOT_INODE), b"d")
                put(e, d, b"e")

        put(d, e, b"d")
        walk = Walk(checked.asked, findings := Findings(), lambda *_: None, nothing)
        walk.directories[InodeId(ROOT_INODE)] = InodeId(ROOT_INODE)
        survey = Survey(checked.asked, findings, walk, nothing)  # type: ignore[arg-type]
        checked.calls.before = before
        await survey._look_above(d)
        assert findings.kept == []
        assert len(asked) > 2

    await within(await on_stage(staged, tmp_path), moved)


async def nothing() -> None: ...
