"""Certificates: who they name, which are none of ours, what the contexts demand."""

import contextlib
import ssl
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pki import Issued, TestAuthority, make_ca, new_id

from p2pfs.errors import Denied, Invalid, NotFound, PoolError, Unavailable
from p2pfs.net.gate import NoCertificate, admit
from p2pfs.net.identity import (
    LAPSED_GRACE_S,
    Credentials,
    Identity,
    Revocations,
    client_context,
    identity_of,
    joining_context,
    load_credentials,
    node_uri,
    role_uri,
    server_context,
    verify_leaf,
)
from p2pfs.net.tls import TlsStream
from p2pfs.types import NodeId, PoolId, Role
from p2pfs.wire.membership import Revocations as RevocationList
from p2pfs.wire.routes import Route

pytestmark = pytest.mark.l0
POOL, NODE = "a" * 32, "b" * 32
NAME = f"p2pfs://{POOL}/{NODE}"


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path, POOL)


def test_a_certificate_says_who_its_node_is(ca: TestAuthority) -> None:
    issued = ca.issue(NODE, (Role.PEER, Role.CLIENT), not_after=2_000_000_000)
    assert identity_of(issued.der) == Identity(
        PoolId(POOL), NodeId(NODE), frozenset({Role.PEER, Role.CLIENT}), issued.serial, 2_000_000_000.0
    )
    assert node_uri(PoolId(POOL), NodeId(NODE)) == NAME
    assert role_uri(Role.PEER) == "p2pfs-role:peer"


def test_a_role_of_a_newer_version_is_passed_over(ca: TestAuthority) -> None:
    issued = ca.issue(uris=[NAME, "p2pfs-role:peer", "p2pfs-role:wizard"])
    assert identity_of(issued.der).roles == {Role.PEER}


@pytest.mark.parametrize(
    "uris",
    [
        ["p2pfs-role:peer"],
        [NAME, f"p2pfs://{POOL}/{'c' * 32}"],
        [NAME, "https://example.org/"],
        [f"p2pfs://{POOL}/{'B' * 32}"],
        [f"p2pfs://{POOL}/{NODE}/x"],
        [f"p2pfs://{POOL}/{NODE}\n"],
        [f"p2pfs://x@{POOL}/{NODE}"],
    ],
)
def test_other_names_are_none_of_ours(ca: TestAuthority, uris: list[str]) -> None:
    with pytest.raises(Denied):
        identity_of(ca.issue(uris=uris).der)


def test_a_certificate_without_names_or_with_host_names_is_none_of_ours(ca: TestAuthority) -> None:
    def certificate(*names: x509.GeneralName) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca.certificate.subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(ca.certificate.not_valid_before_utc)
            .not_valid_after(ca.certificate.not_valid_after_utc)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    for names in ((), (x509.UniformResourceIdentifier(NAME), x509.DNSName("example.org"))):
        with pytest.raises(Denied):
            identity_of(certificate(*names))


@given(st.binary(max_size=300))
def test_rubbish_is_no_certificate(rubbish: bytes) -> None:
    with pytest.raises(Denied):
        identity_of(rubbish)


def test_mutated_certificates_are_read_or_denied_never_worse(ca: TestAuthority) -> None:
    der, verify = ca.issue().der, verify_leaf(ca.ca_key)
    for position in range(len(der)):
        mutated = bytearray(der)
        mutated[position] ^= 0x41
        for read in (identity_of, verify):
            with contextlib.suppress(Denied):
                read(bytes(mutated))


def test_expiry_is_judged_at_the_second() -> None:
    identity = Identity(PoolId(POOL), NodeId(NODE), frozenset(), "1", 1000.0)
    assert not identity.is_expired(999.9)
    assert identity.is_expired(1000.0)
    assert not identity.is_lapsed_for_good(999.9 + LAPSED_GRACE_S)
    assert identity.is_lapsed_for_good(1000.0 + LAPSED_GRACE_S)


