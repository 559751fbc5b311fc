"""The pool's certificate authority: makes itself, and certificates that say which node with which roles.

It decides nothing: who may have a certificate is `membership`'s business, what a certificate means to a server is
`net.identity`'s. The key can admit anyone and disrupt the pool, but reads nothing. Called by `init`, `membership` and
`daemon` (for the coordinator's own certificate).
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2pfs.errors import Corrupt, Misuse
from p2pfs.types import NodeId, PoolId, Role

AUTHORITY_LIFETIME_S: Final = 30 * 365 * 86400
"""A pool outlives its machines; replacing the authority means joining every node again."""
NODE_LIFETIME_S: Final = 90 * 86400
SKEW_S: Final = 3600
"""Certificates are valid from an hour ago on, for machines whose clocks run behind."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate just made."""

    der: bytes
    serial: str  # hexadecimal, as net.identity reads it
    not_after_s: float  # UTC


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 without a passphrase: the file's mode is what protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def to_pem(certificate: bytes) -> bytes:
    """A certificate (DER) as the files of a home hold it."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    """The 33 bytes that name a P-256 key, as invites and bindings carry them."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)


def requested_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The key a certificate request proves to hold. Nothing else in a request is looked at.

    Raises:
        Misuse: It is no PKCS#10 request of a P-256 key signed by that key.
    """
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Misuse("a certificate request must be for a P-256 key")
        if not request.is_signature_valid:
            raise Misuse("the certificate request is not signed by its own key")
    except (ValueError, TypeError, InvalidSignature, x509.InvalidVersion) as error:
        raise Misuse(f"this is no certificate request: {error}") from None
    return key


class Authority:
    """A CA key with its certificate, in memory."""

    def __init__(self, pool: PoolId, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.pool = pool
        self._key = key
        self.certificate = certificate

    @classmethod
    def create(cls, pool: PoolId, now_s: float) -> "Authority":
        """A new authority for a new pool."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"p2pfs pool {pool}")])
        builder = (
            _dated(x509.CertificateBuilder(), now_s, AUTHORITY_LIFETIME_S)
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(pool, key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, pool: PoolId, key: bytes, certificate: bytes) -> "Authority":
        """The authority kept as two PEM files.

        Raises:
            Corrupt: They cannot be read or do not belong together.
        """
        try:
            private = serialization.load_pem_private_key(key, password=None)
            loaded = x509.load_pem_x509_certificate(certificate)
        except (ValueError, TypeError) as error:
            raise Corrupt(f"the pool authority's files cannot be read: {error}") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
            raise Corrupt("the pool authority's key does not belong to its certificate")
        return cls(pool, private, loaded)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self._key)

    @property
    def pem(self) -> bytes:
        """The authority's certificate as every node keeps it in tls/ca.pem."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def public_key(self) -> bytes:
        """33 bytes, as invites carry it."""
        return compressed(self._key.public_key())

    def issue(
        self,
        key: ec.EllipticCurvePublicKey,
        node: NodeId,
        *,
        roles: Iterable[Role],
        now_s: float,
        lifetime_s: float = NODE_LIFETIME_S,
    ) -> Issued:
        """A certificate that says: whoever holds `key` is `node` with `roles`.

        Serial numbers are random (159 bits), so that a restored or copied authority never repeats one.
        """
        addresses = [x509.UniformResourceIdentifier(f"p2pfs://{self.pool}/{node}")]
        addresses += [x509.UniformResourceIdentifier(f"p2pfs-role:{role}") for role in sorted(set(roles))]
        both_ends = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            _dated(x509.CertificateBuilder(), now_s, lifetime_s)
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
            .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate.public_bytes(serialization.Encoding.DER),
            f"{certificate.serial_number:x}",
            certificate.not_valid_after_utc.timestamp(),
        )


def _dated(builder: x509.CertificateBuilder, now_s: float, lifetime_s: float) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(int(now_s), datetime.UTC)
    return builder.not_valid_before(now - datetime.timedelta(seconds=SKEW_S)).not_valid_after(
        now + datetime.timedelta(seconds=lifetime_s)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
