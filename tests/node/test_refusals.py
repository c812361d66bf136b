"""Who must not get in does not, and is told why."""

from __future__ import annotations

import datetime
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from basalt import contexts, pki
from basalt.roles import Role
from tests.conftest import command
from tests.node.conftest import Boot, Node

pytestmark = pytest.mark.node

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def node(boot: Boot) -> Node:
    return boot()


def _as(node: Node, client: pki.Identity, *argv: str) -> str:
    """What osctl says when it goes to *node* with another certificate."""
    name = f"x{abs(hash(client.certificate_pem)) % 10**8}"
    contexts.import_context(name, ca_pem=contexts.client_ca_pem(contexts.ensure_context()), client=client)
    contexts.add_node("other", node.endpoint, node.facts["fingerprint"], context=name)
    done = command("osctl", "--context", name, "-n", "other", *argv, expect=3)
    return done.stdout + done.stderr


def _dated(not_before: datetime.datetime, not_after: datetime.datetime) -> pki.Identity:
    """An admin's certificate of the node's own authority, valid between two times. Our library refuses to make such ones."""
    authority = contexts.authority_of(contexts.ensure_context())
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
    issuer_key = serialization.load_pem_private_key(authority.key_pem, password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, "dated"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "os:admin"),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    return pki.Identity(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def test_certificate_of_another_authority_is_refused(node: Node) -> None:
    stranger = pki.issue_client(pki.make_ca("somebody else", DAY), "mallory", [Role.ADMIN], DAY)
    assert "authority" in _as(node, stranger, "version")


def test_expired_certificate_is_refused_with_both_clocks(node: Node) -> None:
    now = pki.utc_now()
    said = _as(node, _dated(now - 3 * DAY, now - DAY), "version")
    assert "expired" in said or "ended" in said
    assert pki.clock(now)[:10] in said, "the clock is shown beside the date"


def test_certificate_of_the_future_is_refused_with_both_clocks(node: Node) -> None:
    now = pki.utc_now()
    said = _as(node, _dated(now + DAY, now + 3 * DAY), "version")
    assert "not yet valid" in said or "begins" in said
    assert pki.clock(now)[:10] in said


def test_reader_may_not_apply(node: Node, tmp_path: Path) -> None:
    reader = pki.issue_client(contexts.authority_of(contexts.ensure_context()), "ron", [Role.READER], DAY)
    contexts.import_context("reader", ca_pem=contexts.client_ca_pem(contexts.ensure_context()), client=reader)
    contexts.add_node("other", node.endpoint, node.facts["fingerprint"], context="reader")
    command("osctl", "--context", "reader", "-n", "other", "version")
    document = tmp_path / "node.yaml"
    document.write_text("apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: mine\n")
    refused = command("osctl", "--context", "reader", "-n", "other", "apply-config", "-f", document, expect=4)
    assert "admin" in refused.stderr
    assert node.ask("status")["mode"] == "first-contact"


def test_another_fingerprint_is_refused_with_both_printed(node: Node) -> None:
    wrong = "SHA256:" + "0" * 64
    refused = command("osctl", "-n", node.endpoint, "--fingerprint", wrong, "version", expect=3)
    assert wrong in refused.stderr and node.facts["fingerprint"] in refused.stderr


def _context(**settings: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def test_client_without_certificate_is_refused(node: Node) -> None:
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection(node.address, timeout=60) as plain,
        _context().wrap_socket(plain) as connection,
    ):
        # With TLS 1.3 the client believes the handshake done; the refusal is the first thing it reads.
        if not connection.recv(1):
            raise ConnectionResetError("closed without a word")


@pytest.mark.filterwarnings("ignore:.*TLSv1.*:DeprecationWarning")  # an old version is what the test is about
def test_tls_1_1_is_refused(node: Node) -> None:
    old = _context(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection(node.address, timeout=60) as plain,
        old.wrap_socket(plain),
    ):
        pass


def test_plain_tcp_gets_no_answer(node: Node) -> None:
    with socket.create_connection(node.address, timeout=60) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        heard = b""
        try:
            while chunk := plain.recv(4096):
                heard += chunk
        except ConnectionError:
            pass
        assert not heard or heard[:1] == b"\x15", "nothing but a TLS alert may come back"


def test_node_still_answers_its_operator(node: Node) -> None:
    assert node.ask("version")["profile"] == "minimal"


def test_node_without_authority_refuses_everyone_and_says_what_to_do(boot: Boot) -> None:
    node = boot("--no-client-ca")
    assert node.facts["mode"] == "locked"
    assert "client-ca" in node.console().partition("mode=locked")[2]
    contexts.add_node("locked", node.endpoint, node.facts["fingerprint"])
    command("osctl", "-n", "locked", "version", expect=3)


def test_image_with_an_authority_in_it_accepts_its_operator_without_fw_cfg(boot: Boot, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(contexts.client_ca_pem(contexts.ensure_context()))
    node = boot("--no-client-ca", "--client-ca", authority)
    assert node.facts["mode"] == "first-contact"
    contexts.add_node("baked", node.endpoint, node.facts["fingerprint"])
    command("osctl", "-n", "baked", "version")
