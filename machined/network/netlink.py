"""The kernel's side of the network, through pyroute2: read what is, carry one operation out, hear of changes.

A thin layer on purpose: everything that is decided is decided in :mod:`machined.network.plan`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import ipaddress
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from machined.network.model import (
    Observed,
    ObservedAddress,
    ObservedLink,
    ObservedRoute,
    Operation,
    PutAddress,
    PutRoute,
    RemoveAddress,
    RemoveRoute,
    SetLink,
)

if TYPE_CHECKING:
    from pyroute2.iproute.linux import AsyncIPRoute

DUMP_TRIES = 4

_INFINITY = 0xFFFFFFFF
_MAIN_TABLE = 254
_UNICAST = 1
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_LOWER_UP = 0x10000
_IFA_F_PERMANENT = 0x80
_IFA_F_TENTATIVE = 0x40
_ALREADY_SO = frozenset({errno.EEXIST, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV})


def _import_iproute() -> type[AsyncIPRoute]:
    """``AsyncIPRoute`` without the rest of pyroute2.

    ``import pyroute2`` also imports its NDB, nftables, ethtool and more: 140 ms natively, close to a second of every boot under
    emulation. The package's own ``__init__`` is therefore skipped: an empty module with the right search path stands in for it.
    """
    if "pyroute2" not in sys.modules:
        spec = importlib.util.find_spec("pyroute2")
        if spec is None:
            raise ModuleNotFoundError("pyroute2 is not installed")
        sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)
    from pyroute2.iproute import linux

    found: type[AsyncIPRoute] = linux.AsyncIPRoute
    return found


@contextlib.asynccontextmanager
async def _kernel_errors(what: str) -> AsyncIterator[None]:
    """pyroute2's NetlinkError, which is no OSError, as the OSError that it is."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "code", None)
        if code is None:
            raise
        raise OSError(code, f"{what}: {error.args[-1]}") from error


_AsyncIPRoute = _import_iproute()


class Netlink:
    """One rtnetlink conversation."""

    def __init__(self) -> None:
        self._requests: AsyncIPRoute | None = None
        self._turn = asyncio.Lock()  # a netlink socket carries one dump at a time (EBUSY)

    async def __aenter__(self) -> Netlink:
        self._requests = _AsyncIPRoute()
        await self._requests.setup_endpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._requests is not None:
            self._requests.close()

    @property
    def _ipr(self) -> Any:
        if self._requests is None:
            raise RuntimeError("the netlink socket is not open")
        return self._requests

    async def observe(self) -> Observed:
        """Links, addresses and the routes of the main table, as they are now.

        :raises OSError: the kernel did not answer.
        """
        for _ in range(DUMP_TRIES - 1):
            try:
                return await self._observe_once()
            except OSError as error:
                if error.errno != errno.EINTR:  # NLM_F_DUMP_INTR: something changed in the middle of the dump
                    raise
        return await self._observe_once()

    async def _observe_once(self) -> Observed:
        async with self._turn, _kernel_errors("reading the network's state"):
            return await self._observe()

    async def _observe(self) -> Observed:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        links = [_link(message) async for message in await self._ipr.link("dump")]
        addresses = [_address(message, now) async for message in await self._ipr.addr("dump")]
        routes = [
            _route(message)
            async for message in await self._ipr.route("dump", table=_MAIN_TABLE)
            if message["type"] == _UNICAST
        ]
        return Observed(tuple(links), tuple(addresses), tuple(routes))

    async def apply(self, operation: Operation) -> None:
        """Carry *operation* out.

        :raises OSError: the kernel refused it. That something is already as wanted is no refusal.
        """
        try:
            async with self._turn, _kernel_errors(_words(operation)):
                await self._apply(operation)
        except OSError as error:
            if error.errno not in _ALREADY_SO:
                raise

    async def _apply(self, operation: Operation) -> None:
        match operation:
            case SetLink(index, _, up, mtu):
                if mtu is not None:
                    await self._ipr.link("set", index=index, mtu=mtu)
                if up is not None:
                    await self._ipr.link("set", index=index, state="up" if up else "down")
            case PutAddress(address):
                await self._put_address(operation)
            case RemoveAddress(address):
                interface = address.interface
                await self._ipr.addr(
                    "del", index=address.index, address=str(interface.ip), prefixlen=interface.network.prefixlen
                )
            case PutRoute(route):
                await self._ipr.route("replace", **_route_arguments(route, route.metric))
            case RemoveRoute(route):
                await self._ipr.route("del", **_route_arguments(route, route.metric))

    async def _put_address(self, operation: PutAddress) -> None:
        address = operation.address
        arguments: dict[str, Any] = {
            "index": address.index,
            "address": str(address.interface.ip),
            "prefixlen": address.interface.network.prefixlen,
            "proto": address.protocol,
        }
        if address.interface.version == 4 and address.interface.network.prefixlen < 31:
            arguments["broadcast"] = str(address.interface.network.broadcast_address)
        if address.valid_until is not None:
            remaining = max(1, int(address.valid_until - time.clock_gettime(time.CLOCK_BOOTTIME)))
            arguments["valid_lft"] = arguments["preferred_lft"] = remaining
        await self._ipr.addr("replace", **arguments)


