"""Certificates: what is made is what TLS and the roles ask for, and what is wrong is said in words."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from basalt import pki, pki_checks, roles
from basalt.errors import UsageError
from basalt.roles import Role

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime(2030, 6, 1, 12, 0, 0, tzinfo=datetime.UTC)


def certificate(identity: pki.Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate_pem)


@pytest.fixture(scope="module")
def ca() -> pki.Identity:
    return pki.make_ca("test authority", 10 * DAY, now=NOW)


def test_client_certificate_says_who_and_which_roles(ca: pki.Identity) -> None:
    issued = certificate(pki.issue_client(ca, "alice", [Role.OPERATOR, Role.DEBUG], DAY, now=NOW))
    assert pki.common_name(issued) == "alice"
    assert pki.roles_of(issued) == {Role.OPERATOR, Role.DEBUG}
    assert list(issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    issued.verify_directly_issued_by(certificate(ca))


def test_client_certificate_never_outlives_its_authority(ca: pki.Identity) -> None:
    issued = certificate(pki.issue_client(ca, "alice", [Role.ADMIN], 400 * DAY, now=NOW))
    assert issued.not_valid_after_utc == certificate(ca).not_valid_after_utc


def test_certificates_are_valid_a_little_before_they_were_made(ca: pki.Identity) -> None:
    issued = certificate(pki.issue_client(ca, "alice", [Role.ADMIN], DAY, now=NOW))
    assert issued.not_valid_before_utc == NOW - pki.CLOCK_SKEW_ALLOWANCE


@pytest.mark.parametrize(
    ("name", "granted", "expected"), [("", [Role.ADMIN], "this has 0"), ("x" * 65, [], "it would grant no role")]
)
def test_client_certificate_for_nobody_or_nothing_is_refused(
    ca: pki.Identity, name: str, granted: list[Role], expected: str
) -> None:
    with pytest.raises(pki.CertificateError, match=expected):
        pki.issue_client(ca, name, granted, DAY, now=NOW)


def test_expired_authority_signs_nothing(ca: pki.Identity) -> None:
    with pytest.raises(pki.CertificateError, match="the client authority ended at 2030-06-11 12:00:00 UTC"):
        pki.issue_client(ca, "late", [Role.ADMIN], DAY, now=NOW + 11 * DAY)


def test_server_certificate_is_a_leaf_that_never_expires() -> None:
    made = certificate(pki.make_server_identity("node-1", NOW))
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert names.get_values_for_type(x509.DNSName) == ["basalt-node"]
    assert made.not_valid_after_utc == pki.NEVER
    assert made.not_valid_before_utc == NOW


def test_openssl_accepts_server_certificate_as_its_own_root(tmp_path: Path) -> None:
    identity = pki.make_server_identity("node-1", pki.utc_now() - DAY)
    chain = tmp_path / "server.pem"
    chain.write_bytes(identity.certificate_pem + identity.key_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=identity.certificate_pem.decode())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as stream:
            stream.sendall(b"verified")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours, server_hostname=pki.SERVER_NAME) as stream:
        assert stream.recv(8) == b"verified"
    thread.join()


def test_private_key_is_not_in_the_representation(ca: pki.Identity) -> None:
    assert "PRIVATE" not in repr(ca)


def test_fingerprint_is_that_of_openssl(ca: pki.Identity) -> None:
    expected = certificate(ca).fingerprint(hashes.SHA256()).hex()
    assert ca.fingerprint == f"SHA256:{expected}"


@pytest.mark.parametrize("text", ["SHA256:{}", "sha256:{}", "{}", " sha-256={}\n"])
def test_fingerprint_is_read_as_people_paste_it(text: str) -> None:
    digits = "0123456789abcdef" * 4
    colons = ":".join(digits[i : i + 2] for i in range(0, 64, 2)).upper()
    assert pki.parse_fingerprint(text.format(digits)) == f"SHA256:{digits}"
    assert pki.parse_fingerprint(text.format(colons)) == f"SHA256:{digits}"


@pytest.mark.parametrize("text", ["", "SHA256:", "SHA256:12", "MD5:" + "0" * 32, "z" * 64])
def test_other_texts_are_no_fingerprint(text: str) -> None:
    with pytest.raises(UsageError, match="is not a fingerprint"):
        pki.parse_fingerprint(text)


def test_description_reads_as_one_line(ca: pki.Identity) -> None:
    line = pki.describe(certificate(pki.issue_client(ca, "alice", [Role.READER, Role.ADMIN], DAY, now=NOW)))
    assert line.startswith("alice (admin, reader), valid 2030-06-01 11:00:00 UTC to 2030-06-02 12:00:00 UTC, serial ")


def test_good_files_load(ca: pki.Identity) -> None:
    alice = pki.issue_client(ca, "alice", [Role.READER], DAY, now=NOW)
    (loaded,) = pki_checks.load_client_certificates(alice.certificate_pem, "alice.pem", at=NOW)
    pki_checks.check_key(loaded, alice.key_pem, "alice.key")
    assert len(pki_checks.load_client_authorities(ca.certificate_pem * 2, "ca.pem", at=NOW)) == 2


def _foreign(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "DE")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + DAY)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def test_every_problem_of_a_client_certificate_is_said() -> None:
    pem = _foreign(ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(pki.CertificateError) as caught:
        pki_checks.load_client_certificates(pem, "alice.pem", at=NOW + 3 * DAY)
    assert caught.value.problems == (
        "its key is Ed25519; only ECDSA P-256 is accepted",
        "its extended key usage is not exactly clientAuth",
        "it names nobody (no CN)",
        "it grants no role: its organisation (O) is none of os:reader, os:operator, os:admin, os:debug, os:metrics",
        "it expired at 2030-06-02 12:00:00 UTC; this machine's clock says 2030-06-04 12:00:00 UTC",
    )


def test_problems_name_the_certificate_of_a_bundle(ca: pki.Identity) -> None:
    alice = pki.issue_client(ca, "alice", [Role.READER], DAY, now=NOW)
    p384 = _foreign(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(pki.CertificateError) as caught:
        pki_checks.load_client_authorities(ca.certificate_pem + alice.certificate_pem + p384, "ca.pem")
    assert caught.value.problems == (
        "certificate 2: it is no certificate authority (CA:FALSE)",
        "certificate 2: its key usage does not allow signing certificates",
        "certificate 3: its key is on the curve secp384r1, not P-256",
        "certificate 3: it is no certificate authority (CA:FALSE)",
    )


def test_authority_is_no_client_certificate(ca: pki.Identity) -> None:
    with pytest.raises(pki.CertificateError, match="it is a certificate authority, not a client certificate"):
        pki_checks.load_client_certificates(ca.certificate_pem, "ca.pem")


def test_certificate_not_valid_yet_names_both_clocks(ca: pki.Identity) -> None:
    with pytest.raises(pki.CertificateError, match=r"valid from 2030-06-01 11:00:00 UTC; .* says 2030-05-31 12:00:00"):
        pki_checks.load_client_authorities(ca.certificate_pem, "ca.pem", at=NOW - DAY)


@pytest.mark.parametrize(
    ("pem", "expected"),
    [
        (b"", "it is empty"),
        (b"hello", "there is no PEM certificate in it"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
    ],
)
def test_files_that_hold_no_certificate(pem: bytes, expected: str) -> None:
    with pytest.raises(pki.CertificateError, match=expected):
        pki_checks.load_client_authorities(pem, "ca.pem")


def test_keys_that_do_not_fit(ca: pki.Identity) -> None:
    alice = pki.issue_client(ca, "alice", [Role.READER], DAY, now=NOW)
    encrypted = serialization.load_pem_private_key(alice.key_pem, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    for key, expected in [
        (ca.key_pem, "it does not belong to the certificate of 'alice'"),
        (encrypted, "it is encrypted"),
        (b"", "it is no PEM private key"),
    ]:
        with pytest.raises(pki.CertificateError, match=expected):
            pki_checks.check_key(certificate(alice), key, "alice.key")


@pytest.mark.parametrize(
    ("held", "allowed"),
    [
        (Role.READER, {Role.READER}),
        (Role.OPERATOR, {Role.OPERATOR, Role.READER}),
        (Role.ADMIN, set(Role)),
        (Role.DEBUG, {Role.DEBUG}),
        (Role.METRICS, {Role.METRICS}),
    ],
)
def test_role_ladder(held: Role, allowed: set[Role]) -> None:
    assert {needed for needed in Role if roles.permitted([held], needed)} == allowed


def test_contract_names_the_role_of_a_method() -> None:
    assert roles.of_method("/basalt.machine.v1.SystemService/Version") is Role.READER
    assert roles.of_method("basalt.machine.v1.ConfigService.ApplyConfig") is Role.ADMIN
    with pytest.raises(KeyError):
        roles.of_method("/basalt.machine.v1.SystemService/Nothing")
