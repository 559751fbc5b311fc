"""Who the other end is: node, roles and pool, read from its certificate, and the TLS contexts that demand one.

A name is never a host name: the certificate's URI names say `p2pfs://POOL/NODE-ID` and one `p2pfs-role:ROLE` for each
role. OpenSSL checks the signature against the pool's CA and the possession of the key; everything else (pool, node,
role, revocation, expiry) is checked here and by the callers, because `renew` alone accepts lapsed certificates.
Certificates are issued by the coordinator, not here.
"""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from p2pfs.errors import Denied, Invalid, Unavailable
from p2pfs.types import NodeId, PoolId, Role
from p2pfs.wire.membership import Revocations as RevocationList

ROLE_PREFIX: Final = "p2pfs-role:"
LAPSED_GRACE_S: Final = 90 * 86400.0
"""How long after its end a certificate may still renew itself."""

_ROLES: Final = {role.value: role for role in Role}
_NODE_URI: Final = re.compile(r"p2pfs://([0-9a-f]{32})/([0-9a-f]{32})")
# The end of a certificate is ours to judge, see above. Not in Python's ssl module: <openssl/x509_vfy.h>.
_X509_V_FLAG_NO_CHECK_TIME: Final = 0x200000
# What cryptography raises about certificates that a liar made; found by mutating one.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate of the pool says."""

    pool: PoolId
    node: NodeId
    roles: frozenset[Role]
    serial: str  # lower-case hexadecimal, no leading zeros
    not_after: float  # UTC seconds

    def is_expired(self, now: float) -> bool:
        return now >= self.not_after

    def is_lapsed_for_good(self, now: float) -> bool:
        """Too old even to renew."""
        return now >= self.not_after + LAPSED_GRACE_S


def node_uri(pool: PoolId, node: NodeId) -> str:
    """The name a node's certificate must carry."""
    return f"p2pfs://{pool}/{node}"


def role_uri(role: Role) -> str:
    return ROLE_PREFIX + role


def identity_of(certificate: bytes) -> Identity:
    """What a certificate (DER) says. It proves nothing by itself: TLS has checked signature and key before.

    Raises:
        Denied: It is none of ours: unreadable, no node name, several, or a role we do not know.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        not_after = parsed.not_valid_after_utc.timestamp()
        serial = f"{parsed.serial_number:x}"
    except _UNREADABLE as error:
        raise Denied(f"the other end's certificate is none of a pool: {type(error).__name__}") from None
    if len(uris) != len(names):
        raise Denied("the other end's certificate carries names that ours never do")
    found = [match for match in map(_NODE_URI.fullmatch, uris) if match]
    roles = [uri.removeprefix(ROLE_PREFIX) for uri in uris if uri.startswith(ROLE_PREFIX)]
    if len(found) != 1 or len(found) + len(roles) != len(uris):
        raise Denied("the other end's certificate does not name exactly one node")
    # A role of a newer version is passed over: it can only allow what this version does not know.
    known = frozenset(_ROLES[role] for role in roles if role in _ROLES)
    return Identity(PoolId(found[0][1]), NodeId(found[0][2]), known, serial, not_after)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The three PEM files that make a node: the pool's CA, its own certificate, its own key."""

    ca_pem: Path
    cert_pem: Path
    key_pem: Path


def server_context(
    credentials: Credentials, *, client_certificate: Literal["required", "optional"] = "required"
) -> ssl.SSLContext:
    """TLS for listening. "optional" lets callers without a certificate in (join); one from another pool never.

    Raises:
        Unavailable: A file cannot be read.
        Invalid: A file is damaged, or key and certificate do not belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    # No resumption: every connection proves its certificate anew, so that revoking one works.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_OPTIONAL if client_certificate == "optional" else ssl.CERT_REQUIRED
    load_credentials(context, credentials)
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS for dialling: shows our certificate, requires one of the pool. Raises as `server_context`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    load_credentials(context, credentials)
    return context


def load_credentials(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Put a (renewed) certificate into a context; connections made from now on show it."""
    try:
        context.load_verify_locations(cafile=str(credentials.ca_pem))
        context.load_cert_chain(str(credentials.cert_pem), str(credentials.key_pem))
    except ssl.SSLError as error:  # an OSError too, so it goes first
        raise Invalid(f"the certificate files beside {credentials.cert_pem} are damaged: {error.reason}") from None
    except OSError as error:
        raise Unavailable(f"cannot read {error.filename or credentials.cert_pem}: {error.strerror}") from None


def joining_context() -> ssl.SSLContext:
    """TLS for a node that has nothing yet: any certificate passes here, so the dialler *must* check it with
    `verify_leaf` before it sends anything."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE
    return context


def verify_leaf(ca_key: bytes) -> Callable[[bytes], None]:
    """A check that a certificate (DER) was signed by the CA whose compressed P-256 public key (33 bytes) is given.

    The check raises Denied; this raises Invalid when `ca_key` is no key.
    """
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ca_key)
    except ValueError:
        raise Invalid("the invite does not carry a usable key") from None

    def verify(certificate: bytes) -> None:
        try:
            leaf = x509.load_der_x509_certificate(certificate)
            algorithm = leaf.signature_hash_algorithm
            if not isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
                raise Denied("the other end's certificate is signed with a hash that is not accepted")
            public.verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(algorithm))
        except (InvalidSignature, *_UNREADABLE):
            raise Denied("the other end's certificate is not signed by the pool of this invite") from None

    return verify


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A closing half without a TLS farewell is no error: bodies are counted, and a half-closed caller gets its answer.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.check_hostname = False  # nodes have no names that DNS knows; the caller compares node ids
    context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | _X509_V_FLAG_NO_CHECK_TIME)
    return context


class Revocations:
    """Everything revoked so far, as this process knows it; servers and clients share one."""

    def __init__(self) -> None:
        self.version = 0
        self.nodes: frozenset[str] = frozenset()
        self.serials: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Revocations(version {self.version}: {len(self.nodes)} nodes, {len(self.serials)} serials)"

    def update(self, newer: RevocationList) -> bool:
        """Take over a list unless it is older than what is known; whether anything changed. Who is revoked stays so,
        whatever the list says: a coordinator restored from a backup has forgotten some.

        The caller then tells its servers (`Server.drop_revoked`).
        """
        if newer.version <= self.version:
            return False
        self.version = newer.version
        self.nodes |= frozenset(newer.nodes)
        self.serials |= frozenset(serial.lower().lstrip("0") for serial in newer.serials)
        return True

    def listed(self) -> RevocationList:
        """Everything known, to be kept."""
        return RevocationList(self.version, sorted(self.nodes), sorted(self.serials))

    def revoked(self, identity: Identity) -> bool:
        return identity.node in self.nodes or identity.serial in self.serials
