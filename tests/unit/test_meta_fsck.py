"""What a check is told of a volume's rows, and that the coordinator mends by counting, whatever it is told."""

import sqlite3

import pytest
from namespaces import VOLUME, Hand, SqlWorld, broken_invariants

from p2pfs.errors import Conflict, Invalid, Loop, Misuse, NotFound
from p2pfs.meta import engine, fsck
from p2pfs.meta.work import Rules, Work
from p2pfs.types import ROOT_INODE, InodeId, Kind, VolumeId
from p2pfs.wire.fsck import (
    OPEN,
    TRASHED,
    Adopt,
    Dangling,
    DanglingPage,
    DropDangling,
    InodeFacts,
    InodePage,
    ReadDangling,
    ReadInodes,
    Recount,
    Reseal,
)
from p2pfs.wire.namespace import Opened, Operation, Question, Rename, Unlink

pytestmark = pytest.mark.l0


async def prepared(trash_s: float = 0.0) -> tuple[SqlWorld, Hand]:
    world = SqlWorld.in_memory()
    await world.prepare(trash_s=trash_s)
    return world, Hand(await world.mount())


def ask(world: SqlWorld, question: Question) -> object:
    return world.database.read(lambda connection: engine.answer(connection, VOLUME, question))


def facts(world: SqlWorld) -> dict[int, InodeFacts]:
    page = ask(world, ReadInodes(0, 1000))
    assert isinstance(page, InodePage)
    assert page.complete
    return {row.inode: row for row in page.rows}


async def damage(world: SqlWorld, statement: str, *values: object) -> None:
    await world.database.write(lambda connection: connection.execute(statement, values))


def broken(world: SqlWorld) -> list[str]:
    return world.database.read(broken_invariants)


async def adopt(hand: Hand, inode: InodeId, name: bytes = b"found", parent: InodeId = ROOT_INODE) -> None:
    (dentry,) = await hand.namespace.new_ids(1)
    await hand.namespace.apply([Adopt(inode, parent, name, dentry, b"tag", 10**18)])


async def test_an_inode_is_told_of_with_what_keeps_it() -> None:
    world, hand = await prepared(trash_s=3600.0)
    named, kept, trashed = [await hand.make(name) for name in (b"named", b"kept", b"trashed")]
    directory = await hand.make(b"directory", kind=Kind.DIRECTORY)
    below = await hand.make(b"below", parent=directory)
    await hand.namespace.apply([Opened(kept)])
    await hand.unlink(b"kept", kept)
    await hand.unlink(b"trashed", trashed)
    found = facts(world)
    assert {inode: (row.names, row.named_in, row.kept) for inode, row in found.items() if inode != ROOT_INODE} == {
        named: (1, ROOT_INODE, 0),
        kept: (0, 0, TRASHED | OPEN),
        trashed: (0, 0, TRASHED),
        directory: (1, ROOT_INODE, 0),
        below: (1, directory, 0),
    }


async def test_pages_end_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck, "SCANNED", 2)
    world, hand = await prepared()
    inodes = [await hand.make(b"%d" % at) for at in range(5)]
    page = ask(world, ReadInodes(0, 4))
    assert isinstance(page, InodePage)
    assert ([row.inode for row in page.rows], page.complete) == ([ROOT_INODE, *inodes[:3]], False)
    page = ask(world, ReadInodes(inodes[2], 4))
    assert isinstance(page, InodePage)
    assert ([row.inode for row in page.rows], page.complete) == (inodes[3:], True)
    await damage(world, "DELETE FROM inode WHERE inode = ?", inodes[3])
    seen: list[Dangling] = []
    after, pages = (0, 0), 0
    while pages == 0 or after != (0, 0):
        told = ask(world, ReadDangling(after))
        assert isinstance(told, DanglingPage)
        seen, after, pages = seen + told.rows, told.after, pages + 1
    assert [(row.parent, row.inode, row.name) for row in seen] == [(ROOT_INODE, inodes[3], b"3")]
    assert pages == 3


