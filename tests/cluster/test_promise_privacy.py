"""Promise P4, its second sentence: neither peers nor the coordinator, nor any disk, log or wire, has a name, a content
or a key. The same search finds all of them in a pool whose ciphers do nothing.

That nobody without a valid certificate gets an answer is tried route by route in tests/contract/test_routes.py.
"""

import hashlib
import json
import os
import secrets
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from canaries import Canary, LoopbackCapture, files, memory, processes, search
from pools import DemoPool, demo_pool

from p2pfs.format.chunk import seal
from p2pfs.format.invites import decode_invite
from p2pfs.format.keys import VolumeKeys, _sub_key, unwrap_any
from p2pfs.wire.volumes import KeySlot

pytestmark = pytest.mark.l5

INTERPOSED = Path(__file__).parent.parent / "interposed"
PARTS = ("coordinator", "peer-1", "peer-2", "peer-3", "mount")
OWNERS = ("passphrase", "recovery-phrase", "mount/tls")
"""What the demo keeps for its user below its root: on the user's own machine, where it belongs."""
KEY_LABELS = {
    "content": 32,
    "digest": 32,
    "tag": 32,
    "search": 32,
    "settings": 32,
    "extents": 64,
    "heads": 64,
    "names": 64,
    "values": 64,
}


def word(kind: str) -> str:
    return f"canary-{kind}-{secrets.token_hex(12)}"


@dataclass
class Secrets:
    """What a user puts into a volume."""

    small: str
    large: str
    overwritten: str
    removed: str
    name: str
    directory: str
    renamed: str
    target: str
    missing: str
    tagged: str
    noted: str

    @classmethod
    def make(cls) -> "Secrets":
        made = cls(*(word(kind) for kind in cls.__dataclass_fields__))
        for kind in ("tagged", "noted"):  # one word for a search
            setattr(made, kind, getattr(made, kind).replace("-", ""))
        return made

    def canaries(self) -> list[Canary]:
        return [Canary(name, value.encode()) for name, value in vars(self).items()]

    @property
    def large_content(self) -> bytes:
        return b"".join(self.large.encode() + bytes([n]) * 3000 for n in range(200)) + b"the end"


def use(mount: Path, known: Secrets) -> None:
    """Everything a user does to files, with a canary in it."""
    folder = mount / known.directory
    folder.mkdir()
    (folder / known.name).write_text(known.small)
    (folder / "large").write_bytes(known.large_content)
    (folder / "over").write_text(known.overwritten * 900)
    (folder / "over").write_text(known.small)
    (mount / known.renamed).write_text(known.removed * 3)
    (mount / known.renamed).rename(folder / "other")
    (folder / "other").unlink()
    (mount / "link").symlink_to(known.target)
    check(mount, known)


def tag(pool: DemoPool, known: Secrets) -> None:
    """Words and contents made searchable in every way there is, and looked for."""
    pool.p2pfs("volume", "set", "demo", "index_names=on", "index_prefixes=on")
    pool.remount_empty()  # a mount looks at that when it begins
    pool.p2pfs("tag", "-r", str(pool.mount / known.directory), known.tagged, "--note", known.noted, "--content")
    pool.p2pfs("tag", "-r", str(pool.mount), "--reindex")
    for query in (known.tagged, known.noted, known.name, f"{known.tagged[:-4]}*"):
        assert json.loads(pool.p2pfs("search", query, "--in", str(pool.mount), "--json").stdout), query
    view = pool.mount / ".p2pfs" / "search" / known.tagged
    assert known.name in os.listdir(view)


def check(mount: Path, known: Secrets) -> None:
    folder = mount / known.directory
    assert not (folder / known.missing).exists()  # first, since a new mount asks for it and then knows all names there
    assert (folder / known.name).read_text() == known.small
    assert (folder / "large").read_bytes() == known.large_content
    assert os.readlink(mount / "link") == known.target
    assert sorted(os.listdir(folder)) == sorted([known.name, "large", "over"])


def keys_of(pool: DemoPool, known: Secrets) -> list[Canary]:
    """The volume's keys, made from what the user has; hashes of content count too, since content can be guessed."""
    content = known.large_content
    passphrase = (pool.root / "passphrase").read_text().strip()
    recovery = (pool.root / "recovery-phrase").read_text().strip()
    found = [
        Canary("the passphrase", passphrase.encode()),
        Canary("the recovery phrase", recovery.encode()),
        Canary("SHA-256 of a content", hashlib.sha256(content).digest()),
        Canary("BLAKE3 of a content", blake3(content).digest()),
        Canary("the mount's private key", _private_key(pool.root / "mount" / "tls" / "node.key")),
    ]
    with closing(sqlite3.connect(pool.root / "coordinator" / "coordinator" / "meta.sqlite")) as connection:
        slots = [KeySlot(kind, wrapped) for kind, wrapped in connection.execute("SELECT kind, wrapped FROM key_slot")]
    master = unwrap_any(slots, passphrase)
    found.append(Canary("the master key", master))
    found += [Canary(f"the key “{label}”", _sub_key(master, label, size)) for label, size in KEY_LABELS.items()]
    keys = VolumeKeys.derive(master)
    found.append(Canary("a chunk's key", seal(keys, [content]).key))
    return found


def _private_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), None)
    return key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]


def stored(pool: DemoPool) -> Iterator[tuple[str, bytes]]:
    """Everything on the disks of the pool, databases with their logs and freed pages, and what other users see."""
    yield from files(pool.root, but=OWNERS)
    yield from processes(pool.pid(part) for part in PARTS)


