"""The other authority: the one by which clients recognise nodes without a pin for each.

A *node authority* signs for each node one *issuing certificate*, whose key never leaves that node. With it the node signs its own
short-lived server certificates. The issuing certificate is an authority that may sign no other authority (path length 0), nothing
but servers (extended key usage serverAuth) and nobody but this node (critical name constraint, RFC 5280, section 4.2.1.10): whoever
steals a node can speak for that node and for no other, and can mint no operator.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

from basalt import pki
from basalt.pki import CLOCK_SKEW_ALLOWANCE, DOMAIN, CertificateError, Identity, clock, common_name, server_name

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_NODE_ID = re.compile(r"[0-9a-f]{32}")


def make_node_ca(name: str, lifetime: datetime.timedelta, *, now: datetime.datetime | None = None) -> Identity:
    """A new node authority called *name*, valid for *lifetime* from *now*.

    It can vouch for servers below ``.basalt`` alone: set as a client authority by mistake, it lets nobody in.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = (now or pki.utc_now()) - CLOCK_SKEW_ALLOWANCE
    builder = pki.builder(subject, subject, key.public_key(), start, start + CLOCK_SKEW_ALLOWANCE + lifetime)
    return pki.signed(_server_authority(builder, path_length=1, domain=DOMAIN), key, key)


def make_issuing_key() -> bytes:
    """A new key for :func:`make_signing_request` (unencrypted PKCS #8, PEM)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_signing_request(key_pem: bytes, node_id: str) -> bytes:
    """The node's request for its issuing certificate: PKCS #10 (RFC 2986), PEM.

    :raises CertificateError: *key_pem* is no ECDSA key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, node_id)])
    )
    return builder.sign(pki.load_key(key_pem, "the issuing key"), hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )


def issue_issuer(
    node_ca: Identity, request_pem: bytes, lifetime: datetime.timedelta, *, now: datetime.datetime | None = None
) -> bytes:
    """The issuing certificate (PEM) for a node's signing request, signed by *node_ca*.

    :param lifetime: cut short where *node_ca* itself ends earlier.
    :raises CertificateError: the request is not one that a node makes, or *node_ca* cannot sign.
    """
    from cryptography import x509

    what = "cannot make the node's issuing certificate"
    public_key, node_id = _read_request(request_pem, what)
    authority = x509.load_pem_x509_certificate(node_ca.certificate_pem)
    authority_key = pki.load_key(node_ca.key_pem, "the node authority's key")
    issued = now or pki.utc_now()
    start = max(issued - CLOCK_SKEW_ALLOWANCE, authority.not_valid_before_utc)
    end = min(issued + lifetime, authority.not_valid_after_utc)
    if end <= start:
        raise CertificateError(
            what, [f"the node authority ended at {clock(authority.not_valid_after_utc)}; now is {clock(issued)}"]
        )
    # Not the leaf's subject: a chain in which issuer and subject are called the same looks self-signed to verifiers.
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"issuer of {node_id}")])
    builder = pki.builder(subject, authority.subject, public_key, start, end).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    constrained = _server_authority(builder, path_length=0, domain=server_name(node_id))
    return pki.signed_certificate(constrained, authority_key)


def issue_server(issuer: Identity, node_id: str, lifetime: datetime.timedelta, now: datetime.datetime) -> Identity:
    """A server certificate for the node, signed by its own issuing certificate; the chain has both, its own first.

    Clocks disagree: it is valid from half a lifetime before *now*. A clock that is before the issuing certificate's own beginning
    is wrong, and counts as that instant.

    :param lifetime: from *now*; cut short where *issuer* itself ends earlier.
    :raises CertificateError: *issuer* has ended or cannot sign.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    authority = x509.load_pem_x509_certificate(issuer.certificate_pem)
    authority_key = pki.load_key(issuer.key_pem, "the issuing key")
    issued = max(now, authority.not_valid_before_utc)
    start = max(issued - max(lifetime / 2, CLOCK_SKEW_ALLOWANCE), authority.not_valid_before_utc)
    end = min(issued + lifetime, authority.not_valid_after_utc)
    if end <= issued:
        raise CertificateError(
            "cannot make the node's server certificate",
            [f"its issuing certificate ended at {clock(authority.not_valid_after_utc)}; the clock says {clock(now)}"],
            remedy="enrol the node again: osctl enroll",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, node_id)])
    builder = (
        pki.builder(subject, authority.subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(pki.key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(node_id))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    leaf = pki.signed(builder, key, authority_key)
    return Identity(leaf.certificate_pem + issuer.certificate_pem, leaf.key_pem)


def _server_authority(builder: x509.CertificateBuilder, *, path_length: int, domain: str) -> x509.CertificateBuilder:
    from cryptography import x509

    permitted = x509.NameConstraints(permitted_subtrees=[x509.DNSName(domain)], excluded_subtrees=None)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(pki.key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(permitted, critical=True)
    )


def _read_request(request_pem: bytes, what: str) -> tuple[ec.EllipticCurvePublicKey, str]:
    """The key and the node id of a signing request whose own signature proves that its maker has the key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        request = x509.load_pem_x509_csr(request_pem)
        public_key = request.public_key()
        genuine = request.is_signature_valid
        node_id = common_name(request)
    except ValueError as error:
        raise CertificateError(what, [f"the signing request cannot be read: {error}"]) from error
    problems = [] if genuine else ["the signing request's signature is wrong"]
    if not _NODE_ID.fullmatch(node_id):
        problems.append(f"the signing request names {node_id!r}, which is no node id (32 hexadecimal digits)")
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise CertificateError(what, [*problems, "the signing request's key is not ECDSA P-256"])
    if problems:
        raise CertificateError(what, problems)
    return public_key, node_id
