"""The kernel's side of the network: read what is, carry one operation out, hear of changes.

A thin layer on purpose: everything that is decided is decided in :mod:`machined.network.plan`.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Any

from machined.network import rtnl
from machined.network.model import (
    DesiredAddress,
    DesiredRoute,
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

DUMP_TRIES = 4  # a dump is repeated when the network changed in the middle of it

_INFINITY = 0xFFFFFFFF
_MAIN_TABLE = 254
_UNICAST = 1
_SCOPE_LINK = 253  # the network is on the link itself
_SCOPE_ANY = 255  # RT_SCOPE_NOWHERE: for removal, whatever the scope
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_LOWER_UP = 0x10000
_IFA_F_PERMANENT = 0x80
_IFA_F_TENTATIVE = 0x40
_ALREADY_SO = frozenset({errno.EEXIST, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV})


class Netlink:
    """The kernel's links, addresses and routes."""

    def __init__(self) -> None:
        self._socket = rtnl.RouteSocket()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def observe(self) -> Observed:
        """Links, addresses and the routes of the main table, as they are now.

        :raises OSError: the kernel did not answer.
        """
        for _ in range(DUMP_TRIES - 1):
            try:
                return await self._observe()
            except InterruptedError:
                continue
        return await self._observe()

    async def _observe(self) -> Observed:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        links = await self._socket.dump(rtnl.RTM_GETLINK, rtnl.ifinfmsg())
        addresses = await self._socket.dump(rtnl.RTM_GETADDR, rtnl.ifaddrmsg())
        routes = await self._socket.dump(rtnl.RTM_GETROUTE, rtnl.rtmsg())
        return Observed(
            tuple(_link(message) for message in links),
            tuple(_address(message, now) for message in addresses),
            tuple(_route(message) for message in routes if _is_main_unicast(message)),
        )

    async def apply(self, operation: Operation) -> None:
        """Carry *operation* out.

        :raises OSError: the kernel refused it. That something is already as wanted is no refusal.
        """
        try:
            await self._apply(operation)
        except OSError as error:
            if error.errno not in _ALREADY_SO:
                raise OSError(error.errno, f"{_words(operation)}: {error.strerror}") from error

    async def _apply(self, operation: Operation) -> None:
        request = self._socket.request
        match operation:
            case SetLink():
                await request(rtnl.RTM_NEWLINK, _link_request(operation))
            case PutAddress(address):
                await request(rtnl.RTM_NEWADDR, _address_request(address), rtnl.REPLACE)
            case RemoveAddress(address):
                wanted = DesiredAddress(address.index, address.interface, address.protocol)
                await request(rtnl.RTM_DELADDR, _address_request(wanted))
            case PutRoute(route):
                message = _route_request(route, route.metric)
                message["type"] = _UNICAST
                if route.via is None and route.destination.version == 4:
                    message["scope"] = _SCOPE_LINK
                await request(rtnl.RTM_NEWROUTE, message, rtnl.REPLACE)
            case RemoveRoute(route):
                message = _route_request(route, route.metric)
                message["scope"] = _SCOPE_ANY
                await request(rtnl.RTM_DELROUTE, message)


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _link_request(change: SetLink) -> Any:
    message = rtnl.ifinfmsg()
    message["index"] = change.index
    if change.up is not None:
        message["flags"], message["change"] = (_IFF_UP if change.up else 0), _IFF_UP
    if change.mtu is not None:
        message["attrs"] = [("IFLA_MTU", change.mtu)]
    return message


def _address_request(address: DesiredAddress) -> Any:
    interface = address.interface
    message = rtnl.ifaddrmsg()
    message["family"] = _family(interface.version)
    message["prefixlen"] = interface.network.prefixlen
    message["index"] = address.index
    attributes: list[tuple[str, Any]] = [
        ("IFA_LOCAL", str(interface.ip)),
        ("IFA_ADDRESS", str(interface.ip)),
        ("IFA_PROTO", address.protocol),
    ]
    if interface.version == 4 and interface.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    if address.valid_until is not None:
        seconds = max(1, int(address.valid_until - time.clock_gettime(time.CLOCK_BOOTTIME)))
        attributes.append(("IFA_CACHEINFO", {"ifa_preferred": seconds, "ifa_valid": seconds, "cstamp": 0, "tstamp": 0}))
    message["attrs"] = attributes
    return message


def _route_request(route: DesiredRoute | ObservedRoute, metric: int | None) -> Any:
    message = rtnl.rtmsg()
    message["family"] = _family(route.destination.version)
    message["dst_len"] = route.destination.prefixlen
    message["table"] = _MAIN_TABLE
    message["proto"] = route.protocol
    attributes: list[tuple[str, Any]] = [("RTA_OIF", route.index)]
    if route.destination.prefixlen:
        attributes.append(("RTA_DST", str(route.destination.network_address)))
    if route.via is not None:
        attributes.append(("RTA_GATEWAY", str(route.via)))
    if metric:
        attributes.append(("RTA_PRIORITY", metric))
    message["attrs"] = attributes
    return message


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


def _is_main_unicast(message: Any) -> bool:
    return bool(message["type"] == _UNICAST and (message.get_attr("RTA_TABLE") or message["table"]) == _MAIN_TABLE)


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
