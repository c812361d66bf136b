"""A connection to a collector, over TCP or UDP, that never waits longer than it says."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from concurrent.futures import Executor

CONNECT_TIMEOUT_S = 10.0
UNACKNOWLEDGED_MAX_MS = 30_000  # TCP_USER_TIMEOUT: a peer that is gone without a word is noticed within this
ACKNOWLEDGE_POLL_S = 0.02
DATAGRAM_PAUSE_S = 0.005  # between bursts: a collector's receive buffer is a few hundred datagrams
DATAGRAM_BURST = 32
_SIOCOUTQ = 0x5411  # include/uapi/linux/sockios.h: bytes of a TCP socket that the peer has not acknowledged yet


class Sender:
    """One destination's socket; open while this exists."""

    def __init__(self, connection: socket.socket, *, stream: bool) -> None:
        self._socket = connection
        self._stream = stream

    @classmethod
    async def connect(cls, transport: str, host: str, port: int, resolver: Executor) -> Sender:
        """Connect.

        :param resolver: where the name is looked up: the C library waits for its answer for as long as it likes.
        :raises OSError: it cannot be reached, or its name is not known (socket.gaierror).
        """
        kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(resolver, lambda: socket.getaddrinfo(host, port, type=kind))
        problem: OSError = OSError(f"{host} has no address")
        for family, _, protocol, _, address in found:
            connection = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.sock_connect(connection, address)
                if kind == socket.SOCK_STREAM:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MAX_MS)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return cls(connection, stream=kind == socket.SOCK_STREAM)
            except TimeoutError:
                connection.close()
                problem = TimeoutError("it does not answer")
            except OSError as error:
                connection.close()
                problem = error
            except BaseException:
                connection.close()
                raise
        raise problem

    async def send(self, records: Sequence[bytes]) -> None:
        """Send, and return when the peer's kernel has everything; over UDP, when it has left.

        :raises OSError: the connection is no longer there; how much arrived is not known.
        """
        loop = asyncio.get_running_loop()
        if self._stream:
            await loop.sock_sendall(self._socket, b"".join(records))
            while self._unacknowledged():
                self.check()
                await asyncio.sleep(ACKNOWLEDGE_POLL_S)
            self.check()
            return
        for at, record in enumerate(records):
            await loop.sock_sendall(self._socket, record)
            if at % DATAGRAM_BURST == DATAGRAM_BURST - 1:
                await asyncio.sleep(DATAGRAM_PAUSE_S)

    def check(self) -> None:
        """Whether the connection still stands.

        :raises OSError: it does not.
        """
        if number := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
        try:
            if self._stream and self._socket.recv(4096, socket.MSG_DONTWAIT) == b"":
                raise ConnectionResetError("the collector has closed the connection")
        except BlockingIOError:
            return  # as it should be: a collector has nothing to say

    def _unacknowledged(self) -> int:
        (count,) = struct.unpack("=i", fcntl.ioctl(self._socket, _SIOCOUTQ, bytes(4)))
        return int(count)

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()