@pytest.mark.parametrize(
    ("statement", "which"),
    [
        ("UPDATE inode SET links = 9 WHERE inode = ?", "file"),
        ("UPDATE inode SET links = 0 WHERE inode = ?", "file"),
        ("UPDATE inode SET links = 9 WHERE inode = ?", "directory"),
        ("UPDATE inode SET links = 9 WHERE inode = ?", "root"),
        ("UPDATE inode SET parent = 1 WHERE inode = ?", "below"),
        ("UPDATE volume SET inodes = inodes + ?, bytes = 3, trash_inodes = 4, trash_bytes = 5", "volume"),
    ],
)
async def test_what_is_counted_again_is_right(statement: str, which: str) -> None:
    world, hand = await prepared(trash_s=3600.0)
    inodes = {"file": await hand.make(b"file"), "root": ROOT_INODE, "volume": 0}
    inodes["directory"] = await hand.make(b"directory", kind=Kind.DIRECTORY)
    inodes["below"] = await hand.make(b"below", parent=inodes["directory"], kind=Kind.DIRECTORY)
    await hand.unlink(b"gone", await hand.make(b"gone"))
    await damage(world, statement, inodes[which])
    assert which == "below" or broken(world)
    await hand.namespace.apply([Recount(inodes[which])])
    assert broken(world) == []
    assert facts(world)[inodes["below"]].parent == inodes["directory"]


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.DIRECTORY])
@pytest.mark.parametrize("links", [0, 2])
async def test_what_has_a_name_is_not_purged_once_it_is_counted_again(kind: Kind, links: int) -> None:
    world, hand = await prepared(trash_s=3600.0)
    inode = await hand.make(b"both", kind=kind)
    directory = await hand.make(b"directory", kind=Kind.DIRECTORY)
    await hand.unlink(b"both", inode, directory=kind is Kind.DIRECTORY)
    await damage(world, "INSERT INTO dentry VALUES (?, 1, 999, ?, x'aa', x'bb')", VOLUME, inode)
    await damage(world, "UPDATE inode SET links = ? WHERE inode = ?", links, inode)
    assert (facts(world)[inode].names, facts(world)[inode].kept) == (1, TRASHED)
    for counted in (inode, ROOT_INODE, directory):
        await hand.namespace.apply([Recount(counted)])
    assert facts(world)[inode].kept == 0
    assert broken(world) == []


async def test_only_what_nothing_keeps_is_adopted() -> None:
    world, hand = await prepared(trash_s=3600.0)
    named, trashed, orphan = [await hand.make(name) for name in (b"named", b"trashed", b"orphan")]
    await hand.unlink(b"trashed", trashed)
    for inode, error in ((named, Conflict), (trashed, Conflict), (ROOT_INODE, Conflict), (InodeId(4711), NotFound)):
        with pytest.raises(error):
            await adopt(hand, inode)
    await damage(world, "DELETE FROM dentry WHERE inode = ?", orphan)
    await adopt(hand, orphan)
    assert broken(world) == []
    assert (await hand.namespace.lookup(ROOT_INODE, b"found")).attributes.inode == orphan


async def test_what_was_in_a_directory_that_is_gone_is_adopted_with_all_below_it() -> None:
    world, hand = await prepared()
    gone = await hand.make(b"gone", kind=Kind.DIRECTORY)
    inside = await hand.make(b"inside", parent=gone, kind=Kind.DIRECTORY)
    below = await hand.make(b"below", parent=inside)
    await damage(world, "DELETE FROM inode WHERE inode = ?", gone)
    assert (facts(world)[inside].names, facts(world)[inside].named_in) == (0, 0)
    await adopt(hand, inside)
    (dentry,) = world.database.read(
        lambda c: c.execute("SELECT dentry FROM dentry WHERE inode = ?", (gone,)).fetchone()
    )
    for mend in (DropDangling(ROOT_INODE, dentry), Recount(ROOT_INODE), Recount(0)):
        await hand.namespace.apply([mend])
    assert broken(world) == []
    assert (await hand.namespace.lookup(inside, b"below")).attributes.inode == below


