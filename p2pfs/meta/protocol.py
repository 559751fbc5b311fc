"""The namespace of one volume as a mount sees it. One conformance suite: tests/contract/test_namespace.py."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from p2pfs.errors import CoordinatorAway
from p2pfs.types import ChunkId, DentryId, InodeId
from p2pfs.wire.delegations import Delegation
from p2pfs.wire.events import Events
from p2pfs.wire.found import LabelPage
from p2pfs.wire.namespace import (
    Applied,
    Attributes,
    ChunkPlace,
    DirectoryPage,
    Entry,
    ExpiringPage,
    ExtentPage,
    Named,
    Operation,
    Space,
    TrashPage,
    XattrPage,
)
from p2pfs.wire.search import Hits

MAX_OPEN: Final = 100_000
"""Most inodes that a session may say it has open."""
MAX_HELD: Final = 100_000
"""Most inodes that `held` tells at once; when those not open are released it tells the others."""


class InDoubt(CoordinatorAway):
    """No answer came to a commit: it may have been done. `again` asks for the same once more, which does it once at
    most; until that is answered, or `give_up` is called, its number stays taken."""

    def __init__(self, message: str, again: Callable[[], Awaitable[Applied]], give_up: Callable[[], None]) -> None:
        super().__init__(message)
        self.again, self.give_up = again, give_up


class Namespace(Protocol):
    """One volume's tree within one session. All names and contents are sealed; see wire.namespace for each operation.

    Every method may raise CoordinatorAway (nobody answered within the deadline) and Fenced (the session is over: it
    must not be used any more). Questions are answered from one committed state; what `apply` returned is visible to
    every later question of every session.
    """

    async def lookup(self, parent: InodeId, name: bytes) -> Entry:
        """The dentry of a sealed name. Raises NotFound, NotDirectory."""
        ...

    async def attributes(self, inode: InodeId) -> Attributes:
        """Raises NotFound."""
        ...

    async def content(self, inode: InodeId) -> Attributes:
        """As `attributes`, and never without the inline data that there is: others may leave it UNTOLD."""
        ...

    async def directory(self, inode: InodeId, after: DentryId, limit: int, *, content: bool = False) -> DirectoryPage:
        """Dentries numbered above `after`, ascending, at most `limit`; fewer when they are large, `complete` says
        whether more follow. Files' inline data comes with them if `content` is wanted. Raises NotFound,
        NotDirectory."""
        ...

    async def extents(self, inode: InodeId, range_number: int) -> ExtentPage:
        """Every live extent of one 256 MiB range with the inode's attributes, in one snapshot. Raises NotFound."""
        ...

    async def locate(self, chunks: Sequence[ChunkId]) -> list[ChunkPlace]:
        """Where copies are now; unknown chunks are left out."""
        ...

    async def xattrs(self, inode: InodeId) -> XattrPage:
        """Every extended attribute with the inode's attributes, in one snapshot. Raises NotFound."""
        ...

    async def space(self) -> Space: ...

    async def trash(self, after: int, limit: int, parent: int = 0) -> TrashPage:
        """What can be brought back: inodes numbered above `after`, ascending, at most `limit`; with a `parent`, only
        what was last in that directory, which may itself be in the trash or gone."""
        ...

    async def names(self, inode: InodeId, after: tuple[int, int] = (0, 0)) -> list[Named]:
        """The names of an inode behind `after` (parent, dentry), in that order, at most 100; the root has none. Raises
        NotFound."""
        ...

    async def expiring(self, before_s: int, after: tuple[int, int], limit: int) -> ExpiringPage:
        """Inodes with a lease that is over before `before_s` (UTC), each with one of its names, in the order of
        (expires_s, inode) and behind `after`, at most `limit`."""
        ...

    async def find(self, tokens: Sequence[bytes], after: tuple[int, int, int], limit: int) -> Hits:
        """Inodes with a name that have all of 1 to 16 tokens, behind `after` (zeros: from the first), at most `limit`;
        `complete` says whether more follow, even if there is none here. An inode may come again."""
        ...

    async def find_content(self, token: bytes, after: int, limit: int) -> list[int]:
        """Inodes with a name whose label has this content token, numbered above `after`, at most `limit`. The last may
        have no name (any more); only an empty page says that none follow."""
        ...

    async def labels(self, inodes: Sequence[InodeId]) -> LabelPage:
        """Labels, names and copies of at most 100 inodes, those that have no name left out."""
        ...

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        """Do all operations in order in one transaction, or none. A batch has at most 1 000.

        A session opened read-only may only open and release.

        Durability: once `settle` has returned the change is committed on the coordinator's stable storage; before, it
        is ordered before every later change of this session. Retrying is the implementation's business: an operation
        is never applied twice.

        Cancellation: the change may or may not have been made.

        Raises:
            Semantic: What the first refused operation raises; nothing was changed.
            InDoubt: Nobody answered, and a Commit is among the operations. It must be resolved, one way or the other.
            Denied: The session is read-only.
            Misuse: An operation breaks the protocol: numbers never granted or used twice, forged receipts, an extent
                that a cut would hide from the start.
        """
        ...

    async def settle(self) -> None:
        """Wait until everything that `apply` has returned for is committed on the coordinator's stable storage.

        Raises:
            CoordinatorAway: Nobody answered within the deadline; it is tried on.
            Fenced: It never will be: the session, or the delegation under which it was done, is over.
        """
        ...

    async def new_ids(self, count: int) -> range:
        """`count` inode or dentry numbers never used before in this volume, consecutive."""
        ...

    async def events(self, wait_s: float) -> Events:
        """What other sessions changed since the call before, or since the session was opened; waits for something, but
        no longer than `wait_s`. Calling again says that what was returned is known. One call at a time.

        A name that a batch touches, each inode whose attributes it changes or that it removes, and inodes that are now
        held (below) are told once they are committed. With `lost` something was missed.
        All is told after the fact: what was asked meanwhile may be newer.

        Cancellation: nothing is lost; the next call returns it.
        """
        ...

    async def held(self) -> list[InodeId]:
        """Inodes without a name that this session keeps, at most MAX_HELD: those it said it had open, and those whose
        last name another session took while this one was awake. Of these last, what is open here is to be confirmed
        with `Opened`, or it goes after two lifetimes; what is not, to be released."""
        ...


class Delegable(Namespace, Protocol):
    """A namespace whose volume can be delegated to its session. Wrapped by `vfs.delegation`."""

    async def delegate(self, epoch: int) -> Delegation:
        """Ask for the delegation, or renew the one held (`epoch`). One attempt, within some seconds: raises
        CoordinatorAway, Fenced."""
        ...

    async def return_delegation(self, epoch: int, timeouts_s: float) -> None:
        """Give it back: see wire.delegations.ReturnDelegation. Raises CoordinatorAway, Fenced."""
        ...

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        """As `apply`, but only while this session holds the delegation of that epoch, and in doubt whatever the
        operations. The answer tells of no attributes: who holds the delegation knows them.

        Raises:
            Overruled: The delegation is over, perhaps because somebody else changed the volume: nothing was done.
            Fenced: The session is over: nothing was done.
            InDoubt: Nobody answered.
        """
        ...
