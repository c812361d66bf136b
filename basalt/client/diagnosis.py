"""Why a connection or a call failed, in words and with what to do about it."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from basalt import pki, roles
from basalt.client import recognition, tls
from basalt.client.recognition import WrongNodeError
from basalt.client.target import Target
from basalt.errors import BasaltError, RefusedError, UnreachableError, UsageError

if TYPE_CHECKING:
    import grpc
    from cryptography import x509

# How long each look at a node that just failed may take.
DIAGNOSIS_TIMEOUT_S = 10.0


class FingerprintMismatchError(WrongNodeError):
    """What answered is not the node that was pinned."""


class CertificateRefusedError(UnreachableError):
    """The node ended the TLS handshake because of the client's certificate: no call ever reached its API."""


def fingerprint_mismatch(target: Target, found: str) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"what answers at {target.endpoint} is not the node {target.name!r}",
        why=f"its certificate's fingerprint is\n  {found}\nand the node's is\n  {target.fingerprint}",
        remedy="compare with 'basalt: fingerprint' on the node's console. A node whose STATE was wiped has a new one: pin it "
        f"with `osctl context add-node {target.name} --endpoint {target.endpoint} --fingerprint ...`. "
        "Otherwise somebody else answers at this address: send it nothing",
    )


def explain_unavailable(target: Target, details: str) -> BasaltError:
    """gRPC could not talk to *target*: look at every layer from below and name the first that is broken.

    :param details: gRPC's own text, told where everything looks right by now.
    """
    try:
        unrecognised = _not_recognised(target)
        if unrecognised is not None:
            return unrecognised
        refusal = tls.ask_admission(
            target.endpoint, target.identity, timeout_s=DIAGNOSIS_TIMEOUT_S, server_name=target.server_name
        )
    except UnreachableError as error:
        return error
    if refusal is not None:
        return _explain_refusal(target, refusal)
    return UnreachableError(
        f"{target} accepts connections, but the call failed",
        why=details,
        remedy="try again; if it stays so, `osctl status` and `osctl logs machined` may say more",
    )


def _not_recognised(target: Target) -> UnreachableError | None:
    """Why what answers is not *target*, or None when it is."""
    if not target.node_id:
        found = pki.fingerprint(tls.fetch_certificate(target.endpoint, timeout_s=DIAGNOSIS_TIMEOUT_S))
        return fingerprint_mismatch(target, found) if found != target.fingerprint else None
    unverified = tls.verify_node(
        target.endpoint, target.server_name, target.node_authorities, timeout_s=DIAGNOSIS_TIMEOUT_S
    )
    if unverified is None:
        return None
    theirs = tls.node_clock(target.endpoint, timeout_s=DIAGNOSIS_TIMEOUT_S)
    return recognition.explain(target, unverified, pki.utc_now(), theirs)


def explain_deadline(target: Target, method: str) -> UnreachableError:
    """A call got no answer in time: because nothing answers at all, or because this call takes longer.

    :param method: full name of the RPC.
    """
    try:
        tls.fetch_certificate(target.endpoint, timeout_s=DIAGNOSIS_TIMEOUT_S)
    except UnreachableError as error:
        return error
    return UnreachableError(
        f"{target} did not answer {method.rpartition('/')[2]} in time",
        remedy="give it longer with --timeout, or see `osctl status`",
    )


def _explain_refusal(target: Target, refusal: tls.Refusal) -> BasaltError:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(target.identity.certificate_pem)
    now = pki.utc_now()
    theirs = tls.node_clock(target.endpoint, timeout_s=DIAGNOSIS_TIMEOUT_S)
    return refused_certificate(target, certificate, refusal, now, theirs)


