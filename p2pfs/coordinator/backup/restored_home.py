"""Makes a coordinator's home of a restored backup: the same node, with a new key, in a new incarnation.

What the backup cannot know is made safe: sessions end, so that mounts which saw newer states start afresh; numbers that
may have been given out since are skipped; old certificates of the coordinator are revoked, in case its machine comes
back; orphans stay until an admin confirms. `node.json` comes last. Called by `p2pfs coordinator restore`.
"""

import os
import secrets as randomness
import shutil
import sqlite3
import tomllib
from collections.abc import Mapping
from typing import Final

import msgspec

from p2pfs import exitcodes
from p2pfs.coordinator import membership
from p2pfs.coordinator.authority import NODE_LIFETIME_S, Authority, key_pem, new_key, to_pem
from p2pfs.coordinator.backup.restore import Found
from p2pfs.coordinator.backup.state import Restored
from p2pfs.coordinator.files import DEFAULT_PORT, CoordinatorFiles
from p2pfs.coordinator.foundation import STARTS
from p2pfs.coordinator.init import write_configuration
from p2pfs.errors import Corrupt, Invalid, Unavailable, UserError
from p2pfs.format.kits import Kit
from p2pfs.meta import members, sessions
from p2pfs.meta import settings as rows
from p2pfs.meta.database import InlineDatabase
from p2pfs.net.advertising import advertised
from p2pfs.runtime.files import sync_directory, write_durably
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId

_IDS: Final = 1 << 40
"""At least so many numbers of inodes and dentries are skipped; how many more is by chance, so that two restores from
one backup do not give out the same."""
_ROWS: Final = 1 << 32
_PEERS: Final = 1000  # numbers of peers have 32 bits
_STARTS: Final = 1 << 16
"""Starts that there may have been since: the version of the pool map must rise."""


def record_of(found: Found, kit: Kit) -> NodeRecord:
    """Whose home it will be.

    Raises:
        Corrupt: The backup is not that of the kit's coordinator.
    """
    try:
        record = msgspec.json.decode(found.files["node.json"], type=NodeRecord)
    except (KeyError, msgspec.DecodeError):
        raise Corrupt("the backup does not say which node it is of") from None
    if (record.pool, record.node) != (kit.pool, kit.coordinator):
        raise Corrupt("the backup is of another coordinator than the recovery kit")
    return record


def establish(home: NodeHome, found: Found, kit: Kit, *, settings: Mapping[str, str], now_s: float) -> NodeRecord:
    """Make `home`, which must be vacant, the coordinator's. `settings` replace those of the backup.

    Raises:
        Corrupt: The backup lacks something, or is not what the kit is for.
        UserError: A setting cannot be meant.
    """
    home.require_vacant()
    record, paths = record_of(found, kit), CoordinatorFiles(home)
    try:
        files = {name: found.files[name] for name in ("ca.key", "ca.pem", "secrets.json", "recovery.json")}
        authority = Authority.load(kit.pool, files["ca.key"], files["ca.pem"])
    except KeyError as error:
        raise Corrupt(f"the backup lacks {error}") from None
    if authority.public_key != kit.ca_key:
        raise Corrupt("the backup is of another pool than the recovery kit")
    home.prepare()
    paths.directory.mkdir(mode=0o700, exist_ok=True)
    write_durably(paths.authority_key, files["ca.key"], 0o600)
    write_durably(paths.secrets, files["secrets.json"], 0o600)
    write_durably(paths.recovery, files["recovery.json"], 0o600)
    if "config.toml" in found.files:
        write_durably(home.config_path, found.files["config.toml"])
    _configure(home, settings)
    for stale in paths.directory.glob(paths.database.name + "*"):  # of an attempt that was killed: another's -wal file
        stale.unlink()
    shutil.move(found.database, paths.database)
    paths.database.chmod(0o600)
    key, database = new_key(), InlineDatabase(paths.database)

    def adjust(connection: sqlite3.Connection) -> bytes:
        _begin_incarnation(connection, found, now_s)
        _revoke_certificates(connection, record.node, now_s)
        node = members.node(connection, record.node)
        return membership.issue_recorded(
            connection, authority, node, key=key.public_key(), now_s=now_s, lifetime_s=NODE_LIFETIME_S
        ).der

    try:
        certificate = database.write_now(adjust)
    finally:
        database.close()
    loaded = home.settings()
    addresses = advertised((loaded.listen or f":{DEFAULT_PORT}").split(","), loaded.advertise)
    record = msgspec.structs.replace(record, addresses=addresses)
    sync_directory(paths.directory)
    home.create(record, ca=authority.pem, certificate=to_pem(certificate), key=key_pem(key))
    return record


def _configure(home: NodeHome, settings: Mapping[str, str]) -> None:
    try:
        write_configuration(home, settings)
        home.settings()
    except (Invalid, Unavailable, tomllib.TOMLDecodeError) as error:
        raise UserError(str(error), exitcodes.BAD_CONFIGURATION) from None


def _begin_incarnation(connection: sqlite3.Connection, found: Found, now_s: float) -> None:
    """Everything that was given out since the backup is void, or skipped."""
    incarnation = max(rows.incarnation(connection), found.incarnation) + 1
    rows.write(connection, rows.INCARNATION, value=incarnation)
    rows.write(connection, STARTS, value=rows.number(connection, STARTS) + _STARTS)
    for session in sessions.sessions(connection):
        sessions.close_session(connection, session.id)
    connection.execute("DELETE FROM reservation")
    connection.execute("UPDATE peer SET appearances = appearances + 1")  # which copies were deleted since is not known
    connection.execute("UPDATE volume SET next_id = next_id + ?", (_IDS + randomness.randbelow(_IDS),))
    connection.execute(
        "UPDATE sqlite_sequence SET seq = seq + CASE name WHEN 'peer' THEN ? ELSE ? END", (_PEERS, _ROWS)
    )
    rows.write(connection, rows.ORPHANS_STAY, value=1)
    restored = Restored(found.state_s, now_s, found.generation, found.number)
    rows.write(connection, rows.RESTORED, value=restored)


def _revoke_certificates(connection: sqlite3.Connection, node: NodeId, now_s: float) -> None:
    """The coordinator's machine may not be dead after all: nobody must take it for the coordinator."""
    connection.execute("UPDATE certificate SET revoked_s = ? WHERE node = ? AND revoked_s IS NULL", (now_s, node))


def discard(home: NodeHome, *, was_there: bool) -> None:
    """Remove what a failed restore made."""
    if not was_there and not home.exists():
        shutil.rmtree(home.path, ignore_errors=True)
    elif os.path.isdir(home.path / "restore"):
        shutil.rmtree(home.path / "restore", ignore_errors=True)
