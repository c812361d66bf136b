"""A conversation with the kernel over a netlink socket (netlink(7)): one request at a time, its answers, its errors.

It knows frames and nothing of what is in them; :mod:`machined.network.rtnl`, :mod:`machined.network.wgnl` and
:mod:`machined.firewall` do.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# include/uapi/linux/netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
F_REQUEST, F_MULTI, F_ACK, F_DUMP = 0x1, 0x2, 0x4, 0x300
F_DUMP_INTR = 0x10
NETLINK_GENERIC = 16
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 10, 11  # errors without the request in them, and with the kernel's words
_ERROR_BYTES = 4 + 16  # struct nlmsgerr: the errno, and the header of the request
_ERROR_WORDS = 1  # NLMSGERR_ATTR_MSG

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
NESTED = 0x8000
_RECEIVE_BYTES = 128 * 1024  # the kernel sends a dump in pieces of at most 32 KiB


class Conversation:
    """One socket. Requests take turns: a socket carries one dump at a time (EBUSY)."""

    def __init__(self, protocol: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._turn = asyncio.Lock()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def ask(
        self, kind: int, flags: int, encode: Callable[[dict[str, int]], bytes]
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """Send one message and give its answers: type, flags, and the whole message, its header included.

        Ends after the end of a dump, an acknowledgement, or the first answer where neither was asked for.

        :param encode: makes the whole message; gets type, flags and sequence number for its header.
        :raises OSError: with the kernel's errno.
        """
        async with self._turn:
            self._sequence += 1
            header = {"type": kind, "flags": flags | F_REQUEST, "sequence_number": self._sequence}
            await asyncio.get_running_loop().sock_sendall(self._socket, encode(header))
            async for answer, answer_flags, body in self._answers():
                if answer in (NLMSG_DONE, NLMSG_ERROR):  # an error with errno 0 is the acknowledgement
                    return
                yield answer, answer_flags, body
                if not flags & (F_DUMP | F_ACK):
                    return

    async def _answers(self) -> AsyncIterator[tuple[int, int, bytes]]:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(self._socket, _RECEIVE_BYTES)
            for kind, flags, sequence, body in split(data):
                if sequence != self._sequence:
                    continue  # left over from a request that was given up in the middle
                if kind == NLMSG_ERROR:
                    _raise(body[HEADER.size :])
                yield kind, flags, body


class Listener:
    """Hears what the kernel tells everybody in some groups of a protocol.

    :param on_data: gets each datagram; None when some were lost because nobody read in time (ENOBUFS).
    """

    def __init__(self, protocol: int, groups: tuple[int, ...], on_data: Callable[[bytes | None], None]) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        self._on_data = on_data

    def start(self) -> None:
        """Begin to listen."""
        asyncio.get_running_loop().add_reader(self._socket, self._drain)

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                self._on_data(self._socket.recv(65536))
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the socket works on, and what was lost is found by looking
                self._on_data(None)


def _raise(error: bytes) -> None:
    """Raise what a NLMSG_ERROR message says, in the kernel's own words where it has any; nothing for an acknowledgement."""
    (code,) = struct.unpack_from("=i", error)
    if code:
        said = dict(attributes(error[_ERROR_BYTES:])).get(_ERROR_WORDS, b"").rstrip(b"\0").decode(errors="replace")
        raise OSError(-code, f"{os.strerror(-code)} ({said.rstrip('.')})" if said else os.strerror(-code))


def frame(header: dict[str, int], payload: bytes) -> bytes:
    """A whole message around *payload*."""
    size = HEADER.size + len(payload)
    return HEADER.pack(size, header["type"], header["flags"], header["sequence_number"], 0) + payload


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages in what one read returned: type, flags, sequence number, and the whole message."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return  # not a netlink message: nothing behind it can be trusted either
        yield kind, flags, sequence, data[at : at + length]
        at += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute (struct nlattr), padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in *data*, their flags taken off the type."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
