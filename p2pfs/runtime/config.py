"""Every setting by its configuration name, with its default, its unit and where it comes from.

Read from `config.toml` in the node's home, then overridden by `--set KEY=VALUE`. Settings that belong to a volume or to
the pool as a whole are stored by the coordinator once made; here they are what `init` and `volume create` start from.
Nothing else reads configuration: functions get the numbers they need.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import msgspec

from p2pfs.errors import Invalid, Unavailable
from p2pfs.runtime.offers import registry
from p2pfs.runtime.sizes import expect_unit, format_duration, format_size, parse_duration, parse_size
from p2pfs.types import GIB, KIB, MIB, Distribution

CONFIG_FILE: Final = "config.toml"

# How a value is written; the marker after the type picks the parser below.
Duration = Annotated[float, "duration"]
Size = Annotated[int, "size"]
AutomaticSize = Annotated[int | None, "automatic size"]
Rate = Annotated[int | None, "rate"]
Count = Annotated[int, "count"]
Share = Annotated[float, "share"]
Switch = Annotated[bool, "switch"]
Text = Annotated[str, "text"]
RelayMode = Annotated[str, "relay"]
Level = Annotated[str, "level"]
LogFormat = Annotated[str, "log format"]
Policy = Annotated[str, "policy"]
Weight = Annotated[float, "weight"]
DurabilityMode = Annotated[str, "durability"]
DistributionMode = Annotated[str, "distribution"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Times are seconds, sizes bytes; None means "chosen when used"."""

    # The pool.
    heartbeat: Duration = 5.0
    suspect: Duration = 15.0  # without a heartbeat for so long
    down: Duration = 60.0
    repair_delay: Duration = 600.0
    elect_after: Duration = 120.0  # peers that hear no coordinator for so long elect one for copies; 0: never
    audit_interval: Duration = 60.0  # each peer shows one random block so often
    inventory_interval: Duration = 86400.0  # each peer's chunks are compared with the index so often
    orphan_grace: Duration = 48 * 3600.0  # chunks nobody names are kept on peers for so long after they were put
    purge_grace: Duration = 24 * 3600.0  # chunks nobody names any more can be revived for so long
    purge_latest: Duration = 24 * 3600.0  # after so much more they are purged even if it is never quiet
    quiet_load: Share = 0.5  # per processor; below it is quiet
    trash_pressure: Share = 0.05  # with less of the pool free, the oldest trash goes before its time
    volume_trash: Duration = 7 * 86400.0  # a deleted volume can be brought back for so long; 0: not at all
    replicas: Count = 3
    min_replicas: Count = 2
    policy: Policy = "open"  # or "fair": who gives little may take little
    fair_grant: Size = 1 * GIB  # under it everybody may place so much on others' peers, all copies counted
    weight_ds: Weight = 1.0  # what is taken in to store counts so many times what is served
    weight_us: Weight = 1.0  # what is placed on others counts so many times what is fetched
    invite_lifetime: Duration = 24 * 3600.0
    certificate_lifetime: Duration = 90 * 86400.0
    renew_after: Duration = 60 * 86400.0  # age at which a node asks for a new certificate
    session_lifetime: Duration = 60.0  # a mount unheard for so long is over
    delegation: Duration = 30.0  # a mount that is alone answers for its volume for so long; 0: never
    reservation_lifetime: Duration = 600.0
    backup_interval: Duration = 5.0  # how often what changed is sent to the peers that keep backups
    backup_image: Duration = 86400.0  # how often a backup begins anew with the whole database
    backup_keep: Duration = 14 * 86400.0
    # A volume.
    small_file: Size = 16 * KIB  # files up to this size live in the metadata
    dedup: Switch = True
    trash_removed: Duration = 86400.0  # what is removed or replaced can be brought back for so long; 0: not at all
    trash_expired: Duration = 7 * 86400.0  # the same of what has expired
    distribution: DistributionMode = "auto"  # "direct", "relay", "swarm": who sends the copies of a chunk
    index_names: Switch = False  # the words of names can be searched for
    index_prefixes: Switch = False  # and the beginnings of words
    # A mount.
    durability: DurabilityMode = "close"  # or "fsync": then only fsync waits for the pool; or "sync": every change does
    io_timeout: Duration = 30.0  # time without progress
    cache_size: AutomaticSize = None  # 10 GiB or 10 % of the disk, whichever is less
    memory_cache: Size = 128 * MIB
    write_buffer: Size = 48 * MIB  # bytes written and not yet stored
    read_ahead: Size = 8 * MIB
    connections_per_node: Count = 8
    # A peer.
    capacity: AutomaticSize = None  # bytes offered; None: what is free beyond `reserve`
    reserve: Size = 1 * GIB  # free disk always left to the owner
    repair_rate: Rate = 64 * MIB  # bytes a second this peer copies from others at most; None: as fast as it can
    elect_share: Share = (
        0.5  # of what is free when the coordinator falls silent: for copies that the elected one asks for
    )
    away_for: Duration = 8 * 3600.0  # said when the machine sleeps or shuts down; 0: nothing is said
    trash_keep: Duration = 7 * 86400.0
    early_purge: Share = 0.25  # of the capacity, a day
    relay: RelayMode = "auto"  # be reached through the coordinator; auto: when it finds that nobody can dial this peer
    scrub_period: Duration = 30 * 86400.0  # every chunk is read again within it
    scrub_rate: Rate = 16 * MIB  # bytes a second at most; None: as fast as the disk
    # Any server.
    listen: Text = ""  # host:port[,host:port]; empty: every address, a port of the kind's own or any
    advertise: Text = ""  # what others dial; empty: worked out from `listen`
    announce: Switch = True  # on the local network, where the coordinator listens beyond loopback
    dashboard_listen: Text = "127.0.0.1:9472"  # host:port[,host:port] of the dashboard; empty: nowhere
    dashboard_names: Text = ""  # host names under which browsers reach it, with commas between
    dashboard_session: Duration = 12 * 3600.0  # a browser is logged in for so long
    stop_timeout: Duration = 10.0  # how long a stopping server lets requests finish
    log_level: Level = "info"
    log_format: LogFormat = "text"  # or "json": an object a line
    metrics_listen: Text = ""  # host:port[,host:port] where Prometheus may read /metrics, in the clear; empty: nowhere
    # What a peer offers beside `capacity`, by the names of p2pfs.runtime.offers: what was written, checked.
    offers: Mapping[str, str] = {}
    given: frozenset[str] = frozenset()  # names of those that hold for this process only (--set)


