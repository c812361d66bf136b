"""How calls are made on one node's channel, one way for each of gRPC's four kinds, and how their failures become words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, cast

import grpc

from basalt.client import diagnosis
from basalt.client.target import Target
from basalt.errors import BasaltError

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class _Cancellable(Protocol):
    """A running call; grpc-stubs leaves its ``cancel`` untyped."""

    def cancel(self) -> bool: ...


class _Requests(Generic[_Request]):
    """What a caller streams to a node, on gRPC's thread.

    An error of the caller's iterator must not end the stream as if it were whole, and gRPC would log it with a traceback: the
    call is cancelled instead, and :attr:`error` says why.
    """

    def __init__(self, requests: Iterator[_Request]) -> None:
        self._requests = requests
        self._call: _Cancellable | None = None
        self._made = threading.Event()
        self.error: BaseException | None = None

    def belong_to(self, call: object) -> None:
        """Say which call they are of; gRPC may have begun to ask for them before it is known."""
        self._call = cast(_Cancellable, call)
        self._made.set()

    def __iter__(self) -> Iterator[_Request]:
        try:
            yield from self._requests
        except Exception as error:  # carried to the thread that waits for the answer, which raises it
            self.error = error
            self._made.wait()
            assert self._call is not None
            self._call.cancel()


class Caller:
    """One node's channel. Every method raises :class:`basalt.errors.BasaltError` and nothing of gRPC's."""

    def __init__(self, target: Target, channel: grpc.Channel, timeout_s: float) -> None:
        self.target = target
        self._channel = channel
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; streams end with it."""
        self._channel.close()

    def _call(
        self, method: str, call: grpc.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> _Response:
        try:
            return call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._explain(method, error) from error

    def _stream(
        self, method: str, call: grpc.UnaryStreamMultiCallable[_Request, _Response], request: _Request
    ) -> Iterator[_Response]:
        # No deadline: a stream that is followed has no end, and keepalive notices a node that has gone away.
        stream = call(request)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._explain(method, error) from error
        finally:
            cast(_Cancellable, stream).cancel()

    def _upload(
        self, method: str, call: grpc.StreamUnaryMultiCallable[_Request, _Response], requests: Iterator[_Request]
    ) -> _Response:
        """Stream *requests* and return the answer, which may come before they are at their end.

        gRPC asks for the next one when the one before has left, so that a slow node slows their source down.
        """
        sent = _Requests(requests)
        # No deadline: how long it takes depends on what is sent.
        answer = call.future(iter(sent))
        sent.belong_to(answer)
        try:
            return answer.result()
        except grpc.FutureCancelledError:  # by nobody but the requests
            assert sent.error is not None
            raise sent.error from None
        except grpc.RpcError as error:
            raise self._explain(method, error) from error
        finally:
            cast(_Cancellable, answer).cancel()

    def _converse(
        self, method: str, call: grpc.StreamStreamMultiCallable[_Request, _Response], requests: Iterator[_Request]
    ) -> Iterator[_Response]:
        """Stream *requests* and yield what the node says meanwhile, until it has ended."""
        sent = _Requests(requests)
        stream = call(iter(sent))
        sent.belong_to(stream)
        try:
            yield from stream
        except grpc.RpcError as error:
            if sent.error is not None:
                raise sent.error from None
            raise self._explain(method, error) from error
        finally:
            cast(_Cancellable, stream).cancel()

    def _explain(self, method: str, error: grpc.RpcError) -> BasaltError:
        assert isinstance(error, grpc.Call)  # what a call raises is the call itself, with its status
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            return diagnosis.explain_unavailable(self.target, details)
        return diagnosis.explain_status(self.target, f"/basalt.machine.v1.{method}", code, details)
