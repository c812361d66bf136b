"""Records calls: those that may change something, whatever becomes of them, and those that the gateway refused.

An interceptor does it for every method whose role in the contract is not one for looking only, so a new method is covered by itself.
What a call changed, the handler says with :func:`note`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec

from machined.api.callers import ApiCaller, caller_of
from machined.audit import AuditLog, Record
from machined.gateway.authorise import contract
from machined.gateway.refusals import REFUSED

if TYPE_CHECKING:  # generic in their stubs only
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
    _Handler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _Interceptor = grpc.aio.ServerInterceptor
    _Handler = grpc.GenericRpcHandler

_NOTES: ContextVar[list[str]] = ContextVar("notes")


def note(text: str) -> None:
    """Have *text* in the record of the call that is being answered: what it changed, without secrets."""
    notes = _NOTES.get(None)
    if notes is not None:
        notes.append(text)


class AuditInterceptor(_Interceptor):
    """Puts a record of each call that may change something into the log before its caller is answered."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self.audited = {method for method, rule in contract().items() if rule.changes}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler itself, or one around it that records."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in self.audited:
            return handler
        if handler.unary_unary:
            wrap, inner = grpc.unary_unary_rpc_method_handler, self._one(method, handler.unary_unary)
        elif handler.unary_stream:
            wrap, inner = grpc.unary_stream_rpc_method_handler, self._many(method, handler.unary_stream)
        elif handler.stream_unary:
            wrap, inner = grpc.stream_unary_rpc_method_handler, self._one(method, handler.stream_unary)
        else:
            wrap, inner = grpc.stream_stream_rpc_method_handler, self._conversation(method, handler.stream_stream)
        return wrap(inner, handler.request_deserializer, handler.response_serializer)

    def _one(self, method: str, answer: Callable[..., Awaitable[Any]]) -> Any:
        async def recorded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            caller = await caller_of(context)
            notes: list[str] = []
            _NOTES.set(notes)
            try:
                response = await answer(request, context)
            except asyncio.CancelledError:
                self._write(caller, method, "CANCELLED: the caller did not wait for the answer", notes)
                raise
            except grpc.aio.AbortError:
                self._write(caller, method, _outcome(context), notes)
                raise
            except Exception as error:
                self._write(caller, method, f"UNKNOWN: internal error: {error!r}", notes)
                raise
            self._write(caller, method, "OK", notes)
            return response

        return recorded

    def _many(self, method: str, answer: Callable[..., AsyncIterator[Any]]) -> Any:
        async def recorded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            caller = await caller_of(context)
            self._write(
                caller, method, "OK", ["stream begins"]
            )  # it may last for days: the record does not wait for its end
            async for response in answer(request, context):
                yield response

        return recorded

    def _conversation(self, method: str, answer: Callable[..., AsyncIterator[Any]]) -> Any:
        async def recorded(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            """What it is about is in the first request: the record waits for what the handler makes of that, and no longer."""
            caller = await caller_of(context)
            notes: list[str] = []
            _NOTES.set(notes)
            written = False
            try:
                async for response in answer(requests, context):
                    if not written:
                        self._write(caller, method, "OK", notes)
                        written = True
                    yield response
            except BaseException as error:
                if not written:
                    aborted = isinstance(error, grpc.aio.AbortError)
                    self._write(caller, method, _outcome(context) if aborted else f"UNKNOWN: {error!r}", notes)
                raise

        return recorded

    def _write(self, caller: ApiCaller, method: str, outcome: str, notes: list[str]) -> None:
        self._log.write(
            Record(
                identity=caller.name,
                serial=caller.serial,
                address=caller.address,
                rpc=method,
                request_id=caller.request_id,
                outcome=outcome,
                detail="; ".join(notes),
                roles=caller.roles,
            )
        )


def _outcome(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """How an aborted call ended: the status and the first line of its words."""
    code = context.code()
    name = code.name if isinstance(code, grpc.StatusCode) else str(code)
    details = context.details()
    words = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details or "")
    return f"{name}: {words.partition(chr(10))[0]}"


class RefusalHandler(_Handler):
    """Takes the gateway's refusals down; see :mod:`machined.gateway.refusals`."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The one method."""
        return grpc.unary_unary_rpc_method_handler(self._take) if handler_call_details.method == REFUSED else None

    async def _take(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            record = msgspec.json.decode(request, type=Record)
        except msgspec.MsgspecError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if record.outcome.startswith("OK"):  # what succeeded is for machined alone to say
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a refusal is no success")
        self._log.write(record)
        return b""
