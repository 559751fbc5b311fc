"""Two owners with a home each on a pool of real processes: one shares a volume, limits, renames, deletes it."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pools import DemoPool, demo_pool

from p2pfs import exitcodes

pytestmark = pytest.mark.l5

MIB = 1 << 20


@dataclass
class Person:
    """Somebody's home and where they mount."""

    pool: DemoPool
    home: Path
    mount: Path

    def p2pfs(self, *words: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.pool.p2pfs(*words, home=self.home, expect=expect)

    def asked(self, *words: str) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.p2pfs(*words, "--json").stdout)

    def fingerprint(self) -> str:
        return str(self.asked("key", "fingerprint")["fingerprint"])

    def secret(self) -> list[str]:
        return ["--passphrase-file", str(self.home.parent / "passphrase")]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("shared"), peers=2) as started:
        yield started


def person(pool: DemoPool, root: Path, name: str) -> Person:
    """Somebody who has joined, with a client of their own and no other role."""
    found = Person(pool, root / "home", root / "mnt")
    found.mount.mkdir()
    (root / "passphrase").write_text(f"the passphrase of {name}\n")
    invite = root / "invite"
    invite.write_text(pool.p2pfs("invite", name, "--roles", "client").stdout)
    found.p2pfs("join", str(invite))
    return found


@pytest.fixture(scope="module")
def anna(pool: DemoPool, tmp_path_factory: pytest.TempPathFactory) -> Person:
    made = person(pool, tmp_path_factory.mktemp("anna"), "anna@laptop")
    made.p2pfs("volume", "create", "photos", *made.secret(), "--recovery-file", str(made.home / "phrase"))
    return made