async def test_a_name_that_leads_somewhere_is_not_dropped() -> None:
    world, hand = await prepared()
    file = await hand.make(b"file")
    entry = await hand.namespace.lookup(ROOT_INODE, b"file")
    with pytest.raises(Conflict):
        await hand.namespace.apply([DropDangling(ROOT_INODE, entry.dentry)])
    await damage(world, "DELETE FROM inode WHERE inode = ?", file)
    for _ in range(2):
        await hand.namespace.apply([DropDangling(ROOT_INODE, entry.dentry)])
    assert world.database.read(dentries) == 0


def dentries(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM dentry").fetchone()[0])


async def test_a_files_head_comes_with_its_content_alone() -> None:
    _, hand = await prepared()
    file, directory = await hand.make(b"file"), await hand.make(b"directory", kind=Kind.DIRECTORY)
    with pytest.raises(Invalid):
        await hand.namespace.apply([Reseal(file, b"other")])
    await hand.namespace.apply([Reseal(directory, b"other")])
    assert (await hand.namespace.attributes(directory)).head == b"other"


@pytest.mark.parametrize("mend", ["recount", "volume", "adopt", "drop", "reseal"])
async def test_a_mend_is_a_batch_of_its_own(mend: str) -> None:
    """It counts what is stored, where what else is in the batch is not yet."""
    world, hand = await prepared()
    file = await hand.make(b"file")
    make = await hand.make_operation(b"new", kind=Kind.DIRECTORY)
    (number,) = await hand.namespace.new_ids(1)
    mends: dict[str, Operation] = {
        "recount": Recount(make.inode),
        "volume": Recount(0),
        "adopt": Adopt(file, ROOT_INODE, b"found", number, b"tag", 10**18),
        "drop": DropDangling(ROOT_INODE, make.dentry),
        "reseal": Reseal(make.inode, b"head"),
    }
    for batch in (
        [make, mends[mend]],
        [Unlink(ROOT_INODE, b"file", file, False, 10**18), mends[mend]],
        [mends[mend], make],
        [mends[mend], mends[mend]],
    ):
        with pytest.raises(Misuse):
            await hand.namespace.apply(batch)
    assert broken(world) == []
    assert facts(world).keys() == {ROOT_INODE, file}


async def test_a_directory_is_not_adopted_into_itself() -> None:
    world, hand = await prepared()
    orphan = await hand.directory(b"orphan")
    middle = await hand.directory(b"middle", parent=orphan)
    lowest = await hand.directory(b"lowest", parent=middle)
    await damage(world, "DELETE FROM dentry WHERE inode = ?", orphan)
    for parent in (orphan, middle, lowest):
        with pytest.raises(Loop):
            await adopt(hand, InodeId(orphan), parent=InodeId(parent))
    await adopt(hand, InodeId(orphan))
    await hand.namespace.apply([Recount(ROOT_INODE)])
    assert broken(world) == []


async def test_what_this_batch_let_go_is_not_adopted() -> None:
    world, hand = await prepared()
    file = await hand.make(b"file")
    (number,) = await hand.namespace.new_ids(1)

    def mend(connection: sqlite3.Connection) -> None:
        rules = Rules(lambda _volume, _chunk: None, 0, 0.0)
        work = Work(connection, volume=VolumeId(VOLUME), session=1, next_id=number + 1, rules=rules)
        row = work.kept(file)
        row.gone = True
        row.links = 0
        work.connection.execute("DELETE FROM dentry WHERE inode = ?", (file,))
        fsck.adopt(work, Adopt(file, ROOT_INODE, b"found", number, b"tag", 10**18))

    with pytest.raises(NotFound):
        await world.database.write(mend)


async def test_a_rename_into_directories_that_go_round_in_a_circle_ends() -> None:
    world, hand = await prepared()
    moved, outer = await hand.directory(b"moved"), await hand.directory(b"outer")
    inner = await hand.directory(b"inner", parent=outer)
    await damage(world, "UPDATE inode SET parent = ? WHERE inode = ?", inner, outer)
    (number,) = await hand.namespace.new_ids(1)
    with pytest.raises(Loop):
        await hand.namespace.apply([Rename(ROOT_INODE, b"moved", moved, inner, b"moved", number, b"tag", 0, 0, 10**18)])
    assert await hand.directory(b"more")  # the writer goes on
