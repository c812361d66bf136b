"""Relays calls between the TLS side and machined's unix socket, as bytes.

Each call is judged (:mod:`machined.gateway.authorise`) and then made once on the inner channel with the same deadline. Messages are
not parsed. Nothing of the caller's own metadata goes on: machined is told only what the gateway found out itself, under names that
begin with ``basalt-``. Cancellation and flow control carry over, because each direction awaits the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio

from machined.audit import Record
from machined.gateway.admission import Admission
from machined.gateway.authorise import Rule, Verdict, decide, explain
from machined.gateway.calls import ANSWER_S, OpenCall, OpenCalls
from machined.gateway.identity import Caller, UnknownCallerError
from machined.gateway.refusals import Refusals

# Names of what machined is told; "-bin" values may hold any bytes, and a CN may be any UTF-8.
IDENTITY = "basalt-identity-bin"
ROLES = "basalt-roles"
SERIAL = "basalt-serial"
CERTIFICATE = "basalt-certificate-bin"  # PEM
ADDRESS = "basalt-address"
REQUEST_ID = "basalt-request-id"

# How long a call waits for a machined that is just starting again before it is refused: most restarts are shorter.
RIDE_OVER_S = 10.0

RESTARTING = "machined is restarting; the node answers again in a moment"

_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED

_STATUS = {
    Verdict.LOCKED: _UNAUTHENTICATED,
    Verdict.CLOSED: grpc.StatusCode.PERMISSION_DENIED,
    Verdict.NO_ROLE: grpc.StatusCode.PERMISSION_DENIED,
    Verdict.NOT_CONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
}

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Metadata = tuple[tuple[str, str | bytes], ...]


_FAILED_WRITE = "Internal error from Core"  # grpc/aio/_call.py
_AS_IS: Any = None  # serialisers: messages stay bytes

if TYPE_CHECKING:
    _Handler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _Handler = grpc.GenericRpcHandler  # generic in its stubs only


class Relay(_Handler):
    """Answers every method of the contract by asking machined, and no other."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        admission: Admission,
        calls: OpenCalls,
        refusals: Refusals,
        inner: grpc.aio.Channel,
    ) -> None:
        self._admission = admission
        self._calls = calls
        self._refusals = refusals
        self._inner = inner
        self._handlers = {method: self._handler(rule) for method, rule in rules.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method; None lets gRPC answer UNIMPLEMENTED, to callers without a valid certificate never reached."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, rule: Rule) -> grpc.RpcMethodHandler[Any, Any]:
        inner, method = self._inner, rule.method
        if rule.client_streaming and rule.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self._many(rule, inner.stream_stream(method, _AS_IS, _AS_IS)))
        if rule.client_streaming:
            return grpc.stream_unary_rpc_method_handler(self._one(rule, inner.stream_unary(method, _AS_IS, _AS_IS)))
        if rule.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._many(rule, inner.unary_stream(method, _AS_IS, _AS_IS)))
        return grpc.unary_unary_rpc_method_handler(self._one(rule, inner.unary_unary(method, _AS_IS, _AS_IS)))

    def _one(self, rule: Rule, call: Any) -> Any:
        """The handler of a method with one response; its request is a message or, where it streams, an iterator."""

        grace_s = ANSWER_S if rule.changes else 0.0

        async def relay(request: Any, context: _Context) -> bytes:
            admitted = await self._admit(rule, context)
            inner = call(request, timeout=context.time_remaining(), metadata=admitted.metadata)
            end = _End(inner)
            with self._calls.open(admitted.certificate_pem, inner, grace_s=grace_s) as opened:
                try:
                    response: bytes = await inner
                except grpc.aio.AioRpcError as error:
                    await end.pass_on(error, context)
                except asyncio.CancelledError:
                    await self._end(rule, opened, admitted, context)
            return response

        return relay

    def _many(self, rule: Rule, call: Any) -> Any:
        """The handler of a method whose responses stream."""

        async def relay(request: Any, context: _Context) -> AsyncIterator[bytes]:
            admitted = await self._admit(rule, context)
            inner = call(request, timeout=context.time_remaining(), metadata=admitted.metadata)
            end = _End(inner)
            with self._calls.open(admitted.certificate_pem, inner) as opened:
                try:
                    async for response in inner:
                        yield response
                except grpc.aio.AioRpcError as error:
                    await end.pass_on(error, context)
                except asyncio.CancelledError:
                    await self._end(rule, opened, admitted, context)
                finally:
                    inner.cancel()  # the caller has gone: machined must not go on for nobody

        return relay

    async def _admit(self, rule: Rule, context: _Context) -> _Admitted:
        """Judge a call; an aborted call when it may not be made."""
        request_id = secrets.token_hex(8)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        certificates = [*context.auth_context().get("x509_pem_cert", ())]
        admitted = await self._judge(rule, context, certificates, request_id)
        if self._inner.get_state() is not grpc.ChannelConnectivity.READY:
            await self._machined_is_there()
            admitted = await self._judge(
                rule, context, certificates, request_id
            )  # who was admitted then may not be now
        return admitted

    async def _judge(self, rule: Rule, context: _Context, certificates: list[bytes], request_id: str) -> _Admitted:
        certificate = certificates[0] if certificates else b""
        address = address_of(context.peer())
        try:
            if not certificate:
                raise UnknownCallerError("no client certificate")
            caller = self._admission.admit(certificate, datetime.datetime.now(datetime.UTC))
        except UnknownCallerError as error:
            await self._refuse(
                rule, context, self._named(certificate), address, request_id, _UNAUTHENTICATED, str(error)
            )
        verdict = decide(rule, self._admission.mode, caller.roles)
        if verdict is not Verdict.ALLOWED:
            words = explain(verdict, rule, caller.roles)
            await self._refuse(rule, context, caller, address, request_id, _STATUS[verdict], words)
        return _Admitted(caller, certificate, address, request_id)

    def _named(self, certificate_pem: bytes) -> Caller | None:
        """Whom a certificate that is not admitted names, if anybody."""
        try:
            return self._admission.identify(certificate_pem)
        except UnknownCallerError:
            return None

    async def _refuse(
        self,
        rule: Rule,
        context: _Context,
        caller: Caller | None,
        address: str,
        request_id: str,
        status: grpc.StatusCode,
        words: str,
    ) -> NoReturn:
        """End a call that is not admitted, and have it recorded."""
        self._refusals.note(
            Record(
                identity=caller.name if caller else "",
                serial=caller.serial if caller else "",
                address=address,
                rpc=rule.method,
                request_id=request_id,
                outcome=f"{status.name}: {words}",
                roles=tuple(sorted(caller.roles)) if caller else (),
            )
        )
        await context.abort(status, words)

    async def _end(self, rule: Rule, opened: OpenCall, admitted: _Admitted, context: _Context) -> NoReturn:
        """A call was cancelled: by its caller, which needs no word, or because its caller is no longer admitted."""
        if not opened.refusal:
            raise asyncio.CancelledError
        who, where, which = admitted.caller, admitted.address, admitted.request_id
        await self._refuse(rule, context, who, where, which, _UNAUTHENTICATED, opened.refusal)

    async def _machined_is_there(self) -> None:
        """Wait a little for machined; what the call then finds is the call's own answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RIDE_OVER_S):
                await self._inner.channel_ready()


class _Admitted(NamedTuple):
    """A call that may be made."""

    caller: Caller
    certificate_pem: bytes
    address: str
    request_id: str

    @property
    def metadata(self) -> _Metadata:
        """What machined is told about it."""
        return (
            *metadata_of(self.caller),
            (CERTIFICATE, self.certificate_pem),
            (ADDRESS, self.address),
            (REQUEST_ID, self.request_id),
        )


@functools.lru_cache(maxsize=1024)
def metadata_of(caller: Caller) -> _Metadata:
    """What machined is told about every call of a caller."""
    return (
        (IDENTITY, caller.name.encode()),
        (ROLES, ",".join(sorted(caller.roles))),
        (SERIAL, caller.serial),
    )


def address_of(peer: str) -> str:
    """``192.0.2.1:4711`` or ``[2001:db8::1]:4711`` from gRPC's name for a peer."""
    return unquote(peer.partition(":")[2])


class _End:
    """How an inner call ended, noted at that moment.

    When machined ends a call whose requests still stream, grpc.aio's write to it fails, and what that says (INTERNAL, "Internal error
    from Core") may replace the status that had already come.
    """

    def __init__(self, call: Any) -> None:
        self._first: tuple[grpc.StatusCode, str] | None = None
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if isinstance(code, grpc.StatusCode):
            self._first = (code, details if isinstance(details, str) else "")

    async def pass_on(self, error: grpc.aio.AioRpcError, context: _Context) -> NoReturn:
        """End the outer call as the inner one ended. UNAVAILABLE is what gRPC itself says when nobody listens on the socket."""
        code, details = error.code(), error.details() or ""
        if details == _FAILED_WRITE and self._first and self._first[0] is not grpc.StatusCode.OK:
            code, details = self._first
        await context.abort(code, RESTARTING if code is grpc.StatusCode.UNAVAILABLE else details)


def _at_once(answer: Any) -> object:
    """What a coroutine that need not wait returns."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    answer.close()
    return None
