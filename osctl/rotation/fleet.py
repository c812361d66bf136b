"""The nodes of the context whose authority is rotated, and the ways of talking to one that the steps need."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from basalt import contexts, pki
from basalt.client import Target, connect
from basalt.client.diagnosis import CertificateRefusedError
from basalt.client.recognition import NotRecognisedError
from basalt.contexts import Context
from basalt.errors import BasaltError, RefusedError
from basalt.machine.v1 import machine_pb2 as api
from osctl import enrolment
from osctl.enrolment import settled

# How a node refuses a certificate: at the handshake, or, on a connection that is there already, at the call.
REFUSALS = (CertificateRefusedError, RefusedError)


class StillAcceptedError(BasaltError):
    """What should be refused by now is not."""


@dataclass(frozen=True)
class Fleet:
    """A context by its name: every look at it reads it again, because the rotation itself changes it."""

    context_name: str
    timeout_s: float

    @property
    def context(self) -> Context:
        return contexts.load().get(self.context_name)

    @property
    def nodes(self) -> list[str]:
        return list(self.context.nodes)

    def target(self, node: str, identity: pki.Identity | None = None, *, authorities: bytes | None = None) -> Target:
        """A node as the context knows it, for somebody else (*identity*), or verified against *authorities* alone."""
        known = Target.of_context(self.context, node)
        if authorities is not None:
            known = dataclasses.replace(known, node_authorities=authorities)
        return known if identity is None else dataclasses.replace(known, identity=identity)

    def status(self, target: Target) -> api.StatusResponse:
        """Ask over a new connection."""
        with connect(target, timeout_s=self.timeout_s) as client:
            return client.status()

    def admits(self, target: Target) -> api.StatusResponse | None:
        """The node's answer, or None where it refuses the target's certificate.

        :raises BasaltError: when it is neither: nothing is known then.
        """
        try:
            return self.status(target)
        except REFUSALS:
            return None

    def recognises(self, target: Target) -> bool:
        """Whether the node proves its id to the target's node authorities.

        :raises BasaltError: when that could not be found out.
        """
        try:
            self.status(target)
        except NotRecognisedError:
            return False
        return True

    def keep(self, target: Target, generation: int = 0) -> None:
        """Confirm a configuration that is on trial, over a new connection; a new certificate may take a moment to count."""

        def confirm() -> None:
            with connect(target, timeout_s=self.timeout_s) as client:
                client.confirm_config(generation)

        settled(confirm, CertificateRefusedError)

    def until_refused(self, target: Target) -> None:
        """Return when the node refuses the target's certificate.

        :raises StillAcceptedError: when it does not, some seconds after it should.
        """

        def refused() -> None:
            if self.admits(target) is not None:
                raise StillAcceptedError(
                    f"{target} still accepts the old certificate",
                    why=f"{enrolment.SETTLING_S:.0f} s after its authority was removed from the AccessConfig",
                    remedy="`osctl get config` shows the authorities that it has; see also `osctl status`",
                )

        settled(refused, StillAcceptedError)
