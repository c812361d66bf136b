"""Certificates that came from outside: read them and say everything that is wrong with them, in words.

Checked where they enter (a context, a node's bootstrap file), because TLS itself only ever says "bad certificate".
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from basalt.pki import CertificateError, clock, common_name, roles_of, server_name
from basalt.roles import Role

if TYPE_CHECKING:
    from cryptography import x509

_Extension = TypeVar("_Extension", bound="x509.ExtensionType")


def load_client_authorities(
    pem: bytes, source: str, *, at: datetime.datetime | None = None
) -> tuple[x509.Certificate, ...]:
    """The client authorities in *pem*: what a node lets client certificates be signed by.

    :param source: where *pem* came from, for the error.
    :param at: check that each is valid at this time; None where the clock itself is in doubt.
    :raises CertificateError: with every problem of every certificate.
    """
    remedy = "`osctl context ca` prints the authority of the current context"
    return _load(pem, f"client authority in {source}", at, (_authority_problems, _client_authority_problems), remedy)


def load_client_certificates(
    pem: bytes, source: str, *, at: datetime.datetime | None = None
) -> tuple[x509.Certificate, ...]:
    """The client certificates in *pem*. Parameters and errors as of :func:`load_client_authorities`."""
    remedy = "make a new one with `osctl gen client --name NAME --role ROLE`"
    return _load(pem, f"client certificate in {source}", at, (_client_problems,), remedy)


def load_node_authorities(
    pem: bytes, source: str, *, at: datetime.datetime | None = None
) -> tuple[x509.Certificate, ...]:
    """The node authorities in *pem*: what issuing certificates are signed by. As :func:`load_client_authorities`."""
    return _load(pem, f"node authority in {source}", at, (_authority_problems, _server_authority_problems), "")


def load_issuing_certificate(
    pem: bytes, source: str, *, key_pem: bytes, node_id: str, at: datetime.datetime | None = None
) -> x509.Certificate:
    """A node's issuing certificate: for its key, for itself alone, and an authority for nothing but servers.

    :param key_pem: the node's issuing key.
    :raises CertificateError: with every problem.
    """
    certificates = _load(
        pem,
        f"issuing certificate in {source}",
        at,
        (_authority_problems, _server_authority_problems, lambda found: _issuer_problems(found, node_id)),
        "sign the node's own signing request with the node authority: osctl enroll",
    )
    if len(certificates) != 1:
        raise CertificateError(
            f"cannot use the issuing certificate in {source}", [f"it is {len(certificates)} certificates, not one"]
        )
    check_key(certificates[0], key_pem, "the node")
    return certificates[0]


def check_key(certificate: x509.Certificate, key_pem: bytes, source: str) -> None:
    """Check that the private key *key_pem*, which came from *source*, is the one of *certificate*.

    :raises CertificateError: when it is not, or is no usable key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    what = f"cannot use the private key in {source}"
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError is how cryptography says that the key is encrypted.
        reason = "it is encrypted" if isinstance(error, TypeError) else "it is no PEM private key"
        raise CertificateError(what, [reason]) from error
    if key.public_key() != certificate.public_key():
        raise CertificateError(what, [f"it does not belong to the certificate of {common_name(certificate)!r}"])


def _load(
    pem: bytes,
    what: str,
    at: datetime.datetime | None,
    judges: tuple[Callable[[x509.Certificate], list[str]], ...],
    remedy: str,
) -> tuple[x509.Certificate, ...]:
    certificates, problems = _parse(pem)
    for number, certificate in enumerate(certificates, start=1):
        found = [problem for judge in (_key_problems, *judges) for problem in judge(certificate)]
        found += _time_problems(certificate, at)
        problems += [_numbered(problem, number, len(certificates)) for problem in found]
    if problems:
        raise CertificateError(f"cannot use the {what}", problems, remedy=remedy)
    return certificates


def _parse(pem: bytes) -> tuple[tuple[x509.Certificate, ...], list[str]]:
    from cryptography import x509

    if b"-----BEGIN CERTIFICATE-----" not in pem:
        return (), ["there is no PEM certificate in it" if pem.strip() else "it is empty"]
    try:
        return tuple(x509.load_pem_x509_certificates(pem)), []
    except ValueError as error:
        return (), [f"a certificate in it cannot be read: {error}"]


def _numbered(problem: str, number: int, total: int) -> str:
    return problem if total == 1 else f"certificate {number}: {problem}"


def _key_problems(certificate: x509.Certificate) -> list[str]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        return [f"its key cannot be read: {error}"]
    if isinstance(key, ec.EllipticCurvePublicKey):
        return [] if isinstance(key.curve, ec.SECP256R1) else [f"its key is on the curve {key.curve.name}, not P-256"]
    kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
    return [f"its key is {kind}; only ECDSA P-256 is accepted"]


def _authority_problems(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    problems = []
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        problems.append("it is no certificate authority (CA:FALSE)")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        problems.append("its key usage does not allow signing certificates")
    return problems


def _client_authority_problems(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    usage = _extension(certificate, x509.ExtendedKeyUsage)
    if usage is not None and x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        return ["its extended key usage lets it sign no client certificates; is it the node authority?"]
    return []


def _server_authority_problems(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    usage = _extension(certificate, x509.ExtendedKeyUsage)
    if usage is None or list(usage) != [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]:
        return ["its extended key usage is not exactly serverAuth; is it the client authority?"]
    return []


def _issuer_problems(certificate: x509.Certificate, node_id: str) -> list[str]:
    from cryptography import x509

    problems = []
    basic = _extension(certificate, x509.BasicConstraints)
    if basic is not None and basic.ca and basic.path_length != 0:
        problems.append("it could sign further authorities (path length is not 0)")
    if certificate.issuer == certificate.subject:
        problems.append("it signs itself instead of being signed by a node authority")
    name = server_name(node_id)
    try:
        names = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except (x509.ExtensionNotFound, ValueError):
        return [*problems, f"it is not restricted to {name} (no name constraints)"]
    if not names.critical or names.value != x509.NameConstraints([x509.DNSName(name)], None):
        problems.append(f"its name constraints are not exactly {name}, critical")
    return problems


def _client_problems(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    problems = []
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        problems.append("it is a certificate authority, not a client certificate")
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    if usage is None or list(usage) != [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]:
        problems.append("its extended key usage is not exactly clientAuth")
    if not common_name(certificate):
        problems.append("it names nobody (no CN)")
    if not roles_of(certificate):
        known = ", ".join(role.value for role in Role)
        problems.append(f"it grants no role: its organisation (O) is none of {known}")
    return problems


def _time_problems(certificate: x509.Certificate, at: datetime.datetime | None) -> list[str]:
    if at is None:
        return []
    if at < certificate.not_valid_before_utc:
        return [f"it is valid from {clock(certificate.not_valid_before_utc)}; this machine's clock says {clock(at)}"]
    if at > certificate.not_valid_after_utc:
        return [f"it expired at {clock(certificate.not_valid_after_utc)}; this machine's clock says {clock(at)}"]
    return []


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None
