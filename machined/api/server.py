"""Starts the gRPC server on machined's socket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc.aio

from basalt.machine.v1 import containers_pb2_grpc as container_stubs
from basalt.machine.v1 import machine_pb2_grpc as stubs
from machined import paths
from machined.api.auditing import AuditInterceptor, RefusalHandler
from machined.api.config import ConfigApi
from machined.api.containers import ContainerApi
from machined.api.identity import IdentityApi
from machined.api.images import ImageApi
from machined.api.logs import LogApi
from machined.api.network import NetworkApi
from machined.api.services import ServiceApi
from machined.api.system import SystemApi
from machined.api.workloads import WorkloadApi
from machined.sequences import boottime_usec

if TYPE_CHECKING:
    from machined.node import Node

_OPTIONS = (
    ("grpc.max_receive_message_length", paths.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", paths.MESSAGE_BYTES_MAX),
)


async def start(node: Node) -> grpc.aio.Server:
    """Listen on the socket, open to the gateway's user alone."""
    socket = node.paths.socket
    socket.unlink(missing_ok=True)  # of a machined that was killed
    server = grpc.aio.server(options=_OPTIONS, interceptors=(AuditInterceptor(node.audit),))
    server.add_generic_rpc_handlers((RefusalHandler(node.audit),))
    stubs.add_SystemServiceServicer_to_server(SystemApi(node), server)
    stubs.add_ConfigServiceServicer_to_server(ConfigApi(node), server)
    stubs.add_NetworkServiceServicer_to_server(NetworkApi(node), server)
    stubs.add_IdentityServiceServicer_to_server(IdentityApi(node), server)
    stubs.add_ServiceServiceServicer_to_server(ServiceApi(node), server)
    stubs.add_LogServiceServicer_to_server(LogApi(node), server)
    container_stubs.add_ImageServiceServicer_to_server(ImageApi(node), server)
    container_stubs.add_WorkloadServiceServicer_to_server(WorkloadApi(node), server)
    container_stubs.add_ContainerServiceServicer_to_server(ContainerApi(node), server)
    mask = os.umask(0o177)  # the socket must never exist with a wider mode, not even for a moment
    try:
        server.add_insecure_port(f"unix:{socket}")
    finally:
        os.umask(mask)
    if os.geteuid() == 0:
        os.chown(socket, paths.UID_GATEWAY, paths.UID_GATEWAY)
    await server.start()
    node.stages.record("machined", node.started_usec, boottime_usec())
    node.on_serving()
    return server
