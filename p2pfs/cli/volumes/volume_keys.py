"""Making a volume's keys and opening them again, for commands. The mount opens keys itself."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from p2pfs import exitcodes
from p2pfs.cli import connect
from p2pfs.cli.passphrases import Passphrase
from p2pfs.cli.waiting import waiting
from p2pfs.errors import PoolError, Semantic, Unavailable, UserError
from p2pfs.format import keys
from p2pfs.format.heads import Head, seal_head
from p2pfs.format.indexing import Indexing, seal_indexing
from p2pfs.runtime import process
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import ROOT_INODE, Kind, VolumeId
from p2pfs.vfs import volume_settings
from p2pfs.vfs.pool import Pool, pin
from p2pfs.vfs.shared_keys import shared_keys
from p2pfs.wire.namespace import FIRST_CHANGE
from p2pfs.wire.volumes import NAME_RULE, CreateVolume, VolumeInfo, VolumeSettings, is_new_name

_ROOT_MODE = 0o755
_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class MadeVolume:
    """What `volume create` shows."""

    volume: VolumeInfo
    recovery_phrase: str = field(repr=False)


def create(
    home: NodeHome,
    name: str,
    passphrase: Passphrase,
    *,
    settings: Settings,
    owner: tuple[int, int],
    time_ns: int,
    recovery_file: Path | None = None,
) -> MadeVolume:
    """Make a volume with a passphrase slot and a recovery slot; `owner` is (uid, gid) of its root directory.

    Raises:
        UserError: The name cannot be used, or the recovery file exists.
        Exists: There is a volume of that name.
    """
    process.harden()  # this process is about to hold the master key
    _check_name(name)
    if any(known.name == name for known in connect.call(home, "GET", "/volumes", None, list[VolumeInfo])):
        raise UserError(f"there is a volume “{name}” already: choose another name", exitcodes.EXISTS)
    master = keys.new_master()
    recovery_slot, phrase = keys.wrap_recovery(master)
    volume = VolumeId(1 + secrets.randbelow((1 << 63) - 1))
    sub_keys = keys.VolumeKeys.derive(master)
    seal = seal_indexing(sub_keys, volume, Indexing(settings.index_names, settings.index_prefixes, counter=1))
    given = passphrase()
    with waiting("wrapping the key"):
        slot = keys.wrap_passphrase(master, given)
    message = CreateVolume(
        volume=volume,
        name=name,
        check=sub_keys.check,
        slots=[slot, recovery_slot],
        root_head=seal_head(sub_keys, volume, ROOT_INODE, Head(FIRST_CHANGE, 0, Kind.DIRECTORY)),
        root_mode=_ROOT_MODE,
        root_uid=owner[0],
        root_gid=owner[1],
        time_ns=time_ns,
        small_file_bytes=settings.small_file,
        dedup=settings.dedup,
        trash_removed_s=settings.trash_removed,
        trash_expired_s=settings.trash_expired,
        slot_guard=keys.guard_hash(sub_keys.guard),
        distribution=settings.distribution,
        index_names=settings.index_names,
        index_prefixes=settings.index_prefixes,
        index_seal=seal,
    )
    # The phrase is safe before the volume exists: a volume that only a forgotten passphrase opens would be worse than
    # a phrase for nothing.
    if recovery_file is not None:
        _write_new(recovery_file, phrase + "\n")
    try:
        info = connect.call(home, "POST", "/volumes", message, VolumeInfo)
    except (Semantic, UserError):  # anything else, such as Ctrl-C, may come after the volume was made
        if recovery_file is not None:
            recovery_file.unlink(missing_ok=True)
        raise
    except PoolError as error:
        if recovery_file is None:
            raise
        raise Unavailable(
            f"{error}. The volume may have been made: keep {recovery_file} if `p2pfs volume list` shows the volume"
        ) from None
    pin(home.path, volume, sub_keys.check)
    volume_settings.pin_indexing(home.path, volume, seal)
    return MadeVolume(info, phrase)


async def open_keys(
    home: NodeHome, coordinator: connect.Coordinator, volume: VolumeInfo, passphrase: Passphrase
) -> keys.VolumeKeys:
    """The keys of a volume, checked against what this node has seen before.

    Raises:
        UserError: WRONG_PASSPHRASE.
        Corrupt: The coordinator's key slots belong to other keys.
    """
    process.harden()
    pool = Pool(coordinator.client, coordinator.endpoint, _ANSWER_S)
    if volume.access:
        return await shared_keys(home, pool, volume, read_only=True)
    given = passphrase()
    with waiting("opening the key"):
        return await pool.keys(home, volume, given)


def configure(home: NodeHome, volume: VolumeInfo, passphrase: Passphrase, settings: VolumeSettings) -> None:
    """Change settings of a volume, having opened its key. Raises as `open_keys`."""

    async def change(coordinator: connect.Coordinator) -> None:
        pool = Pool(coordinator.client, coordinator.endpoint, _ANSWER_S)
        sub_keys = await open_keys(home, coordinator, volume, passphrase)
        await volume_settings.configure(home.path, pool, sub_keys, VolumeId(volume.volume), settings)

    connect.converse(home, change)


def _check_name(name: str) -> None:
    if not is_new_name(name):
        raise UserError(f"“{name}” is no name for a volume: {NAME_RULE}", exitcodes.USAGE)


def _write_new(path: Path, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}", exitcodes.USAGE) from None
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
