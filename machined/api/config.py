"""ConfigService: documents in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.errors import BasaltError, UsageError
from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from machined import paths
from machined.api.callers import ApiCaller, audited, caller_of, refuse
from machined.configuration import Applied

if TYPE_CHECKING:
    from machined.node import Node


class ConfigApi(stubs.ConfigServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ApplyConfig(  # noqa: N802 - the contract's name
        self, request: pb.ApplyConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ApplyConfigResponse:
        """Replace the configuration, or say what that would do."""
        if request.dry_run:
            caller = await caller_of(context)
            try:
                applied = await self._apply(request, caller)
            except (BasaltError, OSError) as error:
                await refuse(context, error)
        else:
            applied = await audited(
                self._node.audit,
                context,
                "ApplyConfig",
                lambda caller: self._apply(request, caller),
                lambda done: f"generation {done.generation}: {'; '.join(done.actions) or 'nothing to change'}",
            )
            if applied.changed:
                await self._node.settle("network", "time")
        return pb.ApplyConfigResponse(generation=applied.generation, diff=applied.diff, actions=applied.actions)

    async def _apply(self, request: pb.ApplyConfigRequest, caller: ApiCaller) -> Applied:
        if len(request.documents) > paths.DOCUMENTS_BYTES_MAX:
            raise UsageError(
                "the documents are too large",
                why=f"{len(request.documents)} bytes, at most {paths.DOCUMENTS_BYTES_MAX} are taken",
            )
        return await self._node.configuration.apply(
            request.documents,
            request.source_name or "the request",
            applied_by=caller.name,
            expected=request.expected_generation,
            dry_run=request.dry_run,
        )

    async def GetConfig(  # noqa: N802
        self, request: pb.GetConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetConfigResponse:
        """A generation, canonical and without secrets."""
        await caller_of(context)
        owner = self._node.configuration
        try:
            shown = owner.show(request.generation)
        except BasaltError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        return pb.GetConfigResponse(
            documents=shown.documents,
            generation=shown.generation.number,
            applied_unix=shown.generation.applied_unix,
            applied_by=shown.generation.applied_by,
            generations=owner.kept,
        )
