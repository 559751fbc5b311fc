"""What `p2pfs doctor` looks at: each check asks one thing of this machine or of the pool and says how to mend it.

Checks never change anything, need no daemon and never raise for what they find wrong.
"""

import contextlib
import importlib
import os
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from p2pfs.errors import PoolError, UserError
from p2pfs.net.addresses import RELAY
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.runtime.mounts import KERNEL_TYPE, known, mounted_type
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.types import GIB, MIB, Health, NodeId, Role

CLOCK_WARNING_S: Final = 30.0
CLOCK_ERROR_S: Final = 3600.0
"""Beyond it a certificate may look expired, and the pool's clock is in doubt (docs/protocol.md)."""
CERTIFICATE_WARNING_S: Final = 21 * 86400.0
"""It should have been renewed by itself long before."""
LITTLE_ROOM: Final = GIB
NO_ROOM: Final = 100 * MIB
_FD_NEEDED: Final = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `mend` says what to do; empty where nothing is wrong."""

    check: str
    health: Health
    found: str
    mend: str = ""


def well(check: str, found: str) -> Finding:
    return Finding(check, Health.HEALTHY, found)


# ---- this machine ---------------------------------------------------------------------------------------------------


_OPTIONAL: Final = (
    ("pyfuse3", "mount", "mount"),
    ("psutil", "peer", "be a peer"),
    ("zeroconf", "lan", "find the coordinator on the local network, nor be found there"),
    ("starlette", "web", "serve the dashboard as a coordinator"),
)
"""Library, the extra it comes with, and what cannot be done without."""


def versions() -> Iterator[Finding]:
    """Python, and the libraries that are there only with an extra."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield well("versions", f"Python {python}")
    for name, extra, what in _OPTIONAL:
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield Finding(
                "versions",
                Health.WARNING,
                f"{name} cannot be used ({error}): this machine cannot {what}",
                f"install p2pfs with the extra [{extra}]",
            )


def fuse() -> Iterator[Finding]:
    """Whether this machine can mount."""
    if not os.path.exists("/dev/fuse"):
        yield Finding("fuse", Health.ERROR, "/dev/fuse is missing", "load the kernel module: modprobe fuse")
    elif not os.access("/dev/fuse", os.R_OK | os.W_OK):
        yield Finding("fuse", Health.ERROR, "/dev/fuse cannot be opened by this user", "chmod 666 /dev/fuse, as root")
    elif shutil.which("fusermount3") is None:
        yield Finding("fuse", Health.ERROR, "fusermount3 is missing", "install the package fuse3")
    else:
        yield well("fuse", "/dev/fuse and fusermount3 are there")


def mounts() -> Iterator[Finding]:
    """Mounts of this user whose process has died: whoever looks there gets an error."""
    dead = [record.mount_point for record in known() if not record.alive() and _is_mounted(record.mount_point)]
    for mount_point in dead:
        yield Finding(
            "mounts",
            Health.ERROR,
            f"the process of the mount at {mount_point} has died",
            f"p2pfs umount --if-dead {mount_point}; then mount it again",
        )
    if not dead:
        yield well("mounts", "none of this user's is dead")


def _is_mounted(mount_point: str) -> bool:
    return mounted_type(Path(mount_point)) == KERNEL_TYPE


def set_clock(is_wrong: bool | None) -> Iterator[Finding]:
    """The coordinator's own clock, by which all others are judged. None: the kernel does not tell."""
    if is_wrong:
        yield Finding(
            "clock",
            Health.WARNING,
            "nobody sets this machine's clock, by which the pool counts leases and certificates",
            "let it be set by NTP: timedatectl set-ntp true",
        )
    elif is_wrong is not None:
        yield well("clock", "it is set by NTP or the like")


def open_files(limit: int) -> Iterator[Finding]:
    """`limit`: how many files a process of this user may have open."""
    if limit < _FD_NEEDED:
        yield Finding(
            "open files", Health.WARNING, f"a process may open {limit} files only", f"ulimit -n {_FD_NEEDED}, or more"
        )
    else:
        yield well("open files", f"a process may open {limit}")


# ---- this node ------------------------------------------------------------------------------------------------------


def state(home: NodeHome) -> Iterator[Finding]:
    """The node's directory: whether it is there, sound, and one user's: this one's, or with root the daemons'."""
    try:
        record = home.record()
    except UserError as error:
        yield _unusable(home, error)
        return
    owner = home.path.stat().st_uid
    if os.geteuid() not in (0, owner):
        yield Finding(
            "state",
            Health.ERROR,
            f"{home.path} belongs to user {owner}",
            "run p2pfs as that user, or set --home",
        )
    yield from _of_others(home, owner)
    try:
        home.settings()
    except UserError as error:
        yield _unusable(home, error)
        return
    for path in (home.path, home.key_path):
        if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(
                "state",
                Health.ERROR,
                f"{path} is open to other users",
                f"chmod go= {path}; revoke the node if others may have read it",
            )
    yield well("state", f"{record.name} ({', '.join(record.roles)}) in {home.path}")


