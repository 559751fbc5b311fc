"""The whole chain with the commands a person uses: store for thirty days, find by keyword on a second machine, extend,
delete, bring back. On a pool of real processes, and with the coordinator's database searched for the words."""

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from canaries import Canary, files, search
from pools import DemoPool, demo_pool

from p2pfs import exitcodes

pytestmark = pytest.mark.l5


@dataclass
class Machine:
    """A mount of the volume with the home that it belongs to."""

    pool: DemoPool
    mount: Path
    home: Path

    def asked(self, *words: str) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.pool.p2pfs(*words, "--json", home=self.home).stdout)

    def found(self, query: str, *more: str) -> list[dict[str, Any]]:
        result = self.pool.p2pfs("search", query, *more, "--in", str(self.mount), "--json", home=self.home, expect=None)
        assert result.returncode in (exitcodes.OK, exitcodes.NOT_FOUND), result.stderr
        found: list[dict[str, Any]] = json.loads(result.stdout)
        assert bool(found) == (result.returncode == exitcodes.OK)
        return found

    def paths(self, query: str, *more: str) -> set[str]:
        return {os.path.relpath(item["path"], self.mount) for item in self.found(query, *more)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("search"), peers=2) as started:
        started.p2pfs("volume", "set", "demo", "index_names=on", "index_prefixes=on")
        started.remount_empty()
        yield started


@pytest.fixture(scope="module")
def first(pool: DemoPool) -> Machine:
    return Machine(pool, pool.mount, pool.root / "mount")


