"""What stands behind `-o`: options of a mount, as fstab and `mount -t p2pfs` give them."""

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from p2pfs.errors import Invalid
from p2pfs.runtime.config import KINDS
from p2pfs.types import KIB, VolumeId, volume_name
from p2pfs.wire.volumes import VolumeInfo
from p2pfs_mount.owners import Owners, entries_of, is_entry, parse_id

_PASSED_OVER: Final = frozenset(
    (
        "rw",
        "defaults",
        "auto",
        "noauto",
        "user",
        "users",
        "nouser",
        "owner",
        "group",
        "exec",
        "noexec",
        "suid",
        "nosuid",
    )
) | frozenset(
    (
        "dev",
        "nodev",
        "relatime",
        "norelatime",
        "strictatime",
        "nodiratime",
        "lazytime",
        "nolazytime",
        "async",
        "nofail",
        "_netdev",
        "_rnetdev",
        "comment",
    )
)
"""Words of fstab that are mount(8)'s or the kernel's business, with a value behind `=` or without. Not `dirsync`: it
asks for what only `sync` gives, and would be given less."""
_MOST_ID_MAP: Final = 64 * KIB
_PLAIN: Final = re.compile(r"[A-Za-z0-9_ .+-]{1,64}")


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Parsed options. `settings` override the node's configuration by the same names (io_timeout, cache_size, …)."""

    read_only: bool = False
    allow_other: bool = False
    access_times: bool = True
    hard: bool = False
    xattr: bool = False  # extended attributes and access control lists
    writeback_cache: bool = False  # the kernel keeps what is written, and this mount has the volume alone
    passphrase_file: Path | None = None
    home: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    owners: Owners = field(default_factory=Owners)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Options separated by commas. Raises Invalid naming the one that is not known, or two that contradict."""
        values: dict[str, object] = {}
        settings: dict[str, str] = {}
        owner: dict[str, int] = {}
        id_map: list[str] = []
        for word in filter(None, (part.strip() for part in text.split(","))):
            name, given, value = word.partition("=")
            if name == "ro" and not given:
                values["read_only"] = True
            elif name in ("allow_other", "hard", "xattr", "writeback_cache") and not given:
                values[name] = True
            elif name == "sync" and not given:
                settings["durability"] = "sync"
            elif name == "noatime" and not given:
                values["access_times"] = False
            elif name in ("passphrase_file", "home") and value:
                values[name] = Path(value)
            elif name in ("uid", "gid") and value:
                owner[name] = parse_id(value)
            elif name == "idmap" and value:
                id_map += [value] if is_entry(value) else _entries_in(value)
            elif id_map and is_entry(word):  # idmap=u:1000:0,g:1000:0
                id_map.append(word)
            elif name in KINDS and given:
                settings[name] = value
            elif name not in _PASSED_OVER and not name.startswith("x-"):
                near = difflib.get_close_matches(name, KINDS, 1, 0.75)
                meant = f", did you mean {near[0]}=?" if near else ""
                raise Invalid(
                    f"mount option “{word}” is not known{meant}: there are ro, allow_other, noatime, xattr, hard, "
                    "sync, writeback_cache, uid=, gid=, idmap=, home=, passphrase_file= and the settings of "
                    "docs/commands.md"
                )
        if values.keys() >= {"read_only", "writeback_cache"}:
            raise Invalid(
                "mount options ro and writeback_cache contradict each other: nothing is written to a read-only mount"
            )
        values["owners"] = Owners.parse(id_map, **owner)
        return cls(settings=settings, **values)  # type: ignore[arg-type]  # each name was given its own type above


def _entries_in(value: str) -> list[str]:
    path = Path(value)
    try:
        with path.open(encoding="ascii") as file:
            found = entries_of(file.read(_MOST_ID_MAP))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no plain text"
        raise Invalid(
            f"idmap={value} is neither a map, such as u:1000:0 or g:1000:0:5, nor a file of them that can be read"
            f" ({reason})"
        ) from None
    if not found:
        raise Invalid(f"the idmap {path} is empty")
    return found


def source(volume: VolumeInfo) -> str:
    """What the kernel's mount table calls a volume: its name, or its number when mount options cannot hold the name. A
    comma would begin another option (`dev`, `suid`), and pyfuse3 takes ASCII only."""
    return volume.name if _PLAIN.fullmatch(volume.name) else volume_name(VolumeId(volume.volume))
