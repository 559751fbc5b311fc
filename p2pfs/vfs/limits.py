"""Budgets of one mount: what its settings come down to."""

from dataclasses import dataclass, field

from p2pfs.types import MIB


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Budgets of the writer; all bytes and seconds."""

    dirty_bytes: int = 64 * MIB
    small_file: int = 16 * 1024
    dedup: bool = True
    age_s: float = 5.0
    io_timeout_s: float = 30.0
    hard: bool = False  # programs wait until it is stored, not for io_timeout


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one mount."""

    write: WriteLimits = field(default_factory=WriteLimits)
    memory_cache: int = 128 * MIB
    close_waits: bool = True  # durability=close
    access_times: bool = True  # reading updates atime, by relatime's rule
