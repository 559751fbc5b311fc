"""Files that pages refer to, held in memory: our own, and those of others that `packaging/vendor-web` fetches.

Without the latter pages have no scripts at all and say so; everything can still be seen and done.
"""

import functools
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

OWN: Final = Path(__file__).parent / "static"
VENDOR: Final = Path(__file__).parent / "vendor"
FOREIGN: Final = ("htmx.min.js", "uPlot.iife.min.js", "uPlot.min.css")
_KINDS: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    kind: str
    etag: str


@dataclass(frozen=True, slots=True)
class Assets:
    """By name. `is_whole`: the foreign ones are there too."""

    files: dict[str, Asset]
    is_whole: bool

    def path(self, name: str) -> str:
        """Where a page finds it; another content has another path, so that nothing old is used after an upgrade."""
        return f"/static/{name}?{self.files[name].etag[:12]}"


@functools.cache
def load() -> Assets:
    """Read everything, once a process. Blocking: a hundred KiB."""
    paths = [path for path in OWN.iterdir() if path.suffix in _KINDS]
    foreign = [VENDOR / name for name in FOREIGN]
    is_whole = all(path.is_file() for path in foreign)
    found = {path.name: _read(path) for path in (*paths, *(foreign if is_whole else ()))}
    return Assets(found, is_whole)


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, _KINDS[path.suffix], sha256(content).hexdigest())
