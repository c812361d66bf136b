"""A conversation with the kernel over rtnetlink (rtnetlink(7)): one request at a time, acknowledged, or a whole dump.

The messages are pyroute2's: their layouts and attributes are the part that is easy to get wrong. Its sockets are left out: importing
``AsyncIPRoute`` costs 54 ms and 6 MB more than the messages alone, a quarter of what machined imports in all, and brings queues,
telemetry and mocks that three kinds of request have no use for.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING


def _enter_package() -> None:
    """Let ``pyroute2.netlink`` be imported without ``pyroute2/__init__``, which imports everything (NDB, nftables, ethtool: 140 ms).

    An empty module with the package's search path stands in for it, unless somebody has imported the whole already.
    """
    if "pyroute2" not in sys.modules:
        spec = importlib.util.find_spec("pyroute2")
        if spec is None:
            raise ModuleNotFoundError("pyroute2 is not installed")
        sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)


_enter_package()

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402 - the package must be entered first
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    Message = Any  # pyroute2's messages are dictionaries with methods

__all__ = ["RouteSocket", "ifaddrmsg", "ifinfmsg", "rtmsg"]

# include/uapi/linux/rtnetlink.h and netlink.h
RTM_NEWLINK, RTM_GETLINK = 16, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_F_REQUEST, _F_ACK, _F_DUMP = 0x1, 0x4, 0x300
_F_DUMP_INTR = 0x10
REPLACE = 0x500  # NLM_F_REPLACE | NLM_F_CREATE: make it so, whether it is there or not

_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 128 * 1024  # the kernel sends a dump in pieces of at most 32 KiB


class RouteSocket:
    """One rtnetlink socket. Requests take turns: a socket carries one dump at a time (EBUSY)."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._turn = asyncio.Lock()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def dump(self, kind: int, message: Message) -> list[Message]:
        """All objects of a kind.

        :param kind: ``RTM_GET…``; *message* is an empty message of the class in which the answers are read.
        :raises OSError: EINTR when the objects changed in the middle of it, so that some may be missing or doubled.
        """
        found = []
        interrupted = False
        async with self._turn:
            await self._send(kind, _F_REQUEST | _F_DUMP, message)
            async for answer, flags, body in self._answers():
                if answer == _NLMSG_DONE:
                    break
                interrupted = interrupted or bool(flags & _F_DUMP_INTR)
                item = type(message)(body)
                item.decode()
                found.append(item)
        if interrupted:
            raise InterruptedError(errno.EINTR, "the network changed while it was read")
        return found

    async def request(self, kind: int, message: Message, flags: int = 0) -> None:
        """Have the kernel do something.

        :raises OSError: with the kernel's errno.
        """
        async with self._turn:
            await self._send(kind, _F_REQUEST | _F_ACK | flags, message)
            async for answer, _, _ in self._answers():
                if answer == _NLMSG_ERROR:  # with errno 0: the acknowledgement
                    break

    async def _send(self, kind: int, flags: int, message: Message) -> None:
        self._sequence += 1
        message["header"] = {"type": kind, "flags": flags, "sequence_number": self._sequence}
        message.encode()
        await asyncio.get_running_loop().sock_sendall(self._socket, bytes(message.data))

    async def _answers(self) -> AsyncIterator[tuple[int, int, bytes]]:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(self._socket, _RECEIVE_BYTES)
            for kind, flags, sequence, body in split(data):
                if sequence != self._sequence:
                    continue  # left over from a request that was given up in the middle
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", body, _HEADER.size)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                yield kind, flags, body


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages in what one read returned: type, flags, sequence number, and the whole message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return  # not a netlink message: nothing behind it can be trusted either
        yield kind, flags, sequence, data[at : at + length]
        at += (length + 3) & ~3
