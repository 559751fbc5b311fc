"""Frozen vectors of what peers say to each other while no coordinator answers (see test_golden_wire)."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from p2pfs.types import PoolId
from p2pfs.wire import codec, fellows
from p2pfs.wire.membership import PeerInfo, PoolMap

pytestmark = pytest.mark.l0

VECTORS: Final[dict[str, str]] = json.loads((Path(__file__).parent / "fellows.json").read_text())
POOL: Final = PoolId("00112233445566778899aabbccddeeff")
CHUNK: Final = bytes(range(32))
PEER: Final = PeerInfo(7, "ff" * 16, "anna@nas", "anna", "home", ["192.0.2.7:9471"], 1 << 40, 0, "draining", True)
ROLL: Final = fellows.Roll(1_800_000_000, 1_802_592_000, 120.0, 600.0, PoolMap(POOL, 3, 1, 3, 2, [PEER]))
MESSAGES: Final[dict[str, Any]] = {
    "signed_roll": fellows.SignedRoll(b"roll", bytes(range(64))),
    "greeting": fellows.Greeting(130.5, 7, 1 << 30, ["192.0.2.7:9471"]),
    "copy_request": fellows.CopyRequest([fellows.Copy(0x0123456789ABCDEF, CHUNK, 76_820, [7, 9])]),
    "taken": fellows.Taken(1),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_as_they_were(name: str) -> None:
    assert codec.encode(MESSAGES[name]).hex() == VECTORS[name]
    assert codec.decode(bytes.fromhex(VECTORS[name]), type(MESSAGES[name])) == MESSAGES[name]


def test_a_kept_roll_is_still_read() -> None:
    """Its map may gain fields: what is signed are the bytes, whatever is in them."""
    assert codec.decode(bytes.fromhex(VECTORS["roll"]), fellows.Roll) == ROLL


def test_what_a_rolls_signature_covers_is_as_it_was() -> None:
    assert fellows.roll_message(POOL, b"roll").hex() == VECTORS["roll_message"]
