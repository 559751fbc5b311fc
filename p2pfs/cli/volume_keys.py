"""Making a volume's keys and opening them again, for commands. The mount opens keys itself."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from p2pfs import exitcodes
from p2pfs.cli import connect
from p2pfs.cli.passphrases import Passphrase
from p2pfs.errors import UserError
from p2pfs.format import keys
from p2pfs.format.heads import Head, seal_head
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.types import ROOT_INODE, Kind, VolumeId
from p2pfs.vfs.attach import Pool, pin
from p2pfs.wire.namespace import FIRST_CHANGE
from p2pfs.wire.volumes import CreateVolume, VolumeInfo

_ROOT_MODE = 0o755
_MOST_NAME = 64
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
    small_file_bytes: int,
    dedup: bool,
    owner: tuple[int, int],
    time_ns: int,
    trash_s: tuple[float, float] = (86400.0, 7 * 86400.0),
    recovery_file: Path | None = None,
) -> MadeVolume:
    """Make a volume with a passphrase slot and a recovery slot; `owner` is (uid, gid) of its root directory,
    `trash_s` how long what is (removed, expired) can be brought back.

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
    message = CreateVolume(
        volume=volume,
        name=name,
        check=sub_keys.check,
        slots=[keys.wrap_passphrase(master, passphrase()), recovery_slot],
        root_head=seal_head(sub_keys, volume, ROOT_INODE, Head(FIRST_CHANGE, 0, Kind.DIRECTORY)),
        root_mode=_ROOT_MODE,
        root_uid=owner[0],
        root_gid=owner[1],
        time_ns=time_ns,
        small_file_bytes=small_file_bytes,
        dedup=dedup,
        trash_removed_s=trash_s[0],
        trash_expired_s=trash_s[1],
        slot_guard=keys.guard_hash(sub_keys.guard),
    )
    # The phrase is safe before the volume exists: a volume that only a forgotten passphrase opens would be worse than
    # a phrase for nothing.
    if recovery_file is not None:
        _write_new(recovery_file, phrase + "\n")
    try:
        info = connect.call(home, "POST", "/volumes", message, VolumeInfo)
    except BaseException:
        if recovery_file is not None:
            recovery_file.unlink(missing_ok=True)
        raise
    pin(home.path, volume, sub_keys.check)
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
    return await pool.keys(home, volume, passphrase())


def _check_name(name: str) -> None:
    printable = name.isprintable() and not any(letter in name for letter in "/\\:,")
    if not 0 < len(name) <= _MOST_NAME or not printable or name != name.strip() or name.startswith((".", "-")):
        raise UserError(
            f"“{name}” cannot name a volume: use up to {_MOST_NAME} letters, digits, dots and dashes", exitcodes.USAGE
        )


def _write_new(path: Path, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}", exitcodes.USAGE) from None
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