def _parse_switch(text: str) -> bool:
    if text.lower() in ("on", "yes", "true", "1"):
        return True
    if text.lower() in ("off", "no", "false", "0"):
        return False
    raise Invalid(f"“{text}” is neither on nor off")


def _parse_count(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000:
        return int(text)
    raise Invalid(f"“{text}” is no whole number from 1 up")


def _parse_share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Invalid(f"“{text}” is no share: write 25% or 0.25")
    return share


def _parse_weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0.001 <= weight <= 1000:
        raise Invalid(f"“{text}” is no weight from 0.001 to 1000")
    return weight


def _parse_automatic(text: str) -> int | None:
    return None if text.lower() in ("", "auto") else parse_size(text)


def _parse_rate(text: str) -> int | None:
    if text.lower() == "none":
        return None
    rate = parse_size(text.removesuffix("/s"))
    if not rate:
        raise Invalid("it must be more than nothing, or “none” for no limit")
    return rate


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise Invalid(f"“{text}” is none of {', '.join(choices)}")
        return text

    return parse


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "duration": parse_duration,
    "size": parse_size,
    "automatic size": _parse_automatic,
    "rate": _parse_rate,
    "count": _parse_count,
    "share": _parse_share,
    "switch": _parse_switch,
    "text": str,
    "level": _one_of("debug", "info", "warning", "error"),
    "log format": _one_of("text", "json"),
    "durability": _one_of("close", "fsync", "sync"),
    "distribution": _one_of(*Distribution),
    "relay": _one_of("auto", "on", "off"),
    "policy": _one_of("open", "fair"),
    "weight": _parse_weight,
}
_FORMATTERS: Final[dict[str, Callable[[Any], str]]] = {
    "duration": format_duration,
    "size": format_size,
    "automatic size": lambda size: "auto" if size is None else format_size(size),
    "rate": lambda rate: "none" if rate is None else f"{format_size(rate)}/s",
    "switch": lambda on: "on" if on else "off",
}
_UNITS: Final = {
    "duration": ("s, min, h or d", "s"),
    "size": ("K, M, G or T", "M"),
    "automatic size": ("M, G or T", "G"),
    "rate": ("K, M or G", "M"),
}
KINDS: Final[dict[str, str]] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Settings, include_extras=True).items()
    if name not in ("offers", "given")
}
"""Setting name → how its value is written."""


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, [*KINDS, *registry.by_key()], 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def parse_setting(name: str, value: object) -> Any:  # noqa: ANN401 - each setting has its own type
    """The value of one setting as written by a person or in TOML (text, number or boolean).

    Raises:
        Invalid: Unknown name, or no such value.
    """
    parse, usual = _reading(name)
    if isinstance(value, bool):
        text = "on" if value else "off"
    elif isinstance(value, str | int | float):
        text = str(value).strip()
    else:
        raise Invalid(f"the setting {name} needs one value, such as {usual}")
    try:
        return parse(text)
    except Invalid as error:
        raise Invalid(f"setting {name}: {error}") from None


