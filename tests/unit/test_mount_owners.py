"""Numbers of users and groups are translated both ways, and nobody is taken for somebody else."""

import errno
import re
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.cli import completing
from p2pfs.cli.mount_helper import mount_command
from p2pfs.errors import Invalid
from p2pfs.format import acl
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs_mount.options import MountOptions
from p2pfs_mount.owners import NOBODY, Fixed, Owners, Unmapped, entries_of
from p2pfs_mount.xattrs import XattrOperations

pytestmark = pytest.mark.l1


def owners(text: str) -> Owners:
    return MountOptions.parse(text).owners


def test_without_an_option_everybody_is_who_they_are() -> None:
    plain = owners("rw")
    assert plain.are_plain
    assert (plain.users.shown(7), plain.users.stored(7), plain.groups.given(7)) == (7, 7, 7)


def test_ranges_are_translated_both_ways_and_the_rest_is_nobody() -> None:
    found = owners("idmap=u:1000:0,u:5000:200:10,g:1000:50")
    assert [found.users.shown(number) for number in (1000, 5000, 5009, 5010, 0, 999)] == [0, 200, 209, *[NOBODY] * 3]
    assert [found.users.stored(number) for number in (0, 200, 209)] == [1000, 5000, 5009]
    assert (found.groups.shown(1000), found.groups.stored(50)) == (50, 1000)
    for number in (1, 199, 210, 1000, NOBODY):
        with pytest.raises(Unmapped):
            found.users.stored(number)
    assert not found.are_plain


def test_only_what_is_named_is_translated() -> None:
    found = owners("idmap=g:1000:50")
    assert (found.users.shown(1000), found.users.stored(50)) == (1000, 50)
    both = owners("idmap=b:1000:50:3")
    assert (both.users.shown(1002), both.groups.shown(1002)) == (52, 52)


def test_all_can_be_shown_as_one_and_then_be_given_to_nobody_else() -> None:
    found = owners("uid=1000,gid=100")
    assert {found.users.shown(number) for number in (0, 5, 1000)} == {1000}
    assert found.users.given(1000) is None
    assert found.users.stored(0) == 0  # whoever makes a file is kept as who made it
    with pytest.raises(Fixed):
        found.users.given(0)
    assert (found.groups.shown(0), owners("uid=5").groups.shown(0)) == (100, 0)


