"""A real mount behaves like a local directory: the same steps on both, and the same outcome."""

import ctypes
import errno
import mmap
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.l4

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def dots(directory: Path) -> list[tuple[str, bool]]:
    """What readdir(3) says besides names: Python leaves these two out."""
    listed = subprocess.run(["ls", "-aif", directory], capture_output=True, text=True, check=True).stdout.split()
    inodes = {".": directory.lstat().st_ino, "..": directory.parent.lstat().st_ino}
    return sorted((name, int(number) == inodes[name]) for number, name in zip(listed[::2], listed[1::2], strict=True))


def outcome(step: Callable[[Path], object], directory: Path) -> object:
    """What a program sees: a result, or an errno."""
    try:
        return step(directory)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


STEPS: list[Callable[[Path], object]] = [
    lambda d: (d / "f").write_bytes(b"hello"),
    lambda d: os.open(d / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    lambda d: (d / "f").read_bytes(),
    lambda d: (d / "shorter").write_bytes(b"a long content"),
    lambda d: (d / "shorter").write_bytes(b"short"),
    lambda d: (d / "shorter").read_bytes(),
    lambda d: os.unlink(d / "shorter"),
    lambda d: os.truncate(d / "f", 3),
    lambda d: (d / "f").read_bytes(),
    lambda d: os.truncate(d / "f", 20_000),
    lambda d: (d / "f").read_bytes(),
    lambda d: os.truncate(d / "missing", 3),
    lambda d: os.mkdir(d / "sub", 0o750),
    lambda d: os.mkdir(d / "sub"),
    lambda d: stat.filemode(os.lstat(d / "sub").st_mode),
    lambda d: (os.lstat(d / "sub").st_nlink, os.lstat(d / "sub").st_size > 0),
    lambda d: dots(d / "sub"),
    lambda d: os.lstat(d).st_nlink,
    lambda d: os.link(d / "f", d / "sub" / "g"),
    lambda d: os.lstat(d / "f").st_nlink,
    lambda d: os.lstat(d / "f").st_ino == os.lstat(d / "sub" / "g").st_ino,
    lambda d: os.rmdir(d / "sub"),
    lambda d: os.unlink(d / "sub"),
    lambda d: os.rename(d / "f", d / "sub"),
    lambda d: os.rename(d / "sub", d / "sub" / "below"),
    lambda d: os.symlink("f", d / "link"),
    lambda d: os.readlink(d / "link"),
    lambda d: os.readlink(d / "f"),
    lambda d: os.lstat(d / "link").st_size,
    lambda d: (d / "link").read_bytes()[:3],
    lambda d: os.symlink("x" * 4095, d / "long"),
    lambda d: len(os.readlink(d / "long")),
    lambda d: os.mkfifo(d / "fifo"),
    lambda d: stat.S_ISFIFO(os.lstat(d / "fifo").st_mode),
    lambda d: (d / ("n" * 255)).write_bytes(b"1"),
    lambda d: (d / ("n" * 256)).write_bytes(b"1"),
    lambda d: (d / os.fsdecode(b"\xff\xfe\x01")).write_bytes(b"2"),
    lambda d: sorted(os.fsencode(name) for name in os.listdir(d)),
    lambda d: os.chmod(d / "f", 0o4755),
    lambda d: stat.filemode(os.lstat(d / "f").st_mode),
    lambda d: os.utime(d / "f", ns=(123456789, 987654321)),
    lambda d: (os.lstat(d / "f").st_atime_ns, os.lstat(d / "f").st_mtime_ns),
    lambda d: (d / "other").write_bytes(b"other"),
    lambda d: renameat2(d / "f", d / "other", RENAME_NOREPLACE),
    lambda d: renameat2(d / "f", d / "other", RENAME_EXCHANGE),
    lambda d: ((d / "f").read_bytes(), len((d / "other").read_bytes())),
    lambda d: renameat2(d / "f", d / "nowhere", RENAME_EXCHANGE),
    lambda d: os.rename(d / "other", d / "f"),
    lambda d: len((d / "f").read_bytes()),
    lambda d: os.rename(d / "fifo", d / "fifo"),
    lambda d: os.rmdir(d / "f"),
    lambda d: os.unlink(d / "sub" / "g"),
    lambda d: os.rmdir(d / "sub"),
    lambda d: os.lstat(d).st_nlink,
    lambda d: os.stat(d / "sub"),
]


def test_each_step_gives_what_a_local_directory_gives(mounted: Path, tmp_path: Path) -> None:
    for number, step in enumerate(STEPS):
        ours, local = outcome(step, mounted), outcome(step, tmp_path)
        if isinstance(local, int) and number == 1:
            os.close(local)
        # a fresh directory of ext4, overlayfs or tmpfs counts its links from another base; all else is equal
        assert ours == local, f"step {number}: {ours!r} instead of {local!r}"


def test_an_unlinked_file_lives_until_it_is_closed(mounted: Path) -> None:
    path = mounted / "f"
    with path.open("w+b") as file:
        file.write(b"x" * 100_000)
        file.flush()
        path.unlink()
        assert not path.exists()
        file.seek(50_000)
        file.write(b"y" * 10)
        file.flush()
        os.fsync(file.fileno())
        file.seek(49_999)
        assert file.read(12) == b"x" + b"y" * 10 + b"x"
        assert os.fstat(file.fileno()).st_nlink == 0


def test_appending_and_sparse_writes_keep_what_is_between(mounted: Path) -> None:
    path = mounted / "sparse"
    with path.open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    with path.open("ab") as file:
        file.write(b"more")
    data = path.read_bytes()
    assert data == bytes(5 << 20) + b"endmore"


def test_a_mapped_file_reads_and_writes(mounted: Path) -> None:
    path = mounted / "mapped"
    path.write_bytes(bytes(1 << 20))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[300_000:300_005] = b"hello"
        mapped.flush()
    assert path.read_bytes()[299_999:300_006] == b"\0hello\0"


def test_a_directory_of_hundreds_lists_each_name_once(mounted: Path) -> None:
    wanted = {f"file-{number:05}" for number in range(700)}
    for name in wanted:
        os.mknod(mounted / name)
    listed = os.listdir(mounted)
    assert len(listed) == len(wanted)
    assert set(listed) == wanted


def test_without_the_option_the_kernel_is_told_not_to_ask_for_attributes(mounted: Path) -> None:
    for call in (
        lambda: os.getxattr(mounted, "security.capability"),
        lambda: os.setxattr(mounted, "user.x", b""),
        lambda: os.listxattr(mounted),
        lambda: os.removexattr(mounted, "user.x"),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number says which
            call()
        assert caught.value.errno == errno.ENOTSUP


def test_the_free_space_is_that_after_replication(mounted: Path) -> None:
    found = os.statvfs(mounted)
    assert 0 < found.f_bavail <= found.f_blocks
    assert found.f_namemax == 255


def test_programs_work_as_anywhere(mounted: Path) -> None:
    script = "git init -q . && echo 1 > a && git add a && git -c user.name=a -c user.email=b commit -qm a && git fsck"
    subprocess.run(["bash", "-ec", script], cwd=mounted, check=True, timeout=60, capture_output=True)
    subprocess.run(["tar", "cf", "a.tar", ".git"], cwd=mounted, check=True, timeout=60)
    (mounted / "out").mkdir()
    subprocess.run(["tar", "xf", "a.tar", "-C", "out"], cwd=mounted, check=True, timeout=60)
    subprocess.run(["diff", "-r", ".git", "out/.git"], cwd=mounted, check=True, timeout=60)
