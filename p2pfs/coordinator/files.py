"""Where the coordinator keeps what is its own, below `coordinator/` in its node's home, and how it is read.

The authority's key and the secrets have mode 0600. Called by `init`, which makes them, and `daemon`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs import exitcodes
from p2pfs.coordinator.authority import Authority
from p2pfs.coordinator.backup.recovery import Recovery
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.errors import Corrupt, UserError
from p2pfs.runtime.files import sync_directory, write_durably
from p2pfs.runtime.home import NodeHome
from p2pfs.types import PoolId

DEFAULT_PORT: Final = 9470


@dataclass(frozen=True, slots=True)
class CoordinatorFiles:
    """Paths of one coordinator."""

    home: NodeHome

    @property
    def directory(self) -> Path:
        return self.home.path / "coordinator"

    @property
    def database(self) -> Path:
        return self.directory / "meta.sqlite"

    @property
    def authority_key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def secrets(self) -> Path:
        return self.directory / "secrets.json"

    @property
    def recovery(self) -> Path:
        """What is kept of the recovery kit; see `coordinator.recovery`."""
        return self.directory / "recovery.json"

    @property
    def unsent(self) -> Path:
        """Parts of backups on their way to peers; nothing that a restart needs."""
        return self.directory / "backups"

    @property
    def history(self) -> Path:
        """Figures of the last month; nothing that a restart needs."""
        return self.directory / "history.sqlite"

    def create(self, authority: Authority, secrets: PoolSecrets) -> None:
        """Write key and secrets. Durability: on stable storage on return."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        write_durably(self.authority_key, authority.key_pem, 0o600)
        write_durably(self.secrets, secrets.encode(), 0o600)
        sync_directory(self.home.path)

    def load_recovery(self) -> Recovery | None:
        """What is kept of the recovery kit; None where none was made. Raises UserError when it cannot be read."""
        try:
            return Recovery.decode(self.recovery.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, Corrupt) as error:
            raise UserError(f"cannot read {self.recovery}: {error}", exitcodes.FAILED) from None

    def load(self, pool: PoolId) -> tuple[Authority, PoolSecrets]:
        """Read them back.

        Raises:
            UserError: One is missing or damaged, or the database is missing: an empty one would be another pool.
        """
        try:
            if not self.database.stat().st_size:
                raise UserError(f"{self.database} is empty; without it this coordinator cannot work", exitcodes.FAILED)
            authority = Authority.load(pool, self.authority_key.read_bytes(), self.home.ca_path.read_bytes())
            return authority, PoolSecrets.decode(self.secrets.read_bytes())
        except OSError as error:
            raise UserError(
                f"cannot read {error.filename}: {error.strerror}; without it this coordinator cannot work",
                exitcodes.FAILED,
            ) from error
        except Corrupt as error:
            raise UserError(f"{error} (in {self.directory})", exitcodes.FAILED) from None
