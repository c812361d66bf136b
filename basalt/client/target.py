"""Which node is meant, how it is recognised, and as whom to talk to it."""

from __future__ import annotations

from dataclasses import dataclass

from basalt import contexts, pki
from basalt.endpoint import Endpoint
from basalt.pki import Identity


@dataclass(frozen=True, slots=True)
class Target:
    """All that a connection needs.

    ``name`` is the operator's name for the node. A node with a ``node_id`` is enrolled: the certificate that it shows for
    the server name ``<node-id>.basalt`` must lead to one of ``node_authorities`` (PEM). Any other is recognised by the
    ``fingerprint`` of the certificate that it made itself, spelled as basalt.pki writes it.
    """

    name: str
    endpoint: Endpoint
    fingerprint: str
    identity: Identity
    node_id: str = ""
    node_authorities: bytes = b""

    @classmethod
    def of_context(cls, context: contexts.Context, node: str) -> Target:
        """A node that *context* knows.

        :raises UsageError: when it knows none of that name, or has no node authority for one that is enrolled.
        """
        entry = contexts.find_node(context, node)
        client = contexts.client_of(context)
        if entry.id is None:
            return cls(node, entry.address, entry.fingerprint or "", client)
        authorities = contexts.check_node_authority(context, node)
        return cls(node, entry.address, entry.fingerprint or "", client, entry.id, authorities)

    @property
    def server_name(self) -> str:
        """The name that the node is asked for (TLS SNI) and that its certificate must have."""
        return pki.server_name(self.node_id) if self.node_id else pki.SERVER_NAME

    def __str__(self) -> str:
        return self.name if self.name == str(self.endpoint) else f"{self.name} ({self.endpoint})"