def test_a_leaf_is_checked_against_the_raw_key_of_an_invite(ca: TestAuthority, tmp_path: Path) -> None:
    verify = verify_leaf(ca.ca_key)
    verify(ca.issue().der)
    with pytest.raises(Denied):
        verify(make_ca(tmp_path, POOL).issue().der)
    with pytest.raises(Denied):
        verify(b"rubbish")
    mutated = bytearray(ca.issue().der)
    mutated[-1] ^= 1
    with pytest.raises(Denied):
        verify(bytes(mutated))
    for key in (b"", b"\x02" + b"\xff" * 32, b"\x05" + ca.ca_key[1:]):
        with pytest.raises(Invalid):
            verify_leaf(key)


def test_damaged_or_missing_files_are_told(ca: TestAuthority, tmp_path: Path) -> None:
    good = ca.issue().credentials
    other = ca.issue().credentials
    bad = tmp_path / "bad"
    bad.write_text("rubbish")
    for make in (server_context, client_context):
        with pytest.raises(Unavailable, match="cannot read"):
            make(Credentials(ca_pem=tmp_path / "none", cert_pem=good.cert_pem, key_pem=good.key_pem))
        for broken in (
            Credentials(ca_pem=bad, cert_pem=good.cert_pem, key_pem=good.key_pem),
            Credentials(ca_pem=good.ca_pem, cert_pem=bad, key_pem=good.key_pem),
            Credentials(ca_pem=good.ca_pem, cert_pem=good.cert_pem, key_pem=other.key_pem),
        ):
            with pytest.raises(Invalid, match="damaged"):
                make(broken)


async def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> list[str]:
    """What each end says about a connection: the error's type, or whom it sees."""
    ours, theirs = trio.testing.memory_stream_pair()
    said = ["", ""]

    async def end(number: int, stream: TlsStream) -> None:
        try:
            await stream.do_handshake()
            # In TLS 1.3 a server's refusal reaches the client only with the first receive.
            await stream.send_all((b"x",))
            await stream.receive_some()
            der = stream.peer_certificate
            said[number] = identity_of(der).node[:4] if der else "nobody"
        except PoolError as error:
            said[number] = type(error).__name__
        finally:
            await stream.aclose()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, 0, TlsStream(ours, server, server_side=True))
            nursery.start_soon(end, 1, TlsStream(theirs, client, server_side=False))
    return said


async def test_who_is_let_in(ca: TestAuthority, tmp_path: Path) -> None:
    foreign = make_ca(tmp_path, POOL)  # the same pool id, another key
    peer, mount = ca.issue("1" * 32, (Role.PEER,)), ca.issue("2" * 32)
    expired = ca.issue("3" * 32, not_after=1_600_000_000)
    stranger = foreign.issue("4" * 32)
    nobody = joining_context()
    assert await _shake_hands(peer.server(), mount.client()) == ["2222", "1111"]
    assert await _shake_hands(peer.server(), expired.client()) == ["3333", "1111"]  # judged later, by the gate
    assert await _shake_hands(peer.server(), stranger.client()) == ["Denied", "Denied"]
    assert (await _shake_hands(peer.server(), nobody)) == ["Denied", "Denied"]
    optional = peer.server(client_certificate="optional")
    assert await _shake_hands(optional, nobody) == ["nobody", "1111"]
    assert await _shake_hands(optional, mount.client()) == ["2222", "1111"]
    mixed = Credentials(ca_pem=ca.ca_path, cert_pem=stranger.credentials.cert_pem, key_pem=stranger.credentials.key_pem)
    assert await _shake_hands(optional, client_context(mixed)) == ["Denied", "Denied"]
    assert await _shake_hands(stranger.server(), mount.client()) == ["Denied", "Denied"]


async def test_only_tls_1_3_is_spoken(ca: TestAuthority) -> None:
    peer, mount = ca.issue(roles=(Role.PEER,)), ca.issue()
    old = mount.client()
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await _shake_hands(peer.server(), old) == ["Unavailable", "Unavailable"]


