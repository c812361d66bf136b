"""One HTTP request and its answer, with a bound on everything that the other side decides: time, bytes, headers.

asyncio has streams and no HTTP; http.client has HTTP and blocks, and a thread that waits in it cannot be called off. This is the little
that lies between: HTTP/1.1 (RFC 9112), each connection for one request, no proxy, no redirection followed.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import io
import re
import socket
import ssl
from collections.abc import Mapping
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from basalt.errors import BasaltError
from machined import paths
from machined.sources.fetch import explain, shown

TIMEOUT_S = 30.0  # for one answer, to its end
HEAD_BYTES_MAX = 64 * 1024
_AGENT = "basalt"
_NEXT_ADDRESS_S = 0.25  # RFC 8305, section 5: a name's next address is tried when one does not answer
# OpenSSL's X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT to _UNABLE_TO_VERIFY_LEAF_SIGNATURE (openssl-verification-options(1))
_UNKNOWN_AUTHORITY = range(18, 22)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")

AUTHORITY_REMEDY = "give the registry's authority in a RegistryConfig (authorities), if it is a private one"
CERTIFICATE_REMEDY = "look at the registry's certificate"
NAME_REMEDY = "look at the name, and at the DNS servers: osctl links"
WAY_REMEDY = "look at the registry and the way to it"


class ExchangeError(BasaltError):
    """There is no answer, or none that is understood."""


class Answer(Struct, frozen=True):
    """What a server answered. *body* is empty where the status is no success: nothing here reads those."""

    status: int
    headers: Message
    body: bytes = b""

    @property
    def words(self) -> str:
        """The status as people know it."""
        known = {each.value: each.phrase for each in HTTPStatus}
        return f"{self.status} {known.get(self.status, '')}".rstrip()


@functools.lru_cache(maxsize=16)
def trust(authorities: tuple[str, ...] = (), public: str = paths.PUBLIC_AUTHORITIES) -> ssl.SSLContext:
    """Whose certificates are accepted: the public authorities' and those of *authorities* (PEM). Blocks for a moment.

    :raises ValueError: one of *authorities* is no certificate.
    """
    # Not create_default_context(): from Python 3.13 on, that asks more of a certificate's form (VERIFY_X509_STRICT) than containerd does,
    # and what containerd pulls from must be good enough here. As with Go, an authority that is no root is one all the same.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if Path(public).exists():
        context.load_verify_locations(cafile=public)
    try:
        for pem in authorities:
            context.load_verify_locations(cadata=pem)
    except ssl.SSLError as error:
        raise ValueError("an authority that is configured for it is no certificate") from error
    return context


async def ask(
    url: str,
    *,
    authorities: tuple[str, ...] = (),
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    most_bytes: int,
) -> Answer:
    """One request.

    :param url: http:// or https://.
    :param authorities: certificates (PEM) that vouch for the server's besides the public ones.
    :param most_bytes: the longest body that is taken.
    :raises ExchangeError: with why, and what to do about it.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _exchange(url, authorities, method, headers or {}, body, most_bytes)
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, http.client.HTTPException) as error:
        why, remedy = _explained(error)
        raise ExchangeError(shown(url), why=why, remedy=remedy) from error


async def _exchange(
    url: str, authorities: tuple[str, ...], method: str, headers: Mapping[str, str], body: bytes, most_bytes: int
) -> Answer:
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("this is no address of a server")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", f"User-Agent: {_AGENT}", "Connection: close"]
    lines += [f"Content-Length: {len(body)}"] if body else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any(re.fullmatch("[ -~]+", line) is None for line in lines) or " " in target:
        raise ValueError("a character that no request can have")
    context = await asyncio.to_thread(trust, authorities) if parts.scheme == "https" else None
    port = parts.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(
        parts.hostname, port, ssl=context, limit=HEAD_BYTES_MAX, happy_eyeballs_delay=_NEXT_ADDRESS_S
    )
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        await writer.drain()
        return await _answer(reader, most_bytes)
    finally:
        writer.transport.abort()  # an orderly end would wait for the other side


async def _answer(reader: asyncio.StreamReader, most_bytes: int) -> Answer:
    status, headers = await _head(reader)
    while status < HTTPStatus.OK:  # 1xx: the answer is on its way
        status, headers = await _head(reader)
    if status >= HTTPStatus.MULTIPLE_CHOICES or status == HTTPStatus.NO_CONTENT:
        return Answer(status, headers)
    return Answer(status, headers, await _body(reader, headers, most_bytes))


async def _head(reader: asyncio.StreamReader) -> tuple[int, Message]:
    head = await reader.readuntil(b"\r\n\r\n")
    first = _STATUS.match(head)
    if first is None:
        raise ValueError("what answers there speaks no HTTP/1.1")
    return int(first[1]), http.client.parse_headers(io.BytesIO(head[first.end() :]))


async def _body(reader: asyncio.StreamReader, headers: Message, most_bytes: int) -> bytes:
    coding = headers.get("Transfer-Encoding", "").strip().lower()
    length = headers.get("Content-Length", "").strip()
    if coding == "chunked":
        return await _chunks(reader, most_bytes)
    if coding or (length and re.fullmatch("[0-9]{1,18}", length) is None):
        raise ValueError("the length of its answer is not understood")
    if length:
        return await reader.readexactly(_bounded(int(length), most_bytes))
    body = bytearray()
    while piece := await reader.read(HEAD_BYTES_MAX):  # until the connection ends
        _bounded(len(body) + len(piece), most_bytes)
        body += piece
    return bytes(body)


async def _chunks(reader: asyncio.StreamReader, most_bytes: int) -> bytes:
    body = bytearray()
    while True:
        line = _CHUNK.fullmatch(await reader.readuntil(b"\r\n"))
        if line is None:
            raise ValueError("the length of a part of its answer is not understood")
        size = int(line[1], 16)
        if not size:
            return bytes(body)  # trailers may follow, and nobody reads them
        _bounded(len(body) + size, most_bytes)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a part of its answer is longer than it says")


def _bounded(size: int, most_bytes: int) -> int:
    if size > most_bytes:
        raise ValueError(f"its answer is larger than {most_bytes} bytes")
    return size


def _explained(error: Exception) -> tuple[str, str]:
    """Why there is no answer, and what to do about it."""
    match error:
        case ssl.SSLCertVerificationError():
            return explain(error), AUTHORITY_REMEDY if error.verify_code in _UNKNOWN_AUTHORITY else CERTIFICATE_REMEDY
        case ssl.SSLError():
            return f"no TLS that both sides understand: {error.reason or error}", WAY_REMEDY
        case socket.gaierror():
            return f"its name is not known: {error.strerror}", NAME_REMEDY
        case EOFError() | ConnectionResetError() | BrokenPipeError():
            return "the connection ended within the answer", WAY_REMEDY
        case ConnectionRefusedError():
            return "connection refused", WAY_REMEDY
        case OSError():
            return explain(error), WAY_REMEDY
        case asyncio.LimitOverrunError():
            return "its answer's headers are too long", WAY_REMEDY
    return str(error) or type(error).__name__, WAY_REMEDY
