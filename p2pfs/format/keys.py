"""Volume keys: the master key, its sub-keys, and how it is wrapped in key slots.

The master key never leaves clients; the coordinator keeps `KeySlot`s, which are opaque to it. Nothing here asks people
for secrets or stores anything: the command line and the mount do. Argon2id takes about a second and its memory: call
`wrap_passphrase` and `unwrap` from a thread.
"""

import hmac
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pfs.errors import Corrupt, Denied, Invalid
from p2pfs.format import phrases, rows
from p2pfs.wire.volumes import KeySlot

MASTER_BYTES: Final = 32
CHECK_BYTES: Final = 16
GUARD_BYTES: Final = 32
_SLOT_ID_BYTES: Final = 8
FIRST_EPOCH: Final = 1

PASSPHRASE: Final = "passphrase"
RECOVERY: Final = "recovery"

ARGON2_MEMORY_KIB: Final = 256 * 1024
"""What new slots take, and the least a client accepts: a coordinator must not be able to name a weaker one."""
ARGON2_MOST_MEMORY_KIB: Final = 2 * 1024 * 1024
"""More would let a coordinator exhaust the memory of the machine that opens the slot."""
ARGON2_PASSES: Final = 3
ARGON2_LANES: Final = 4
MOST_SLOTS: Final = 16
"""A passphrase is tried against each: more would let a coordinator keep a machine busy."""
_MOST_PASSES: Final = 64
_MOST_LANES: Final = 64

_SLOT_VERSION: Final = 1
_SALT_BYTES: Final = 16
_COMMITMENT_BYTES: Final = 32
_SIV_KEY_BYTES: Final = 64
_PASSPHRASE_HEAD: Final = 1 + 4 + 4 + 4 + _SALT_BYTES
_RECOVERY_HEAD: Final = 1 + _SALT_BYTES
_TAIL: Final = _COMMITMENT_BYTES + rows.SIV_BYTES + MASTER_BYTES


