"""Relays calls between the TLS side and machined's unix socket, as bytes.

Each call is judged (:mod:`machined.gateway.authorise`) and then made once on the inner channel with the same deadline. Messages are
not parsed. Nothing of the caller's own metadata goes on: machined is told only what the gateway found out itself, under names that
begin with ``basalt-``. Cancellation and flow control carry over, because each direction awaits the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio

from machined.gateway.authorise import Rule, Verdict, decide, explain
from machined.gateway.identity import Caller, Callers, UnknownCallerError
from machined.gateway.trust import LOCKED, TrustFile

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

_STATUS = {
    Verdict.LOCKED: grpc.StatusCode.UNAUTHENTICATED,
    Verdict.CLOSED: grpc.StatusCode.PERMISSION_DENIED,
    Verdict.NO_ROLE: grpc.StatusCode.PERMISSION_DENIED,
    Verdict.NOT_CONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
}

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Metadata = tuple[tuple[str, str | bytes], ...]


_AS_IS: Any = None  # serialisers: messages stay bytes

if TYPE_CHECKING:
    _Handler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _Handler = grpc.GenericRpcHandler  # generic in its stubs only


class Relay(_Handler):
    """Answers every method of the contract by asking machined, and no other."""

    def __init__(self, rules: Mapping[str, Rule], trust: TrustFile, inner: grpc.aio.Channel) -> None:
        self._trust = trust
        self._inner = inner
        self._callers = Callers()
        self._handlers = {method: self._handler(rule) for method, rule in rules.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method; None lets gRPC answer UNIMPLEMENTED, to callers without a valid certificate never reached."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, rule: Rule) -> grpc.RpcMethodHandler[Any, Any]:
        if rule.client_streaming and rule.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream_stream(rule))
        if rule.client_streaming:
            return grpc.stream_unary_rpc_method_handler(self._stream_unary(rule))
        if rule.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._unary_stream(rule))
        return grpc.unary_unary_rpc_method_handler(self._unary_unary(rule))

    async def _admit(self, rule: Rule, context: _Context) -> _Metadata:
        """Judge a call; the metadata for machined when it may be made, an aborted call otherwise."""
        request_id = secrets.token_hex(8)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        self._trust.refresh()
        trust = self._trust.current
        mode = trust.mode if trust else LOCKED
        certificates = [*context.auth_context().get("x509_pem_cert", ())]
        try:
            if not certificates:
                raise UnknownCallerError("no client certificate")
            caller = self._callers.identify(certificates[0], datetime.datetime.now(datetime.UTC))
        except UnknownCallerError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        verdict = decide(rule, mode, caller.roles)
        if verdict is not Verdict.ALLOWED:
            await context.abort(_STATUS[verdict], explain(verdict, rule, caller.roles))
        await self._machined_is_there()
        return metadata_for(caller, certificates[0], context.peer(), request_id)

    async def _machined_is_there(self) -> None:
        """Wait a little for machined; what the call then finds is the call's own answer."""
        if self._inner.get_state() is grpc.ChannelConnectivity.READY:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RIDE_OVER_S):
                await self._inner.channel_ready()

    def _unary_unary(self, rule: Rule) -> Any:
        call = self._inner.unary_unary(rule.method, _AS_IS, _AS_IS)

        async def relay(request: bytes, context: _Context) -> bytes:
            metadata = await self._admit(rule, context)
            try:
                response: bytes = await call(request, timeout=context.time_remaining(), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                await _pass_on(error, context)
            return response

        return relay

    def _stream_unary(self, rule: Rule) -> Any:
        call = self._inner.stream_unary(rule.method, _AS_IS, _AS_IS)

        async def relay(requests: AsyncIterator[bytes], context: _Context) -> bytes:
            metadata = await self._admit(rule, context)
            try:
                response: bytes = await call(requests, timeout=context.time_remaining(), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                await _pass_on(error, context)
            return response

        return relay

    def _unary_stream(self, rule: Rule) -> Any:
        call = self._inner.unary_stream(rule.method, _AS_IS, _AS_IS)

        async def relay(request: bytes, context: _Context) -> AsyncIterator[bytes]:
            metadata = await self._admit(rule, context)
            stream = call(request, timeout=context.time_remaining(), metadata=metadata)
            try:
                async for response in stream:
                    yield response
            except grpc.aio.AioRpcError as error:
                await _pass_on(error, context)
            finally:
                stream.cancel()  # the caller has gone: machined must not go on for nobody

        return relay

    def _stream_stream(self, rule: Rule) -> Any:
        call = self._inner.stream_stream(rule.method, _AS_IS, _AS_IS)

        async def relay(requests: AsyncIterator[bytes], context: _Context) -> AsyncIterator[bytes]:
            metadata = await self._admit(rule, context)
            stream = call(requests, timeout=context.time_remaining(), metadata=metadata)
            try:
                async for response in stream:
                    yield response
            except grpc.aio.AioRpcError as error:
                await _pass_on(error, context)
            finally:
                stream.cancel()

        return relay


def metadata_for(caller: Caller, certificate_pem: bytes, peer: str, request_id: str) -> _Metadata:
    """What machined is told about a call."""
    return (
        (IDENTITY, caller.name.encode()),
        (ROLES, ",".join(sorted(caller.roles))),
        (SERIAL, caller.serial),
        (CERTIFICATE, certificate_pem),
        (ADDRESS, address_of(peer)),
        (REQUEST_ID, request_id),
    )


def address_of(peer: str) -> str:
    """``192.0.2.1:4711`` or ``[2001:db8::1]:4711`` from gRPC's name for a peer."""
    return unquote(peer.partition(":")[2])


async def _pass_on(error: grpc.aio.AioRpcError, context: _Context) -> NoReturn:
    """End the outer call as the inner one ended. UNAVAILABLE is what gRPC itself says when nobody listens on the socket."""
    code = error.code()
    details = RESTARTING if code is grpc.StatusCode.UNAVAILABLE else error.details() or ""
    await context.abort(code, details)
