"""machined's own gRPC server, on a unix socket that only the gateway may open.

A handler validates, asks the owner of a concern, and translates; it touches nothing itself. The imports are late on purpose: grpc
takes its time, and the boot has the network to start in the meantime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from machined import paths

if TYPE_CHECKING:
    from machined.node import Node


async def serve(node: Node) -> None:
    """Serve the API and begin to watch that it answers; returns once the socket accepts calls."""
    from machined.api.server import start
    from machined.api.watch import watch

    server = await start(node)
    node.on_close(lambda: server.stop(paths.STOP_GRACE_S))
    node.spawn(watch(node), "api")