def _unusable(home: NodeHome, error: UserError) -> Finding:
    text, _, mend = str(error).partition(": ")
    return Finding("state", Health.ERROR, text, mend or f"look into {home.path}")


def _of_others(home: NodeHome, owner: int) -> Iterator[Finding]:
    """What daemons read and replace, where it is not the home's user's: commands of root's left such files once."""
    for path in (home.config_path, *sorted(home.path.glob("tls/*")), *sorted(home.path.glob("coordinator/*"))):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid != owner:
                yield Finding(
                    "state",
                    Health.ERROR,
                    f"{path} belongs to user {found.st_uid}, the home to user {owner}",
                    f"chown -h --reference={shlex.quote(str(home.path))} {shlex.quote(str(path))}",
                )


def disk(home: NodeHome) -> Iterator[Finding]:
    """Room where the node keeps its state, its cache and, as a peer, other people's chunks."""
    try:
        room = os.statvfs(home.path)
    except OSError as error:
        yield Finding("disk", Health.ERROR, f"{home.path}: {error.strerror}", "mount the disk it is on")
        return
    free = room.f_bavail * room.f_frsize
    told = f"{format_size(free)} free at {home.path}"
    if room.f_flag & os.ST_RDONLY:
        yield Finding(
            "disk", Health.ERROR, f"{home.path} is on a file system that is read-only", "look into its log: dmesg"
        )
    elif free < NO_ROOM:
        yield Finding("disk", Health.ERROR, told, "make room, or lower cache_size and capacity in config.toml")
    elif free < LITTLE_ROOM:
        yield Finding("disk", Health.WARNING, told, "make room, or lower cache_size and capacity in config.toml")
    elif room.f_files and not room.f_favail:
        yield Finding("disk", Health.ERROR, f"{home.path} has no inodes left", "remove small files there")
    else:
        yield well("disk", told)


