"""Public keys of nodes' users, and the members of a volume, on the wire."""

import msgspec

from p2pfs.wire.volumes import KeySlot


class PublishKey(msgspec.Struct, frozen=True):
    """`POST /keys`: the asking node's public key (format.sharing), in place of the one it had."""

    public: bytes
    proof: bytes  # signed with it: that it is this node's


class NodeKey(msgspec.Struct, frozen=True):
    """`GET /keys/{fingerprint}` → a list: nodes that have this key. Whoever asks checks that `public` has it."""

    node: str
    name: str
    public: bytes
    proof: bytes


class NewMember(msgspec.Struct, frozen=True):
    """With whom a volume shall be shared."""

    fingerprint: bytes
    read_only: bool
    slot: KeySlot  # format.sharing


class ChangeMembers(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/members` → a list of Member: those there are then. All or nothing."""

    guard: bytes  # proves that the sender has the volume's key (format.keys)
    add: list[NewMember] = []
    remove: list[bytes] = []  # fingerprints

    def __repr__(self) -> str:
        return f"ChangeMembers(add {len(self.add)}, remove {len(self.remove)})"


class Member(msgspec.Struct, frozen=True):
    """`GET /volumes/{volume}/members` → a list. `names` are of the nodes that have shown the key, as their invites
    call them."""

    fingerprint: bytes
    read_only: bool
    since_s: float
    names: list[str]
