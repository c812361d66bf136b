"""Enrolling a node: the operator's node authority signs the node's issuing certificate, and from then on the context
recognises the node by its id.

The order is what makes it safe to interrupt: the context learns the id only after the node was seen proving it. Until then
its entry keeps the fingerprint, by which an enrolled node can be reached as well.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from basalt import contexts, pki, pki_node
from basalt.client import Target, connect
from basalt.client.recognition import NotRecognisedError
from basalt.contexts import Context
from basalt.errors import BasaltError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from basalt.machine.v1 import machine_pb2 as api

# Of the issuing certificate; the certificates that the node issues itself with it live for hours.
ISSUER_LIFETIME = datetime.timedelta(days=730)

# The node's gateway takes up a new identity, or a mode, a moment after the call that brought it has been answered.
SETTLING_S = 15.0
POLL_INTERVAL_S = 0.25

T = TypeVar("T")


@dataclass(frozen=True)
class Enrolment:
    """A node that has been enrolled, and was seen proving it."""

    node_id: str
    issuer_not_after: datetime.datetime
    server_not_after: datetime.datetime
    noted: bool  # the context recognises the node by its id

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return {
            "node_id": self.node_id,
            "issuer_not_after_unix": int(self.issuer_not_after.timestamp()),
            "server_not_after_unix": int(self.server_not_after.timestamp()),
            "noted": self.noted,
        }

    def __str__(self) -> str:
        noted = "" if self.noted else "; the context does not know it: osctl context add-node NAME --node-id ..."
        return (
            f"enrolled as {pki.server_name(self.node_id)}: its own certificates are valid to "
            f"{pki.clock(self.server_not_after)} and renewed before, the one it issues them with to "
            f"{pki.clock(self.issuer_not_after)}{noted}"
        )


def enrol(
    target: Target,
    context_name: str | None,
    *,
    lifetime: datetime.timedelta = ISSUER_LIFETIME,
    timeout_s: float,
) -> Enrolment:
    """Enrol *target*, or give it a new issuing certificate, and write its id into the context.

    :param lifetime: of the issuing certificate; cut short where the authority ends earlier.
    :raises UsageError: when this operator does not hold the node authority's key.
    :raises NotRecognisedError: when the node has the certificate and cannot be recognised by it; the context is unchanged.
    """
    context = contexts.load().get(context_name)
    authority = contexts.node_authority_of(context)
    answer = sign(target, authority, lifetime=lifetime, timeout_s=timeout_s)
    proven = Target(
        target.name, target.endpoint, target.fingerprint, target.identity, answer[0], contexts.node_ca_pem(context)
    )
    prove(proven, timeout_s=timeout_s)
    noted = _note(target, answer[0], context_name, context)
    return Enrolment(answer[0], answer[1], _instant(answer[2].not_after_unix), noted)


def sign(
    target: Target, authority: pki.Identity, *, lifetime: datetime.timedelta, timeout_s: float
) -> tuple[str, datetime.datetime, api.ServerCertificate]:
    """Have *authority* sign the issuing certificate of *target* and give it to the node.

    :returns: the node's id, the end of the issuing certificate, and the first certificate that the node made with it.
    """
    from cryptography import x509

    with connect(target, timeout_s=timeout_s) as client:
        identity = settled(client.identity, RefusedError)
        if target.node_id and identity.node_id != target.node_id:
            raise UnreachableError(
                f"what answers at {target.endpoint} is not the node {target.name!r}",
                why=f"it says that its id is {identity.node_id}, and the context has {target.node_id}",
            )
        request = x509.load_pem_x509_csr(identity.signing_request)
        if pki.common_name(request) != identity.node_id:
            raise BasaltError(
                f"will not enrol {target}",
                why=f"its signing request is for {pki.common_name(request)!r}, and its id is {identity.node_id}",
            )
        issuer = pki_node.issue_issuer(authority, identity.signing_request, lifetime)
        certificate = settled(lambda: client.enroll(issuer).certificate, RefusedError)
    return identity.node_id, x509.load_pem_x509_certificate(issuer).not_valid_after_utc, certificate


def prove(target: Target, *, timeout_s: float) -> None:
    """Make sure that the node is recognised by its id and nothing else.

    :raises NotRecognisedError: when it is not, some seconds after it should be.
    """

    def ask() -> None:
        with connect(target, timeout_s=timeout_s) as client:
            client.version()

    settled(ask, NotRecognisedError)


def settled(action: Callable[[], T], passing: type[BasaltError]) -> T:
    """Do *action*, again and again while it fails with *passing*, for a while; the last error stays."""
    end = time.monotonic() + SETTLING_S
    while True:
        try:
            return action()
        except passing:
            if time.monotonic() > end:
                raise
        time.sleep(POLL_INTERVAL_S)


def _note(target: Target, node_id: str, context_name: str | None, context: Context) -> bool:
    if target.name not in context.nodes:
        return False
    contexts.enrolled(target.name, node_id, fingerprint=target.fingerprint or None, context=context_name)
    return True


def _instant(unix: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix, datetime.UTC)
