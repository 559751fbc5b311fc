"""Budgets of one mount: what its settings come down to."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from p2pfs.types import MIB

AGE_S: Final = 5.0
PROMPT_AGE_S: Final = 3.0
"""Where no close waits: all is stored within 5 s of being written, looking once a second included."""


class Durability(StrEnum):
    """Which calls wait until what they did is on stable storage (docs/durability.md)."""

    CLOSE = "close"  # fsync and close
    FSYNC = "fsync"  # fsync; the rest is stored within some seconds
    SYNC = "sync"  # every change


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Budgets of what is written and stored; all bytes and seconds."""

    dirty_bytes: int = 64 * MIB
    small_file: int = 16 * 1024
    dedup: bool = True
    age_s: float = AGE_S  # at which written bytes go on their way
    io_timeout_s: float = 30.0
    hard: bool = False  # programs wait until it is stored, not for io_timeout
    seal_in_thread: bool = False  # the processor is slow at it
    by_kernel: bool = False  # writes come from the kernel's cache, later than the programs' and from this mount alone


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one mount."""

    write: WriteLimits = field(default_factory=WriteLimits)
    memory_cache: int = 128 * MIB
    durability: Durability = Durability.CLOSE
    has_trash: bool = True  # the volume keeps what is removed for a while
    access_times: bool = True  # reading updates atime, by relatime's rule
