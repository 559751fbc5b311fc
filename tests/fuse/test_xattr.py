"""A mount with -o xattr keeps attributes and obeys access lists as a local directory does: the same shell commands in
both, as root and as others, and the same outcome."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool

from p2pfs.runtime import mounts
from p2pfs_mount import unmasked

pytestmark = pytest.mark.l4

TOOLS = ("getfattr", "setfattr", "getfacl", "setfacl", "setcap", "setpriv", "rsync", "tar")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
AS_USERS = """
as() { setpriv --reuid "$1" --regid "$2" --clear-groups "${@:3}"; }
modes() { stat -c '%n %A %u %g' "$@"; }
all() { for file in "$@"; do getfattr -h -d -m - "$file" | sort; getfacl -n "$file"; done; }
umask 022
"""

ATTRIBUTES = """
touch f; mkdir sub; ln -s f link; mkfifo queue
setfattr -n user.a -v hello f; setfattr -n user.a -v bye f; setfattr -n user.b f; all f
setfattr -x user.a f; setfattr -x user.a f
setfattr -n user. -v x f
setfattr -n foo -v x f
setfattr -n system.foo -v x f
getfattr -n system.foo f
getfattr -n user.none f
setfattr -n user.x -v y missing
setfattr -h -n user.a -v x link
setfattr -n user.a -v x queue
setfattr -h -n trusted.a -v x link; getfattr -h -d -m - link
setfattr -n trusted.t -v x f; setfattr -n security.x -v y f; all f
as 1000 1000 getfattr -d -m - f
as 1000 1000 setfattr -n user.z -v y f
as 1000 1000 setfattr -n trusted.z -v y f
as 1000 1000 getfattr -n trusted.t f
setfattr -n system.posix_acl_access -v junk f
setfattr -x system.posix_acl_access f; setfattr -x system.posix_acl_default f
setfattr -x system.posix_acl_default sub
mv f g; getfattr -d g; ln g h; setfattr -n user.h -v 1 h; getfattr -n user.h g
cp --preserve=xattr g copied; getfattr -d copied | sort
"""

LISTS = """
echo hi > f; chmod 640 f; setfacl -m u:1000:rw,g:1001:r f; getfacl -n f; modes f
for user in 1000 1001 1002; do as $user $user cat f; done
for user in 1000 1001 1002; do as $user $user sh -c 'echo more >> f'; done; cat f
as 1000 1000 setfacl -m u:1000:rwx f
chmod 600 f; getfacl -n f; as 1000 1000 cat f
chmod 755 f; getfacl -n f; getfattr -d -m - -e hex f
setfacl -x u:1000 f; getfacl -n f; modes f
setfacl -b f; getfacl -n f; modes f; getfattr -d -m - f
setfacl -m m::rx f; getfacl -n f; getfattr -d -m - -e hex f; setfacl -b f
setfacl -d -m u:1000:rwx f
mkdir sub; setfacl -d -m u:1000:rwx,g::rx,o:- sub; getfacl -n sub; modes sub
echo x > sub/a; mkdir sub/dir; mkfifo sub/queue; ln -s a sub/link; modes sub/*; all sub/a sub/dir sub/queue
umask 077; echo > sub/private; mkdir -m 700 sub/p700; modes sub/*; all sub/private sub/p700
python3 -c 'import os; os.open("sub/e600", os.O_CREAT, 0o600); os.open("sub/e644", os.O_CREAT, 0o644)'
all sub/e600 sub/e644
touch sub/dir/deeper; all sub/dir/deeper
as 1000 1000 sh -c 'echo a >> sub/a && cat sub/a; ls sub/dir'; as 1002 1002 cat sub/a
mkdir min; setfacl -d -m u::rwx,g::rwx,o::- min; touch min/f; mkdir min/d; modes min/*; all min/f min/d
setfacl -k min; all min; touch min/g; modes min/g; setfacl -k min
mkdir sg; chown 1000:1001 sg; chmod 2775 sg; setfacl -m u:1000:rwx sg; modes sg
as 1000 1000 setfacl -m u:1002:rwx sg; modes sg
chmod 2775 sg; setpriv --reuid 1000 --regid 1000 --groups 1001 setfacl -m u:1003:rwx sg; modes sg
touch sg/f; mkdir sg/d; modes sg/*
"""

CAPABILITIES = """
cp /bin/true cap; setcap cap_net_raw+ep cap; getcap cap
echo >> cap; getcap cap
setcap cap_net_raw+ep cap; truncate -s 100 cap; getcap cap
setcap cap_net_raw+ep cap; chown 1000 cap; getcap cap
setcap cap_net_raw+ep cap; setcap -r cap; getfattr -d -m - cap
"""

COPIES = """
mkdir tree; echo 1 > tree/a; setfattr -n user.k -v 'v v' tree/a; setfacl -m u:1000:rwx tree/a
setfacl -d -m g:1001:rx tree; mkdir tree/d; setfattr -n user.dir -v 1 tree/d; ln -s a tree/link
cp /bin/true tree/cap; setcap cap_net_raw+ep tree/cap; all tree tree/a tree/d tree/cap
cp -a tree one; cd one; all . a d cap; modes *
rsync -aAX tree/ two/; cd two; all . a d cap; modes *
tar --xattrs --xattrs-include='*' --acls -cf t tree
mkdir three; tar --xattrs --xattrs-include='*' --acls -xf t -C three; cd three/tree; all . a d cap
for copy in one two three/tree; do rsync -aAXni tree/ $copy/; done
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    if MISSING:
        pytest.skip(f"these programs are not installed: {', '.join(MISSING)}")
    with demo_pool(tmp_path_factory.mktemp("xattr"), peers=2, options="xattr") as started:
        yield started


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A local directory that keeps attributes and lists."""
    words = ["setfacl", "-m", "u:1000:rx", str(tmp_path)]
    try:
        os.setxattr(tmp_path, "user.x", b"")
        os.setxattr(tmp_path, "trusted.x", b"")
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"there is nothing to compare with: {tmp_path} does not take attributes and access lists: {error}")
    (tmp_path / "compared").mkdir(mode=0o755)
    return tmp_path / "compared"


def outcome(command: str, directory: Path) -> tuple[int, list[str]]:
    # users other than root cannot reach the directory by its path, and need not
    done = subprocess.run(
        ["bash", "-c", AS_USERS + command], cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=60, check=False, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("commands", [ATTRIBUTES, LISTS, CAPABILITIES, COPIES], ids=["xattr", "acl", "caps", "copies"])
def test_each_command_gives_what_a_local_directory_gives(mounted: Path, local: Path, commands: str) -> None:
    mounted.chmod(0o755)
    for command in commands.strip().splitlines():
        ours, theirs = outcome(command, mounted), outcome(command, local)
        assert ours == theirs, command


def test_flags_and_sizes_are_refused_as_anywhere(mounted: Path, local: Path) -> None:
    def refused(name: str, value: bytes, flags: int = 0) -> list[int | None]:
        numbers = []
        for directory in (mounted, local):
            try:
                os.setxattr(directory, name, value, flags)
                numbers.append(None)
            except OSError as error:
                numbers.append(error.errno)
        return numbers

    assert refused("user.c", b"1", os.XATTR_REPLACE) == [errno.ENODATA] * 2
    assert refused("user.c", b"1", os.XATTR_CREATE) == [None] * 2
    assert refused("user.c", b"2", os.XATTR_CREATE) == [errno.EEXIST] * 2
    assert refused("user.c", b"3", os.XATTR_REPLACE) == [None] * 2
    assert refused("user." + "n" * 250, b"") == [None] * 2
    assert refused("user." + "n" * 251, b"") == [errno.ERANGE] * 2
    assert refused("user.big", bytes(65537)) == [errno.E2BIG] * 2
    os.setxattr(mounted, "user.big", b"x" * 65536)  # a block of ext4 is less
    assert os.getxattr(mounted, "user.big") == b"x" * 65536
    for number in range(14):
        os.setxattr(mounted, f"user.big{number}", bytes(65536))
    with pytest.raises(OSError, match="No space left"):
        os.setxattr(mounted, "user.more", bytes(65536))


def test_an_unlinked_file_keeps_its_attributes_until_it_is_closed(mounted: Path) -> None:
    with (mounted / "f").open("wb") as file:
        os.setxattr(file.fileno(), "user.x", b"1")
        os.unlink(mounted / "f")
        os.setxattr(file.fileno(), "user.y", b"2")
        assert sorted(os.listxattr(file.fileno())) == ["user.x", "user.y"]
        assert os.getxattr(file.fileno(), "user.x") == b"1"


def test_attributes_and_lists_outlive_the_mount(pool: DemoPool, mounted: Path) -> None:
    (mounted / "f").write_bytes(b"x")
    os.setxattr(mounted / "f", "user.x", b"kept")
    subprocess.run(["setfacl", "-m", "u:1000:rw", str(mounted / "f")], check=True)
    before = subprocess.run(["getfacl", "-n", "f"], cwd=mounted, check=True, capture_output=True).stdout
    pool.remount_empty()
    assert os.getxattr(mounted / "f", "user.x") == b"kept"
    after = subprocess.run(["getfacl", "-n", "f"], cwd=mounted, check=True, capture_output=True).stdout
    assert after == before
    assert b"user:1000:rw-" in after


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount(2)")
def test_a_mount_that_fails_to_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    def begin() -> None:
        with unmasked.mounted(tmp_path, "x", read_only=True) as target:
            assert target.startswith("/dev/fd/")
            assert mounts.mounted_type(tmp_path) == mounts.KERNEL_TYPE
            os.close(int(target.rpartition("/")[2]))
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        begin()
    assert mounts.mounted_type(tmp_path) is None


def test_where_we_may_not_mount_fusermount_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with unmasked.mounted(tmp_path / "missing", "x", read_only=False) as target:  # as where root lacks the capability
        assert target == str(tmp_path / "missing")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with unmasked.mounted(tmp_path, "x", read_only=False) as target:
        assert target == str(tmp_path)
    assert mounts.mounted_type(tmp_path) is None


def test_nothing_unexpected_happened(pool: DemoPool) -> None:
    assert pool.stats()["unexpected_errors"] == 0


def test_a_lease_shows_as_an_attribute_and_is_set_as_one(mounted: Path) -> None:
    name = "user.p2pfs.expires"
    directory = mounted / "kept"
    directory.mkdir()
    file = directory / "file"
    file.touch()
    assert os.getxattr(file, name) == b"never"
    assert name not in os.listxattr(file)
    os.setxattr(file, name, b"2099-01-02T03:04:05Z")
    assert os.getxattr(file, name) == b"2099-01-02T03:04:05Z"
    assert name in os.listxattr(file)
    os.setxattr(directory, name, b"+30d")
    new = directory / "new"
    new.touch()
    assert os.getxattr(new, name) == os.getxattr(directory, name) != b"never"
    os.removexattr(file, name)
    assert os.getxattr(file, name) == b"never"
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(file, name, b"30")
