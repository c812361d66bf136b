"""Whom a configuration lets in: the client authorities in force, and whether they can be used.

Without an AccessConfig the authority of the first contact is in force; with one, its authorities are, and no other.
"""

from __future__ import annotations

import contextlib
import datetime
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


def admits(
    access: AccessConfig | None,
    bootstrap_pem: bytes,
    certificate_pem: bytes,
    *,
    now: datetime.datetime | None = None,
) -> str:
    """Why the holder of *certificate_pem* would not be let in any more; empty when nothing speaks against it.

    Judged is what a configuration decides: the authorities, with their dates, and the serial numbers that are revoked.

    :param now: instead of this node's clock.
    """
    from cryptography import x509

    from basalt.pki import clock, utc_now

    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        return f"the certificate cannot be read: {error}"
    serial = f"{certificate.serial_number:x}"
    if access and serial in access.revoked_serials:
        return f"the certificate with the serial number {serial} is revoked"
    signers = signers_of(certificate, load(authorities(access, bootstrap_pem)))
    if not signers:
        return f"no client authority of the configuration has signed the certificate with the serial number {serial}"
    at = now or utc_now()
    if not any(signer.not_valid_before_utc <= at <= signer.not_valid_after_utc for signer in signers):
        return (
            f"the client authority that signed the certificate is valid from {clock(signers[0].not_valid_before_utc)} "
            f"to {clock(signers[0].not_valid_after_utc)}; this node's clock says {clock(at)}"
        )
    return ""


def load(pem: str) -> tuple[x509.Certificate, ...]:
    """The certificates in *pem*; none where it cannot be read."""
    from cryptography import x509

    try:
        return tuple(x509.load_pem_x509_certificates(pem.encode()))
    except ValueError:
        return ()


def signers_of(certificate: x509.Certificate, issuers: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """Those of *issuers* that have themselves signed *certificate*."""
    from cryptography.exceptions import InvalidSignature

    found = []
    for issuer in issuers:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):  # another name, kind of key, or key
            certificate.verify_directly_issued_by(issuer)
            found.append(issuer)
    return tuple(found)
