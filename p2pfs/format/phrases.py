"""Recovery phrases: 128 bits as thirty letters and digits that survive being written on paper.

Crockford's base32 in six groups of five, 22 of the 150 bits a checksum. Reading forgives case, spaces, hyphens, O for 0
and I or L for 1; a slip of the pen is told from a wrong phrase. Used by format.keys only.
"""

from typing import Final

from blake3 import blake3

from p2pfs.errors import Invalid

SECRET_BYTES: Final = 16
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LETTERS: Final = 30
_GROUP: Final = 5
_CHECK_BITS: Final = _LETTERS * 5 - SECRET_BYTES * 8
_VALUES: Final = {letter: value for value, letter in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_BLANKS: Final = str.maketrans("", "", " \t\r\n-–—_.,")


def encode(secret: bytes) -> str:
    """The phrase of a secret: `XXXXX-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX`."""
    number = int.from_bytes(secret, "big") << _CHECK_BITS | _checksum(secret)
    letters = "".join(_ALPHABET[number >> shift & 31] for shift in range((_LETTERS - 1) * 5, -1, -5))
    return "-".join(letters[at : at + _GROUP] for at in range(0, _LETTERS, _GROUP))


def decode(phrase: str) -> bytes:
    """The secret of a phrase.

    Raises:
        Invalid: It is not a recovery phrase, or was mistyped.
    """
    letters = phrase.translate(_BLANKS).upper()
    if len(letters) != _LETTERS:
        raise Invalid(
            f"a recovery phrase has {_LETTERS} letters and digits in groups of {_GROUP}; this has {len(letters)}"
        )
    number = 0
    for letter in letters:
        value = _VALUES.get(letter)
        if value is None:
            raise Invalid(f"a recovery phrase has no {letter!r}: compare it with what you wrote down")
        number = number << 5 | value
    secret = (number >> _CHECK_BITS).to_bytes(SECRET_BYTES, "big")
    if number & (1 << _CHECK_BITS) - 1 != _checksum(secret):
        raise Invalid("the recovery phrase was mistyped: compare it with what you wrote down")
    return secret


def is_phrase(text: str) -> bool:
    """Whether `text` reads as a recovery phrase."""
    try:
        decode(text)
    except Invalid:
        return False
    return True


def _checksum(secret: bytes) -> int:
    digest = blake3(b"p2pfs recovery phrase 1\0" + secret).digest(4)
    return int.from_bytes(digest, "big") >> 32 - _CHECK_BITS