def certificate(home: NodeHome, now_s: float) -> Iterator[Finding]:
    """The node's certificate: readable, of this pool's authority, and not about to end."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        own = x509.load_pem_x509_certificate(home.certificate_path.read_bytes())
        authority = x509.load_pem_x509_certificate(home.ca_path.read_bytes())
        key = load_pem_private_key(home.key_path.read_bytes(), None)
        own.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        yield Finding(
            "certificate",
            Health.ERROR,
            f"the certificate files in {home.certificate_path.parent} are damaged or do not belong together"
            f" ({type(error).__name__})",
            "bring them back from a backup, or join anew with an invite",
        )
        return
    if key.public_key() != own.public_key():
        yield Finding(
            "certificate",
            Health.ERROR,
            f"{home.key_path} is not the key of the certificate",
            "bring it back from a backup",
        )
        return
    left_s = own.not_valid_after_utc.timestamp() - now_s
    until = datetime.fromtimestamp(own.not_valid_after_utc.timestamp(), UTC).strftime("%Y-%m-%d")
    if own.not_valid_before_utc.timestamp() > now_s:
        yield Finding("certificate", Health.ERROR, "it is not valid yet by this machine's clock", "set the clock")
    elif left_s < 0:
        yield Finding(
            "certificate",
            Health.ERROR,
            f"it ended on {until}",
            "any command that reaches the coordinator renews it for 90 days more; after that join anew",
        )
    elif left_s < CERTIFICATE_WARNING_S:
        yield Finding(
            "certificate",
            Health.WARNING,
            f"it ends on {until}, and was not renewed",
            "let this machine reach the coordinator",
        )
    else:
        yield well("certificate", f"valid until {until}")


# ---- the pool, by the coordinator's report --------------------------------------------------------------------------


def clock(report: Mapping[str, Any], now_s: float) -> Iterator[Finding]:
    """This machine's clock against the coordinator's."""
    theirs_s = report["coordinator"].get("clock_s", 0.0)
    if not theirs_s:
        return  # an earlier version does not tell
    ahead_s = now_s - theirs_s
    told = f"{format_duration(abs(round(ahead_s)))} {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    if abs(ahead_s) >= CLOCK_ERROR_S:
        yield Finding("clock", Health.ERROR, told, "set it: timedatectl set-ntp true")
    elif abs(ahead_s) >= CLOCK_WARNING_S:
        yield Finding("clock", Health.WARNING, told, "let it be set by NTP: timedatectl set-ntp true")
    else:
        yield well("clock", "agrees with the coordinator's")


def software(report: Mapping[str, Any], own: str) -> Iterator[Finding]:
    """This machine's version against the coordinator's."""
    theirs = report["coordinator"].get("version", "")
    if own and theirs and own != theirs:
        yield Finding(
            "versions",
            Health.WARNING,
            f"p2pfs {own} here, {theirs} at the coordinator",
            "bring the older one up to date",
        )


def coordinator(health: str) -> Finding:
    """It answers; `health` is what it says of the pool."""
    found = f"it answers, and says of the pool: {health}"
    mend = "" if health == Health.HEALTHY else "see p2pfs status, which says what is wrong in the pool"
    return Finding("coordinator", Health(health), found, mend)


def silent(record: NodeRecord, error: str, elsewhere: str) -> Finding:
    """The coordinator does not answer where this node believes that it is; `elsewhere`: it does there."""
    where = ", ".join(record.addresses)
    if Role.COORDINATOR in record.roles:
        mend = "start it: p2pfs coordinator start, or systemctl start p2pfs-coordinator"
    elif elsewhere:
        error += f"; on the local network it answers at {elsewhere}"
        mend = "p2pfs coordinator find, then start again what runs here"
    else:
        mend = f"see that it runs and can be reached at {where} from this machine"
    return Finding("coordinator", Health.ERROR, error, mend)


def own_peer(report: Mapping[str, Any], record: NodeRecord) -> Iterator[Finding]:
    """What the coordinator thinks of this machine's peer."""
    if Role.PEER not in record.roles:
        return
    mine = next((peer for peer in report["peers"] if peer["node"] == record.node), None)
    if mine is None:
        yield Finding(
            "peer", Health.WARNING, "this machine has not offered its disk yet", "start the daemon: p2pfs peer start"
        )
    elif mine["state"] == "left":
        yield well("peer", "it has left the pool, which nothing asks of it any more; to come back: p2pfs peer undrain")
    elif mine["state"] == "draining":
        yield well("peer", "it is leaving the pool; to let it stay: p2pfs peer undrain")
    elif mine["state"] != "up":
        yield Finding(
            "peer",
            Health.ERROR,
            f"the coordinator has not heard from it for {format_duration(round(mine['silent_s']))} ({mine['state']})",
            "start the daemon: p2pfs peer start, or systemctl start p2pfs-peer",
        )
    else:
        yield well("peer", f"up, {format_size(mine['free'])} free of {format_size(mine['capacity'])} offered")
        if RELAY in mine["addresses"]:
            told = ", ".join(address for address in mine["addresses"] if address != RELAY) or "any address"
            yield Finding(
                "ports",
                Health.WARNING,
                f"the coordinator cannot dial this machine's peer at {told}, and passes its bytes on, which is slower",
                "let its port through firewall and router, and set advertise to what others dial (relay=on: as wished)",
            )


def reachable(name: str, address: str, dial: Callable[[], object], *, is_relayed: bool = False) -> Iterator[Finding]:
    """Whether somebody answers at an address who is who they should be. `dial` raises PoolError if not. Who is relayed
    too is reached all the same."""
    began_s = time.monotonic()
    try:
        dial()
    except PoolError as error:
        port = address.rpartition(":")[2]
        told = f"{name} at {address}: {error}"
        if is_relayed:
            told += "; the coordinator passes its bytes on, which is slower"
        yield Finding(
            "ports",
            Health.WARNING if is_relayed else Health.ERROR,
            told,
            f"let port {port} through firewall and router there, and see that it runs",
        )
    else:
        yield well("ports", f"{name} answers at {address} within {round((time.monotonic() - began_s) * 1000)} ms")


@dataclass(frozen=True, slots=True)
class Door:
    """Where one should be able to dial a node. `is_relayed`: the coordinator passes bytes on to it as well."""

    name: str
    node: NodeId
    role: Role
    address: str
    is_relayed: bool = False


def doors(report: Mapping[str, Any], record: NodeRecord) -> list[Door]:
    """All that this machine may have to dial."""
    found = [Door("the coordinator", record.coordinator, Role.COORDINATOR, address) for address in record.addresses]
    for peer in report["peers"]:
        if peer["state"] == "up":
            is_relayed = RELAY in peer["addresses"]
            found += [
                Door(f"peer {peer['name']}", NodeId(peer["node"]), Role.PEER, address, is_relayed)
                for address in peer["addresses"]
                if address != RELAY
            ]
    return found
