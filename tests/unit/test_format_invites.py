"""Invites: one line of text that survives mail programs and notices every slip."""

import base64
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Invalid
from p2pfs.format.invites import Invite, decode_invite, encode_invite
from p2pfs.types import NodeId, PoolId

pytestmark = pytest.mark.l0

INVITE = Invite(
    pool=PoolId("0123456789abcdef" * 2),
    addresses=("192.0.2.7:7400", "[2001:db8::7]:7400", "pool.example:7400"),
    ca_key=b"\x02" + bytes(range(32)),
    coordinator=NodeId("fedcba9876543210" * 2),
    secret=b"s3cret-s3cret-16",
    expires_s=1_900_000_000,
)


@given(
    st.binary(min_size=16, max_size=16),
    st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=9),
    st.integers(0, 2**63),
)
def test_what_is_encoded_decodes(secret: bytes, addresses: list[str], expires_s: int) -> None:
    invite = replace(INVITE, secret=secret, addresses=tuple(addresses), expires_s=expires_s)
    text = encode_invite(invite)
    assert text.startswith("p2pfs1-")
    assert text.isascii()
    assert not any(letter.isspace() for letter in text)
    assert decode_invite(text) == invite


def test_white_space_and_line_breaks_do_not_matter() -> None:
    text = encode_invite(INVITE)
    wrapped = "  " + "\r\n\t".join(text[at : at + 40] for at in range(0, len(text), 40)) + " \n"
    assert decode_invite(wrapped) == INVITE


def test_every_letter_matters() -> None:
    text = encode_invite(INVITE)
    for at in range(len(text)):
        for letter in "Aa9-_!é":
            if letter == text[at]:
                continue
            with pytest.raises(Invalid):
                decode_invite(text[:at] + letter + text[at + 1 :])
        with pytest.raises(Invalid):
            decode_invite(text[:at])
        with pytest.raises(Invalid):
            decode_invite(text[:at] + text[at + 1 :])
    with pytest.raises(Invalid):
        decode_invite(text + "A")


def test_one_invite_has_one_text() -> None:
    """Base64 leaves bits of the last letter unused, whatever the length: they are not let through."""
    for length in (1, 2, 3):
        text = encode_invite(replace(INVITE, addresses=("x" * length,)))
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            if letter != text[-1]:
                with pytest.raises(Invalid):
                    decode_invite(text[:-1] + letter)


@pytest.mark.parametrize(
    "body", [b"\x01", b"\x01" + bytes(90), b"\x01" + bytes(89) + b"\x01\x01xx", b"\x02" + bytes(99)]
)
def test_a_body_that_does_not_parse_is_refused_even_with_its_checksum(body: bytes) -> None:
    checked = body + blake3(b"p2pfs invite 1\0" + body).digest(4)
    with pytest.raises(Invalid, match="whole line"):
        decode_invite("p2pfs1-" + base64.urlsafe_b64encode(checked).decode().rstrip("="))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not an invite"),
        ("hello", "not an invite"),
        ("p2pfs2-AAAA", "another version"),
        ("p2pfs1-", "whole line"),
        ("p2pfs1-AAAA", "whole line"),
        ("p2pfs1-" + "A" * 100_000, "whole line"),
        ("p2pfs1-\ud800", "whole line"),
    ],
)
def test_what_is_no_invite_gets_a_sentence_that_helps(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        decode_invite(text)


@given(st.text(max_size=200))
def test_no_text_is_worse_than_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        decode_invite("p2pfs1-" + text)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(INVITE, addresses=()),
        replace(INVITE, addresses=("",)),
        replace(INVITE, addresses=("x" * 256,)),
        replace(INVITE, secret=b"short"),
        replace(INVITE, ca_key=bytes(32)),
        replace(INVITE, pool=PoolId("ab")),
    ],
)
def test_fields_that_do_not_fit_are_refused(wrong: Invite) -> None:
    with pytest.raises(Invalid):
        encode_invite(wrong)


def test_the_secret_is_not_shown() -> None:
    assert "s3cret" not in repr(INVITE)
