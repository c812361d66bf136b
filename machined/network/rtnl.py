"""A conversation with the kernel over rtnetlink (rtnetlink(7)): one request at a time, acknowledged, or a whole dump.

The messages are pyroute2's: their layouts and attributes are the part that is easy to get wrong. Its sockets are left out: importing
``AsyncIPRoute`` costs 54 ms and 6 MB more than the messages alone, a quarter of what machined imports in all, and brings queues,
telemetry and mocks that three kinds of request have no use for.
"""

from __future__ import annotations

import errno
import importlib.util
import socket
import sys
from typing import TYPE_CHECKING

from machined.network.kernel import F_ACK, F_DUMP, F_DUMP_INTR, Conversation


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
    from collections.abc import Callable
    from typing import Any

    Message = Any  # pyroute2's messages are dictionaries with methods

__all__ = ["RouteSocket", "ifaddrmsg", "ifinfmsg", "rtmsg"]

# include/uapi/linux/rtnetlink.h and netlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNDUSEROPT = 68
REPLACE = 0x500  # NLM_F_REPLACE | NLM_F_CREATE: make it so, whether it is there or not
CREATE = 0x600  # NLM_F_CREATE | NLM_F_EXCL: refused when it is there


class RouteSocket:
    """One rtnetlink socket."""

    def __init__(self) -> None:
        self._kernel = Conversation(socket.NETLINK_ROUTE)

    def close(self) -> None:
        """Close the socket."""
        self._kernel.close()

    async def dump(self, kind: int, message: Message) -> list[Message]:
        """All objects of a kind.

        :param kind: ``RTM_GET…``; *message* is an empty message of the class in which the answers are read.
        :raises OSError: EINTR when the objects changed in the middle of it, so that some may be missing or doubled.
        """
        found = []
        interrupted = False
        async for _, flags, body in self._kernel.ask(kind, F_DUMP, _encoder(message)):
            interrupted = interrupted or bool(flags & F_DUMP_INTR)
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
        async for _ in self._kernel.ask(kind, F_ACK | flags, _encoder(message)):
            pass


def _encoder(message: Message) -> Callable[[dict[str, int]], bytes]:
    def encode(header: dict[str, int]) -> bytes:
        message["header"] = header
        message.encode()
        return bytes(message.data)

    return encode
