"""Certificates: the operators' authority, operators' certificates, and a node's own.

The authority for nodes and what hangs on it is in :mod:`basalt.pki_node`.

All keys are ECDSA P-256: gRPC's BoringSSL refuses Ed25519 certificates (NO_COMMON_SIGNATURE_ALGORITHMS).

A *client authority* signs operators' certificates; its key stays with the operator. A *client certificate* says who (CN)
and which roles (O). A node's *server certificate* signs itself; clients know it by its fingerprint, so it never expires.

``cryptography`` costs some 70 ms to import, more on a node; only the functions that need it import it.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from basalt.errors import UsageError
from basalt.roles import Role

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

# The DNS name in every node's own certificate: clients check the pinned certificate, not how they reached the node.
SERVER_NAME = "basalt-node"

# Server certificates that come from a node authority are for <node id>.basalt; see :func:`server_name`.
DOMAIN = "basalt"

# New certificates are valid from a little before now, for nodes whose clock is a little behind the operator's.
CLOCK_SKEW_ALLOWANCE = datetime.timedelta(hours=1)

# "No well-defined expiration date", RFC 5280, section 4.1.2.5.
NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)

_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its private key (PEM; the key is unencrypted PKCS #8 and belongs in a file of mode 0600)."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    @property
    def certificate_der(self) -> bytes:
        return pem_to_der(self.certificate_pem)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate_der)


class CertificateError(UsageError):
    """A certificate or key cannot be used; ``problems`` has every reason found, in words."""

    def __init__(self, what: str, problems: Iterable[str], *, remedy: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__(what, why="; ".join(self.problems), remedy=remedy)


def fingerprint(certificate_der: bytes) -> str:
    """``SHA256:<64 lower-case hex digits>`` of a DER certificate, as nodes print it on their console."""
    return f"SHA256:{hashlib.sha256(certificate_der).hexdigest()}"


def parse_fingerprint(text: str) -> str:
    """Read a fingerprint as people paste it: any case, with or without colons and the ``SHA256:`` in front.

    :raises UsageError: when it is not a SHA-256 fingerprint.
    """
    digits = re.sub(r"^sha-?256[:=]", "", text.strip().lower()).replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise UsageError(
            f"{text!r} is not a fingerprint",
            why=f"a SHA-256 fingerprint has 64 hexadecimal digits, this has {len(digits)} characters",
            remedy="copy it from the node's console, from the line 'basalt: fingerprint SHA256:...'",
        )
    return f"SHA256:{digits}"


def pem_to_der(certificate_pem: bytes) -> bytes:
    """The first certificate in *certificate_pem*.

    :raises CertificateError: when there is none.
    """
    match = _PEM_CERTIFICATE.search(certificate_pem)
    if match is None:
        raise CertificateError("cannot read a certificate", ["there is no PEM certificate in it"])
    body = b"".join(match.group().splitlines()[1:-1])
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise CertificateError("cannot read a certificate", [f"its base64 is broken: {error}"]) from error


def der_to_pem(certificate_der: bytes) -> bytes:
    """The PEM form of a DER certificate."""
    body = base64.b64encode(certificate_der)
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def make_ca(name: str, lifetime: datetime.timedelta, *, now: datetime.datetime | None = None) -> Identity:
    """A new client authority called *name*, valid for *lifetime* from *now*."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = (now or utc_now()) - CLOCK_SKEW_ALLOWANCE
    unsigned = (
        builder(subject, subject, key.public_key(), start, start + CLOCK_SKEW_ALLOWANCE + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return signed(unsigned, key, key)


def issue_client(
    ca: Identity,
    name: str,
    roles: Iterable[Role],
    lifetime: datetime.timedelta,
    *,
    now: datetime.datetime | None = None,
) -> Identity:
    """A client certificate for *name*, signed by *ca*.

    It is valid from the beginning of *ca* on: a node whose clock has stopped starts from there, and is to let its operator in.

    :param lifetime: cut short where *ca* itself ends earlier.
    :param now: another time than this machine's; the certificate is valid from a little before it.
    :raises CertificateError: when *ca* cannot sign, or a certificate would name nobody or grant nothing.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    granted = sorted(set(roles))
    problems = [] if granted else ["it would grant no role"]
    if not 1 <= len(name) <= 64:  # ub-common-name, RFC 5280, appendix A
        problems.append(f"a name has 1 to 64 characters, this has {len(name)}")
    if problems:
        raise CertificateError(f"cannot make a client certificate for {name!r}", problems)
    authority = x509.load_pem_x509_certificate(ca.certificate_pem)
    authority_key = load_key(ca.key_pem, "the client authority's key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            *(x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, role.value) for role in granted),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
        ]
    )
    issued = now or utc_now()
    start = max(issued - CLOCK_SKEW_ALLOWANCE, authority.not_valid_before_utc)
    end = min(issued + lifetime, authority.not_valid_after_utc)
    if end <= start:
        raise CertificateError(
            f"cannot make a client certificate for {name!r}",
            [f"the client authority ended at {clock(authority.not_valid_after_utc)}; now is {clock(issued)}"],
        )
    begin = start if now else authority.not_valid_before_utc
    unsigned = (
        builder(subject, authority.subject, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    return signed(unsigned, key, authority_key)


def make_server_identity(node_id: str, not_before: datetime.datetime) -> Identity:
    """A node's own certificate: signs itself, never expires, trusted by its fingerprint alone.

    :param not_before: an instant that is surely past for every client: the image's build time rather than the clock.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, node_id)])
    unsigned = (
        builder(subject, subject, key.public_key(), not_before, NEVER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
    )
    return signed(unsigned, key, key)


def server_name(node_id: str) -> str:
    """The name by which a client asks (TLS SNI) for the certificate that comes from the node authority."""
    return f"{node_id}.{DOMAIN}"


def utc_now() -> datetime.datetime:
    """This machine's clock."""
    return datetime.datetime.now(datetime.UTC)


def clock(instant: datetime.datetime) -> str:
    """An instant in words: UTC, to the second."""
    return instant.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def common_name(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Who the certificate or request names; empty where it names nobody."""
    from cryptography import x509

    values = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(values[0].value) if values else ""


def roles_of(certificate: x509.Certificate) -> frozenset[Role]:
    """The roles written in a client certificate. Organisations that are no role grant nothing."""
    from cryptography import x509

    known = set(Role)
    names = {str(value.value) for value in certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)}
    return frozenset(Role(name) for name in names if name in known)


def describe(certificate: x509.Certificate) -> str:
    """A certificate in one line for a person: whose, which roles, valid from when to when, serial number."""
    roles = ", ".join(sorted(role.short for role in roles_of(certificate)))
    return (
        f"{common_name(certificate) or 'nobody'}{f' ({roles})' if roles else ''}, "
        f"valid {clock(certificate.not_valid_before_utc)} to {clock(certificate.not_valid_after_utc)}, "
        f"serial {certificate.serial_number:x}"
    )


def load_key(key_pem: bytes, whose: str) -> ec.EllipticCurvePrivateKey:
    """A private key to sign with.

    :raises CertificateError: it is no unencrypted ECDSA key; *whose* says which.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"cannot sign with {whose}", [str(error)]) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"cannot sign with {whose}", ["it is not an ECDSA key"])
    return key


def builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
) -> x509.CertificateBuilder:
    """What every certificate has: names, key, dates, a random serial number, and the key's identifier."""
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    """The extension key usage (RFC 5280, section 4.2.1.3)."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def signed_certificate(unsigned: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign it: the certificate in PEM."""
    from cryptography.hazmat.primitives import hashes, serialization

    return unsigned.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def signed(
    unsigned: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Identity:
    """Sign the certificate for *key*."""
    from cryptography.hazmat.primitives import serialization

    return Identity(
        certificate_pem=signed_certificate(unsigned, signer),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