@pytest.fixture(scope="module")
def bob(pool: DemoPool, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return person(pool, tmp_path_factory.mktemp("bob"), "bob@desk")


def number(error: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[error.value.errno or 0]


def test_a_volume_is_shared_to_read_then_to_write_and_no_more(anna: Person, bob: Person, pool: DemoPool) -> None:
    content = os.urandom(2 * MIB)
    anna.p2pfs("mount", "photos", str(anna.mount), "-d", *anna.secret())
    try:
        (anna.mount / "large").write_bytes(content)
        (anna.mount / "small").write_text("hello")
        owners, readers = anna.fingerprint(), bob.fingerprint()
        bob.p2pfs("mount", "anna/photos", str(bob.mount), "-d", expect=exitcodes.NOT_FOUND)
        wrong = readers[:-1] + ("A" if readers[-1] != "A" else "B")
        anna.p2pfs("volume", "share", "photos", "--to", wrong, *anna.secret(), expect=exitcodes.NOT_FOUND)
        anna.p2pfs("volume", "share", "photos", "--to", readers.lower(), *anna.secret())
        assert anna.asked("volume", "members", "photos")[0]["nodes"] == ["bob@desk"]

        bob.p2pfs("mount", "anna/photos", str(bob.mount), "-d", expect=exitcodes.DENIED)  # before it is accepted
        bob.p2pfs("volume", "accept", "anna/photos", "--from", readers, expect=exitcodes.DENIED)
        bob.p2pfs("volume", "accept", "anna/photos", "--from", owners)
        bob.p2pfs("mount", "anna/photos", str(bob.mount), "-d", "-o", "idmap=b:0:1234")
        assert (bob.mount / "large").read_bytes() == content
        assert ((bob.mount / "small").read_text(), (bob.mount / "small").stat().st_uid) == ("hello", 1234)
        with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
            (bob.mount / "other").write_text("x")
        assert number(refused) == "EROFS"
        for words in (("set", "photos", "trash_removed=0"), ("delete", "photos", "-y"), ("quota", "photos", "1G")):
            bob.p2pfs("volume", words[0], f"anna/{words[1]}", *words[2:], expect=exitcodes.DENIED)
        bob.p2pfs("volume", "members", "photos", expect=exitcodes.NOT_FOUND)  # nobody's volume by its name alone

        anna.p2pfs("volume", "share", "photos", "--to", readers, "--rw", *anna.secret())
        with pytest.raises(OSError) as over:  # noqa: PT011 - its number is looked at
            (bob.mount / "small").read_text()
        assert number(over) == "ESTALE"
        bob.p2pfs("umount", str(bob.mount))
        bob.p2pfs("mount", "anna/photos", str(bob.mount), "-d")
        (bob.mount / "from bob").write_bytes(content[:MIB])
        assert (anna.mount / "from bob").read_bytes() == content[:MIB]
        anna.p2pfs("volume", "unshare", "photos", "--from", "bob@desk", *anna.secret())
        with pytest.raises(OSError) as over:  # noqa: PT011 - its number is looked at
            (bob.mount / "from bob").read_bytes()
        assert number(over) == "ESTALE"
        assert bob.asked("volume", "list") == []
    finally:
        bob.p2pfs("umount", str(bob.mount), expect=None)
        anna.p2pfs("umount", str(anna.mount))
    kept = (bob.home / "identity.key").read_text().split()[1]
    assert (bob.home / "identity.key").stat().st_mode & 0o777 == 0o600
    places = [pool.root / "coordinator", pool.root / "log"]
    for path in (found for place in places for found in place.rglob("*") if found.is_file()):
        data = path.read_bytes()
        assert kept.encode() not in data
        assert bytes.fromhex(kept) not in data


def test_a_volume_is_limited_renamed_deleted_and_brought_back(anna: Person, bob: Person) -> None:
    anna.p2pfs("volume", "create", "notes", *anna.secret(), "--recovery-file", str(anna.home / "phrase2"))
    limited = anna.asked("volume", "quota", "notes", "3M", "--files", "4", *anna.secret())
    assert (limited["quota_bytes"], limited["quota_files"]) == (3 * MIB, 4)
    anna.p2pfs("mount", "notes", str(anna.mount), "-d", *anna.secret())
    try:
        (anna.mount / "a").write_bytes(bytes(2 * MIB))
        with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
            (anna.mount / "b").write_bytes(bytes(2 * MIB))
        assert number(refused) == "EDQUOT"
        with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
            os.truncate(anna.mount / "a", 4 * MIB)
        assert number(refused) == "EDQUOT"
        (anna.mount / "c").touch()
        with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
            (anna.mount / "d").mkdir()
        assert number(refused) == "EDQUOT"
        shown = os.statvfs(anna.mount)
        assert (shown.f_blocks * shown.f_frsize, shown.f_files, shown.f_ffree) == (3 * MIB, 4, 0)
        (anna.mount / "a").unlink()
        (anna.mount / "b").write_bytes(bytes(2 * MIB))

        anna.p2pfs("volume", "rename", "notes", "photos", *anna.secret(), expect=exitcodes.EXISTS)
        anna.p2pfs("volume", "rename", "notes", "words", *anna.secret())
        (anna.mount / "c").write_text("still here")
        kept = [*anna.secret(), "--recovery-file", str(anna.home / "phrase3")]
        anna.p2pfs("volume", "create", "notes", *kept)  # of the name that the mounted one had
        assert anna.asked("du", str(anna.mount))[0]["size"] == 2 * MIB + len("still here")
        assert anna.asked("where", str(anna.mount / "b"))["volume"] == "words"
        (anna.mount / "b").rename(anna.mount / "e")
        anna.asked("fsck", str(anna.mount / "e"), *anna.secret())  # is there
        anna.p2pfs("volume", "quota", "words", "4M")  # asks the mount, which has the key
        anna.p2pfs("volume", "set", "words", "trash_removed=2d")
        (anna.mount / "e").rename(anna.mount / "b")
        anna.p2pfs("volume", "delete", "notes", "--yes", *anna.secret())
        anna.p2pfs("volume", "delete", "words", "--yes", *anna.secret(), expect=exitcodes.BUSY)
    finally:
        anna.p2pfs("umount", str(anna.mount))
    bob.p2pfs("volume", "delete", "anna/words", "--yes", expect=exitcodes.NOT_FOUND)
    anna.p2pfs("volume", "delete", "words", "--yes", *anna.secret())
    assert [volume["name"] for volume in anna.asked("volume", "list")] == ["photos"]
    (gone,) = (volume for volume in anna.asked("volume", "list", "--deleted") if volume["name"] == "words")
    assert (gone["name"], gone["files"]) == ("words", 3)
    assert bob.asked("volume", "list", "--deleted") == []
    anna.p2pfs("mount", "words", str(anna.mount), "-d", *anna.secret(), expect=exitcodes.NOT_FOUND)
    anna.p2pfs("volume", "undelete", "words", "--as", "texts")
    anna.p2pfs("mount", "texts", str(anna.mount), "-d", *anna.secret())
    try:
        assert (anna.mount / "c").read_text() == "still here"
        assert (anna.mount / "b").read_bytes() == bytes(2 * MIB)
    finally:
        anna.p2pfs("umount", str(anna.mount))
