"""Finding the node or volume a person means."""

import pytest

from p2pfs import exitcodes
from p2pfs.cli.members import find_node, find_volume
from p2pfs.cli.volumes import volume, volume_care
from p2pfs.errors import UserError
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.volumes import VolumeInfo

pytestmark = pytest.mark.l0


def _node(name: str, node: str, *, revoked: bool = False) -> NodeInfo:
    return NodeInfo(node, name, name.partition("@")[0], "", ["peer"], revoked, 1)


def _volume(name: str, owner: str = "anna", volume: int = 1) -> VolumeInfo:
    return VolumeInfo(volume, name, owner, b"", 0, True, 0)


NODES = [
    _node("anna@laptop", "3f2a" + "0" * 28),
    _node("anna@lap", "3f2b" + "0" * 28),
    _node("bob@nas", "77" + "0" * 30),
    _node("bob@old", "88" + "0" * 30, revoked=True),
]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("anna@laptop", "anna@laptop"),
        ("anna@lap", "anna@lap"),  # exact beats the beginning of another
        ("bob", "bob@nas"),  # the revoked one does not count
        ("3f2a", "anna@laptop"),
        ("77", "bob@nas"),
        ("88" + "0" * 30, "bob@old"),
    ],
)
def test_a_node_is_found_by_name_id_or_beginning(text: str, name: str) -> None:
    assert find_node(NODES, text).name == name


def test_an_ambiguous_beginning_lists_the_candidates() -> None:
    with pytest.raises(UserError, match=r"anna@laptop.*anna@lap") as caught:
        find_node(NODES, "3f2")
    assert caught.value.exit_code == exitcodes.NOT_FOUND


@pytest.mark.parametrize("text", ["nobody", "", "88", "bob@old"])
def test_an_unknown_node_is_told_with_those_there_are(text: str) -> None:
    with pytest.raises(UserError, match="anna@laptop"):
        find_node(NODES, text)


def test_a_volume_is_found_by_name_or_id_only() -> None:
    volumes = [_volume("photos", volume=0x1234), _volume("photos-old", volume=2)]
    assert find_volume(volumes, "photos").volume == 0x1234
    assert find_volume(volumes, "0000000000001234").name == "photos"
    with pytest.raises(UserError):
        find_volume(volumes, "photo")


def test_volumes_of_one_name_are_told_apart_by_owner() -> None:
    volumes = [_volume("photos"), _volume("photos", "bob", 2)]
    with pytest.raises(UserError, match="bob/photos"):
        find_volume(volumes, "photos")
    assert find_volume(volumes, "bob/photos").volume == 2


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("created_s", 1795383390, "2026-11-22 21:36 UTC"), ("dedup", True, "on"), ("dedup", False, "off")],
)
def test_a_volume_is_shown_in_words(key: str, value: float, shown: str) -> None:
    assert volume._shown(key, value) == shown


def test_a_limit_that_there_is_not_reads_as_none() -> None:
    assert (volume_care._limit("10 GiB"), volume_care._limit("")) == (" of at most 10 GiB", ", without a limit")
