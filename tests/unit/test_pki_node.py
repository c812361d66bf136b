"""The node authority: what it lets a node do, and what it does not."""

from __future__ import annotations

import asyncio
import datetime

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from basalt import pki, pki_checks, pki_node
from basalt.roles import Role

DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)
NODE_ID = "0123456789abcdef" * 2
OTHER_ID = "f" * 32
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


@pytest.fixture(scope="module")
def ca() -> pki.Identity:
    return pki_node.make_node_ca("nodes", 30 * DAY)


@pytest.fixture(scope="module")
def issuer(ca: pki.Identity) -> pki.Identity:
    key = pki_node.make_issuing_key()
    request = pki_node.make_signing_request(key, NODE_ID)
    return pki.Identity(pki_node.issue_issuer(ca, request, 20 * DAY), key)


def answers(server: pki.Identity, root: bytes, name: str) -> bool:
    """Whether gRPC's client completes a handshake with *server* as *name*, trusting *root* alone."""

    async def body() -> bool:
        listener = grpc.aio.server()
        credentials = grpc.ssl_server_credentials([(server.key_pem, server.certificate_pem)])
        port = listener.add_secure_port("127.0.0.1:0", credentials)
        await listener.start()
        options = [("grpc.ssl_target_name_override", name)]
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(root), options=options
        ) as channel:
            try:
                await channel.unary_unary("/none", None, None)(b"")
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNIMPLEMENTED
            finally:
                await listener.stop(None)
        return False

    return asyncio.run(body())


def test_a_node_is_recognised_by_its_authority_alone(ca: pki.Identity, issuer: pki.Identity) -> None:
    server = pki_node.issue_server(issuer, NODE_ID, DAY, NOW)
    assert answers(server, ca.certificate_pem, pki.server_name(NODE_ID))
    assert not answers(server, ca.certificate_pem, pki.server_name(OTHER_ID))


def test_a_stolen_issuing_key_speaks_for_its_own_node_alone(ca: pki.Identity, issuer: pki.Identity) -> None:
    forged = pki_node.issue_server(issuer, OTHER_ID, DAY, NOW)
    assert not answers(forged, ca.certificate_pem, pki.server_name(OTHER_ID))
    assert not answers(forged, ca.certificate_pem, pki.server_name(NODE_ID))


def test_a_stolen_issuing_key_mints_neither_authorities_nor_operators(ca: pki.Identity, issuer: pki.Identity) -> None:
    made = certificate(issuer.certificate_pem)
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    names = made.extensions.get_extension_for_class(x509.NameConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert names.critical
    assert [name.value for name in names.value.permitted_subtrees or ()] == [f"{NODE_ID}.basalt"]
    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
    ]


def test_server_certificates_tolerate_clocks_that_disagree(issuer: pki.Identity) -> None:
    now = NOW + 5 * DAY
    made = certificate(pki_node.issue_server(issuer, NODE_ID, DAY, now).certificate_pem)
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (now - DAY / 2, now + DAY)


def test_a_clock_before_the_issuers_beginning_counts_as_its_beginning(issuer: pki.Identity) -> None:
    begins = certificate(issuer.certificate_pem).not_valid_before_utc
    made = certificate(pki_node.issue_server(issuer, NODE_ID, DAY, NOW - 9000 * DAY).certificate_pem)
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (begins, begins + DAY)


def test_no_server_certificate_outlives_its_issuer(issuer: pki.Identity) -> None:
    ends = certificate(issuer.certificate_pem).not_valid_after_utc
    made = pki_node.issue_server(issuer, NODE_ID, DAY, ends - HOUR)
    assert certificate(made.certificate_pem).not_valid_after_utc == ends
    with pytest.raises(pki.CertificateError, match="issuing certificate ended"):
        pki_node.issue_server(issuer, NODE_ID, DAY, ends)


def test_requests_that_no_node_makes_are_refused(ca: pki.Identity) -> None:
    key = pki_node.make_issuing_key()
    with pytest.raises(pki.CertificateError, match="'eve', which is no node id"):
        pki_node.issue_issuer(ca, pki_node.make_signing_request(key, "eve"), DAY)
    with pytest.raises(pki.CertificateError, match="cannot be read"):
        pki_node.issue_issuer(ca, b"-----BEGIN", DAY)
    request = pki_node.make_signing_request(key, NODE_ID)
    parsed = x509.load_pem_x509_csr(request)
    tampered = bytearray(parsed.public_bytes(Encoding.DER))
    tampered[-1] ^= 1
    body = pki.der_to_pem(bytes(tampered)).replace(b"CERTIFICATE", b"CERTIFICATE REQUEST")
    with pytest.raises(pki.CertificateError, match=r"signature is wrong|cannot be read"):
        pki_node.issue_issuer(ca, body, DAY)


def test_the_two_authorities_are_told_apart(ca: pki.Identity) -> None:
    clients = pki.make_ca("operators", DAY)
    assert len(pki_checks.load_node_authorities(ca.certificate_pem, "nodes.pem", at=NOW)) == 1
    with pytest.raises(pki.CertificateError, match="is it the client authority"):
        pki_checks.load_node_authorities(clients.certificate_pem, "nodes.pem")
    with pytest.raises(pki.CertificateError, match="is it the node authority"):
        pki_checks.load_client_authorities(ca.certificate_pem, "clients.pem")


def test_an_ended_authority_signs_no_issuer(ca: pki.Identity) -> None:
    request = pki_node.make_signing_request(pki_node.make_issuing_key(), NODE_ID)
    with pytest.raises(pki.CertificateError, match="the node authority ended"):
        pki_node.issue_issuer(ca, request, DAY, now=NOW + 60 * DAY)


def test_a_node_authority_lets_no_client_in_even_as_a_client_authority(ca: pki.Identity) -> None:
    """A client certificate that the node authority signed is refused by a server that trusts that authority for clients."""
    client = pki.issue_client(ca, "eve", [Role.ADMIN], DAY)
    server = pki.make_server_identity(NODE_ID, NOW - DAY)

    async def body() -> grpc.StatusCode:
        listener = grpc.aio.server()
        pair = (server.key_pem, server.certificate_pem)
        credentials = grpc.ssl_server_credentials([pair], ca.certificate_pem, require_client_auth=True)
        port = listener.add_secure_port("127.0.0.1:0", credentials)
        await listener.start()
        shown = grpc.ssl_channel_credentials(server.certificate_pem, client.key_pem, client.certificate_pem)
        options = [("grpc.ssl_target_name_override", pki.SERVER_NAME)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", shown, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary("/none", None, None)(b"")
        await listener.stop(None)
        return raised.value.code()

    assert asyncio.run(body()) is grpc.StatusCode.UNAVAILABLE
