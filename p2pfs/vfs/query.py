"""What somebody looks for: words, and beginnings of words. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from p2pfs.errors import Invalid
from p2pfs.format.search import SHORTEST_PREFIX, words
from p2pfs.wire.search import MOST_ASKED


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for: words, and beginnings of words. `is_any`: one of them is enough."""

    words: tuple[str, ...]
    beginnings: tuple[str, ...] = ()
    is_any: bool = False

    @classmethod
    def parse(cls, text: str, *, is_any: bool = False) -> "Query":
        """A star at the end of a word makes it a beginning. Raises Invalid."""
        whole: list[str] = []
        beginnings: list[str] = []
        for part in text.split():
            found = words(part)
            if part.endswith("*") and found:
                beginnings.append(found.pop())
            whole += found
        query = cls(tuple(dict.fromkeys(whole)), tuple(dict.fromkeys(beginnings)), is_any)
        if not 1 <= len(query.words) + len(query.beginnings) <= MOST_ASKED:
            raise Invalid(f"look for 1 to {MOST_ASKED} words of letters and digits")
        if any(len(beginning) < SHORTEST_PREFIX for beginning in query.beginnings):
            raise Invalid(f"the beginning of a word has at least {SHORTEST_PREFIX} letters")
        return query

    def fits(self, there: Iterable[str]) -> bool:
        """Whether something with these words is meant."""
        known = set(there)
        each = [word in known for word in self.words]
        each += [any(word.startswith(beginning) for word in known) for beginning in self.beginnings]
        return any(each) if self.is_any else all(each)