def test_an_id_map_can_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text("# people\nu:1000:0  # anna\ng:1000:0, u:1001:5\n")
    found = owners(f"ro,idmap={path}")
    assert (found.users.shown(1001), found.groups.shown(1000)) == (5, 0)
    assert entries_of("#\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "uid=anna",
        "uid=-1",
        "uid=4294967295",
        "uid=",
        "idmap=u:1:2,uid=5",
        "idmap=b:1:2,gid=5",
        "idmap=u:1000:0,u:1000:1",
        "idmap=u:1000:0,u:1001:0",
        "idmap=u:1000:0:10,u:1009:100",
        "idmap=u:1:1:0",
        "idmap=u:4294967290:0:10",
        "idmap=/nowhere/at/all",
        "u:1000:0",
        "idmap=u:1000",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        MountOptions.parse(text)


def test_words_of_fstab_for_others_are_passed_over() -> None:
    others = "defaults,lazytime,norelatime,_netdev,_rnetdev,nofail,comment=systemd.automount,x-systemd.automount"
    assert MountOptions.parse(others) == MountOptions()


def test_names_are_not_promised_to_be_synchronous_where_they_are_not() -> None:
    with pytest.raises(Invalid, match=r"“dirsync” is not known.* sync,"):
        MountOptions.parse("dirsync")


def test_every_option_is_listed_where_the_owner_of_a_machine_looks() -> None:
    """In mount.p2pfs(8), which is made of the command's help."""
    with pytest.raises(Invalid) as told:
        MountOptions.parse("no such option")
    words = str(told.value).partition("there are ")[2].partition(" and the settings")[0].split(", ")
    assert set(words) == set(completing._MOUNT_OPTIONS)
    help_text = mount_command.help or ""
    assert [word for word in words if not re.search(rf"(?<![\w_]){re.escape(word)}", help_text)] == []


def test_an_empty_file_is_no_id_map(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("# nobody\n")
    with pytest.raises(Invalid):
        MountOptions.parse(f"idmap={tmp_path / 'map'}")


def test_named_users_and_groups_of_access_lists_are_translated() -> None:
    found = owners("idmap=u:1000:0,g:2000:50")

    def listed(user: int, group: int) -> bytes:
        return acl.encode(
            (
                acl.Entry(acl.OWNER, 7),
                acl.Entry(acl.USER, 5, user),
                acl.Entry(acl.OWNING_GROUP, 5),
                acl.Entry(acl.GROUP, 4, group),
                acl.Entry(acl.MASK, 7),
                acl.Entry(acl.OTHERS, 0),
            )
        )

    assert found.shown_acl(listed(1000, 2000)) == listed(0, 50)
    assert found.stored_acl(listed(0, 50)) == listed(1000, 2000)
    assert found.shown_acl(listed(1001, 2001)) == listed(NOBODY, NOBODY)
    with pytest.raises(Unmapped):
        found.stored_acl(listed(1, 50))


@pytest.mark.parametrize("local", [65534, 0, 1234, NOBODY])
def test_nobody_here_can_be_who_owns_what_is_not_mapped(local: int) -> None:
    """The kernel would give owners' and groups' rights to a service that runs as 65534."""
    assert owners("idmap=b:0:0").users.shown(1234) == NOBODY
    assert NOBODY >= 1 << 31  # which nobody is given, as systemd and shadow have it
    if local != NOBODY:
        assert owners(f"idmap=b:5:{local}").groups.shown(1234) not in (local, 65534)
        return
    with pytest.raises(Invalid):
        owners(f"idmap=u:5:{local}")
    with pytest.raises(Invalid):
        owners(f"uid={local}")


# ---- through the handlers -------------------------------------------------------------------------------------------

ROOT = pyfuse3.InodeT(ROOT_INODE)


class Context:
    """As the kernel tells who asks."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid, self.gid, self.pid, self.umask = uid, gid, 1, 0


class Fields:
    """What a setattr is about."""

    update_mode = update_uid = update_gid = update_size = update_atime = update_mtime = update_ctime = False


class Chown(Fields):
    update_uid = update_gid = True


async def given(operations: Any, number: pyfuse3.InodeT, uid: int, gid: int) -> tuple[int, int]:  # noqa: ANN401
    wanted = pyfuse3.EntryAttributes()
    wanted.st_uid, wanted.st_gid = uid, gid
    entry = await operations.setattr(number, wanted, Chown(), None, Context(0, 0))
    return entry.st_uid, entry.st_gid


async def refused(called: Awaitable[object]) -> str:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await called
    return errno.errorcode[caught.value.errno]


@pytest.fixture
async def fs() -> AsyncIterator[Filesystem]:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(volume.session(), MemoryStore()) as served:
        yield served


async def test_the_kernel_sees_its_own_numbers_and_the_volume_keeps_its(fs: Filesystem) -> None:
    operations: Any = XattrOperations(fs, io_timeout_s=30.0, owners=owners("idmap=b:1000:0,b:2000:7"))
    made = await operations.mkdir(ROOT, b"d", 0o755, Context(0, 7))
    kept = await fs.stat(InodeId(made.st_ino))
    assert ((made.st_uid, made.st_gid), (kept.uid, kept.gid)) == ((0, 7), (1000, 2000))
    assert (await operations.getattr(made.st_ino, Context(0, 0))).st_gid == 7
    assert (await operations.lookup(ROOT, b"d", Context(0, 0))).st_uid == 0
    assert await given(operations, made.st_ino, 7, 0) == (7, 0)
    kept = await fs.stat(InodeId(made.st_ino))
    assert (kept.uid, kept.gid) == (2000, 1000)
    assert await refused(operations.mkdir(ROOT, b"other", 0o755, Context(1, 0))) == "EOVERFLOW"
    assert await refused(operations.symlink(ROOT, b"other", b"t", Context(0, 1))) == "EOVERFLOW"
    assert await refused(operations.create(ROOT, b"other", 0o644, 0, Context(1, 1))) == "EOVERFLOW"
    assert await refused(given(operations, made.st_ino, 1, 0)) == "EOVERFLOW"


async def test_what_is_not_in_the_map_is_nobodys(fs: Filesystem) -> None:
    plain: Any = XattrOperations(fs, io_timeout_s=30.0)
    made = await plain.mkdir(ROOT, b"d", 0o755, Context(5, 6))
    mapped: Any = XattrOperations(fs, io_timeout_s=30.0, owners=owners("idmap=b:1000:0"))
    entry = await mapped.getattr(made.st_ino, Context(0, 0))
    assert (entry.st_uid, entry.st_gid) == (NOBODY, NOBODY)


async def test_all_is_shown_as_one_and_given_to_nobody_else(fs: Filesystem) -> None:
    operations: Any = XattrOperations(fs, io_timeout_s=30.0, owners=owners("uid=1000,gid=100"))
    made = await operations.mkdir(ROOT, b"d", 0o755, Context(7, 8))
    assert (made.st_uid, made.st_gid) == (1000, 100)
    assert await refused(given(operations, made.st_ino, 0, 100)) == "EPERM"
    assert await given(operations, made.st_ino, 1000, 100) == (1000, 100)
    plain: Any = XattrOperations(fs, io_timeout_s=30.0)
    entry = await plain.getattr(made.st_ino, Context(0, 0))
    assert (entry.st_uid, entry.st_gid) == (7, 8)  # it stays whose it is


async def test_access_lists_are_translated_on_their_way(fs: Filesystem) -> None:
    operations: Any = XattrOperations(fs, io_timeout_s=30.0, owners=owners("idmap=u:1000:7"))
    made = await operations.mkdir(ROOT, b"d", 0o755, Context(7, 0))
    listed = acl.encode(
        (
            acl.Entry(acl.OWNER, 7),
            acl.Entry(acl.USER, 5, 7),
            acl.Entry(acl.OWNING_GROUP, 5),
            acl.Entry(acl.MASK, 7),
            acl.Entry(acl.OTHERS, 0),
        )
    )
    for name in (acl.ACCESS, acl.DEFAULT):
        await operations.setxattr(made.st_ino, name, listed, Context(7, 0))
        kept = acl.decode(await fs.xattrs.get(InodeId(made.st_ino), name))
        assert [entry.id for entry in kept if entry.tag == acl.USER] == [1000]
        assert await operations.getxattr(made.st_ino, name, Context(7, 0)) == listed
    stranger = listed.replace((7).to_bytes(4, "little"), (8).to_bytes(4, "little"))
    assert await refused(operations.setxattr(made.st_ino, acl.ACCESS, stranger, Context(7, 0))) == "EOVERFLOW"
    await operations.setxattr(made.st_ino, b"user.a", b"\x02\x00", Context(7, 0))
    assert await operations.getxattr(made.st_ino, b"user.a", Context(7, 0)) == b"\x02\x00"
