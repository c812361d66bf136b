"""Who is calling: read from the certificate that TLS has already verified against the client authorities.

TLS proves that an authority of ours signed it and that it is within its dates *at the handshake*. What TLS leaves open is decided
here: that it is a certificate for clients and nothing else (extended key usage exactly clientAuth) and that it names somebody. Whether
it is still good while the connection lives on is :mod:`machined.gateway.admission`'s to say.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from basalt.pki import clock, common_name, roles_of
from basalt.roles import Role


class UnknownCallerError(Exception):
    """The certificate is genuine but says nothing that a caller could be known by; the text says why."""


@dataclass(frozen=True)
class Caller:
    """The holder of a client certificate."""

    name: str
    roles: frozenset[Role]
    serial: str  # lower-case hex
    not_before: datetime.datetime
    not_after: datetime.datetime

    def check_dates(self, now: datetime.datetime) -> None:
        """Check the certificate against this node's clock.

        :raises UnknownCallerError: with both clocks in the text, because the wrong one may be the node's.
        """
        if now > self.not_after:
            raise UnknownCallerError(
                f"the client certificate expired at {clock(self.not_after)}; this node's clock says {clock(now)}"
            )
        if now < self.not_before:
            raise UnknownCallerError(
                f"the client certificate is valid from {clock(self.not_before)}; this node's clock says {clock(now)}"
            )


def read_caller(certificate_pem: bytes) -> Caller:
    """The caller that a verified certificate names.

    :raises UnknownCallerError: wrong or additional key usages, or no name.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        name = common_name(certificate)
        roles = roles_of(certificate)
    except x509.ExtensionNotFound:
        usages = set()
    except ValueError as error:
        raise UnknownCallerError(f"the client certificate cannot be read: {error}") from error
    if usages != {ExtendedKeyUsageOID.CLIENT_AUTH}:
        raise UnknownCallerError("the certificate's extended key usage must be clientAuth and nothing else")
    if not name:
        raise UnknownCallerError("the client certificate names nobody: its subject has no common name (CN)")
    return Caller(
        name, roles, f"{certificate.serial_number:x}", certificate.not_valid_before_utc, certificate.not_valid_after_utc
    )
