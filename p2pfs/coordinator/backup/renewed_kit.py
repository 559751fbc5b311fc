"""Replaces the recovery kit of a coordinator that does not run. Called by `p2pfs coordinator kit`."""

import sqlite3
from collections.abc import Callable

from p2pfs.coordinator.backup.recovery import make_kit, withdraw
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.format.kits import Kit
from p2pfs.meta.database import InlineDatabase
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome


def renew_kit(home: NodeHome, *, now_s: float, hand_over: Callable[[Kit], None]) -> None:
    """Make a new kit and hand it over. Peers refuse the old one from their first heartbeat after the coordinator's next
    start on.

    Raises:
        UserError: The coordinator's files are damaged.
        PoolError: The disk does not let us, or what `hand_over` raises; the old kit then stays the kit.
    """
    files, record = CoordinatorFiles(home), home.record()
    authority, secrets = files.load(record.pool)
    old = files.load_recovery()

    def replace(connection: sqlite3.Connection) -> None:
        kit, recovery = make_kit(connection, authority, secrets, coordinator=record.node, now_s=now_s)
        if old is not None:
            withdraw(connection, old.serial, now_s=now_s)
        hand_over(kit)
        # Before the commit: a crash between leaves two kits that open peers, and backups for the new one.
        write_durably(files.recovery, recovery.encode(), 0o600, like=home.path)

    database = InlineDatabase(files.database)
    try:
        database.write_now(replace)
    finally:
        database.close()
