"""Sharing volumes and accepting what is shared, for the commands. Keys are here for as long as the command runs, and
the process is hardened before."""

from dataclasses import dataclass

from p2pfs import exitcodes
from p2pfs.cli import connect
from p2pfs.cli.passphrases import Passphrase
from p2pfs.cli.volumes import key_changes
from p2pfs.errors import Corrupt, UserError
from p2pfs.format import sharing
from p2pfs.format.keys import VolumeKeys
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.types import NodeId, VolumeId, volume_name
from p2pfs.vfs import shared_keys
from p2pfs.vfs.pool import Pool, pin
from p2pfs.wire.sharing import ChangeMembers, Member, NewMember, NodeKey, PublishKey
from p2pfs.wire.volumes import VolumeInfo

_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A volume as it was shared with this node. `check` is its key-check value."""

    signer: bytes
    read_only: bool
    check: bytes


def publish(home: NodeHome) -> str:
    """Have the coordinator know this node's public key; its fingerprint, as people read it. Raises PoolError."""
    process.harden()
    record = home.record()  # before a key is made for what is no home
    identity = shared_keys.load_or_make_identity(home)
    proof = sharing.prove(identity, record.pool, record.node)
    connect.call(home, "POST", "/keys", PublishKey(identity.public.encoded, proof), type(None))
    return sharing.shown(identity.public.fingerprint)


def members(home: NodeHome, volume: VolumeInfo) -> list[Member]:
    """With which keys it is shared."""
    return connect.call(home, "GET", _path(volume), None, list[Member])


def share(
    home: NodeHome, volume: VolumeInfo, fingerprint: bytes, passphrase: Passphrase, *, read_only: bool
) -> list[Member]:
    """Share it with the key of this fingerprint; the members then.

    Raises:
        UserError: WRONG_PASSPHRASE, or nobody has shown such a key.
        Corrupt: The coordinator gives another key.
    """
    process.harden()
    public = _public_key(home, fingerprint)
    identity = shared_keys.load_or_make_identity(home)
    if public == identity.public:
        raise UserError("that is your own key: open the volume with its passphrase", exitcodes.USAGE)
    _, master = key_changes.open_master(home, volume, passphrase())
    slot = sharing.wrap_for(public, master, VolumeId(volume.volume), identity, read_only=read_only)
    message = ChangeMembers(VolumeKeys.derive(master).guard, add=[NewMember(fingerprint, read_only, slot)])
    return connect.call(home, "POST", _path(volume), message, list[Member])


def unshare(home: NodeHome, volume: VolumeInfo, fingerprint: bytes, passphrase: Passphrase) -> list[Member]:
    """The members then. Raises UserError (WRONG_PASSPHRASE)."""
    _, master = key_changes.open_master(home, volume, passphrase())
    message = ChangeMembers(VolumeKeys.derive(master).guard, remove=[fingerprint])
    return connect.call(home, "POST", _path(volume), message, list[Member])


def offer(home: NodeHome, volume: VolumeInfo) -> Offer:
    """What was shared with this node, its signature and its key checked, but not who signed it. Raises Corrupt."""
    process.harden()

    async def ask(coordinator: connect.Coordinator) -> Offer:
        pool = Pool(coordinator.client, coordinator.endpoint, _ANSWER_S)
        shared = await shared_keys.fetch(home, pool, volume)
        check = VolumeKeys.derive(shared.master).check
        if check != volume.check:
            raise Corrupt(f"the coordinator names another key than the one that opens “{volume.name}”")
        return Offer(shared.signer.fingerprint, shared.read_only, check)

    return connect.converse(home, ask)


def accept(home: NodeHome, volume: VolumeInfo, offer: Offer) -> None:
    """Remember signer, key and name: from now on nothing else is used. Raises Corrupt: it had another key before."""
    pin(home.path, VolumeId(volume.volume), offer.check)
    shared_keys.pin_signer(home.path, VolumeId(volume.volume), offer.signer)
    shared_keys.pin_name(home.path, volume)


def _public_key(home: NodeHome, fingerprint: bytes) -> sharing.PublicKey:
    """The key that belongs to a fingerprint, whoever gives it. Raises NotFound, Corrupt."""
    path = f"/keys/{sharing.shown(fingerprint).replace('-', '')}"
    for found in connect.call(home, "GET", path, None, list[NodeKey]):
        public = sharing.PublicKey(found.public)
        if public.fingerprint != fingerprint:
            raise Corrupt("the coordinator gives a key that has not this fingerprint: nothing was shared")
        sharing.check_proof(public, found.proof, home.record().pool, NodeId(found.node))
        return public
    raise UserError("nobody has shown a key with this fingerprint", exitcodes.NOT_FOUND)


def _path(volume: VolumeInfo) -> str:
    return f"/volumes/{volume_name(VolumeId(volume.volume))}/members"
