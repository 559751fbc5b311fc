"""Parts of backups and recovery kits: what the coordinator made opens with the kit, and nothing else does."""

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from p2pfs.errors import Corrupt, Invalid, Misuse, PoolError
from p2pfs.format.backups import (
    FIRST,
    check_part,
    decode_part,
    open_part,
    part_hash,
    seal_part,
    verify_key,
)
from p2pfs.format.kits import Kit, decode_kit, encode_kit, tls_key
from p2pfs.types import NodeId, PoolId
from p2pfs.wire import codec
from p2pfs.wire.backups import IMAGE, LOG, Content, Part, begun_s, generation, incarnation_of

pytestmark = pytest.mark.l0

POOL = PoolId("11" * 16)
BOX = X25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
CONTENT = Content(4096, 3, [(1, b"page one"), (3, b"page three")], {"ca.key": b"key"})
BLANK = Part(1, POOL, 7, 0, IMAGE, True, 1_800_000_000.5, FIRST, b"", b"", b"")


def sealed(blank: Part = BLANK, signing: Ed25519PrivateKey = SIGNING, content: Content = CONTENT) -> bytes:
    return seal_part(blank, content, box=BOX.public_key(), signing=signing)


def opened(data: bytes, **expected: Any) -> Content:  # noqa: ANN401 - check_part's
    part = decode_part(data)
    place: dict[str, Any] = {"pool": POOL, "generation": 7, "number": 0, "previous": FIRST, **expected}
    check_part(part, verify=verify_key(SIGNING), **place)
    return open_part(part, BOX)


def test_a_part_opens_to_what_was_sealed() -> None:
    data = sealed()
    assert opened(data) == CONTENT
    assert data != sealed()  # a key of its own each time
    assert b"page one" not in data


def of_pages(page: Callable[[int], bytes], count: int = 64) -> Content:
    return Content(4096, count, [(number, page(number)) for number in range(1, count + 1)], {})


def test_pages_shrink_as_far_as_they_can() -> None:
    random = Random(5)
    rows = of_pages(lambda number: b"".join(b"row %04d of a table;" % (number + at) for at in range(200)).ljust(4096))
    secret = of_pages(lambda _: random.randbytes(3072).ljust(4096, b"\0"))
    nothing = of_pages(lambda _: bytes(4096))
    for content, share in ((rows, 0.15), (secret, 0.76), (nothing, 0.01)):
        data = sealed(content=content)
        assert opened(data) == content
        assert len(data) < share * 64 * 4096


def test_every_changed_byte_is_noticed() -> None:
    data = sealed()
    for at in range(len(data)):
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[at] ^= bit
            with pytest.raises(PoolError):
                opened(bytes(damaged))


@pytest.mark.parametrize(
    "place", [{"pool": PoolId("22" * 16)}, {"generation": 8}, {"number": 1}, {"previous": b"x" * 32}]
)
def test_a_part_counts_in_its_place_only(place: dict[str, Any]) -> None:
    with pytest.raises(Corrupt, match="place"):
        opened(sealed(), **place)


def test_nobody_but_the_coordinator_signs() -> None:
    with pytest.raises(Corrupt, match="signed"):
        opened(sealed(signing=Ed25519PrivateKey.generate()))


def test_a_header_cannot_be_signed_anew_over_another_content() -> None:
    """Not even the coordinator's own key moves a sealed content: the header is bound into it."""
    part = decode_part(sealed())
    moved = msgspec.structs.replace(part, number=1, signature=b"")
    again = msgspec.structs.replace(moved, signature=SIGNING.sign(b"p2pfs backup part 1\0" + codec.encode(moved)))
    with pytest.raises(Corrupt, match="kit"):
        opened(codec.encode(again), number=1)


def test_another_kit_opens_nothing() -> None:
    with pytest.raises(Corrupt, match="kit"):
        open_part(decode_part(sealed()), X25519PrivateKey.generate())


def test_a_chain_names_each_part_before() -> None:
    first = sealed()
    second = sealed(msgspec.structs.replace(BLANK, number=1, kind=LOG, previous=part_hash(first)))
    assert opened(second, number=1, previous=part_hash(first)) == CONTENT
    with pytest.raises(Corrupt):
        opened(second, number=1, previous=part_hash(sealed()))


@pytest.mark.parametrize("change", [{"version": 2}, {"kind": "other"}, {"number": -1}, {"previous": b""}])
def test_what_is_no_part_is_misuse(change: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        decode_part(codec.encode(msgspec.structs.replace(decode_part(sealed()), **change)))


def test_generations_rise_with_time_restores_and_in_spite_of_clocks() -> None:
    first = generation(1, 1_800_000_000.25)
    assert (incarnation_of(first), begun_s(first)) == (1, 1_800_000_000.25)
    assert generation(1, 1_800_000_001.0, after=first) > first
    assert generation(1, 0.0, after=first) == first + 1
    assert generation(2, 0.0) > generation(1, 1e11)
    assert generation(1 << 40, 1e30) < 1 << 63


# ---- kits -----------------------------------------------------------------------------------------------------------

KIT = Kit(POOL, NodeId("33" * 16), bytes(range(33)), bytes(range(32)), b"certificate", bytes(range(100, 132)))


def test_a_kit_reads_as_it_was_printed_whatever_stands_around_it() -> None:
    text = encode_kit(KIT)
    assert all(len(line) <= 64 for line in text.splitlines())
    assert decode_kit(f"This is the kit:\n\n   {text.replace(chr(10), chr(13) + chr(10) + '   ')} good luck") == KIT
    assert KIT.secret.hex() not in repr(KIT)
    assert repr(KIT.secret) not in repr(KIT)


def test_a_kit_with_a_wrong_letter_is_refused() -> None:
    lines = encode_kit(KIT).splitlines()
    for at in range(len(lines[1])):
        letter = "A" if lines[1][at] != "A" else "B"
        with pytest.raises(Invalid, match="damaged"):
            decode_kit("\n".join([lines[0], lines[1][:at] + letter + lines[1][at + 1 :], *lines[2:]]))
    for text in ("", "nonsense", lines[0], "\n".join(lines[:-1]), "\n".join([lines[0], "ä", lines[-1]])):
        with pytest.raises(Invalid):
            decode_kit(text)


def test_a_kits_keys_are_of_its_secret_and_of_nothing_else() -> None:
    assert tls_key(KIT.secret).private_numbers() == KIT.tls_key.private_numbers()
    assert tls_key(bytes(32)).private_numbers() != KIT.tls_key.private_numbers()
