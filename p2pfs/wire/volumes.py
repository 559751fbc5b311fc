"""Volumes, their key slots, sessions and reservations on the wire."""

import re
from typing import Final

import msgspec

from p2pfs.wire.chunks import Token

MAX_NAME_LETTERS: Final = 64
NAME_RULE: Final = (
    f"use up to {MAX_NAME_LETTERS} letters, digits, dots, dashes and underscores, a letter or digit first and last"
)
_NAME: Final = re.compile(r"[\w](?:[\w .+-]*[\w])?")
_NEW_NAME: Final = re.compile(r"[^\W_](?:[\w.-]*[^\W_])?")


def is_name(text: str) -> bool:
    """Whether a volume may be called so. Asked by mounts of what a coordinator tells them."""
    return len(text) <= MAX_NAME_LETTERS and _NAME.fullmatch(text) is not None


def is_new_name(text: str) -> bool:
    """Whether a volume may get this name: as `NAME_RULE` says. Earlier versions gave others, which go on to work."""
    return len(text) <= MAX_NAME_LETTERS and _NEW_NAME.fullmatch(text) is not None


class KeySlot(msgspec.Struct, frozen=True):
    """The volume master key wrapped for one way of opening it; opaque to the coordinator (format.keys)."""

    kind: str  # "passphrase" | "recovery"
    wrapped: bytes  # format.keys encoding, versioned


class VolumeInfo(msgspec.Struct, frozen=True):
    """`GET /volumes`. `check` is the key-check value clients pin."""

    volume: int
    name: str
    owner: str
    check: bytes
    small_file_bytes: int
    dedup: bool
    created_s: int
    index_seal: bytes = b""  # format.indexing: the key vouches for what is indexed; empty: for nothing
    files: int = 0  # inodes
    bytes: int = 0  # content bytes as the coordinator counts them
    trash_removed_s: float = 0.0  # how long what is removed can be brought back; 0: not at all
    trash_expired_s: float = 0.0
    trash_files: int = 0  # inodes that only the trash keeps
    trash_bytes: int = 0
    index_names: bool = False  # mounts make the words of names searchable
    index_prefixes: bool = False  # and the beginnings of words
    distribution: str = "auto"  # types.Distribution; a mount takes a word it does not know for "auto"
    quota_bytes: int = 0  # most content bytes; 0: no limit
    quota_files: int = 0  # most inodes
    access: str = ""  # "ro", "rw": shared with the asker so; "": the asker's own, or an admin asked
    members: int = 0  # how many keys it is shared with


class CreateVolume(msgspec.Struct, frozen=True):
    """`POST /volumes`. The root directory's head is sealed by the client like any other."""

    volume: int
    name: str
    check: bytes
    slots: list[KeySlot]
    root_head: bytes
    root_mode: int
    root_uid: int
    root_gid: int
    time_ns: int
    small_file_bytes: int = 16384
    dedup: bool = True
    trash_removed_s: float = 86400.0
    trash_expired_s: float = 7 * 86400.0
    slot_guard: bytes = b""  # format.keys.guard_hash; empty: from an earlier version
    distribution: str = "auto"
    index_names: bool = False
    index_prefixes: bool = False
    index_seal: bytes = b""


class VolumeSettings(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/settings` → VolumeInfo. None leaves a setting as it is; those of the index come with
    their seal, all three or none."""

    trash_removed_s: float | None = None
    trash_expired_s: float | None = None
    index_names: bool | None = None
    index_prefixes: bool | None = None
    distribution: str | None = None
    index_seal: bytes | None = None
    name: str | None = None
    quota_bytes: int | None = None  # 0: no limit
    quota_files: int | None = None
    guard: bytes = b""  # proves that the sender has the volume's key (format.keys)

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name != "guard"}
        return f"VolumeSettings({', '.join(f'{name}={value}' for name, value in given.items() if value is not None)})"


class DeleteVolume(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/delete` → DeletedVolume, for who has its key, or an admin; not while it is mounted."""

    guard: bytes = b""

    def __repr__(self) -> str:
        return "DeleteVolume()"


class UndeleteVolume(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/undelete` → VolumeInfo, as long as its delay lasts."""

    name: str = ""  # another than it had; Exists when that is taken


class DeletedVolume(msgspec.Struct, frozen=True):
    """`GET /deleted-volumes`: what can be brought back until `purge_s` (UTC), by `undelete_volume`."""

    volume: int
    name: str
    owner: str
    files: int
    bytes: int
    deleted_s: float
    purge_s: float


class VolumeSlots(msgspec.Struct, frozen=True):
    """`GET /volumes/{volume}/slots`, for members only."""

    slots: list[KeySlot]


class ChangeSlots(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/slots` → VolumeSlots: those there are then. All or nothing."""

    guard: bytes  # proves that the sender has the volume's key (format.keys)
    add: list[KeySlot] = []
    remove: list[str] = []  # format.keys.slot_id

    def __repr__(self) -> str:
        return f"ChangeSlots(add {len(self.add)}, remove {self.remove})"


class OpenSession(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/sessions`. Raises Busy when it or another session is `exclusive`.

    `succeeds` is a session of this node whose process is gone for certain ("": none): it need not be waited for.
    """

    host: str = ""
    mount_point: str = ""
    read_only: bool = False
    exclusive: bool = False
    succeeds: str = ""


class SessionGrant(msgspec.Struct, frozen=True):
    """A session lives while it is renewed within `lifetime_s`; its ids come in blocks [first, last]."""

    session: str
    incarnation: int
    lifetime_s: float
    first_id: int
    last_id: int
    exclusive: bool = False  # an earlier version does not know that it was asked to be


class RenewSession(msgspec.Struct, frozen=True):
    """`POST /sessions/{session}/renew` every third of the lifetime."""

    map_version: int
    fetched: list[tuple[int, int, int]] = []  # (UTC day, peer, bytes of that day so far in this session), if changed


class RenewedSession(msgspec.Struct, frozen=True):
    map_version: int  # fetch the map again if higher than yours


class GrantIds(msgspec.Struct, frozen=True):
    """`POST /sessions/{session}/ids` → IdBlock."""

    count: int


class IdBlock(msgspec.Struct, frozen=True):
    first_id: int
    last_id: int


class Reserve(msgspec.Struct, frozen=True):
    """`POST /sessions/{session}/reservations`: room for `room_bytes` sealed bytes on each of enough peers.

    The tokens of the answer replace all the session had; 0 gives them back. Raises NoSpace when fewer than
    `min_replicas` peers have room.
    """

    room_bytes: int
    returned: list[int] = []  # token ids; earlier versions gave back only these


class Reserved(msgspec.Struct, frozen=True):
    tokens: list[Token]