@pytest.fixture(scope="module")
def second(pool: DemoPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Another node of the same owner."""
    root = tmp_path_factory.mktemp("second")
    machine = Machine(pool, root / "mnt", root / "home")
    machine.mount.mkdir()
    invite = root / "invite"
    invite.write_text(pool.p2pfs("invite", "demo@second", "--roles", "client").stdout)
    pool.p2pfs("join", str(invite), home=machine.home)
    passphrase = str(pool.root / "passphrase")
    pool.p2pfs("mount", "demo", str(machine.mount), "-d", "--passphrase-file", passphrase, home=machine.home)
    yield machine
    pool.p2pfs("umount", str(machine.mount), home=machine.home)


def test_stored_for_thirty_days_found_elsewhere_extended_deleted_and_brought_back(
    first: Machine, second: Machine, pool: DemoPool
) -> None:
    words = [f"canary{secrets.token_hex(10)}" for _ in range(3)]
    content = os.urandom(3 << 20)
    bill = first.mount / "papers" / f"{words[2]}.pdf"
    bill.parent.mkdir()
    first.asked("lease", "set", str(bill.parent), "30d")
    bill.write_bytes(content)
    labelled = first.asked("tag", str(bill), words[0].upper(), "2026", "--note", f"paid {words[1]}", "--content")
    assert (labelled["tags"], labelled["note"], labelled["changed"]) == ([words[0], "2026"], f"paid {words[1]}", 1)
    name = f"papers/{bill.name}"
    (item,) = second.found(f"2026 {words[0]}")
    assert item["path"] == str(second.mount / name)
    assert (item["note"], item["size"], item["copies"]) == (f"paid {words[1]}", len(content), 2)
    before_s = item["expires_s"]
    assert before_s > 0
    for query in (words[1], words[2], f"{words[0][:9]}*", f"{words[2]} pdf"):
        assert second.paths(query) == {name}, query
    assert second.paths(f"{words[0]} nothing") == set()
    assert second.paths(f"{words[0]} nothing", "--any") == {name}
    assert os.listdir(second.mount / ".p2pfs" / "search" / words[0]) == [bill.name]
    assert (second.mount / ".p2pfs" / "search" / words[0] / bill.name).read_bytes() == content

    copy = pool.root.parent / "copy"
    copy.write_bytes(content)
    (same,) = second.asked("search", "--hash", str(copy), "--in", str(second.mount))
    assert (same["path"], same["stale"]) == (str(second.mount / name), False)
    with (second.mount / name).open("ab") as file:
        file.write(b"x")
    (same,) = first.asked("search", "--hash", str(copy), "--in", str(first.mount))
    assert same["stale"]

    second.asked("lease", "extend", str(second.mount / name), "30d")
    assert first.found(words[0])[0]["expires_s"] == before_s + 30 * 86400
    (second.mount / name).unlink()
    assert first.paths(words[0]) == first.paths(words[2]) == set()
    second.asked("undelete", str(second.mount / name))
    assert first.paths(words[0]) == first.paths(words[2]) == {name}
    assert first.asked("tag", "--show", str(first.mount / name))["tags"] == [words[0], "2026"]

    renamed = second.mount / "papers" / "other.pdf"
    (second.mount / name).rename(renamed)
    assert first.paths(words[2]) == set()
    assert first.paths(f"other {words[0]}") == {"papers/other.pdf"}
    second.asked("tag", str(renamed), "--remove", words[0], "--note", "")
    assert first.paths(words[0]) == first.paths(words[1]) == set()

    places = [*files(pool.root / "coordinator"), *files(pool.root / "log")]
    assert search(places, [Canary(word, word.encode()) for word in words]) == []


def test_a_tree_is_tagged_at_once(first: Machine) -> None:
    top = first.mount / "album"
    (top / "sub").mkdir(parents=True)
    for number in range(120):
        (top / "sub" / f"picture-{number}").touch()
    assert first.asked("tag", "-r", str(top), "holiday")["changed"] == 122
    assert len(first.found("holiday", "--limit", "1000")) == 122
    assert len(first.found("holiday")) == 100
    assert first.paths("holiday 77") == {"album/sub/picture-77"}


def test_many_names_of_many_words_are_made_at_once_and_labelled_at_once(first: Machine) -> None:
    top = first.mount / "long"
    top.mkdir()
    names = [" ".join(secrets.token_hex(4) for _ in range(28)) for _ in range(300)]
    for name in names:
        (top / name).touch()
    assert first.paths(names[0].split()[5]) == {f"long/{names[0]}"}
    note, tags = " ".join(secrets.token_hex(4) for _ in range(64)), [secrets.token_hex(4) for _ in range(20)]
    assert first.asked("tag", "-r", str(top), *tags, "--note", note)["changed"] == 301
    assert len(first.found(f"{tags[3]} {note[:6]}*", "--limit", "1000")) == 301
    assert len(list(top.iterdir())) == 300


def test_mistakes_are_one_sentence(first: Machine, pool: DemoPool) -> None:
    for words, code in (
        (("search",), exitcodes.USAGE),
        (("search", "!!"), exitcodes.USAGE),
        (("search", "x", "--hash", "/etc/hostname"), exitcodes.USAGE),
        (("search", "x", "--in", "/"), exitcodes.NOT_MOUNTED),
        (("tag", str(first.mount / "missing"), "x"), exitcodes.NOT_FOUND),
        (("tag", "/etc/hostname", "x"), exitcodes.NOT_MOUNTED),
        (("tag", "-r", str(first.mount)), exitcodes.USAGE),
        (("tag", "--show", str(first.mount), "x"), exitcodes.USAGE),
        (("volume", "set", "demo", "index_names=maybe"), exitcodes.USAGE),
    ):
        result = pool.p2pfs(*words, home=first.home, expect=code)
        assert "Traceback" not in result.stderr


def test_no_coordinator_turns_on_again_what_was_turned_off(pool: DemoPool, first: Machine) -> None:
    word = f"canary{secrets.token_hex(10)}"
    with closing(sqlite3.connect(pool.root / "coordinator" / "coordinator" / "meta.sqlite", timeout=10)) as database:
        (old_seal,) = database.execute("SELECT index_seal FROM volume").fetchone()
        settings = ("index_names=off", "index_prefixes=off")
        pool.p2pfs("volume", "set", "demo", *settings, home=pool.root / "coordinator", expect=exitcodes.USAGE)  # asks
        pool.p2pfs("volume", "set", "demo", *settings, "--passphrase-file", str(pool.root / "passphrase"))
        database.execute("UPDATE volume SET index_names = 1, index_prefixes = 1, index_seal = ?", (old_seal,))
        database.commit()
    assert first.asked("volume", "show", "demo")["index_names"]  # the coordinator's word
    pool.remount_empty()
    (pool.mount / word).touch()
    assert first.paths(word) == set()
    assert "does not vouch" in (pool.root / "log" / "mount.log").read_text()
    first.asked("volume", "set", "demo", "index_names=on", "index_prefixes=on")  # through the mount
    pool.remount_empty()
    (pool.mount / f"{word} 2").touch()
    assert first.paths(word) == {f"{word} 2"}
