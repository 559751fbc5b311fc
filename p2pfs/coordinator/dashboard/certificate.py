"""The certificate that the dashboard shows to browsers: made and signed by itself, kept, renewed when it is asked for.

Not one of the pool's authority: a browser that trusted that would trust it for every site of the world. This one can
be told from others by its fingerprint only, which `p2pfs dashboard` prints, and means nothing to a node.
"""

import datetime
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2pfs.coordinator.authority import key_pem, new_key
from p2pfs.runtime.files import write_durably

LIFETIME_S: Final = 397 * 86400
"""What browsers accept at most."""
RENEW_BEFORE_S: Final = 30 * 86400
_SKEW_S: Final = 3600


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """Certificate and key as PEM, below the coordinator's directory."""

    directory: Path

    @property
    def certificate(self) -> Path:
        return self.directory / "dashboard.crt"

    @property
    def key(self) -> Path:
        return self.directory / "dashboard.key"

    def renew(self, hosts: Collection[str], now_s: float) -> bool:
        """Make key and certificate for these names and addresses unless they are there, fit each other and last;
        whether that was done. Blocking: three small files. For one thread at a time.

        Raises:
            NoSpace, Unavailable: They cannot be written.
        """
        if self._fits(hosts, now_s):
            return False
        key = new_key()
        write_durably(self.key, key_pem(key), 0o600)
        write_durably(self.certificate, _certify(key, hosts, now_s), 0o644)
        return True

    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in lower-case hexadecimal."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).fingerprint(hashes.SHA256()).hex()

    def _fits(self, hosts: Collection[str], now_s: float) -> bool:
        try:
            found = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            key = load_pem_private_key(self.key.read_bytes(), None)
            if key.public_key() != found.public_key():
                return False
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
            return False
        lasts = found.not_valid_after_utc.timestamp() - RENEW_BEFORE_S > now_s
        return lasts and set(names) == set(_names(hosts))


def _names(hosts: Collection[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in sorted(set(hosts)):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _certify(key: ec.EllipticCurvePrivateKey, hosts: Collection[str], now_s: float) -> bytes:
    now = datetime.datetime.fromtimestamp(int(now_s), datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2pfs dashboard")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=_SKEW_S))
        .not_valid_after(now + datetime.timedelta(seconds=LIFETIME_S - _SKEW_S))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
