"""Finding the one node or volume a person means by a name, an id or the beginning of either. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from p2pfs import exitcodes
from p2pfs.errors import UserError
from p2pfs.types import VolumeId, volume_name
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.volumes import VolumeInfo

T = TypeVar("T")


def find_node(nodes: Iterable[NodeInfo], text: str) -> NodeInfo:
    """The member meant by `text`: exact name or id first, else an unambiguous beginning. Revoked nodes only by id.

    Raises:
        UserError: NOT_FOUND, none or several.
    """
    known = list(nodes)
    members = [node for node in known if not node.revoked or node.node == text]
    return _find(members, text, what="node", keys=lambda node: (node.name, node.node))


def find_volume(volumes: Iterable[VolumeInfo], text: str) -> VolumeInfo:
    """The volume meant by `text`: its name, `owner/name`, or its id. What others share is not meant by its name alone:
    they chose it.

    Raises:
        UserError: NOT_FOUND, none or several.
    """
    return _find(
        list(volumes),
        text,
        what="volume",
        keys=lambda volume: (
            *(() if volume.access else (volume.name,)),
            f"{volume.owner}/{volume.name}",
            volume_name(VolumeId(volume.volume)),
        ),
        prefixes=False,
    )


def _find(
    known: Sequence[T], text: str, *, what: str, keys: Callable[[T], tuple[str, ...]], prefixes: bool = True
) -> T:
    found = [one for one in known if text in keys(one)]
    if not found and prefixes and text:
        found = [one for one in known if any(key.startswith(text) for key in keys(one))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(" ".join(keys(one)) for one in found[:5])
        raise UserError(f"“{text}” could be any of {names}: write more of it, or the id", exitcodes.NOT_FOUND)
    names = ", ".join(keys(one)[0] for one in known[:10])
    raise UserError(f"there is no {what} “{text}”" + (f"; there are {names}" if names else ""), exitcodes.NOT_FOUND)
