"""Frozen vectors of recovery kits and backups: a kit printed years ago opens what was sealed to it then.

If one of these fails, somebody's only backup would be lost: change the code, not the vectors.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from p2pfs.coordinator.backup.recovery import signing_key
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.format.backups import FIRST, check_part, decode_part, open_part, part_hash, verify_key
from p2pfs.format.kits import box_key, decode_kit, encode_kit, tls_key
from p2pfs.wire import codec
from p2pfs.wire.backups import IMAGE, LOG, Confirm, Content, Held, Superseded, generation

pytestmark = pytest.mark.l0

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "backup.json").read_text())
PARTS = [bytes.fromhex(part) for part in VECTORS["parts"]]
KIT = decode_kit(VECTORS["kit"])
GENERATION = VECTORS["generation"]


def test_the_kit() -> None:
    assert encode_kit(KIT) == VECTORS["kit"]
    assert (KIT.secret, KIT.certificate) == (bytes(range(32)), b"certificate")
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    assert box_key(KIT.secret).public_key().public_bytes(*raw).hex() == VECTORS["box_public"]
    assert f"{tls_key(KIT.secret).private_numbers().private_value:064x}" == VECTORS["tls_private"]


def test_the_coordinators_signing_key() -> None:
    secrets = PoolSecrets(bytes(32), bytes.fromhex(VECTORS["token_seed"]))
    assert verify_key(signing_key(secrets)) == KIT.verify_key == bytes.fromhex(VECTORS["verify_key"])


def test_generations() -> None:
    assert generation(1, 1_800_000_000.25) == GENERATION


def test_parts() -> None:
    previous, opened = FIRST, []
    for number, data in enumerate(PARTS):
        part = decode_part(data)
        check_part(part, pool=KIT.pool, generation=GENERATION, number=number, previous=previous, verify=KIT.verify_key)
        assert codec.encode(part) == data
        assert (part.kind, part.is_state) == ([IMAGE, LOG][number], True)
        opened.append(open_part(part, KIT.box_key))
        previous = part_hash(data)
        assert previous.hex() == VECTORS["part_hashes"][number]
    assert opened == [
        Content(512, 2, [(1, b"one " * 128), (2, b"two " * 128)], {"ca.key": b"key"}),
        Content(512, 3, [(2, b"new " * 128)]),
    ]


def test_messages() -> None:
    for name, message in (
        ("held", [Held(GENERATION, 2, 1, 900)]),
        ("superseded", Superseded([(GENERATION, 1)])),
        ("confirm", Confirm("orphans")),
    ):
        assert codec.encode(message).hex() == VECTORS[name]
        assert codec.decode(bytes.fromhex(VECTORS[name]), type(message) if name != "held" else list[Held]) == message