def _words(operation: Operation) -> str:
    match operation:
        case SetLink(_, name, up, mtu):
            parts = [f"MTU {mtu}"] if mtu is not None else []
            parts += ["up" if up else "down"] if up is not None else []
            return f"link {name} {' '.join(parts)}"
        case PutAddress(address):
            return f"address {address.interface}"
        case RemoveAddress(observed):
            return f"removing address {observed.interface}"
        case PutRoute(route):
            return f"route {route.destination} via {route.via or 'the link'}"
        case RemoveRoute(gone):
            return f"removing route {gone.destination}"


def _route_arguments(route: Any, metric: int | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dst": str(route.destination),
        "oif": route.index,
        "proto": route.protocol,
        "table": _MAIN_TABLE,
        "family": socket.AF_INET if route.destination.version == 4 else socket.AF_INET6,
    }
    if route.via is not None:
        arguments["gateway"] = str(route.via)
    elif route.destination.version == 4:
        arguments["scope"] = 253  # RT_SCOPE_LINK: the network is on the link itself
    if metric:
        arguments["priority"] = metric
    return arguments


def _link(message: Any) -> ObservedLink:
    flags = message["flags"]
    mac = (message.get_attr("IFLA_ADDRESS") or "").lower()
    return ObservedLink(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=mac,
        permanent_mac=(message.get_attr("IFLA_PERM_ADDRESS") or mac).lower(),
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        mtu=message.get_attr("IFLA_MTU") or 0,
        loopback=bool(flags & _IFF_LOOPBACK),
        physical=message.get_attr("IFLA_PARENT_DEV_NAME") is not None,
    )


def _address(message: Any, now: float) -> ObservedAddress:
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    interface = ipaddress.ip_interface(f"{text}/{message['prefixlen']}")
    cache = message.get_attr("IFA_CACHEINFO") or {}
    valid = cache.get("ifa_valid", _INFINITY)
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return ObservedAddress(
        index=message["index"],
        interface=interface,
        protocol=message.get_attr("IFA_PROTO") or 0,
        valid_until=None if valid == _INFINITY or flags & _IFA_F_PERMANENT else now + valid,
        tentative=bool(flags & _IFA_F_TENTATIVE),
        link_local=interface.ip.is_link_local,
    )


def _route(message: Any) -> ObservedRoute:
    anywhere = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    destination = message.get_attr("RTA_DST") or anywhere
    via = message.get_attr("RTA_GATEWAY")
    return ObservedRoute(
        index=message.get_attr("RTA_OIF") or 0,
        destination=ipaddress.ip_network(f"{destination}/{message['dst_len']}"),
        via=ipaddress.ip_address(via) if via else None,
        metric=message.get_attr("RTA_PRIORITY") or 0,
        protocol=message["proto"],
    )


class Events:
    """Calls back whenever links, addresses or routes change.

    A plain socket instead of pyroute2's: what changed does not matter, because the reconciler looks at everything again, so there
    is nothing to parse; and a full buffer (ENOBUFS) is an event like any other instead of an error.
    """

    _GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE

    def __init__(self, on_event: Callable[[], None]) -> None:
        self._on_event = on_event
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, self._GROUPS))

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
                self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        self._on_event()
