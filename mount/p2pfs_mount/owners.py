"""Whose files are: numbers of users and groups as the volume keeps them ⇄ as this machine knows them. Pure.

A volume is used on machines that give other numbers to the same people. A mount with `-o idmap=` translates in both
directions; with `-o uid=` or `-o gid=` it shows everything as one user's or group's. The kernel checks permissions by
what it is shown. Called by `operations` and `xattrs`; parsed by `options`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from p2pfs.errors import Denied, Invalid
from p2pfs.format import acl

NOBODY: Final = (1 << 32) - 3
"""What is shown of a number that stands for nobody here. No process has it, unlike 65534, which some services have: the
kernel would take one for the owner of all that is not mapped, and for each stranger in access lists. With the number
that means "unknown" to it, not even root could change a thing."""
MOST_IDS: Final = NOBODY
"""Of those above, one was nobody's in old network file systems, and the last means "leave it as it is"."""
MOST_RANGES: Final = 340  # as the kernel of a user namespace
_ENTRY: Final = re.compile(r"([ugb]):(\d{1,10}):(\d{1,10})(?::(\d{1,10}))?")


class Unmapped(Invalid):
    """A number of this machine stands for nobody in the volume."""


class Fixed(Denied):
    """Everything belongs to one user or group here, so nothing can be given to another."""


@dataclass(frozen=True, slots=True)
class Range:
    """`count` numbers from `stored` on in the volume are those from `local` on here."""

    stored: int
    local: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class IdMap:
    """Numbers of users, or of groups. Without ranges each is itself; `all_as`: everything is shown as that one."""

    ranges: tuple[Range, ...] = ()
    all_as: int | None = None

    def shown(self, stored: int) -> int:
        """What the kernel is told."""
        if self.all_as is not None:
            return self.all_as
        if not self.ranges:
            return stored
        for one in self.ranges:
            if one.stored <= stored < one.stored + one.count:
                return one.local + stored - one.stored
        return NOBODY

    def stored(self, local: int) -> int:
        """What the volume keeps. Raises Unmapped."""
        if not self.ranges:
            return local
        for one in self.ranges:
            if one.local <= local < one.local + one.count:
                return one.stored + local - one.local
        raise Unmapped(f"{local} stands for nobody in this volume")

    def given(self, local: int) -> int | None:
        """As `stored`, of who is given a file; None: it is theirs here, and stays whose it is. Raises Unmapped,
        Fixed."""
        if self.all_as is None:
            return self.stored(local)
        if self.all_as != local:
            raise Fixed("everything belongs to one here")
        return None


@dataclass(frozen=True, slots=True)
class Owners:
    """Of one mount."""

    users: IdMap = field(default_factory=IdMap)
    groups: IdMap = field(default_factory=IdMap)

    @property
    def are_plain(self) -> bool:
        """Whether there is nothing to translate."""
        return self.users == self.groups == IdMap()

    @classmethod
    def parse(cls, entries: Iterable[str], *, uid: int | None = None, gid: int | None = None) -> Self:
        """`entries` are `u:STORED:LOCAL[:COUNT]`, `g:…`, or `b:…` for both. Raises Invalid."""
        found: dict[str, list[Range]] = {"u": [], "g": []}
        for text in entries:
            match = _ENTRY.fullmatch(text)
            if match is None:
                raise Invalid(f"“{text[:40]}” is no part of an idmap: write u:STORED:LOCAL[:COUNT], or g: or b:")
            kind, *numbers = match.groups(default="1")
            one = Range(*map(int, numbers))
            for wanted in "ug" if kind == "b" else kind:
                found[wanted].append(one)
        return cls(_id_map(found["u"], uid, "uid"), _id_map(found["g"], gid, "gid"))

    def shown_acl(self, value: bytes) -> bytes:
        """An access control list as the kernel is told of it. Raises Invalid."""
        listed = acl.decode(value)
        return acl.encode(tuple(self._shown_entry(entry) for entry in listed))

    def stored_acl(self, value: bytes) -> bytes:
        """As the volume keeps it. Raises Invalid, Unmapped."""
        listed = acl.decode(value)
        return acl.encode(tuple(self._stored_entry(entry) for entry in listed))

    def _shown_entry(self, entry: acl.Entry) -> acl.Entry:
        kind = self._kind_of(entry)
        return entry if kind is None else entry._replace(id=IdMap(kind.ranges).shown(entry.id))

    def _stored_entry(self, entry: acl.Entry) -> acl.Entry:
        kind = self._kind_of(entry)
        return entry if kind is None else entry._replace(id=kind.stored(entry.id))

    def _kind_of(self, entry: acl.Entry) -> IdMap | None:
        return {acl.USER: self.users, acl.GROUP: self.groups}.get(entry.tag)


def is_entry(text: str) -> bool:
    """Whether it reads as a part of an idmap, not as the name of a file of them."""
    return _ENTRY.fullmatch(text) is not None


def entries_of(text: str) -> list[str]:
    """The parts in a file: one a line, or several with spaces or commas between; `#` begins a comment."""
    lines = (line.partition("#")[0] for line in text.splitlines())
    return [word for line in lines for word in line.replace(",", " ").split()]


def parse_id(text: str) -> int:
    """A number of a user or group. Raises Invalid."""
    if not text.isascii() or not text.isdigit() or int(text[:11]) >= MOST_IDS:
        raise Invalid(f"“{text[:40]}” is no number of a user or group")
    return int(text)


def _id_map(ranges: Sequence[Range], all_as: int | None, name: str) -> IdMap:
    if ranges and all_as is not None:
        raise Invalid(f"mount options {name}= and idmap= contradict each other: one shows all as one, the other each")
    if len(ranges) > MOST_RANGES:
        raise Invalid(f"an idmap has at most {MOST_RANGES} ranges of each kind")
    for side in ("stored", "local"):
        end = 0
        for begin, count in sorted((getattr(one, side), one.count) for one in ranges):
            if count < 1 or begin + count > MOST_IDS:
                raise Invalid("a range of an idmap is empty, or beyond what numbers there are")
            if begin < end:
                raise Invalid(f"{begin} stands twice in the idmap, on the side of what is {side}")
            end = begin + count
    return IdMap(tuple(ranges), all_as)
