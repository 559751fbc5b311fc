"""Changing a volume's key slots. The master key is here for as long as the command runs, and the process is hardened
before."""

from collections.abc import Sequence
from dataclasses import dataclass

from p2pfs import exitcodes
from p2pfs.cli import connect
from p2pfs.cli.passphrases import Passphrase
from p2pfs.cli.waiting import waiting
from p2pfs.errors import Corrupt, UserError
from p2pfs.format import keys
from p2pfs.format.keys import VolumeKeys, WrongKey
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.types import VolumeId, volume_name
from p2pfs.vfs.pool import pin
from p2pfs.wire.volumes import ChangeSlots, KeySlot, VolumeInfo, VolumeSlots


@dataclass(frozen=True, slots=True)
class Slot:
    """One way of opening a volume, as people see it."""

    id: str
    kind: str


def slots(home: NodeHome, volume: VolumeInfo) -> list[Slot]:
    """What there is, oldest first."""
    return _shown(_fetch(home, volume))


def choose(known: Sequence[Slot], text: str) -> Slot:
    """The slot whose id begins with `text`. Raises UserError."""
    found = [slot for slot in known if text and slot.id.startswith(text)]
    if len(found) != 1:
        raise UserError(
            f"{'no' if not found else 'more than one'} slot begins with “{text}”: `p2pfs key list` shows them",
            exitcodes.NOT_FOUND,
        )
    return found[0]


def add_passphrase(home: NodeHome, volume: VolumeInfo, old: Passphrase, new: Passphrase) -> list[Slot]:
    """Raises UserError (WRONG_PASSPHRASE)."""
    _, master = open_master(home, volume, old())
    return _change(home, volume, master, add=[_wrapped(master, new())])


def add_recovery(home: NodeHome, volume: VolumeInfo, old: Passphrase) -> tuple[list[Slot], str]:
    """The slots then, and the phrase. Raises UserError (WRONG_PASSPHRASE)."""
    _, master = open_master(home, volume, old())
    slot, phrase = keys.wrap_recovery(master)
    return _change(home, volume, master, add=[slot]), phrase


def replace_passphrase(home: NodeHome, volume: VolumeInfo, old: Passphrase, new: Passphrase) -> list[Slot]:
    """The old one's slot goes in the same transaction, unless it is a recovery phrase's. Raises UserError."""
    opened, master = open_master(home, volume, old())
    gone = [keys.slot_id(opened)] if opened.kind == keys.PASSPHRASE else []
    return _change(home, volume, master, add=[_wrapped(master, new())], remove=gone)


def remove(home: NodeHome, volume: VolumeInfo, slot: Slot, kept: Passphrase) -> list[Slot]:
    """Remove a slot, having opened another. Raises UserError (WRONG_PASSPHRASE)."""
    others = [one for one in _fetch(home, volume) if keys.slot_id(one) != slot.id]
    _, master = open_master(home, volume, kept(), others)
    return _change(home, volume, master, remove=[slot.id])


def open_master(
    home: NodeHome, volume: VolumeInfo, secret: str, known: Sequence[KeySlot] | None = None
) -> tuple[KeySlot, bytes]:
    """The slot that a passphrase or recovery phrase opens (of those `known`, or of all) and the master key in it.

    Raises:
        UserError: WRONG_PASSPHRASE.
    """
    process.harden()
    for slot in (_fetch(home, volume) if known is None else known)[: keys.MOST_SLOTS]:
        with waiting("opening the key"):
            master = _attempt(slot, secret)
        if master is not None:
            check = VolumeKeys.derive(master).check
            pin(home.path, VolumeId(volume.volume), check)
            if check != volume.check:
                raise Corrupt(f"the coordinator names another key than the one that opens “{volume.name}”")
            return slot, master
    raise UserError(f"that does not open “{volume.name}”", exitcodes.WRONG_PASSPHRASE)


def _wrapped(master: bytes, passphrase: str) -> KeySlot:
    with waiting("wrapping the key"):
        return keys.wrap_passphrase(master, passphrase)


def _attempt(slot: KeySlot, secret: str) -> bytes | None:
    """None if it is not the slot's, or the slot is damaged: another may open."""
    try:
        return keys.unwrap(slot, secret)
    except (WrongKey, Corrupt):
        return None


def _change(
    home: NodeHome, volume: VolumeInfo, master: bytes, *, add: Sequence[KeySlot] = (), remove: Sequence[str] = ()
) -> list[Slot]:
    message = ChangeSlots(VolumeKeys.derive(master).guard, list(add), list(remove))
    return _shown(connect.call(home, "POST", _path(volume), message, VolumeSlots).slots)


def _fetch(home: NodeHome, volume: VolumeInfo) -> list[KeySlot]:
    return connect.call(home, "GET", _path(volume), None, VolumeSlots).slots


def _path(volume: VolumeInfo) -> str:
    return f"/volumes/{volume_name(VolumeId(volume.volume))}/slots"


def _shown(known: Sequence[KeySlot]) -> list[Slot]:
    return [Slot(keys.slot_id(slot), slot.kind) for slot in known]
