"""All kinds of resources that this version knows. A new one is a line in `_BUILT_IN`."""

from collections.abc import Mapping, Sequence
from typing import Final

from p2pfs.errors import Invalid, Misuse
from p2pfs.runtime.offers import bandwidth, compute, storage
from p2pfs.runtime.offers.kinds import Kind

_BUILT_IN: Final = (
    storage.KIND,
    bandwidth.UPLOAD,
    bandwidth.DOWNLOAD,
    compute.KIND,
)

_kinds: Final[dict[str, Kind]] = {kind.name: kind for kind in _BUILT_IN}


def register(kind: Kind) -> None:
    """Know one kind more. Raises Misuse: its name is taken."""
    if kind.name in _kinds or kind.key in by_key():
        raise Misuse(f"there is a kind of resource called {kind.name} already")
    _kinds[kind.name] = kind


def unregister(name: str) -> None:
    """Know it no longer; for tests."""
    del _kinds[name]


def kinds() -> Sequence[Kind]:
    """In the order in which they are shown."""
    return tuple(_kinds.values())


def by_key() -> Mapping[str, Kind]:
    """By their names in the configuration."""
    return {kind.key: kind for kind in _kinds.values()}


def named(name: str) -> Kind:
    """Raises Invalid."""
    try:
        return _kinds[name]
    except KeyError:
        raise Invalid(f"“{name}” is no kind of resource: there are {', '.join(_kinds)}") from None
