"""Volumes: making, listing, handing out key slots; and who may use which.

A volume belongs to its owner; every client node of that owner may use it, and those that it is shared with
(`sharing`). Key slots are opaque here.
Called by `handlers`; `require_member` also by the server before each request for a volume or session.
"""

import logging
import re
import sqlite3
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from p2pfs.coordinator.roster import Roster
from p2pfs.errors import Denied, Invalid, NotFound
from p2pfs.format.indexing import SEAL_BYTES
from p2pfs.meta import key_slots, volume_members
from p2pfs.meta import volumes as rows
from p2pfs.meta.database import Database
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.types import KIB, Distribution, Role, VolumeId, head_limit
from p2pfs.wire.volumes import (
    MAX_NAME_LETTERS,
    NAME_RULE,
    ChangeSlots,
    CreateVolume,
    KeySlot,
    VolumeInfo,
    VolumeSettings,
    VolumeSlots,
    is_new_name,
)

MAX_SLOTS: Final = 64
MAX_CHECK_BYTES: Final = 64
MAX_WRAPPED_BYTES: Final = 4 * KIB
MAX_DELAY_S: Final = 36_500 * 86400.0
_FOR_ADMINS: Final = frozenset({"name", "quota_bytes", "quota_files", "guard"})
"""Settings that an admin may change without the key; `guard` is none."""
_ADDRESS: Final = re.compile(r"[0-7][0-9a-f]{15}")
_LIKE_AN_ADDRESS: Final = re.compile(r"[0-9a-fA-F]{16}")

_log = logging.getLogger(__name__)


def parse_volume(text: str) -> VolumeId:
    """The volume of an address: sixteen hexadecimal digits.

    Raises:
        NotFound: It is no such number, so there is no such volume.
    """
    if _ADDRESS.fullmatch(text) is None:
        raise NotFound("there is no such volume")
    return VolumeId(int(text, 16))


class Volumes:
    """The pool's volumes. Owners never change, so those of volumes in use are remembered here once looked up."""

    def __init__(self, *, database: Database, roster: Roster, clock: Clock) -> None:
        self._database = database
        self._roster = roster
        self._clock = clock
        self._owners: dict[VolumeId, str] = {}

    async def create(self, identity: Identity, message: CreateVolume) -> VolumeInfo:
        """Make a volume that belongs to the owner of the node that asks.

        Raises:
            Invalid: A field cannot be meant.
            Exists: The owner has a volume of that name.
        """
        node = self._roster.member(identity.node)
        check(message)
        now_s = self._clock.time()
        info = await self._database.write(
            lambda connection: rows.create_volume(connection, message, owner=node.owner, now_s=now_s)
        )
        _log.info("%s made the volume %s", node.name, message.name)
        return info

    def visible(self, identity: Identity) -> list[VolumeInfo]:
        """What the asker may use, with its rights on what is shared with it; an admin sees all."""
        node = self._roster.member(identity.node)
        owner = None if Role.ADMIN in identity.roles else node.owner

        def ask(connection: sqlite3.Connection) -> list[VolumeInfo]:
            found = rows.volumes(connection, owner)
            shared = volume_members.shared_with(connection, node.id)
            missing = shared.keys() - {VolumeId(volume.volume) for volume in found}
            found += [rows.volume(connection, volume) for volume in sorted(missing)]
            return [
                replace(volume, access="ro" if shared[VolumeId(volume.volume)] else "rw")
                if volume.volume in shared and volume.owner != node.owner
                else volume
                for volume in found
            ]

        return self._database.read(ask)

    def slots(self, volume: VolumeId) -> VolumeSlots:
        """The wrapped keys, for a member."""
        return VolumeSlots(self._database.read(lambda connection: key_slots.slots(connection, volume)))

    async def change_slots(self, volume: VolumeId, message: ChangeSlots) -> VolumeSlots:
        """Add and remove key slots, both or neither.

        Raises:
            NotFound: There is no such slot.
            Denied: The sender has not got the volume's key.
            Invalid: A slot cannot be meant, or none would be left.
        """
        check_slots(message.add)
        if len(message.remove) > MAX_SLOTS:
            raise Invalid("so many key slots no volume has")
        return VolumeSlots(await self._database.write(lambda connection: key_slots.change(connection, volume, message)))

    async def configure(self, volume: VolumeId, settings: VolumeSettings, *, is_admin: bool = False) -> VolumeInfo:
        """Change what who has a volume's key can change; its name and quota an admin can, too.

        Raises:
            Denied: The sender has not got the key.
            Invalid: A setting cannot be meant.
            Exists: The owner has another volume of that name.
        """
        given = {field for field in settings.__struct_fields__ if getattr(settings, field) is not None}
        is_admin = is_admin and given <= _FOR_ADMINS
        now_s = self._clock.time()
        if settings.name is not None:
            check_name(settings.name)
        check_quota(settings.quota_bytes, settings.quota_files)
        check_delays(settings.trash_removed_s, settings.trash_expired_s)
        check_distribution(settings.distribution)
        check_index(settings)
        return await self._database.write(
            lambda connection: rows.configure(connection, volume, settings, now_s=now_s, is_admin=is_admin)
        )

    def require_member(self, identity: Identity, volume: VolumeId) -> None:
        """Whether the node's owner may use the volume, or it is shared with the node.

        Raises:
            NotFound: There is none, or it is somebody else's: whose volumes exist is nobody's business.
            Denied: The node is no member of the pool.
        """
        node = self._roster.member(identity.node)
        if node.owner == self._owner(volume):
            return
        if self._database.read(lambda connection: volume_members.access(connection, volume, node.id)) is None:
            raise NotFound("there is no such volume")

    def is_owners(self, identity: Identity, volume: VolumeId) -> bool:
        """Whether a member of the volume is its owner's node, not one it is shared with."""
        return self._roster.member(identity.node).owner == self._owner(volume)

    def require_owner(self, identity: Identity, volume: VolumeId, *, or_admin: bool, is_deleted: bool = False) -> None:
        """Whether the volume is in use (or `is_deleted`) and the node's owner's; or the node is an admin, if that will
        do. A volume can be deleted meanwhile: what changes it looks again, in its transaction.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Denied: It is shared with the node, which is not enough; or the node is no member of the pool.
        """
        node = self._roster.member(identity.node)
        find = rows.volume if is_deleted else rows.volume_in_use
        owner = self._database.read(lambda connection: find(connection, volume).owner)
        if node.owner == owner or (or_admin and Role.ADMIN in identity.roles):
            return
        if self._database.read(lambda connection: volume_members.access(connection, volume, node.id)) is not None:
            raise Denied("the volume is shared with you: only its owner may do that")
        raise NotFound("there is no such volume")

    def forget(self, volume: VolumeId) -> None:
        """It is not in use any more."""
        self._owners.pop(volume, None)

    def _owner(self, volume: VolumeId) -> str:
        owner = self._owners.get(volume)
        if owner is None:
            owner = self._database.read(lambda connection: rows.volume_in_use(connection, volume).owner)
            self._owners[volume] = owner
        return owner


