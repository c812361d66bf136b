"""ConfigService: documents in and out, trials, generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.errors import BasaltError, UsageError
from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from machined import paths
from machined.api.auditing import note
from machined.api.callers import ApiCaller, caller_of, refuse
from machined.api.provenance import provenance
from machined.configuration import Applied, Requester, Wish
from machined.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from machined.node import Node


class ConfigApi(stubs.ConfigServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ApplyConfig(  # noqa: N802 - the contract's name
        self, request: pb.ApplyConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ApplyConfigResponse:
        """Replace the configuration, or say what that would do."""

        async def apply(caller: ApiCaller) -> Applied:
            if len(request.documents) > paths.DOCUMENTS_BYTES_MAX:
                raise UsageError(
                    "the documents are too large",
                    why=f"{len(request.documents)} bytes, at most {paths.DOCUMENTS_BYTES_MAX} are taken",
                )
            wish = _wish(request, request.expected_generation)
            source = request.source_name or "the request"
            return await self._node.configuration.apply(request.documents, source, _requester(caller), wish)

        return await self._changed(context, apply, dry_run=request.dry_run)

    async def RollbackConfig(  # noqa: N802
        self, request: pb.RollbackConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ApplyConfigResponse:
        """Apply an earlier generation again, or end a trial."""

        async def rollback(caller: ApiCaller) -> Applied:
            return await self._node.configuration.rollback(request.generation, _requester(caller), _wish(request))

        return await self._changed(context, rollback, dry_run=request.dry_run)

    async def _changed(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        change: Callable[[ApiCaller], Awaitable[Applied]],
        *,
        dry_run: bool,
    ) -> pb.ApplyConfigResponse:
        """Carry a change out, and answer when the node has looked at it once."""
        caller = await caller_of(context)
        try:
            applied = await change(caller)
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        note("dry run" if dry_run else _words(applied))
        if applied.changed and not applied.rebooting:
            await self._node.settle(*applied.concerns)
        return _response(applied)

    async def ConfirmConfig(  # noqa: N802
        self, request: pb.ConfirmConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ConfirmConfigResponse:
        """Keep what is on trial."""
        await caller_of(context)
        try:
            number = await self._node.configuration.confirm(request.generation)
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        note(f"generation {number}")
        return pb.ConfirmConfigResponse(generation=number)

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

    async def ListGenerations(  # noqa: N802
        self, request: pb.ListGenerationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListGenerationsResponse:
        """The generations kept."""
        await caller_of(context)
        return pb.ListGenerationsResponse(
            generations=[
                pb.Generation(
                    number=entry.number,
                    state=pb.GenerationState.ValueType(entry.fate.value),
                    applied_unix=entry.applied_unix,
                    applied_by=entry.applied_by,
                    source=entry.source,
                    reason=entry.reason,
                    trial_left_s=entry.trial_left_s,
                )
                for entry in self._node.configuration.history()
            ]
        )

    async def Provenance(  # noqa: N802
        self, request: pb.ProvenanceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ProvenanceResponse:
        """Where the configuration and the client authority came from."""
        await caller_of(context)
        return provenance(self._node)


def _requester(caller: ApiCaller) -> Requester:
    return Requester(caller.name, caller.address, caller.certificate_pem)


def _wish(request: pb.ApplyConfigRequest | pb.RollbackConfigRequest, expected: int = 0) -> Wish:
    """How the caller wants it. A mode of a later contract is refused: what it would do differently is not known here."""
    try:
        mode = Mode(request.mode)
    except ValueError as error:
        raise UsageError(f"there is no apply mode {request.mode}") from error
    return Wish(mode, request.try_timeout_s, expected, request.dry_run)


def _words(applied: Applied) -> str:
    """What the audit log says of a change."""
    how = {Mode.TRY: ", on trial", Mode.STAGED: ", staged", Mode.REBOOT: ", with a reboot"}.get(applied.mode, "")
    return f"generation {applied.generation}{how}: {'; '.join(applied.actions) or 'nothing to change'}"


def _response(applied: Applied) -> pb.ApplyConfigResponse:
    return pb.ApplyConfigResponse(
        generation=applied.generation,
        diff=applied.diff,
        actions=applied.actions,
        mode=pb.ApplyMode.ValueType(applied.mode.value),
        reboot_reasons=[pb.RebootReason(path=each.path, reason=each.reason) for each in applied.reboot_reasons],
        trial_reasons=applied.trial_reasons,
        trial_timeout_s=applied.trial_timeout_s,
        rebooting=applied.rebooting,
    )
