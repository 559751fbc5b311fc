"""What `coordinator start` and `peer start` have in common: checks, log, limits, then the service's own `run`."""

import os
from collections.abc import Callable
from pathlib import Path

from p2pfs import exitcodes
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime import log, process
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Role

Run = Callable[[NodeHome, Settings], int | None]


def start(
    home: NodeHome, overrides: dict[str, str], *, role: Role, log_file: Path | None, load: Callable[[], Run]
) -> int:
    """Run a service of this node until it is told to stop. `load` imports it, after what is cheap was checked.

    Raises:
        UserError: NO_HOME, BAD_CONFIGURATION, DENIED (the node has not got that role, or is another user's), BUSY.
    """
    record = home.record()
    if role not in record.roles:
        has = ", ".join(sorted(record.roles))
        raise UserError(
            f"the node in {home.path} has the roles {has}, not {role}: set P2PFS_HOME to the right node, "
            f"or join again with an invite for that role",
            exitcodes.DENIED,
        )
    _require_own(home, role)
    settings = home.settings(overrides)
    require_addresses(settings)
    log.setup(settings.log_level, log_file, form=settings.log_format, part=role.value)
    process.harden()
    process.raise_file_limit()
    return load()(home, settings) or exitcodes.OK


def _require_own(home: NodeHome, role: Role) -> None:
    """Chunks and rows that root wrote would be lost to the service, which has a user of its own."""
    owner = home.path.stat().st_uid
    if os.geteuid() == 0 != owner:
        raise UserError(
            f"{home.path} belongs to user {owner}, who could not read what root writes there: "
            f"systemctl start p2pfs-{role}, or start it as that user",
            exitcodes.DENIED,
        )


def require_addresses(settings: Settings) -> None:
    """Raises UserError (BAD_CONFIGURATION), naming the setting that is no list of addresses."""
    from p2pfs.net.addresses import parse_address
    from p2pfs.net.advertising import advertised

    try:
        for name in ("listen", "dashboard_listen", "metrics_listen"):
            for text in filter(None, getattr(settings, name).split(",")):
                parse_address(text.strip())
        name = "advertise"
        advertised([":1"], settings.advertise or "localhost")
    except Invalid as error:
        raise UserError(f"setting {name}: {error}", exitcodes.BAD_CONFIGURATION) from None