def tapped(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.iterdir():
        yield f"what process {path.name} sent within TLS", path.read_bytes()


@pytest.fixture
def tap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What all parts of a pool started from here on say to each other, before TLS encrypts it."""
    directory = tmp_path / "tap"
    directory.mkdir()
    paths = [str(INTERPOSED), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("P2PFS_TEST_TAP", str(directory))
    return directory


def test_no_name_content_or_key_is_anywhere_but_with_its_owner(tmp_path: Path, tap: Path) -> None:
    known = Secrets.make()
    with LoopbackCapture() as capture, demo_pool(tmp_path, settings={"log_level": "debug"}) as pool:
        use(pool.mount, known)
        tag(pool, known)
        invite = invite_secret(pool)
        mistakes(pool)
        pool.remount_empty()
        check(pool.mount, known)
        canaries = [*known.canaries(), *keys_of(pool, known)]
        assert any((pool.root / "mount" / "cache").rglob("*-*+*"))
        assert search(stored(pool), [*canaries, invite]) == []
        assert search(tapped(tap), canaries) == []
        for part in PARTS[:-1]:
            assert search(memory(pool.pid(part)), canaries) == []
        say_in_the_clear(b"this is in the clear")
    assert capture.bytes.count(b"\x17\x03\x03") > 500, "TLS records"
    assert search([("the wire", capture.bytes)], [*canaries, invite]) == []
    assert b"this is in the clear" in capture.bytes
    assert capture.dropped == 0


def invite_secret(pool: DemoPool) -> Canary:
    """An invite that nobody has used: only its hash is kept."""
    answer = json.loads(pool.p2pfs("invite", "anna@laptop", "--json").stdout)
    return Canary("an invite's secret", decode_invite(answer["invite"]).secret)


def mistakes(pool: DemoPool) -> None:
    """What goes wrong must not tell either."""
    wrong = pool.root.parent / "wrong"
    wrong.write_text("canary-wrong-passphrase\n")
    (pool.root.parent / "elsewhere").mkdir()
    pool.p2pfs(
        "mount", "demo", str(pool.root.parent / "elsewhere"), "--passphrase-file", str(wrong),
        home=pool.root / "mount", expect=None,
    )  # fmt: skip


def say_in_the_clear(data: bytes) -> None:
    """Something the capture must see."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        there.bind(("127.0.0.1", 0))
        here.sendto(data, there.getsockname())
        there.recv(100)


def test_the_search_finds_everything_in_a_pool_that_encrypts_nothing(
    tmp_path: Path, tap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFS_TEST_UNSEALED", "1")
    known = Secrets.make()
    with demo_pool(tmp_path) as pool:
        use(pool.mount, known)
        tag(pool, known)
        pool.remount_empty()
        check(pool.mount, known)
        shown = search(files(pool.root / "coordinator"), known.canaries())
        for name in ("small", "name", "directory", "target", "tagged", "noted"):
            assert any(line.startswith(f"{name} (raw)") and "sqlite" in line for line in shown), (name, shown)
        for place in ("peer-1", "peer-2", "peer-3"):
            shown += search(files(pool.root / place), known.canaries())
        assert any("large (raw)" in line and "/chunks/" in line for line in shown)
        assert any("large (raw)" in line for line in search(files(pool.root / "mount" / "cache"), known.canaries()))
        assert any(search([place], known.canaries()) for place in memory(pool.pid("coordinator")))
        assert any("sqlite" in line for line in search(files(pool.root / "coordinator"), [unsealed_master(pool)]))
        sent = search(tapped(tap), known.canaries())
        for name in (
            "small",
            "large",
            "overwritten",
            "removed",
            "name",
            "directory",
            "renamed",
            "target",
            "missing",
            "tagged",
            "noted",
        ):
            assert any(line.startswith(f"{name} (raw)") for line in sent), (name, sent)


def unsealed_master(pool: DemoPool) -> Canary:
    """The master key as a key slot ends with it when wrapping does nothing."""
    with closing(sqlite3.connect(pool.root / "coordinator" / "coordinator" / "meta.sqlite")) as connection:
        (wrapped,) = connection.execute("SELECT wrapped FROM key_slot LIMIT 1").fetchone()
        (check,) = connection.execute("SELECT key_check FROM volume").fetchone()
    assert VolumeKeys.derive(wrapped[-32:]).check == check
    return Canary("the master key", wrapped[-32:])


@pytest.mark.parametrize("form", ["raw", "hex", "HEX", "base64+0", "base64+1", "base64+2", "utf-16-le", "utf-16-be"])
def test_a_canary_is_found_in_every_form_and_alignment(form: str) -> None:
    canary = Canary("it", word("form").encode())
    text = canary.secret.decode()
    kept = {
        "raw": canary.secret, "hex": canary.secret.hex().encode(), "HEX": canary.secret.hex().upper().encode(),
        "utf-16-le": text.encode("utf-16-le"), "utf-16-be": text.encode("utf-16-be"),
    }  # fmt: skip
    if form.startswith("base64"):
        import base64

        kept[form] = base64.b64encode(b"xyz"[: int(form[-1])] + canary.secret + b"something after")
    assert search([("here", b"noise" + kept[form] + b"noise")], [canary])
    assert not search([("here", b"noise" + kept[form][:-8])], [Canary("another", word("other").encode())])
