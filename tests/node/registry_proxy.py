"""A registry with a proxy in front that passes everything on until it is told to do harm, and notes what it saw.

It speaks TLS on both sides and ends every connection after one answer, so that one request is one connection and nothing has to be kept
in step. It runs on a thread of its own; everything public may be called from any other.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import ssl
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tests.node.registry import Endpoint
from tests.node.registry_access import HERE, Authority, server_files
from tests.node.registry_faults import BodyFault, Corrupt, Fault, HangUp, Refuse, Request, Slow, Stall, Truncate

_PIECE_BYTES = 65536
_HEAD_BYTES = 65536
_TICK_S = 0.1  # how often a slow answer gets a piece on its way
_START_S = 30.0
_END_OF_HEAD = b"\r\n\r\n"


@dataclass
class _Standing:
    """A fault that was asked for, and when it is taken away."""

    fault: Fault
    left: int | None
    gone: asyncio.Event


@dataclass(frozen=True)
class FaultyRegistry(Endpoint):
    """A registry behind the proxy: spoken to like the registry itself, by its other port."""

    _proxy: _Proxy = field(kw_only=True, repr=False)

    def add(self, fault: Fault) -> None:
        """From now on this goes wrong. Of several faults that a request meets, the first that was added counts."""
        self._proxy.add(fault)

    def release(self, *faults: Fault) -> None:
        """Take *faults* away, all of them where none is named: what stalls goes on, what is slow goes fast."""
        self._proxy.release(faults)

    @contextlib.contextmanager
    def having(self, *faults: Fault) -> Iterator[FaultyRegistry]:
        """These go wrong while the block runs."""
        for fault in faults:
            self.add(fault)
        try:
            yield self
        finally:
            self.release(*faults)

    @property
    def requests(self) -> list[Request]:
        """What was asked, since the start or :meth:`forget`."""
        return list(self._proxy.requests)

    def forget(self) -> None:
        """Forget the requests up to now."""
        self._proxy.requests.clear()

    def seen(self, pattern: str) -> list[Request]:
        """The requests in whose ``METHOD TARGET`` the regular expression *pattern* is found."""
        return [each for each in self.requests if re.search(pattern, f"{each.method} {each.target}")]


_running: list[FaultyRegistry] = []


def stories() -> list[tuple[str, str]]:
    """What each proxy that runs has seen, by its name: for the report of a failed test."""
    return [(faulty.here, "\n".join(str(request) for request in faulty.requests)) for faulty in _running]


@contextlib.contextmanager
def faulty(registry: Endpoint, *, authority: Authority | None = None) -> Iterator[FaultyRegistry]:
    """A proxy in front of *registry* while the block runs.

    :param authority: who signs the proxy's certificate; the registry's own authority where left out.
    """
    authority = authority or registry.authority
    directory = registry.tools.fresh("proxy")
    directory.mkdir()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*server_files(authority, directory))
    proxy = _Proxy(registry.port, server, ssl.create_default_context(cadata=registry.authority.pem))
    proxy.start()
    made = FaultyRegistry(registry.tools, authority, proxy.port, registry.credentials, _proxy=proxy)
    _running.append(made)
    try:
        yield made
    finally:
        _running.remove(made)
        proxy.stop()


class _Proxy:
    """The thread with the event loop. What is below the line runs on it alone."""

    def __init__(self, origin: int, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.requests: list[Request] = []
        self.port = 0
        self._origin, self._server, self._client = origin, server, client
        self._standing: list[_Standing] = []
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="faulty registry", daemon=True)
        self._started: concurrent.futures.Future[int] = concurrent.futures.Future()

    def start(self) -> None:
        """Returns when it listens."""
        self._thread.start()
        self.port = self._started.result(_START_S)

    def stop(self) -> None:
        """Returns when it is gone."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_START_S)

    def add(self, fault: Fault) -> None:
        """Returns when it is in force."""
        self._call(self._add(fault))

    def release(self, faults: Sequence[Fault]) -> None:
        """Returns when no request meets them any more."""
        self._call(self._release(faults))

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_START_S)

    def _run(self) -> None:
        # A client that refuses the certificate is a client's affair.
        self._loop.set_exception_handler(lambda loop, context: None)
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    # ---

    async def _listen(self) -> None:
        try:
            server = await asyncio.start_server(self._serve, HERE, 0, ssl=self._server, limit=_HEAD_BYTES)
        except BaseException as error:
            self._started.set_exception(error)
            raise
        self._started.set_result(server.sockets[0].getsockname()[1])
        await self._end.wait()
        server.close()  # and no waiting for its connections: those that stall would never end

    async def _add(self, fault: Fault) -> None:
        self._standing.append(_Standing(fault, fault.times, asyncio.Event()))

    async def _release(self, faults: Sequence[Fault]) -> None:
        for standing in list(self._standing):
            if not faults or any(standing.fault is fault for fault in faults):
                standing.gone.set()
                self._standing.remove(standing)

    def _meet(self, request: Request, kind: type[Fault] | tuple[type[Fault], ...], length: int = 0) -> _Standing | None:
        """The fault of *kind* that *request* meets; that is one time less for it."""
        for standing in self._standing:
            fault = standing.fault
            if not isinstance(fault, kind) or not re.search(fault.on, f"{request.method} {request.target}"):
                continue
            if standing.left == 0 or (isinstance(fault, BodyFault) and length < max(1, fault.at_least)):
                continue
            standing.left = None if standing.left is None else standing.left - 1
            request.fault = fault
            return standing
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Either side may hang up at any time; that is what this is for.
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            await self._answer(reader, writer)
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, headers = _parse(await reader.readuntil(_END_OF_HEAD))
        method, target, _ = first.split(" ", 2)
        request = Request(method, target, {name.lower(): value for name, value in headers})
        self.requests.append(request)
        met = self._meet(request, (Refuse, HangUp))
        if met and isinstance(met.fault, Refuse):
            request.status = met.fault.status
            writer.write(_refusal(met.fault, method))
            await writer.drain()
        if met:
            return
        there, origin = await asyncio.open_connection(HERE, self._origin, ssl=self._client, limit=_HEAD_BYTES)
        origin.write(_head(first, headers))
        upwards = asyncio.create_task(_copy(reader, origin))
        try:
            await self._pass_on(request, there, writer, upwards)
        finally:
            upwards.cancel()
            origin.close()

    async def _pass_on(
        self,
        request: Request,
        there: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client_gone: asyncio.Task[None],
    ) -> None:
        while True:
            first, headers = _parse(await there.readuntil(_END_OF_HEAD))
            status = int(first.split(" ", 2)[1])
            if status >= HTTPStatus.OK:
                break
            writer.write(_head(first, headers, close=False))
        request.status = status
        writer.write(_head(first, headers))
        found = {name.lower(): value for name, value in headers}
        # An answer to HEAD has the length of what it does not have.
        length = (
            int(found.get("content-length", 0)) if request.method == "GET" and status < HTTPStatus.BAD_REQUEST else 0
        )
        met = self._meet(request, BodyFault, length)
        while data := await there.read(_PIECE_BYTES):
            for piece in _cut(data, request.sent, met.fault, length) if met else (data,):
                if met and not await _reached(request.sent, met, length, client_gone):
                    return
                changed = piece
                if met and isinstance(met.fault, Corrupt) and request.sent == met.fault.place(length):
                    changed = bytes([piece[0] ^ 0xFF]) + piece[1:]
                writer.write(changed)
                await writer.drain()
                request.sent += len(piece)


