"""Talking to nodes: recognise one by its fingerprint, call it, and say why it did not work.

``connect(Target.of_context(context, "n1"))`` gives a :class:`Client`. Importing this package does not import gRPC yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basalt.client.target import Target
from basalt.endpoint import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from basalt.client.calls import Client

__all__ = ["Target", "connect"]


def connect(target: Target, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Client:
    """See :func:`basalt.client.calls.connect`."""
    from basalt.client import calls

    return calls.connect(target, timeout_s=timeout_s)
