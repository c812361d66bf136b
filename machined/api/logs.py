"""LogService: what the node's programs and its kernel have written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from machined import kmsg, logs
from machined.api.callers import caller_of, refuse
from machined.services import SERVICES, find

if TYPE_CHECKING:
    from machined.node import Node


class LogApi(stubs.LogServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def Logs(  # noqa: N802 - the contract's name
        self, request: pb.LogsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.LogsResponse]:
        """A service's log."""
        await caller_of(context)
        if find(request.service) is None:  # a name out of the table, so never a path
            names = ", ".join(service.name for service in SERVICES)
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}; there are: {names}"
            )
        directory = self._node.paths.logs / request.service
        async for chunk in logs.read(directory, follow=request.follow, tail_lines=request.tail_lines):
            yield pb.LogsResponse(chunk=chunk)

    async def Dmesg(  # noqa: N802
        self, request: pb.DmesgRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DmesgResponse]:
        """The kernel's log."""
        await caller_of(context)
        try:
            async for batch in kmsg.read(self._node.paths.kmsg, follow=request.follow, tail=request.tail_lines):
                yield pb.DmesgResponse(
                    messages=[
                        pb.KernelMessage(
                            priority=message.priority,
                            facility=message.facility,
                            sequence=message.sequence,
                            timestamp_usec=message.timestamp_usec,
                            text=message.text,
                        )
                        for message in batch
                    ]
                )
        except OSError as error:
            await refuse(context, error)
