"""machined's own gRPC server, on a unix socket that only the gateway may open.

A handler validates, asks the owner of a concern, and translates; it touches nothing itself. The imports are late on purpose: grpc
takes its time, and the boot has the network to start in the meantime.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from machined import paths

if TYPE_CHECKING:
    import grpc.aio

    from machined.node import Node


async def serve(node: Node) -> None:
    """Serve the API and begin to watch that it answers; returns once the socket accepts calls."""
    # In a thread, so that the network's events are not kept waiting for the import.
    server_module = await asyncio.to_thread(importlib.import_module, "machined.api.server")
    server: grpc.aio.Server = await server_module.start(node)
    node.on_close(lambda: server.stop(paths.STOP_GRACE_S))
    watch = importlib.import_module("machined.api.watch")
    node.spawn(watch.watch(node), "api")
