"""Why an enrolled node was not recognised, from the certificate that it showed and the two clocks."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from basalt import pki
from basalt.client.target import Target
from basalt.client.tls import Unverified
from basalt.errors import UnreachableError

if TYPE_CHECKING:
    from cryptography import x509

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h): of any certificate of the chain.
_DATES = (9, 10)

# Clocks that differ by less than this are not what a certificate fails by: they are read some round trips apart.
_SAME_CLOCK = datetime.timedelta(minutes=2)


class NotRecognisedError(UnreachableError):
    """What answered could not prove to be the node that was meant."""


class WrongNodeError(NotRecognisedError):
    """What answered is another node, or one that has forgotten who it was: asking again will not change that."""


def explain(
    target: Target, unverified: Unverified, now: datetime.datetime, theirs: datetime.datetime | None
) -> NotRecognisedError:
    """Why *target*, which is enrolled, was not recognised.

    :param now: this machine's clock.
    :param theirs: the node's, where it is known.
    """
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(unverified.certificate)
    names = _names(certificate)
    if target.server_name not in names:
        return _other_node(target, pki.fingerprint(unverified.certificate), names)
    if unverified.code in _DATES:
        return _outside_dates(target, certificate, unverified, now, theirs)
    return NotRecognisedError(
        f"cannot recognise {target}: its certificate leads to no node authority of the context",
        why=f"it was signed by {certificate.issuer.rfc4514_string()}, and the context trusts "
        f"{_authorities(target)} ({unverified.message})",
        remedy="if the node authority was replaced, ask its operator for the new one: osctl context trust --node-ca FILE. "
        f"If the node was enrolled elsewhere, enrol it here again: {_recovery(target)}",
    )


def _other_node(target: Target, found: str, names: list[str]) -> NotRecognisedError:
    """The certificate shown is for another name: a node shows its first one where it has none of the name asked for."""
    if pki.SERVER_NAME in names and found == target.fingerprint:
        return NotRecognisedError(
            f"{target} is not enrolled any more",
            why="it shows the certificate of its first boot, which is the one that the context knows, and none for "
            f"{target.server_name}",
            remedy=f"enrol it again: {_recovery(target)}",
        )
    return WrongNodeError(
        f"what answers at {target.endpoint} is not the node {target.name!r}",
        why=f"it has no certificate for {target.server_name} and shows one for {', '.join(names) or 'nobody'} with the "
        f"fingerprint\n  {found}",
        remedy="compare with 'basalt: fingerprint' on the node's console. A node whose STATE was wiped has a new one: pin it "
        f"with `osctl context add-node {target.name} --endpoint {target.endpoint} --fingerprint ...`, and apply its "
        "configuration again, which enrols it. Otherwise another machine answers at this address: send it nothing",
    )


def _outside_dates(
    target: Target,
    certificate: x509.Certificate,
    unverified: Unverified,
    now: datetime.datetime,
    theirs: datetime.datetime | None,
) -> NotRecognisedError:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    clocks = (
        f"it is valid from {pki.clock(start)} to {pki.clock(end)}; this machine's clock says {pki.clock(now)}, "
        f"the node's {pki.clock(theirs) if theirs else 'is not known'}"
    )
    if start <= now <= end:
        return NotRecognisedError(
            f"cannot recognise {target}: the certificate with which it issues its own is outside its dates",
            why=f"{unverified.message}; of the one that it shows, {clocks}",
            remedy=f"enrol it again: {_recovery(target)}",
        )
    skewed = theirs is not None and abs(theirs - now) > _SAME_CLOCK
    state = "has expired" if now > end else "is not yet valid"
    if skewed:
        return NotRecognisedError(
            f"cannot recognise {target}: the clocks differ",
            why=f"by this machine's clock the node's certificate {state}: {clocks}",
            remedy="set the clock that is wrong; a node without time servers has the clock of its hardware. "
            f"To reach it meanwhile, add its first certificate's pin: --fingerprint {target.fingerprint or 'SHA256:...'}",
        )
    return NotRecognisedError(
        f"cannot recognise {target}: its certificate {state}",
        why=clocks,
        remedy="nodes renew theirs by themselves; `osctl status` says why this one did not, if it is reached by its first "
        f"certificate: --fingerprint {target.fingerprint or 'SHA256:...'}. To enrol it again: {_recovery(target)}",
    )


def _recovery(target: Target) -> str:
    """The command that enrols a node by the certificate of its first boot."""
    return f"osctl enroll -n {target.name} --fingerprint {target.fingerprint or 'SHA256:... (from its console)'}"


def _names(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.DNSName)


def _authorities(target: Target) -> str:
    from cryptography import x509

    loaded = x509.load_pem_x509_certificates(target.node_authorities)
    return ", ".join(authority.subject.rfc4514_string() for authority in loaded)
