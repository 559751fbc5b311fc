"""`p2pfs init`: a new pool with its first node, which has every role.

Makes the authority, the secrets, the database with this node in it, and the node's home; `node.json` comes last, so
that a crash leaves nothing that counts, and a failure leaves nothing at all. Called by the command line.
"""

import json
import re
import secrets
import shutil
import sqlite3
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from p2pfs import exitcodes
from p2pfs.coordinator import membership
from p2pfs.coordinator.authority import Authority, key_pem, new_key, to_pem
from p2pfs.coordinator.backup.recovery import Recovery, make_kit
from p2pfs.coordinator.files import DEFAULT_PORT, CoordinatorFiles
from p2pfs.coordinator.invites import parse_name, parse_zone
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.errors import Invalid, Unavailable, UserError
from p2pfs.format.kits import Kit
from p2pfs.meta import members
from p2pfs.meta import settings as rows
from p2pfs.meta.database import InlineDatabase
from p2pfs.net.advertising import advertised
from p2pfs.runtime import config
from p2pfs.runtime.clocks import Clock, SystemClock
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NODE_ROLES, NodeId, PeerNumber, PoolId

POOL_NAME: Final = "pool_name"
"""The setting that holds it."""
_POOL_NAME: Final = re.compile(r"(?=.{1,64}$)[^\W_][\w.-]*(?: [^\W_][\w.-]*)*")


def initialise(
    path: Path,
    *,
    pool_name: str,
    name: str,
    zone: str = "",
    addresses: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    hand_over: Callable[[Kit], None] | None = None,
) -> NodeHome:
    """Make a pool whose coordinator lives at `path`, and return that home.

    `name` is `owner@machine`; `addresses` is what others dial (empty: the setting `advertise`, else worked out from the
    setting `listen`); `settings` by configuration name, as people write them, are kept in config.toml. `hand_over` gets
    the recovery kit before anything counts, and nothing here keeps it: without, no backup of this pool can be read.

    Raises:
        UserError: A node lives there already (ALREADY_INITIALISED), an argument cannot be meant (BAD_CONFIGURATION), or
            the directory cannot be made. Nothing is left behind.
    """
    home, clock = NodeHome(path), clock or SystemClock()
    home.require_vacant()
    given = dict(settings or {})
    if addresses:
        given["advertise"] = ",".join(addresses)
    try:
        loaded = config.load(path, given)
        dialled = advertised((loaded.listen or f":{DEFAULT_PORT}").split(","), loaded.advertise)
        owner, _ = parse_name(name)
        parse_zone(zone)
        check_pool_name(pool_name)
    except (Invalid, Unavailable) as error:
        raise UserError(str(error), exitcodes.BAD_CONFIGURATION) from None
    pool, node_id = PoolId(secrets.token_hex(16)), NodeId(secrets.token_hex(16))
    node = members.Node(node_id, name, owner, zone, NODE_ROLES, capacity_limit=0, joined_s=clock.time())
    authority = Authority.create(pool, node.joined_s)
    leftovers = _Leftovers(path)
    try:
        home.prepare()
        with home.lock("coordinator"):
            home.require_vacant()
            made = _create(home, node, authority, pool_name=pool_name, lifetime_s=loaded.certificate_lifetime)
            write_configuration(home, given)
            record = _record(pool, node, made.peer, dialled)
            if hand_over is not None:
                hand_over(made.kit)
            home.create(record, ca=authority.pem, certificate=made.certificate, key=made.key)
    except BaseException:
        if not home.exists():
            leftovers.remove()
        raise
    return home


@dataclass(frozen=True, slots=True)
class _Made:
    """What `_create` leaves for the home; certificate and key in PEM."""

    peer: PeerNumber
    certificate: bytes
    key: bytes = field(repr=False)
    kit: Kit


def _create(home: NodeHome, node: members.Node, authority: Authority, *, pool_name: str, lifetime_s: float) -> _Made:
    """Everything below coordinator/."""
    files, key, secrets = CoordinatorFiles(home), new_key(), PoolSecrets.create()
    files.create(authority, secrets)
    for stale in files.directory.glob(files.database.name + "*"):  # of an attempt that was killed
        stale.unlink()

    def fill(connection: sqlite3.Connection) -> tuple[PeerNumber, bytes, Kit, Recovery]:
        rows.write(connection, POOL_NAME, value=pool_name)
        number = membership.enrol(connection, node)
        issued = membership.issue_recorded(
            connection, authority, node, key=key.public_key(), now_s=node.joined_s, lifetime_s=lifetime_s
        )
        kit, recovery = make_kit(connection, authority, secrets, coordinator=node.id, now_s=node.joined_s)
        return number, issued.der, kit, recovery

    database = InlineDatabase(files.database)
    try:
        number, certificate, kit, recovery = database.write_now(fill)
    finally:
        database.close()
    write_durably(files.recovery, recovery.encode(), 0o600)
    return _Made(number, to_pem(certificate), key_pem(key), kit)


def _record(pool: PoolId, node: members.Node, peer: PeerNumber, addresses: list[str]) -> NodeRecord:
    return NodeRecord(
        pool=pool,
        node=node.id,
        name=node.name,
        owner=node.owner,
        zone=node.zone,
        roles=sorted(node.roles),
        coordinator=node.id,
        addresses=addresses,
        peer=peer,
    )


def write_configuration(home: NodeHome, given: Mapping[str, str]) -> None:
    """Keep what was given beside what somebody may have put there before."""
    if not given:
        return
    path = home.config_path
    kept = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    # JSON's strings, numbers and booleans are TOML's too.
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in (kept | dict(given)).items()]
    write_durably(path, "".join(lines).encode())


def check_pool_name(name: str) -> None:
    """Raises Invalid."""
    if _POOL_NAME.fullmatch(name) is None:
        raise Invalid(
            f"“{name}” is no name for a pool: use words of letters, digits, dots, dashes and underscores, up to 64"
        )


class _Leftovers:
    """What was there before, so that only what a failed attempt made is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = {entry.name for entry in path.iterdir()} if path.is_dir() else None

    def remove(self) -> None:
        if not self._path.is_dir():
            return
        if self._before is None:
            shutil.rmtree(self._path, ignore_errors=True)
            return
        for entry in self._path.iterdir():
            if entry.name not in self._before:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    with suppress(OSError):
                        entry.unlink()
