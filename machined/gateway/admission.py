"""Whether the holder of a certificate is let in now: everything that can change after TLS has verified it.

TLS judges once, at the handshake. A certificate can expire, be revoked, or lose its authority while a connection lives, so each call
is judged again, and so are the calls that are open whenever something has changed.
"""

from __future__ import annotations

import datetime

from machined import access
from machined.gateway.identity import Caller, UnknownCallerError, read_caller
from machined.gateway.trust import LOCKED, Trust, TrustFile

CACHE_MAX = 1024  # distinct certificates remembered; beyond it the memory starts again


class Admission:
    """Judges certificates by the trust file.

    What is known of a certificate is kept until the trust changes: parsing one and verifying its signature takes longer than
    relaying a call.
    """

    def __init__(self, trust_file: TrustFile) -> None:
        self._trust_file = trust_file
        self._judged_by: Trust | None = None
        self._known: dict[bytes, tuple[Caller, str]] = {}

    @property
    def mode(self) -> str:
        """The node's mode, as of the latest certificate judged."""
        return self._judged_by.mode if self._judged_by else LOCKED

    def identify(self, certificate_pem: bytes) -> Caller:
        """Who the certificate names, admitted or not; for the record of a refusal.

        :raises UnknownCallerError: it names nobody, or is none for clients.
        """
        return self._judge(certificate_pem)[0]

    def admit(self, certificate_pem: bytes, now: datetime.datetime) -> Caller:
        """The caller, let in.

        :raises UnknownCallerError: why not, in words.
        """
        caller, refusal = self._judge(certificate_pem)
        if refusal:
            raise UnknownCallerError(refusal)
        caller.check_dates(now)
        return caller

    def refusal(self, certificate_pem: bytes, now: datetime.datetime) -> str:
        """Why :meth:`admit` would refuse; empty when it would not."""
        try:
            self.admit(certificate_pem, now)
        except UnknownCallerError as error:
            return str(error)
        return ""

    def _judge(self, certificate_pem: bytes) -> tuple[Caller, str]:
        self._trust_file.refresh()
        trust = self._trust_file.current
        if trust is not self._judged_by or len(self._known) >= CACHE_MAX:
            self._known.clear()
            self._judged_by = trust
        known = self._known.get(certificate_pem)
        if known is None:
            caller = read_caller(certificate_pem)
            known = caller, standing(certificate_pem, caller.serial, trust)
            self._known[certificate_pem] = known
        return known


def standing(certificate_pem: bytes, serial: str, trust: Trust | None) -> str:
    """Why *trust* does not let a genuine certificate in; empty when it does. Dates are not looked at."""
    from cryptography import x509

    if trust is None:
        return "the node does not know yet whom it trusts"
    if serial in trust.revoked:
        return f"the client certificate with the serial number {serial} is revoked"
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    if not access.signers_of(certificate, access.load(trust.client_authorities)):
        return "the authority that signed the client certificate is not one that this node accepts"
    return ""