class WrongKey(Denied):
    """The passphrase or recovery phrase does not open this slot."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class VolumeKeys:
    """Every sub-key of one volume at one key epoch. Safe to share between threads; never shown."""

    check: bytes  # key-check value, public: clients pin it and refuse a volume whose keys give another
    prefix: bytes  # of every row sealed with these keys
    content: bytes  # keys the BLAKE3 that makes chunk keys
    digest: bytes  # keys the multiset digest
    tag: bytes  # keys dentry tags
    journal: bytes  # keys the BLAKE3 that makes the keys of journal files
    guard: bytes  # shown to the coordinator by who changes key slots or settings; it keeps `guard_hash` of it
    search: bytes  # keys the tokens of words and contents
    settings: bytes  # keys the seals of what is indexed
    extents: AESSIV
    heads: AESSIV
    names: AESSIV
    values: AESSIV

    @classmethod
    def derive(cls, master: bytes, *, epoch: int = FIRST_EPOCH) -> Self:
        """The sub-keys of a master key, by HKDF-SHA256 with a label each."""
        if len(master) != MASTER_BYTES:
            raise Corrupt("a volume master key has 32 bytes")
        return cls(
            check=_sub_key(master, "check", CHECK_BYTES),
            prefix=rows.prefix(epoch),
            content=_sub_key(master, "content", 32),
            digest=_sub_key(master, "digest", 32),
            tag=_sub_key(master, "tag", 32),
            journal=_sub_key(master, "journal", 32),
            guard=_sub_key(master, "guard", GUARD_BYTES),
            search=_sub_key(master, "search", 32),
            settings=_sub_key(master, "settings", 32),
            extents=AESSIV(_sub_key(master, "extents", _SIV_KEY_BYTES)),
            heads=AESSIV(_sub_key(master, "heads", _SIV_KEY_BYTES)),
            names=AESSIV(_sub_key(master, "names", _SIV_KEY_BYTES)),
            values=AESSIV(_sub_key(master, "values", _SIV_KEY_BYTES)),
        )

    def __repr__(self) -> str:
        return f"VolumeKeys(check={self.check.hex()})"


def new_master() -> bytes:
    """A fresh volume master key."""
    return secrets.token_bytes(MASTER_BYTES)


def guard_hash(guard: bytes) -> bytes:
    """What the coordinator keeps of `VolumeKeys.guard`: 32 bytes."""
    return blake3(b"p2pfs slot guard 1\0" + guard).digest()


def slot_id(slot: KeySlot) -> str:
    """What a slot is called: 16 hexadecimal digits of its hash."""
    return blake3(b"p2pfs slot id 1\0" + slot.kind.encode() + b"\0" + slot.wrapped).hexdigest(_SLOT_ID_BYTES)


def wrap_passphrase(
    master: bytes,
    passphrase: str,
    *,
    memory_kib: int = ARGON2_MEMORY_KIB,
    passes: int = ARGON2_PASSES,
    lanes: int = ARGON2_LANES,
) -> KeySlot:
    """A slot that `passphrase` opens.

    Raises:
        Invalid: The passphrase is empty.
    """
    head = b"".join(
        (
            bytes((_SLOT_VERSION,)),
            memory_kib.to_bytes(4, "big"),
            passes.to_bytes(4, "big"),
            lanes.to_bytes(4, "big"),
            secrets.token_bytes(_SALT_BYTES),
        )
    )
    return KeySlot(PASSPHRASE, head + _wrap(_stretch(head, passphrase), head, master))


def wrap_recovery(master: bytes) -> tuple[KeySlot, str]:
    """A slot and the recovery phrase that opens it: 128 random bits, shown once and kept nowhere."""
    secret = secrets.token_bytes(phrases.SECRET_BYTES)
    head = bytes((_SLOT_VERSION,)) + secrets.token_bytes(_SALT_BYTES)
    return KeySlot(RECOVERY, head + _wrap(secret, head, master)), phrases.encode(secret)


def unwrap(slot: KeySlot, secret: str, *, floor_kib: int = ARGON2_MEMORY_KIB) -> bytes:
    """The master key in `slot`. `floor_kib` is lowered by tests only.

    Raises:
        WrongKey: The secret is not the slot's.
        Corrupt: The slot is malformed, or its Argon2id cost is below the floor or absurd.
        Invalid: The secret is empty.
    """
    if slot.kind == PASSPHRASE:
        head = _slot_head(slot, _PASSPHRASE_HEAD)
        _check_costs(head, floor_kib)
        key = _stretch(head, secret)
    elif slot.kind == RECOVERY:
        head = _slot_head(slot, _RECOVERY_HEAD)
        try:
            key = phrases.decode(secret)
        except Invalid as error:
            raise WrongKey(str(error)) from None
    else:
        raise Corrupt(f"this program knows no key slot of kind {slot.kind!r}")
    return _unwrap(key, head, slot.wrapped[len(head) :])


def unwrap_any(slots: Sequence[KeySlot], secret: str, *, floor_kib: int = ARGON2_MEMORY_KIB) -> bytes:
    """The master key from whichever slot `secret` opens; what reads as a recovery phrase tries those slots first.

    Raises:
        WrongKey: It opens none.
        Corrupt: The slots are malformed, too weak or too many.
        Invalid: The secret is empty.
    """
    if len(slots) > MOST_SLOTS:
        raise Corrupt(f"the volume has {len(slots)} key slots, more than the {MOST_SLOTS} this program tries")
    first = RECOVERY if phrases.is_phrase(secret) else PASSPHRASE
    failures: list[WrongKey | Corrupt] = []
    for slot in sorted(slots, key=lambda slot: slot.kind != first):
        try:
            return unwrap(slot, secret, floor_kib=floor_kib)
        except (WrongKey, Corrupt) as error:
            failures.append(error)
    # The first failure is of the kind of slot that was meant.
    raise failures[0] if failures else WrongKey("the volume has no key slot")


def _sub_key(master: bytes, label: str, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, b"p2pfs volume 1", label.encode()).derive(master)


def _slot_head(slot: KeySlot, length: int) -> bytes:
    if slot.wrapped[:1] != bytes((_SLOT_VERSION,)) or len(slot.wrapped) != length + _TAIL:
        raise Corrupt(f"the {slot.kind} key slot is malformed or of a newer version")
    return slot.wrapped[:length]


def _costs(head: bytes) -> tuple[int, int, int]:
    return int.from_bytes(head[1:5], "big"), int.from_bytes(head[5:9], "big"), int.from_bytes(head[9:13], "big")


def _check_costs(head: bytes, floor_kib: int) -> None:
    memory_kib, passes, lanes = _costs(head)
    # Who lowers the floor (tests) means the passes too.
    least_passes = ARGON2_PASSES if floor_kib >= ARGON2_MEMORY_KIB else 1
    if memory_kib < floor_kib or passes < least_passes:
        raise Corrupt(f"the passphrase slot is too weak ({memory_kib} KiB, {passes} passes): somebody changed it")
    if memory_kib > ARGON2_MOST_MEMORY_KIB or passes > _MOST_PASSES or not 1 <= lanes <= _MOST_LANES:
        raise Corrupt(f"the passphrase slot asks too much ({memory_kib} KiB, {passes} passes, {lanes} lanes)")
    if memory_kib < 8 * lanes:
        raise Corrupt("the passphrase slot has impossible Argon2id parameters")


def _stretch(head: bytes, passphrase: str) -> bytes:
    text = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    if not text:
        raise Invalid("the passphrase is empty: choose one")
    memory_kib, passes, lanes = _costs(head)
    argon2 = Argon2id(salt=head[13:], length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return argon2.derive(text)


def _slot_keys(key: bytes, head: bytes) -> tuple[bytes, AESSIV]:
    """(commitment, cipher). The commitment fixes the key before anything is opened: without it, a slot could be made
    that opens under many passphrases and tells which of them was typed (partitioning oracle)."""
    made = HKDF(hashes.SHA256(), _COMMITMENT_BYTES + _SIV_KEY_BYTES, head, b"p2pfs key slot 1").derive(key)
    return made[:_COMMITMENT_BYTES], AESSIV(made[_COMMITMENT_BYTES:])


def _wrap(key: bytes, head: bytes, master: bytes) -> bytes:
    commitment, cipher = _slot_keys(key, head)
    return commitment + cipher.encrypt(master, [head + commitment])


def _unwrap(key: bytes, head: bytes, tail: bytes) -> bytes:
    commitment, cipher = _slot_keys(key, head)
    if not hmac.compare_digest(tail[:_COMMITMENT_BYTES], commitment):
        raise WrongKey("that is not the passphrase or recovery phrase of this volume")
    try:
        return cipher.decrypt(tail[_COMMITMENT_BYTES:], [head + commitment])
    except InvalidTag:
        raise Corrupt("the key slot does not authenticate although the secret is right: it was damaged") from None