def check(message: CreateVolume) -> None:
    """Whether a new volume can be meant.

    Raises:
        Invalid: It cannot.
    """
    check_name(message.name)
    if not 0 < message.volume < 1 << 63:
        raise Invalid("a volume number has 63 bits and is not 0")
    if not 1 <= len(message.slots) <= MAX_SLOTS or not 0 < len(message.check) <= MAX_CHECK_BYTES:
        raise Invalid(f"a volume has a key-check value and 1 to {MAX_SLOTS} key slots")
    check_slots(message.slots)
    if len(message.root_head) > head_limit(0):
        raise Invalid("this is more head than a new directory has")
    if not 0 <= message.small_file_bytes <= 256 * KIB:
        raise Invalid("small files have at most 256 KiB")
    check_delays(message.trash_removed_s, message.trash_expired_s)
    check_distribution(message.distribution)
    if message.index_seal:  # an earlier version makes none
        check_seal(message.index_seal)


def check_name(name: str) -> None:
    """Raises Invalid."""
    if _LIKE_AN_ADDRESS.fullmatch(name) is not None:
        raise Invalid(f"“{name}” could be taken for a volume's id: use another name")
    if not is_new_name(name):
        raise Invalid(f"“{name[:MAX_NAME_LETTERS]}” is no name for a volume: {NAME_RULE}")


def check_quota(*limits: int | None) -> None:
    """Raises Invalid."""
    if not all(limit is None or 0 <= limit < 1 << 63 for limit in limits):
        raise Invalid("a quota is less than 8 EiB, and 0 is none")


def check_slots(slots: Sequence[KeySlot]) -> None:
    """Raises Invalid."""
    if len(slots) > MAX_SLOTS or any(len(one.wrapped) > MAX_WRAPPED_BYTES or len(one.kind) > 32 for one in slots):
        raise Invalid("a key slot is too large, or there are too many")


def check_delays(*delays: float | None) -> None:
    """Raises Invalid."""
    if not all(delay is None or 0 <= delay <= MAX_DELAY_S for delay in delays):
        raise Invalid("trash is kept for up to a hundred years, and 0 keeps none")


def check_index(settings: VolumeSettings) -> None:
    """Raises Invalid: a seal is over both settings."""
    given = {one is None for one in (settings.index_names, settings.index_prefixes, settings.index_seal)}
    if len(given) != 1:
        raise Invalid("what is indexed is set with the seal over all of it")
    if settings.index_seal is not None:
        check_seal(settings.index_seal)


def check_seal(seal: bytes) -> None:
    """Raises Invalid."""
    if len(seal) != SEAL_BYTES:
        raise Invalid(f"the seal over what is indexed has {SEAL_BYTES} bytes")


def check_distribution(word: str | None) -> None:
    """Raises Invalid."""
    if word is not None and word not in list(Distribution):
        raise Invalid(f"chunks are distributed in one of these ways: {', '.join(Distribution)}")
