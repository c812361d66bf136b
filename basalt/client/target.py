"""Which node is meant, how it is recognised, and as whom to talk to it."""

from __future__ import annotations

from dataclasses import dataclass

from basalt import contexts
from basalt.endpoint import Endpoint
from basalt.pki import Identity


@dataclass(frozen=True, slots=True)
class Target:
    """All that a connection needs.

    ``name`` is the operator's name for the node; ``fingerprint`` its certificate's, spelled as basalt.pki writes it.
    """

    name: str
    endpoint: Endpoint
    fingerprint: str
    identity: Identity

    @classmethod
    def of_context(cls, context: contexts.Context, node: str) -> Target:
        """A node that *context* knows.

        :raises UsageError: when it knows none of that name.
        """
        entry = contexts.find_node(context, node)
        return cls(node, entry.address, entry.fingerprint, contexts.client_of(context))

    def __str__(self) -> str:
        return self.name if self.name == str(self.endpoint) else f"{self.name} ({self.endpoint})"
