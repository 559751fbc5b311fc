"""The keys of a volume that somebody else shares with this node, and what the node remembers of who did.

The coordinator hands out the slot, so it could hand out one of its own making, for a volume whose key it knows. So a
volume is accepted once, by a person who is told whose signature the slot has (`p2pfs volume accept`); the signer and
the key-check value are kept in the node's home, and only what agrees with them is used.
"""

from pathlib import Path
from typing import Final

from p2pfs import exitcodes
from p2pfs.errors import Corrupt, UserError
from p2pfs.format import sharing
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.sharing import Identity, Shared
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome
from p2pfs.types import VolumeId, volume_name
from p2pfs.vfs.pool import Pool, pin
from p2pfs.wire.volumes import VolumeInfo, VolumeSlots

READ_ONLY: Final = "ro"
"""`VolumeInfo.access` of what may only be read."""


def identity_path(home: NodeHome) -> Path:
    """Where the keys of the node's user are, mode 0600."""
    return home.path / "identity.key"


def load_identity(home: NodeHome) -> Identity | None:
    """None: there are none yet. Raises Corrupt."""
    try:
        return Identity.parse(identity_path(home).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise Corrupt(f"{identity_path(home)} is no identity") from None


def load_or_make_identity(home: NodeHome) -> Identity:
    """The node's user's keys, made now if there are none. Raises Corrupt, and what writing raises."""
    found = load_identity(home)
    if found is None:
        found = Identity.make()
        write_durably(identity_path(home), found.written().encode(), 0o600)
    return found


def signer_of(home: Path, volume: VolumeId) -> bytes | None:
    """The fingerprint of who shared a volume, as it was accepted; None: it was not."""
    try:
        return _signer_path(home, volume).read_bytes()
    except FileNotFoundError:
        return None


def pin_signer(home: Path, volume: VolumeId, fingerprint: bytes) -> None:
    """A person has accepted the volume from this signer."""
    path = _signer_path(home, volume)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_durably(path, fingerprint)


def pin_name(home: Path, volume: VolumeInfo) -> None:
    """A person has accepted the volume under this name; no other has it any more. A slot's signature does not say what
    the volume is called: the owner may rename it."""
    for path, name in _accepted_names(home):
        if name == _full_name(volume):
            path.unlink(missing_ok=True)
    write_durably(_name_path(home, VolumeId(volume.volume)), _full_name(volume).encode())


def require_own_name(home: Path, volume: VolumeInfo) -> None:
    """Raises Corrupt where a person has accepted another volume under the name that this one is shown with: else the
    coordinator could swap two that the same person shares."""
    own = _name_path(home, VolumeId(volume.volume))
    if any(name == _full_name(volume) and path != own for path, name in _accepted_names(home)):
        raise Corrupt(
            f"what is called {_full_name(volume)} now is not the volume that was accepted under that name: ask"
            f" {volume.owner}, and if it was renamed, accept it again"
        )


def is_accepted(home: NodeHome, volume: str) -> bool:
    """Whether what a person calls `volume` needs no passphrase here: somebody else's, by OWNER/NAME, or an id that was
    accepted. Looks only into the home."""
    owner, slash, _ = volume.partition("/")
    if slash:
        return owner != home.record().owner
    return (home.path / "volumes" / f"{volume}.signer").exists()


async def fetch(home: NodeHome, pool: Pool, volume: VolumeInfo) -> Shared:
    """What the coordinator has for this node's user, opened; by whom it is signed is the caller's to judge.

    Raises:
        UserError: This node has no keys of its own.
        Corrupt: It is for another user or volume, or was changed.
    """
    identity = load_identity(home)
    if identity is None:
        raise UserError(
            f"the keys that {volume.owner}/{volume.name} was shared with are not on this machine any more: "
            "`p2pfs key fingerprint` makes new ones, to be shared with again",
            exitcodes.DENIED,
        )
    path = f"/volumes/{volume_name(VolumeId(volume.volume))}/slots"
    slots = await pool.client.call(pool.coordinator, "GET", path, None, VolumeSlots, timeout_s=pool.io_timeout_s)
    if len(slots.slots) != 1:
        raise Corrupt("the coordinator does not give the key slot of a shared volume")
    return sharing.open_for(identity, slots.slots[0], VolumeId(volume.volume))


async def shared_keys(home: NodeHome, pool: Pool, volume: VolumeInfo, *, read_only: bool) -> VolumeKeys:
    """The keys of a volume that was accepted before.

    Raises:
        UserError: It was not accepted; or may only be read, and not `read_only` was asked for.
        Corrupt: The coordinator gives another key than the one that was accepted, or a slot of somebody else's.
    """
    number = VolumeId(volume.volume)
    signer = signer_of(home.path, number)
    if signer is None:
        name = f"{volume.owner}/{volume.name}"
        raise UserError(
            f"{name} is shared with you: accept it first, with p2pfs volume accept {name}", exitcodes.DENIED
        )
    shared = await fetch(home, pool, volume)
    if shared.signer.fingerprint != signer:
        raise Corrupt(
            f"the key slot of “{volume.name}” is signed by {sharing.shown(shared.signer.fingerprint)}, not by who"
            " shared it before: ask its owner, and accept it again"
        )
    require_own_name(home.path, volume)
    if shared.read_only and not read_only:
        raise UserError(f"“{volume.name}” is shared to read only: mount it with -o ro", exitcodes.DENIED)
    keys = VolumeKeys.derive(shared.master)
    pin(home.path, number, keys.check)
    if keys.check != volume.check:
        raise Corrupt(f"the coordinator names another key than the one that opens “{volume.name}”")
    return keys


def _signer_path(home: Path, volume: VolumeId) -> Path:
    return home / "volumes" / f"{volume_name(volume)}.signer"


def _name_path(home: Path, volume: VolumeId) -> Path:
    return home / "volumes" / f"{volume_name(volume)}.name"


def _full_name(volume: VolumeInfo) -> str:
    return f"{volume.owner}/{volume.name}"


def _accepted_names(home: Path) -> list[tuple[Path, str]]:
    return [(path, path.read_text(encoding="utf-8")) for path in (home / "volumes").glob("*.name")]
