"""How a node gets its certificate and keeps it: joining with an invite, renewing before the end.

The coordinator's side is `p2pfs.coordinator.membership`. Called by `p2pfs join`, by every command on its way, and by
whatever runs for months.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from p2pfs.errors import Denied, Invalid, Misuse, PoolError, Unavailable
from p2pfs.format.invites import Invite
from p2pfs.net.client import Client, Endpoint, joining_client
from p2pfs.net.finding import first_that_answers
from p2pfs.net.identity import Credentials, load_credentials
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Role
from p2pfs.wire import codec, failures
from p2pfs.wire.membership import JoinAnswer, JoinRequest, RenewAnswer, RenewRequest

log = logging.getLogger(__name__)

_DUE_SHARE: Final = 2 / 3
"""Part of its life after which a certificate is renewed: 60 of 90 days."""
_ANSWER_S: Final = 30.0
_TRIES: Final = 3
_PAUSE_S: Final = 1.0
_LONGEST_SLEEP_S: Final = 3600.0
"""Clocks are set and machines sleep: the date is looked at now and then rather than once waited for."""


class Refused(Denied):
    """The coordinator itself refused the invite: it is unknown, used or expired."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A node's certificate and key as its home keeps them (PEM), and what the coordinator said."""

    answer: JoinAnswer
    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)
    addresses: tuple[str, ...] = ()  # the coordinator's; where it answered comes first


def certificate_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#10, DER. Only the key in it counts: names and roles are the coordinator's word."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


async def join(invite: Invite, elsewhere: Callable[[], Awaitable[Sequence[str]]] | None = None) -> Enrolled:
    """Make a key and get it certified.

    An answer that got lost is asked for again with the same key: the invite is bound to it by then. Where the
    coordinator is at none of the invite's addresses, `elsewhere` is asked for others.

    Raises:
        Refused: The invite is spent.
        Denied: Whoever answers is not the coordinator the invite names.
        Exists: Meanwhile another node got the name.
        Unavailable: Nobody answers at the invite's addresses.
        Misuse: The coordinator's answer does not fit the invite.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = JoinRequest(invite.secret, certificate_request(key))
    async with joining_client(invite.ca_key, invite.pool) as client:
        there = await _found(invite, invite.addresses)
        if there is None and elsewhere is not None:
            there = await _found(invite, await elsewhere())
        # If nobody does, the last attempt says why.
        endpoint = there or Endpoint(invite.coordinator, Role.COORDINATOR, invite.addresses)
        answer = await _persistently(lambda: _ask(client, endpoint, request), tries=_TRIES if there else 1)
    if (answer.pool, answer.coordinator) != (invite.pool, invite.coordinator):
        raise Misuse("the coordinator answered for another pool than the invite's")
    return Enrolled(
        answer,
        ca=_checked_ca(answer.ca, invite.ca_key),
        certificate=_checked_certificate(answer.certificate, key),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        addresses=tuple(dict.fromkeys((*endpoint.addresses, *invite.addresses))),
    )


def is_due(home: NodeHome, now_s: float) -> bool:
    """Whether the certificate of this home has lived two thirds of its life.

    Raises:
        Invalid: The file is damaged.
        Unavailable: It cannot be read.
    """
    return now_s >= _due_at(home)


async def renew(home: NodeHome, client: Client, coordinator: Endpoint) -> None:
    """Get a new certificate for the same key and keep it; connections made from then on may show it.

    Raises:
        Denied: The node was revoked, or its certificate expired too long ago: it must join again.
        Unavailable: The coordinator does not answer.
    """
    key = _read_key(home)
    request = RenewRequest(certificate_request(key))
    answer = await client.call(coordinator, "POST", "/renew", request, RenewAnswer, timeout_s=_ANSWER_S)
    home.replace_certificate(_checked_certificate(answer.certificate, key))


async def keep_renewed(
    home: NodeHome, client: Client, coordinator: Endpoint, *, contexts: tuple[ssl.SSLContext, ...], clock: Clock
) -> None:
    """Renew this node's certificate whenever it is due, into `contexts` too; runs until cancelled."""
    credentials = Credentials(home.ca_path, home.certificate_path, home.key_path)
    while True:
        left_s = _due_at(home) - clock.time()
        if left_s > 0:
            await trio.sleep(min(left_s, _LONGEST_SLEEP_S))
            continue
        try:
            await renew(home, client, coordinator)
            for context in contexts:
                load_credentials(context, credentials)
            log.info("the certificate was renewed")
        except PoolError as error:
            log.warning("the certificate could not be renewed, trying again in an hour: %s", error)
            await trio.sleep(_LONGEST_SLEEP_S)


