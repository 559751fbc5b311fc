"""Who asks for copies while no coordinator answers, and which. Pure.

The rules:

1. A peer takes part when its coordinator has been silent for `elect_after`, and only while at least half of the peers
   it hears (itself included) say the same: if others are answered, its own link is what broke.
2. The peer with the smallest number among those that are heard and say so leads, unless most follow another one that is
   heard already: who comes back steps in as a regular one. One that leads and does not look at what the others hold is
   passed over (`p2pfs_peerd.watch`).
3. It asks for copies of what is short, by the rules of `care` and nothing else of them: no audit, no move, no deletion.

Two peers may lead at once, each of those it hears: at worst there are surplus copies, which the coordinator trims. So
nobody counts votes. Called by `p2pfs_peerd.watch` and `p2pfs_peerd.election`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final

from p2pfs.placement import care
from p2pfs.placement.care import Held, Keeper
from p2pfs.placement.groups import group_of
from p2pfs.types import MIB, ChunkId, GroupId, PeerNumber, VolumeId

LEAST_SHARE: Final = 64 * MIB
"""Of what a peer takes, for each first holder: smaller ones would not hold a few chunks."""
MOST_SHORT: Final = 2048
"""Chunks of a bucket in one look that have the same first holder and as many copies. A peer takes far fewer at once."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A peer that is heard, the own one included."""

    number: PeerNumber
    is_orphaned: bool  # the coordinator does not answer it, it says
    follows: PeerNumber | None = None  # whom it takes for the elected one


def is_open(voices: Sequence[Voice]) -> bool:
    """Whether so many miss the coordinator that it is the coordinator that is missing."""
    return 2 * sum(voice.is_orphaned for voice in voices) >= len(voices) > 0


def leader(own: Voice, fellows: Iterable[Voice], passed: Collection[PeerNumber] = ()) -> PeerNumber | None:
    """Whom to follow; those in `passed` are passed over."""
    orphaned = [voice for voice in (own, *fellows) if voice.is_orphaned]
    able = {voice.number for voice in orphaned} - set(passed)
    voting = [voice for voice in orphaned if voice is not own or voice.follows is not None]
    votes = Counter(voice.follows for voice in voting)
    for number, count in votes.items():
        if number is not None and number in able and 2 * count > len(voting):
            return number
    return min(able, default=None)


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk as those that hold it list it. One that lies about the size lists another chunk."""

    volume: VolumeId
    chunk: ChunkId
    size: int  # sealed bytes


@dataclass(frozen=True, slots=True)
class Wish:
    """A copy to be asked for."""

    found: Found
    sources: tuple[PeerNumber, ...]
    target: PeerNumber


@dataclass(frozen=True, slots=True)
class View:
    """The pool as the elected peer sees it."""

    keepers: Mapping[PeerNumber, Keeper]
    placed: Callable[[GroupId], Sequence[PeerNumber]]  # those that stay, as rendezvous has them
    wanted: int


class Room:
    """How much each peer may be asked to take in one look, bytes: no more than it has, and no more than its share for
    what any one peer is the first holder of. One that makes up chunks uses up its own shares and nobody else's."""

    def __init__(self, free: Mapping[PeerNumber, int], holders: int) -> None:
        self._free = dict(free)
        self._share = {peer: max(LEAST_SHARE, room // max(1, holders)) for peer, room in free.items()}
        self._used: Counter[tuple[PeerNumber, PeerNumber]] = Counter()  # (target, first holder)

    def takes(self, target: PeerNumber, size: int, first: PeerNumber) -> bool:
        """Whether there is room for a chunk of which that peer is the first holder."""
        free = self._free.get(target, 0)
        return free >= size and self._used[target, first] + size <= self._share[target]

    def charge(self, wish: "Wish", *, back: bool = False) -> None:
        """It is asked for; `back`: after all it was not taken."""
        size = -wish.found.size if back else wish.found.size
        self._free[wish.target] -= size
        self._used[wish.target, wish.sources[0]] += size

    def close(self, target: PeerNumber) -> None:
        """Ask it for nothing more."""
        self._free[target] = 0


Short = tuple[Found, Sequence[PeerNumber]]
"""A chunk and who holds it."""


def shortest(holders: Mapping[Found, Sequence[PeerNumber]], view: View) -> list[Short]:
    """What is short, fewest copies first, and of these each first holder's in turn, `MOST_SHORT` of each: one that
    makes up chunks hides nobody else's, and costs little."""
    by_copies: dict[int, dict[PeerNumber, list[Short]]] = {}
    for found, peers in holders.items():
        if len(peers) < view.wanted:
            by_copies.setdefault(len(peers), {}).setdefault(peers[0], []).append((found, peers))
    return [
        one
        for copies in sorted(by_copies)
        for one in chain.from_iterable(zip_longest(*(line[:MOST_SHORT] for line in by_copies[copies].values())))
        if one is not None
    ]


def wishes(
    short: Iterable[Short], view: View, *, room: Room, coming: Mapping[Found, Collection[PeerNumber]]
) -> list[Wish]:
    """Copies to ask for, charged to `room`. `coming`: who was asked for a copy lately. Some 35 µs for a chunk."""
    asked: list[Wish] = []
    for found, peers in short:
        placed = view.placed(group_of(found.chunk))
        need = care.need(
            [*(Held(peer, 0) for peer in peers), *_believed(placed, peers, view)],
            keepers=view.keepers,
            placed=placed,
            wanted=view.wanted,
            room=lambda peer, size=found.size, first=peers[0]: room.takes(peer, size, first),  # type: ignore[misc]
            coming=[peer for peer in coming.get(found, ()) if peer not in peers],
        )
        if need is not None and need.urgency is not care.Urgency.REBALANCE:
            for target in need.targets:
                wish = Wish(found, tuple(peers), target)
                room.charge(wish)
                asked.append(wish)
    return asked


def _believed(placed: Sequence[PeerNumber], peers: Sequence[PeerNumber], view: View) -> Iterator[Held]:
    """Copies on peers that fell silent a short while ago: nobody lists them, but likely they are where they belong."""
    return (Held(peer, 0) for peer in placed[: view.wanted] if peer not in peers and view.keepers[peer].is_expected)
