"""What would happen if peers stopped, left, or were lost: `POST /plans`, for people who are about to do it.

The coordinator knows files by number only; whoever has the volume's keys finds their names.
"""

import enum
from typing import Final

import msgspec

MOST_FILES: Final = 1000
"""Inode numbers named for each volume; the count is of all."""


class PlanKind(enum.StrEnum):
    """What is asked about."""

    STOP = "stop"  # they are switched off, perhaps for good, now
    DRAIN = "drain"  # they leave in peace
    LOSE = "lose"  # they are gone with all they hold


class PlanRequest(msgspec.Struct, frozen=True):
    """`nodes`: ids of peers; all at once."""

    kind: str  # PlanKind
    nodes: list[str]


class FilesAtRisk(msgspec.Struct, frozen=True):
    """Files of one volume that could not be read any more, in part."""

    volume: str  # sixteen hexadecimal digits
    name: str
    owner: str
    files: int
    inodes: list[int]  # the first MOST_FILES


class PlanAnswer(msgspec.Struct, frozen=True):
    """Chunks are counted as of now."""

    held: int  # chunks on these peers
    held_bytes: int
    short: int  # of them with fewer copies than wanted on the other peers
    short_bytes: int  # what would have to be copied, all missing copies counted
    unreadable: int  # of them without any copy on another peer that answers
    unreadable_bytes: int
    files: list[FilesAtRisk]
    room_bytes: int  # free on the peers that would stay
    staying: int  # how many those are
    wanted: int  # copies, among them
    rate: float  # bytes a second that copying would take, as measured lately or assumed
    is_measured: bool
    answering: int = 0  # of those that would stay, how many can be copied to now
    thinned: int = 0  # chunks that should have more copies than there are peers that stay (not of a stop)
    replicas: int = 0  # copies wanted where there are peers enough; 0: by an older coordinator, which does not tell
