"""A certificate authority for tests: makes a pool's CA and node certificates without the coordinator's code."""

import datetime
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from p2pfs.net.identity import Credentials, client_context, server_context
from p2pfs.types import NodeId, PoolId, Role

_LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_FAR = datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)


def new_id() -> str:
    """A fresh pool or node id."""
    return secrets.token_hex(16)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Issued:
    """One node's certificate and everything made with it."""

    node: NodeId
    pool: PoolId
    roles: frozenset[Role]
    certificate: x509.Certificate
    credentials: Credentials

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"

    def server(self, *, client_certificate: str = "required") -> ssl.SSLContext:
        return server_context(self.credentials, client_certificate=client_certificate)  # type: ignore[arg-type]

    def client(self) -> ssl.SSLContext:
        return client_context(self.credentials)


class TestAuthority:
    """The CA of one pool; `make_ca` makes it."""

    __test__ = False

    def __init__(self, directory: Path, pool: PoolId) -> None:
        self.directory = directory
        self.pool = pool
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test pool {pool[:8]} {secrets.token_hex(4)}")])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_LONG_AGO)
            .not_valid_after(_FAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.ca_path = directory / f"ca-{secrets.token_hex(4)}.pem"
        self.ca_path.write_bytes(self.ca_pem)

    @property
    def ca_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def ca_key(self) -> bytes:
        """33 bytes: what an invite carries."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )

    def issue(
        self,
        node: str | None = None,
        roles: frozenset[Role] | set[Role] | tuple[Role, ...] = (Role.CLIENT,),
        *,
        not_after: float | None = None,
        uris: list[str] | None = None,
    ) -> Issued:
        """A certificate signed by this CA; `uris` replaces the names that make it one of ours."""
        node = node or new_id()
        key = ec.generate_private_key(ec.SECP256R1())
        if uris is None:
            uris = [f"p2pfs://{self.pool}/{node}", *(f"p2pfs-role:{role}" for role in sorted(roles))]
        end = _FAR if not_after is None else datetime.datetime.fromtimestamp(not_after, datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(_LONG_AGO, end - datetime.timedelta(days=1)))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=True
            )
            .sign(self.key, hashes.SHA256())
        )
        stem = self.directory / f"{node[:12]}-{secrets.token_hex(4)}"
        key_path, cert_path = stem.with_suffix(".key"), stem.with_suffix(".pem")
        key_path.write_bytes(_pem(key))
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return Issued(
            NodeId(node),
            self.pool,
            frozenset(roles),
            certificate,
            Credentials(ca_pem=self.ca_path, cert_pem=cert_path, key_pem=key_path),
        )


def make_ca(directory: Path, pool: str | None = None) -> TestAuthority:
    """A new pool's authority; its files go to `directory` (a tmp_path)."""
    return TestAuthority(directory, PoolId(pool or new_id()))


def issue(
    ca: TestAuthority,
    node: str | None = None,
    roles: tuple[Role, ...] = (Role.CLIENT,),
    *,
    not_after: float | None = None,
) -> Issued:
    """`ca.issue`, as a function."""
    return ca.issue(node, roles, not_after=not_after)
