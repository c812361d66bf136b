"""Whom a configuration lets in: the client authorities in force, and whether they can be used.

Without an AccessConfig the authority of the first contact is in force; with one, its authorities are, and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basalt.config.documents import AccessConfig

if TYPE_CHECKING:
    from cryptography import x509


def authorities(access: AccessConfig | None, bootstrap_pem: bytes) -> str:
    """The client authorities in force (PEM), the bootstrap's where there is no AccessConfig."""
    return "".join(access.client_authorities) if access else bootstrap_pem.decode("ascii", "replace")


def problems(access: AccessConfig) -> list[str]:
    """Everything that is wrong with the authorities of *access*, in words; a configuration with one of these is not applied.

    Dates are not judged: the clock may be the one that is wrong.
    """
    from basalt.pki import CertificateError
    from basalt.pki_checks import load_client_authorities

    found = []
    for number, pem in enumerate(access.client_authorities):
        try:
            load_client_authorities(pem.encode(), "the configuration")
        except CertificateError as error:
            found += [f"AccessConfig: $.clientAuthorities[{number}]: {problem}" for problem in error.problems]
    return found


def admits(access: AccessConfig | None, bootstrap_pem: bytes, certificate_pem: bytes) -> str:
    """Why the holder of *certificate_pem* would not be let in any more; empty when nothing speaks against it.

    Judged is what a configuration decides: the authorities and the serial numbers that are revoked.
    """
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        return f"the certificate cannot be read: {error}"
    serial = f"{certificate.serial_number:x}"
    if access and serial in access.revoked_serials:
        return f"the certificate with the serial number {serial} is revoked"
    if not signed_by_one_of(certificate, load(authorities(access, bootstrap_pem))):
        return f"no client authority of the configuration has signed the certificate with the serial number {serial}"
    return ""


def load(pem: str) -> tuple[x509.Certificate, ...]:
    """The certificates in *pem*; none where it cannot be read."""
    from cryptography import x509

    try:
        return tuple(x509.load_pem_x509_certificates(pem.encode()))
    except ValueError:
        return ()


def signed_by_one_of(certificate: x509.Certificate, issuers: tuple[x509.Certificate, ...]) -> bool:
    """Whether one of *issuers* has itself signed *certificate*."""
    from cryptography.exceptions import InvalidSignature

    for issuer in issuers:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):  # another name, another kind of key, another key
            continue
        return True
    return False