async def test_a_node_cannot_sign_for_others(ca: TestAuthority, tmp_path: Path) -> None:
    """A chain pool CA → node → somebody is refused, although the pool's CA is at its end."""
    node = ca.issue()
    key = serialization.load_pem_private_key(node.credentials.key_pem.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    forger = make_ca(tmp_path, POOL)
    forger.key = key
    forger.certificate = node.certificate
    forged: Issued = forger.issue(roles=(Role.ADMIN,))
    chain = forged.credentials.cert_pem
    chain.write_bytes(chain.read_bytes() + node.credentials.cert_pem.read_bytes())
    credentials = Credentials(ca_pem=ca.ca_path, cert_pem=chain, key_pem=forged.credentials.key_pem)
    server = ca.issue(roles=(Role.PEER,)).server()
    assert await _shake_hands(server, client_context(credentials)) == ["Denied", "Denied"]


async def test_a_renewed_certificate_shows_from_the_next_connection_on(ca: TestAuthority) -> None:
    mount = ca.issue()
    old, new = ca.issue("1" * 32, (Role.PEER,)), ca.issue("2" * 32, (Role.PEER,))
    context = old.server()
    assert (await _shake_hands(context, mount.client()))[1] == "1111"
    load_credentials(context, new.credentials)
    assert (await _shake_hands(context, mount.client()))[1] == "2222"


def test_revocations_only_grow_newer() -> None:
    revocations = Revocations()
    identity = Identity(PoolId(POOL), NodeId(NODE), frozenset(), "ab", 1000.0)
    assert not revocations.revoked(identity)
    assert revocations.update(RevocationList(2, [NODE], []))
    assert revocations.revoked(identity)
    assert not revocations.update(RevocationList(2, [], []))
    assert not revocations.update(RevocationList(1, [], []))
    assert revocations.update(RevocationList(3, [], ["00AB"]))
    assert revocations.revoked(identity)
    assert repr(revocations) == "Revocations(version 3: 1 nodes, 1 serials)"
    revocations.update(RevocationList(9, [], ["cd"]))  # of a coordinator that was restored: it has forgotten some
    assert revocations.revoked(identity)
    assert revocations.listed() == RevocationList(9, [NODE], ["ab", "cd"])


PEERS = Route("x", "GET", "/x", frozenset({Role.PEER}))
LAPSED = Route("r", "POST", "/r", frozenset({Role.PEER}), lapsed=True)
OPEN = Route("o", "POST", "/o", frozenset(), anonymous=True)


@pytest.mark.parametrize(
    ("who", "on_peers", "on_lapsed", "on_open", "on_none"),
    [
        ("nobody", NoCertificate, NoCertificate, None, NoCertificate),
        ("peer", None, None, None, NotFound),
        ("client", Denied, Denied, None, NotFound),
        ("expired", Denied, None, None, Denied),
        ("lapsed", Denied, Denied, None, Denied),
        ("revoked", Denied, Denied, Denied, Denied),
    ],
)
def test_the_whole_rule(
    who: str,
    on_peers: type[Exception] | None,
    on_lapsed: type[Exception] | None,
    on_open: type[Exception] | None,
    on_none: type[Exception] | None,
) -> None:
    now = 1_800_000_000.0
    ends = {"expired": now - 1, "lapsed": now - LAPSED_GRACE_S}.get(who, now + 1)
    role = Role.CLIENT if who == "client" else Role.PEER
    node = NodeId(new_id())
    identity = None if who == "nobody" else Identity(PoolId(POOL), node, frozenset({role}), "1", ends)
    revocations = Revocations()
    if who == "revoked":
        revocations.update(RevocationList(1, [node], []))
    for route, expected in ((PEERS, on_peers), (LAPSED, on_lapsed), (OPEN, on_open), (None, on_none)):
        if expected is None:
            assert admit(route, identity, now=now, revocations=revocations) is route
        else:
            with pytest.raises(PoolError) as raised:
                admit(route, identity, now=now, revocations=revocations)
            assert type(raised.value) is expected
