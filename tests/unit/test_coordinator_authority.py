"""Certificates say who and what, and only for keys that were proved."""

import datetime
import ssl
from pathlib import Path

import pytest
from coordination import certificate_request
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from p2pfs.coordinator.authority import NODE_LIFETIME_S, Authority, key_pem, new_key, requested_key, to_pem
from p2pfs.errors import Corrupt, Denied, Misuse
from p2pfs.net.identity import Credentials, identity_of, server_context, verify_leaf
from p2pfs.types import NodeId, PoolId, Role

pytestmark = pytest.mark.l0

POOL, NODE = PoolId("ab" * 16), NodeId("cd" * 16)
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create(POOL, NOW)


def test_a_certificate_says_pool_node_roles_and_end(authority: Authority) -> None:
    issued = authority.issue(new_key().public_key(), NODE, roles={Role.PEER, Role.CLIENT}, now_s=NOW)
    identity = identity_of(issued.der)
    assert (identity.pool, identity.node, identity.roles) == (POOL, NODE, {Role.PEER, Role.CLIENT})
    assert identity.serial == issued.serial
    assert identity.not_after == issued.not_after_s == NOW + NODE_LIFETIME_S


def test_it_is_valid_for_clocks_an_hour_behind(authority: Authority) -> None:
    issued = authority.issue(new_key().public_key(), NODE, roles=[Role.PEER], now_s=NOW)
    begin = x509.load_der_x509_certificate(issued.der).not_valid_before_utc
    assert begin == datetime.datetime.fromtimestamp(NOW - 3600, datetime.UTC)


def test_it_is_recognised_by_the_key_in_the_invite_and_by_no_other(authority: Authority) -> None:
    issued = authority.issue(new_key().public_key(), NODE, roles=[Role.PEER], now_s=NOW)
    verify_leaf(authority.public_key)(issued.der)
    with pytest.raises(Denied):
        verify_leaf(Authority.create(POOL, NOW).public_key)(issued.der)


def test_serials_are_random_and_never_repeat(authority: Authority) -> None:
    key = new_key().public_key()
    serials = {authority.issue(key, NODE, roles=[Role.PEER], now_s=NOW).serial for _ in range(20)}
    assert len(serials) == 20
    assert min(len(serial) for serial in serials) > 30


def test_a_leaf_cannot_sign_certificates(authority: Authority) -> None:
    leaf = x509.load_der_x509_certificate(
        authority.issue(new_key().public_key(), NODE, roles=[Role.PEER], now_s=NOW).der
    )
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_openssl_takes_the_files(authority: Authority, tmp_path: Path) -> None:
    key = new_key()
    issued = authority.issue(key.public_key(), NODE, roles=[Role.COORDINATOR], now_s=NOW)
    files = {"ca.pem": authority.pem, "node.pem": to_pem(issued.der), "node.key": key_pem(key)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    context = server_context(Credentials(*(tmp_path / name for name in files)))
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_it_is_loaded_again_from_its_files(authority: Authority) -> None:
    again = Authority.load(POOL, authority.key_pem, authority.pem)
    issued = again.issue(new_key().public_key(), NODE, roles=[Role.PEER], now_s=NOW)
    verify_leaf(authority.public_key)(issued.der)


def test_damaged_or_mixed_files_are_refused(authority: Authority) -> None:
    other = Authority.create(POOL, NOW)
    for key, certificate in ((b"", authority.pem), (authority.key_pem, b"x"), (other.key_pem, authority.pem)):
        with pytest.raises(Corrupt):
            Authority.load(POOL, key, certificate)


def test_a_request_proves_its_key() -> None:
    key = new_key()
    assert requested_key(certificate_request(key)) == key.public_key()


def test_requests_that_prove_nothing_are_refused() -> None:
    genuine = certificate_request(new_key())
    tampered = bytearray(genuine)
    tampered[-1] ^= 1
    other_curve = ec.generate_private_key(ec.SECP384R1())
    weak = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(other_curve, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    for request in (b"", b"\x30\x00", genuine[:50], bytes(tampered), weak):
        with pytest.raises(Misuse):
            requested_key(request)
