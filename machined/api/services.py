"""ServiceService: the supervised programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from machined.api.callers import caller_of

if TYPE_CHECKING:
    from machined.node import Node


class ServiceApi(stubs.ServiceServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ListServices(  # noqa: N802 - the contract's name
        self, request: pb.ListServicesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListServicesResponse:
        """Each service as s6 sees it."""
        await caller_of(context)
        return pb.ListServicesResponse(
            services=[
                pb.ServiceInfo(
                    name=status.name,
                    state=status.state,
                    pid=status.pid,
                    state_seconds=status.seconds,
                    restarts=status.restarts,
                    ready=status.ready,
                )
                for status in await self._node.supervisor.statuses()
            ]
        )