def parse_given(name: str, text: str) -> Any:  # noqa: ANN401 - each setting has its own type
    """As `parse_setting`, of what a person writes on a command line now: times and sizes have units there. A file may
    be of a version that asked for none.

    Raises:
        Invalid: Unknown name, no such value, or a number whose unit was forgotten.
    """
    units = _UNITS.get(KINDS.get(name, ""))
    if units is not None:
        try:
            expect_unit(text, *units)
        except Invalid as error:
            raise Invalid(f"setting {name}: {error}") from None
    return parse_setting(name, text)


def _reading(name: str) -> tuple[Callable[[str], Any], str]:
    """How a value is read, and how its default is written. Raises Invalid: there is no such setting."""
    if name in KINDS:
        return _PARSERS[KINDS[name]], format_setting(name, getattr(Settings(), name))
    offer = registry.by_key().get(name)
    if offer is None:
        raise Invalid(f"“{name}” is no setting: docs/commands.md lists them{_nearest(name)}")
    return lambda text: str(offer.read(text)), offer.default


def format_setting(name: str, value: object) -> str:
    """How a person writes this value."""
    return _FORMATTERS.get(KINDS[name], str)(value)


def load(home: Path, overrides: Mapping[str, str] | None = None) -> Settings:
    """The settings of the node at `home`; a missing file means defaults. `overrides` are written by a person now.

    Raises:
        Invalid: An unknown name, a value that cannot be meant, or values that contradict each other.
        Unavailable: The file is there and cannot be read.
    """
    values = {name: parse_setting(name, value) for name, value in _read(home / CONFIG_FILE).items()}
    values |= {name: parse_given(name, value) for name, value in (overrides or {}).items()}
    offers = {name: values.pop(name) for name in values.keys() - KINDS.keys()}
    settings = Settings(**values, offers=offers, given=frozenset(overrides or ()))
    _check(settings)
    return settings


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}") from error


def _check(settings: Settings) -> None:
    if settings.min_replicas > settings.replicas:
        raise Invalid(f"min_replicas ({settings.min_replicas}) is more than replicas ({settings.replicas})")
    if not 0 < settings.heartbeat < settings.suspect < settings.down:
        raise Invalid("heartbeat, suspect and down must each be longer than the one before")
    if 0 < settings.elect_after <= settings.down + settings.heartbeat:
        # Peers would stand in for a coordinator that has not yet missed those that are silent itself.
        raise Invalid("elect_after must be longer than down and a heartbeat more, or 0: never")
    for name in (
        "io_timeout",
        "session_lifetime",
        "reservation_lifetime",
        "certificate_lifetime",
        "stop_timeout",
        "dashboard_session",
        "backup_interval",
        "backup_image",
        "scrub_period",
    ):
        if getattr(settings, name) <= 0:
            raise Invalid(f"setting {name}: it must be longer than nothing")
    if settings.renew_after >= settings.certificate_lifetime:
        raise Invalid("renew_after must be shorter than certificate_lifetime")
    if settings.small_file > 256 * KIB:
        raise Invalid("setting small_file: at most 256K, larger files belong on peers")
    if settings.write_buffer < 4 * MIB:
        raise Invalid("setting write_buffer: at least 4M, a few chunks must fit")