async def _found(invite: Invite, addresses: Sequence[str]) -> Endpoint | None:
    """Where the coordinator itself is; None: nowhere. Nothing secret is sent to find out."""

    async def greet(address: str) -> None:
        endpoint = Endpoint(invite.coordinator, Role.COORDINATOR, (address,))
        async with joining_client(invite.ca_key, invite.pool) as client:
            await client.request(endpoint, "GET", "/status", timeout_s=_ANSWER_S, raw=True)

    there = await first_that_answers(addresses, greet)
    return None if there is None else Endpoint(invite.coordinator, Role.COORDINATOR, (there,))


async def _ask(client: Client, endpoint: Endpoint, request: JoinRequest) -> JoinAnswer:
    reply = await client.request(
        endpoint, "POST", "/join", parts=(codec.encode(request),), timeout_s=_ANSWER_S, raw=True
    )
    if reply.status >= 400:
        error = failures.decode_failure(reply.status, reply.body)
        raise Refused(str(error)) if isinstance(error, Denied) else error
    return codec.decode(reply.body, JoinAnswer)


async def _persistently(ask: Callable[[], Awaitable[JoinAnswer]], *, tries: int) -> JoinAnswer:
    for _ in range(tries - 1):
        try:
            return await ask()
        except Unavailable:
            await trio.sleep(_PAUSE_S)
    return await ask()


def expires_s(home: NodeHome) -> float:
    """UTC: when the certificate of this home ends. Raises as `is_due`."""
    return _own(home).not_valid_after_utc.timestamp()


def _due_at(home: NodeHome) -> float:
    """UTC seconds."""
    certificate = _own(home)
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return begin + (end - begin) * _DUE_SHARE


def _own(home: NodeHome) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(home.certificate_path.read_bytes())
    except OSError as error:
        raise Unavailable(f"cannot read {home.certificate_path}: {error.strerror}") from error
    except ValueError:
        raise Invalid(f"{home.certificate_path} is damaged: join again with a new invite") from None


def _read_key(home: NodeHome) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(home.key_path.read_bytes(), None)
    except OSError as error:
        raise Unavailable(f"cannot read {home.key_path}: {error.strerror}") from error
    except (ValueError, TypeError):
        raise Invalid(f"{home.key_path} is damaged: join again with a new invite") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid(f"{home.key_path} is no key of ours: join again with a new invite")
    return key


def _checked_ca(der: bytes, ca_key: bytes) -> bytes:
    """The pool's CA certificate as PEM. Raises Denied when its key is not the one the invite names."""
    certificate = _parse(der)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or _compressed(key) != ca_key:
        raise Denied("the coordinator named another certificate authority than the invite does")
    return certificate.public_bytes(serialization.Encoding.PEM)


def _checked_certificate(der: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The node's certificate as PEM. Raises Misuse when it is not for our key."""
    certificate = _parse(der)
    if certificate.public_key() != key.public_key():
        raise Misuse("the coordinator certified another key than ours")
    return certificate.public_bytes(serialization.Encoding.PEM)


def _parse(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise Misuse("the coordinator's answer holds no certificate") from None


def _compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
