"""What a file should hold, for tests: a sparse model of its bytes, and every version it ever had."""

from dataclasses import dataclass, field

PAGE = 1 << 16


@dataclass
class Sparse:
    """A file as a program sees it. Bytes never written are zeros."""

    size: int = 0
    pages: dict[int, bytes] = field(default_factory=dict)
    _known: dict[tuple[int, int], bytes] = field(default_factory=dict, compare=False, repr=False)

    def known(self, offset: int, length: int) -> bytes:
        """`read`, remembered: for versions that no longer change."""
        if (offset, length) not in self._known:
            self._known[offset, length] = self.read(offset, length)
        return self._known[offset, length]

    def copy(self) -> "Sparse":
        return Sparse(self.size, dict(self.pages))

    def write(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            page, off = divmod(offset + at, PAGE)
            old = self.pages.get(page, bytes(PAGE))
            part = data[at : at + PAGE - off]
            self.pages[page] = old[:off] + part + old[off + len(part) :]
            at += len(part)
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        keep, off = divmod(size, PAGE)
        if size < self.size:
            self.pages = {page: data for page, data in self.pages.items() if page <= keep}
            if keep in self.pages:
                self.pages[keep] = self.pages[keep][:off] + bytes(PAGE - off)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        first, last = offset // PAGE, (offset + length) // PAGE
        data = b"".join(self.pages.get(page, bytes(PAGE)) for page in range(first, last + 1))
        return data[offset - first * PAGE :][:length]
