"""What a mount believes of its volume's settings, and how who has the volume's key changes them.

What is indexed must be vouched for by the key (format.indexing): else the coordinator, or a node of the owner without
the passphrase, could have every mount show the words of all names. The newest seal seen is kept in the node's home.
"""

import logging
from pathlib import Path

import msgspec

from p2pfs.errors import Corrupt
from p2pfs.format.indexing import Indexing, check_indexing, counter_of, seal_indexing
from p2pfs.format.keys import VolumeKeys
from p2pfs.runtime.files import write_durably
from p2pfs.types import VolumeId, volume_name
from p2pfs.vfs.pool import Pool
from p2pfs.wire.volumes import VolumeInfo, VolumeSettings

log = logging.getLogger(__name__)


def vouched(home: Path, keys: VolumeKeys, volume: VolumeInfo) -> Indexing:
    """What is to be indexed, as far as the volume's key vouches for it and nothing newer was seen; else nothing, with
    the counter of the newest seen. Pins what is newer."""
    number = VolumeId(volume.volume)
    pinned = _pinned(home, number)
    try:
        found = check_indexing(
            keys, number, names=volume.index_names, prefixes=volume.index_prefixes, seal=volume.index_seal
        )
    except Corrupt:
        found = None
    if found is not None and volume.index_seal == pinned:
        return found
    if found is not None and found.counter > counter_of(pinned):
        pin_indexing(home, number, volume.index_seal)
        return found
    if pinned or volume.index_names or volume.index_prefixes:
        log.warning(
            "the volume's key does not vouch for what the coordinator says is to be indexed (names: %s, beginnings of"
            " words: %s), or something newer was said before: no name is indexed until it is set anew",
            volume.index_names, volume.index_prefixes,
        )  # fmt: skip
    return Indexing(counter=counter_of(pinned))


async def configure(home: Path, pool: Pool, keys: VolumeKeys, number: VolumeId, settings: VolumeSettings) -> VolumeInfo:
    """Change the settings that are not None, for who has the volume's key.

    Raises:
        PoolError: The coordinator does not answer or refuses; after Unavailable it may be done all the same.
    """
    seal = None
    if settings.index_names is not None or settings.index_prefixes is not None:
        old = vouched(home, keys, await pool.volume(volume_name(number)))
        names = old.names if settings.index_names is None else settings.index_names
        prefixes = old.prefixes if settings.index_prefixes is None else settings.index_prefixes
        seal = seal_indexing(keys, number, Indexing(names, prefixes, old.counter + 1))
        settings = msgspec.structs.replace(settings, index_names=names, index_prefixes=prefixes)
    settings = msgspec.structs.replace(settings, index_seal=seal, guard=keys.guard)
    path = f"/volumes/{volume_name(number)}/settings"
    changed = await pool.client.call(pool.coordinator, "POST", path, settings, VolumeInfo, timeout_s=pool.io_timeout_s)
    if seal is not None:
        pin_indexing(home, number, seal)
    return changed


def pin_indexing(home: Path, volume: VolumeId, seal: bytes) -> None:
    """Remember a seal as the newest: no older one is believed any more."""
    path = _path(home, volume)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_durably(path, seal)


def _pinned(home: Path, volume: VolumeId) -> bytes:
    try:
        return _path(home, volume).read_bytes()
    except FileNotFoundError:
        return b""


def _path(home: Path, volume: VolumeId) -> Path:
    return home / "volumes" / f"{volume_name(volume)}.index"
