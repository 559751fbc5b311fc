"""One generation being made: pages in, sealed and signed parts out, each naming the one before.

Parts are kept in files until the peers have them. Blocking, in one thread at a time; driven by `backup`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from p2pfs.format.backups import FIRST, part_hash, seal_part
from p2pfs.meta.pages import Changes, Image
from p2pfs.runtime.parts import PartFiles
from p2pfs.types import MIB, PoolId
from p2pfs.wire.backups import IMAGE, LOG, PART_VERSION, Content, Part

PIECE_BYTES: Final = MIB
"""Bytes of pages in one part, before compression."""


@dataclass(frozen=True, slots=True)
class Sealing:
    """Whose backups these are, and the two keys that make them."""

    pool: PoolId
    box: X25519PublicKey
    signing: Ed25519PrivateKey


class Chain:
    """The parts of one generation so far. Others read the attributes."""

    def __init__(self, generation: int, sealing: Sealing, files: PartFiles, image: Image, state_s: float) -> None:
        self.generation = generation
        self._sealing = sealing
        self._files = files
        self._image = image
        self._next_page = 1
        self._previous = FIRST
        self._state_s = state_s
        self.parts = 0
        self.bytes = 0
        self.image_bytes = 0
        self.image_parts = 0  # once it is complete: as many parts as can be restored without what follows
        self.states: list[tuple[int, float]] = []  # (number, UTC) of each part up to which it can be restored

    def add_image(self, pieces: int, attached: Mapping[str, bytes]) -> None:
        """Up to so many pieces more of the image. `attached` goes into number 0."""
        step = PIECE_BYTES // self._image.page_bytes
        for _ in range(pieces):
            if self.image_parts:
                return
            pages = self._image.read(self._next_page, step)
            self._next_page += step
            is_last = self._next_page > self._image.database_pages
            files = {} if self.parts else dict(attached)
            content = Content(self._image.page_bytes, self._image.database_pages, list(pages.items()), files)
            self.image_bytes += self._add(IMAGE, content, is_state=is_last)
            if is_last:
                self.image_parts = self.parts

    def add_changes(self, changes: Changes, state_s: float) -> None:
        """What was changed before `state_s` (UTC) and is not in here yet."""
        self._state_s = state_s
        for pages, is_last in _pieces(changes):
            content = Content(changes.page_bytes, changes.database_pages, pages)
            self._add(LOG, content, is_state=is_last and bool(self.image_parts))

    def state_of(self, parts: int) -> tuple[int, float]:
        """(number, UTC) of the newest state within the first `parts`; (-1, 0) when there is none."""
        return next((state for state in reversed(self.states) if state[0] < parts), (-1, 0.0))

    def _add(self, kind: str, content: Content, *, is_state: bool) -> int:
        blank = Part(
            PART_VERSION,
            self._sealing.pool,
            self.generation,
            self.parts,
            kind,
            is_state,
            self._state_s,
            self._previous,
            b"",
            b"",
            b"",
        )
        data = seal_part(blank, content, box=self._sealing.box, signing=self._sealing.signing)
        self._files.keep(self.generation, self.parts, data, is_state=is_state)
        if is_state:
            self.states.append((self.parts, self._state_s))
        self._previous = part_hash(data)
        self.parts += 1
        self.bytes += len(data)
        return len(data)


def _pieces(changes: Changes) -> Iterator[tuple[list[tuple[int, bytes]], bool]]:
    """The pages in pieces that fit a part, and whether it is the last one."""
    pages, step = sorted(changes.pages.items()), PIECE_BYTES // changes.page_bytes
    for at in range(0, len(pages), step):
        yield pages[at : at + step], at + step >= len(pages)
