"""A node's state on disk: who it is, its certificate, its configuration, and who uses it now.

One directory, one node, so several can live on one machine. What services keep beside it (database, chunks, cache) is
their own affair; they ask only for `path`. Blocking and quick; called at start-up by the command line and daemons.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from p2pfs import exitcodes
from p2pfs.errors import Invalid, Unavailable, UserError
from p2pfs.runtime import config
from p2pfs.runtime.files import give_to_owner, sync_directory, write_durably
from p2pfs.types import NodeId, PeerNumber, PoolId, Role

__all__ = ["NodeHome", "NodeRecord", "default_home", "write_durably"]

_SERVICE_HOME: Final = Path("/var/lib/p2pfs")


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`node.json`: what a node knows about itself and where its coordinator is."""

    pool: PoolId
    node: NodeId
    name: str  # owner@machine
    owner: str
    zone: str = ""
    roles: list[Role]
    coordinator: NodeId  # the only node accepted as coordinator
    addresses: list[str]  # of the coordinator, host:port, best first
    peer: PeerNumber = PeerNumber(0)  # where the node has the role peer
    version: int = 1


def default_home() -> Path:
    """`P2PFS_HOME`, else /var/lib/p2pfs for root, else the person's state directory."""
    given = os.environ.get("P2PFS_HOME", "")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return _SERVICE_HOME
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state else Path.home() / ".local" / "state") / "p2pfs"


class NodeHome:
    """The directory of one node. It counts as initialised once `node.json` is there, which is written last: a crash
    before leaves nothing that the next attempt would not overwrite."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"NodeHome({str(self.path)!r})"

    @property
    def record_path(self) -> Path:
        return self.path / "node.json"

    @property
    def config_path(self) -> Path:
        return self.path / config.CONFIG_FILE

    @property
    def ca_path(self) -> Path:
        """The pool's certificate authority: its certificate, PEM."""
        return self.path / "tls" / "ca.pem"

    @property
    def certificate_path(self) -> Path:
        return self.path / "tls" / "node.pem"

    @property
    def key_path(self) -> Path:
        return self.path / "tls" / "node.key"

    def exists(self) -> bool:
        """Whether a node lives here."""
        return self.record_path.exists()

    def record(self) -> NodeRecord:
        """Who lives here.

        Raises:
            UserError: Nobody yet (NO_HOME), or the file is damaged (FAILED).
        """
        try:
            data = self.record_path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"there is no node in {self.path}: run `p2pfs init` to make a pool or `p2pfs join` to enter one, "
                "or set P2PFS_HOME",
                exitcodes.NO_HOME,
            ) from None
        except OSError as error:
            raise UserError(f"cannot read {self.record_path}: {error.strerror}", exitcodes.FAILED) from error
        try:
            return msgspec.json.decode(data, type=NodeRecord)
        except msgspec.DecodeError as error:
            raise UserError(f"{self.record_path} is damaged: {error}", exitcodes.FAILED) from None

    def settings(self, overrides: Mapping[str, str] | None = None) -> config.Settings:
        """The node's settings.

        Raises:
            UserError: BAD_CONFIGURATION, saying which value.
        """
        try:
            return config.load(self.path, overrides)
        except (Invalid, Unavailable) as error:
            raise UserError(str(error), exitcodes.BAD_CONFIGURATION) from None

    def require_vacant(self) -> None:
        """Raises UserError (ALREADY_INITIALISED) when a node lives here."""
        if self.exists():
            raise UserError(
                f"{self.path} already holds a node: use it, or set P2PFS_HOME to another directory",
                exitcodes.ALREADY_INITIALISED,
            )

    def prepare(self) -> None:
        """Make the directories, private to their user; again is fine.

        Raises:
            UserError: They cannot be made, or others could have put something into one that is there.
        """
        try:
            for directory in (self.path, self.path / "tls"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _make_private(directory)
                sync_directory(directory.parent)
        except OSError as error:
            raise UserError(f"cannot make {self.path}: {error.strerror}", exitcodes.FAILED) from error

    def create(self, record: NodeRecord, *, ca: bytes, certificate: bytes, key: bytes) -> None:
        """Make this the home of `record`; the three are PEM.

        Durability: all of it or, after a crash, nothing that counts.

        Raises:
            UserError: A node lives here already, or the directory cannot be made.
        """
        self.require_vacant()
        self.prepare()
        write_durably(self.key_path, key, 0o600)
        write_durably(self.ca_path, ca)
        write_durably(self.certificate_path, certificate)
        self.save(record)

    def save(self, record: NodeRecord) -> None:
        """Replace what is known about the node, such as its coordinator's addresses."""
        write_durably(self.record_path, msgspec.json.format(msgspec.json.encode(record)) + b"\n", like=self.path)

    def replace_certificate(self, certificate: bytes) -> None:
        """A renewed certificate (PEM) for the same key."""
        write_durably(self.certificate_path, certificate, like=self.path)

    @contextmanager
    def lock(self, kind: str) -> Iterator[None]:
        """Hold this home for one process of `kind` ("coordinator", "peer", "mount"). The kernel lets go of the lock
        when the process ends, however it ends.

        Raises:
            UserError: BUSY, another process has it.
        """
        fd = self._open_lock(kind)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another {kind} process already uses {self.path}; stop it first", exitcodes.BUSY
                ) from None
            yield
        finally:
            os.close(fd)

    def _open_lock(self, kind: str) -> int:
        try:
            fd = os.open(self.path / f".{kind}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            give_to_owner(fd, self.path)
            return fd
        except OSError as error:
            raise UserError(f"cannot lock {self.path}: {error.strerror}", exitcodes.FAILED) from error


def _make_private(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise UserError(
            f"{directory} belongs to another user: work as that user, or set P2PFS_HOME to a directory of your own",
            exitcodes.FAILED,
        )
    if found.st_mode & stat.S_IWOTH:
        raise UserError(
            f"{directory} can be written by every user of this machine: set P2PFS_HOME to a directory of your own",
            exitcodes.FAILED,
        )
    directory.chmod(0o700)
