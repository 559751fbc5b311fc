"""For tests only: what Python imports first in processes that have this directory on PYTHONPATH.

P2PFS_TEST_TAP=DIR writes everything that goes into TLS to DIR, one file a process. P2PFS_TEST_UNSEALED=1 replaces the
ciphers by ones that encrypt nothing, so that a test which looks for plain text has some to find. The product knows
neither word.
"""

import os
import ssl
from typing import Any

_TAG = bytes(16)


class Unsealed:
    """AESSIV and AESGCM as the product uses them, without the encryption."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def encrypt(self, data: bytes, associated: object) -> bytes:
        return _TAG + bytes(data)

    def decrypt(self, data: bytes, associated: object) -> bytes:
        return bytes(data[len(_TAG) :])

    def encrypt_into(self, nonce: bytes, data: bytes, associated: object, into: Any) -> int:  # noqa: ANN401
        into[:] = bytes(data) + _TAG
        return len(into)

    def decrypt_into(self, nonce: bytes, data: bytes, associated: object, into: Any) -> int:  # noqa: ANN401
        into[:] = data[: -len(_TAG)]
        return len(into)


def tap(directory: str) -> None:
    """Copy what every TLS connection of this process sends."""
    write = ssl.SSLObject.write

    def tapped(self: ssl.SSLObject, data: Any) -> int:  # noqa: ANN401
        with open(f"{directory}/{os.getpid()}", "ab") as file:
            file.write(data)
        return write(self, data)

    ssl.SSLObject.write = tapped  # type: ignore[method-assign]


if tapped_directory := os.environ.get("P2PFS_TEST_TAP"):
    tap(tapped_directory)
if os.environ.get("P2PFS_TEST_UNSEALED"):
    from cryptography.hazmat.primitives.ciphers import aead

    aead.AESSIV = aead.AESGCM = Unsealed  # type: ignore[misc,assignment]
