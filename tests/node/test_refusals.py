"""Who must not get in does not, and is told why."""

from __future__ import annotations

import datetime
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from basalt import contexts, pki
from basalt.roles import Role
from tests.conftest import command
from tests.node.conftest import Boot, Node

pytestmark = pytest.mark.node

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def node(boot: Boot) -> Node:
    return boot()


def _as(node: Node, directory: Path, client: pki.Identity, *argv: str) -> str:
    """What osctl says when it goes to *node* with another certificate."""
    name = f"x{abs(hash(client.certificate_pem)) % 10**8}"
    contexts.import_context(name, ca_pem=contexts.client_ca_pem(contexts.ensure_context()), client=client)
    contexts.add_node("other", node.endpoint, node.facts["fingerprint"], context=name)
    done = command("osctl", "--context", name, "-n", "other", *argv, expect=3)
    return done.stdout + done.stderr


def test_certificate_of_another_authority_is_refused(node: Node, tmp_path: Path) -> None:
    stranger = pki.issue_client(pki.make_ca("somebody else", DAY), "mallory", [Role.ADMIN], DAY)
    assert "another authority" in _as(node, tmp_path, stranger, "version") or "not signed by" in _as(
        node, tmp_path, pki.issue_client(pki.make_ca("somebody else", DAY), "eve", [Role.ADMIN], DAY), "version"
    )


def test_expired_certificate_is_refused_with_both_clocks(node: Node, tmp_path: Path) -> None:
    authority = contexts.authority_of(contexts.ensure_context())
    past = pki.utc_now() - 3 * DAY
    expired = pki.issue_client(authority, "late", [Role.ADMIN], DAY, now=past)
    assert "expired" in _as(node, tmp_path, expired, "version")


def test_certificate_of_the_future_is_refused_with_both_clocks(node: Node, tmp_path: Path) -> None:
    authority = contexts.authority_of(contexts.ensure_context())
    early = pki.issue_client(authority, "early", [Role.ADMIN], DAY, now=pki.utc_now() + 3 * DAY)
    assert "not yet valid" in _as(node, tmp_path, early, "version")


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
