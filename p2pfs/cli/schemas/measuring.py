"""What `bench` and `simulate` print with `--json`."""

from msgspec import UNSET, Struct, UnsetType

from p2pfs.cli.trying.bench_figures import Phase


class Bench(Struct):
    """How fast a mounted volume is."""

    path: str
    volume: str  # its name; empty where none is mounted (--any)
    size_mib: int  # of the large file
    files: int  # small ones
    phases: list[Phase]
    fetched_bytes: int | UnsetType | None = UNSET  # from peers, in the first reading; null: not known


class Chance(Struct):
    """Of losing a chunk within the period; the bounds are those of 95 %."""

    estimate: float
    low: float
    high: float


class Choice(Struct):
    """A number of copies and a repair delay that were tried."""

    copies: int
    repair_delay_s: float
    lives: int  # chunks that were followed
    hit: int  # of them, those that came to a loss
    lost: Chance
    unreadable: float  # share of the time without a copy that can be read
    copied_bytes: float  # by a peer in a day
    load: float  # that as a share of repair_rate
    target: str  # reached, missed, unsure (it is within the bounds) or busy (more to copy than half of what peers may)


class Answer(Struct):
    """What to set."""

    replicas: int
    repair_delay_s: float


class Simulation(Struct):
    """How many copies a pool needs."""

    peers: int
    chunks: int
    leaves_per_day: float  # of a peer that is up
    returning: float  # share of those that come back
    absence_s: float  # for how long those are silent, on average
    up_share: float  # of the time
    target: float  # the chance with which a chunk is to be kept
    period_s: float  # for so long
    sample: int
    seed: int
    choices: list[Choice]
    answer: Answer | None


class Point(Struct):
    """How many of N nodes with the data were left."""

    nodes: int  # N
    best: int
    worst: int
    mean: float
    expected: float


class Published(Struct):
    """What the paper says."""

    nodes: int
    share: float


class Compared(Struct):
    """What was found beside what the paper says; N, or null where there is none."""

    published: Published | None
    worst_share: float | None
    chance: float | None  # that all runs stay above the share
    ours_from: int | None
    likely_from: int | None
    kept_from: int | None
    kept_likely_from: int | None
    guaranteed_from: int | None


class PaperSet(Struct):
    """One of the paper's sets."""

    name: str
    connected: int
    persistent: int  # they never leave
    leavers: int  # in a period of an hour
    is_drawn_anew: bool  # one slot after the other, so that newcomers leave too
    points: list[Point]
    compared: Compared
    sentences: list[str]


class Kept(Struct):
    """After so many periods."""

    periods: int
    runs: int  # that still had the data
    low: float  # of their share, 95 %
    high: float


class PaperRepair(Struct):
    """What repair makes of a set."""

    set: str
    copies: int
    repair_delay_s: float | None  # null: no repair
    runs: int
    copied_per_period: float
    kept: list[Kept]


class Paper(Struct):
    """The experiment of the second paper, repeated."""

    runs: int
    periods: int
    seed: int
    sets: list[PaperSet]
    repair: list[PaperRepair]