def _cut(data: bytes, sent: int, fault: Fault, length: int) -> Iterator[bytes]:
    """*data*, *sent* bytes into the body, in pieces: one begins where the fault happens; those of a slow answer take a tick each."""
    size = max(1, int(fault.bytes_per_s * _TICK_S)) if isinstance(fault, Slow) else len(data)
    place = fault.place(length) - sent if isinstance(fault, BodyFault) else 0
    for part in (data[:place], data[place:]) if 0 < place < len(data) else (data,):
        yield from (part[at : at + size] for at in range(0, len(part), size))


async def _reached(sent: int, met: _Standing, length: int, client_gone: asyncio.Task[None]) -> bool:
    """Wait as long as the fault says before the next piece; False when there is to be none."""
    match met.fault:
        case Slow():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(met.gone.wait(), _TICK_S)
            return not client_gone.done()
        case Stall() if sent == met.fault.place(length):
            released = asyncio.create_task(met.gone.wait())
            await asyncio.wait({released, client_gone}, return_when=asyncio.FIRST_COMPLETED)
            released.cancel()
            return not client_gone.done()
        case Truncate():
            return sent < met.fault.place(length)
        case _:
            return True


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a client sends, until it hangs up."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()


def _parse(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    """First line and headers."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    return first, [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def _head(first: str, headers: list[tuple[str, str]], *, close: bool = True) -> bytes:
    """The head again; the connection is for this one message."""
    kept = [(name, value) for name, value in headers if name.lower() not in ("connection", "keep-alive")]
    kept += [("Connection", "close")] if close else []
    return "".join([f"{first}\r\n", *(f"{name}: {value}\r\n" for name, value in kept), "\r\n"]).encode("latin-1")


def _refusal(fault: Refuse, method: str) -> bytes:
    body = b'{"errors":[{"code":"UNKNOWN","message":"refused by the test"}]}'
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if fault.status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", 'Basic realm="tests"'))
    if fault.retry_after_s is not None:
        headers.append(("Retry-After", str(fault.retry_after_s)))
    head = _head(f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}", headers)
    return head if method == "HEAD" else head + body
