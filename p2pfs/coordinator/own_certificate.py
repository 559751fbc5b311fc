"""The coordinator's own certificate: renewed by itself, for the same key, before it ends.

No other node can do this for it, and a coordinator with a lapsed certificate is answered by nobody. A background worker
of `daemon`, which also calls `look` before it serves.
"""

import logging
import ssl
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from p2pfs import exitcodes
from p2pfs.coordinator.authority import to_pem
from p2pfs.coordinator.membership import Membership
from p2pfs.errors import UserError
from p2pfs.net.identity import Credentials, load_credentials
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.worker import Progress

_LOOK_EVERY_S: Final = 3600.0

_log = logging.getLogger(__name__)


class OwnCertificate:
    """Worker: looks every hour whether the certificate is `renew_after_s` old."""

    name = "certificate"

    def __init__(self, home: NodeHome, membership: Membership, *, renew_after_s: float, clock: Clock) -> None:
        self._home = home
        self._membership = membership
        self._renew_after_s = renew_after_s
        self._clock = clock
        self.contexts: list[ssl.SSLContext] = []  # that show the certificate

    async def work(self) -> Progress:
        await self.look()
        return Progress.IDLE

    async def wait(self) -> None:
        await trio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Renew if it is time.

        Raises:
            UserError: Key or certificate cannot be read.
        """
        certificate, key = self._read()
        if self._clock.time() < certificate.not_valid_before_utc.timestamp() + self._renew_after_s:
            return
        issued = await self._membership.renew_own(key.public_key())
        self._home.replace_certificate(to_pem(issued.der))
        credentials = Credentials(self._home.ca_path, self._home.certificate_path, self._home.key_path)
        for context in self.contexts:
            load_credentials(context, credentials)
        _log.info("renewed the coordinator's own certificate")

    def _read(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate(self._home.certificate_path.read_bytes())
            key = serialization.load_pem_private_key(self._home.key_path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"cannot read the coordinator's certificate or key: {error}", exitcodes.FAILED) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UserError(f"{self._home.key_path} holds no key of this program", exitcodes.FAILED)
        return certificate, key