def refused_certificate(
    target: Target,
    certificate: x509.Certificate,
    refusal: tls.Refusal,
    now: datetime.datetime,
    theirs: datetime.datetime | None,
) -> CertificateRefusedError:
    """Why a node refused *certificate*, from the certificate and the two clocks.

    :param now: this machine's clock.
    :param theirs: the node's, where it is known.
    """
    what = f"{target} refuses the certificate of {pki.common_name(certificate)!r}"
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    clocks = (
        f"it is valid from {pki.clock(start)} to {pki.clock(end)}; this machine's clock says {pki.clock(now)}, "
        f"the node's {pki.clock(theirs) if theirs else 'is not known'}"
    )
    ours_fits = start <= now <= end
    if theirs is not None and ours_fits and not start <= theirs <= end:
        return CertificateRefusedError(
            what,
            why=f"the clocks differ: {clocks}",
            remedy="set the clock that is wrong; a node without time servers has the clock of its hardware",
        )
    if not ours_fits:
        state = "has expired" if now > end else "is not yet valid"
        renew = "`osctl context renew` makes a new one" if now > end else "if this machine's clock is wrong, set it"
        return CertificateRefusedError(what, why=f"the certificate {state}: {clocks}", remedy=renew)
    said = f"{refusal.meaning}{f' (alert {refusal.alert.lower()})' if refusal.alert else ''}"
    issuer = certificate.issuer.rfc4514_string()
    if theirs is None and refusal.alert in ("", "CERTIFICATE_EXPIRED"):
        said += f"; {clocks}"
    return CertificateRefusedError(
        what,
        why=f"{said}; it was signed by {issuer}, and the node most likely trusts another authority, or none "
        "(its console then says mode=locked)",
        remedy="use the context that the node was set up with (`osctl context list`, --context), or give a new node this "
        "context's authority (`osctl context ca`)",
    )


def explain_status(target: Target, method: str, code: grpc.StatusCode, details: str) -> BasaltError:
    """An answer of the node that is not success, in words.

    :param method: full name of the RPC.
    """
    import grpc

    short = method.rpartition("/")[2]
    what = f"{target} refused {short}"
    match code:
        case grpc.StatusCode.PERMISSION_DENIED:
            needed, held = _roles(target, method)
            return RefusedError(
                what,
                why=details or f"it needs the role {needed}; the certificate carries: {held}",
                remedy=f"use a certificate with the role {needed}; whoever holds the authority's key makes one: "
                f"osctl gen client --name NAME --role {needed}",
            )
        case grpc.StatusCode.UNAUTHENTICATED:
            return _unauthenticated(what, details, pki.utc_now())
        case grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.ABORTED:
            # A node says what to do on a line of its own (machined.api.callers).
            why, _, remedy = details.partition("\n")
            return RefusedError(what, why=why, remedy=remedy)
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return UsageError(what, why=details)
        case grpc.StatusCode.NOT_FOUND:
            return UsageError(f"{target} has no such thing", why=details)
        case grpc.StatusCode.UNIMPLEMENTED:
            return RefusedError(
                what,
                why="it does not know this call",
                remedy="node and osctl are of different versions: `osctl version`",
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            why, _, remedy = details.partition("\n")
            return RefusedError(what, why=why or "it has too much to do", remedy=remedy or "try again later")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return explain_deadline(target, method)
        case grpc.StatusCode.CANCELLED:
            return UnreachableError(f"{target} ended {short}", why=details)
    return BasaltError(
        f"{short} failed on {target}", why=details or code.name, remedy="`osctl logs machined` may say more"
    )


def _unauthenticated(what: str, details: str, now: datetime.datetime) -> RefusedError:
    """A certificate that got through the handshake and was refused at the call: it was judged again since.

    :param now: this machine's clock.
    """
    if "clock says" in details:
        return RefusedError(
            what,
            why=f"{details}, this machine's {pki.clock(now)}",
            remedy="where the clocks agree, `osctl context renew` makes a new certificate; otherwise set the one that is wrong",
        )
    if "revoked" in details:
        remedy = "ask whoever holds the authority's key for another certificate (`osctl gen client`)"
    elif "authority" in details:
        remedy = "use a context of an authority that the node accepts (`osctl context list`, --context)"
    else:
        remedy = "the node's console says which mode it is in and what to do"
    return RefusedError(what, why=details, remedy=remedy)


def _roles(target: Target, method: str) -> tuple[str, str]:
    """The role that *method* needs and those that the certificate carries, in words."""
    from cryptography import x509

    try:
        needed = roles.of_method(method)
    except KeyError:
        needed = None
    held = pki.roles_of(x509.load_pem_x509_certificate(target.identity.certificate_pem))
    return needed.short if needed else "that the call names", ", ".join(sorted(role.short for role in held)) or "none"
