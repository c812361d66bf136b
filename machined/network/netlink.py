"""The kernel's side of the network: read what is, carry one operation out, hear of changes.

A thin layer on purpose: everything that is decided is decided in :mod:`machined.network.plan`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from machined.network import linkmessages, rtnl
from machined.network.kernel import HEADER, Listener, attributes, split
from machined.network.model import (
    Address,
    ChangeLink,
    DeleteLink,
    DesiredAddress,
    DesiredRoute,
    Enslave,
    MakeLink,
    Observed,
    ObservedAddress,
    ObservedRoute,
    Operation,
    PutAddress,
    PutRoute,
    Release,
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
_IFA_F_PERMANENT = 0x80
_IFA_F_TENTATIVE = 0x40
_IFA_F_DADFAILED = 0x08
_IFADDRMSG = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, link
_IFA_ADDRESS = 1
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
        routes = [*await self._routes(socket.AF_INET), *await self._routes(socket.AF_INET6)]
        return Observed(
            tuple(linkmessages.observed_link(message) for message in links),
            tuple(_address(message, now) for message in addresses),
            tuple(_route(message) for message in routes if _is_main_unicast(message)),
        )

    async def _routes(self, family: int) -> list[Any]:
        """The routes of one family: a dump of all families ends with IPv4's."""
        message = rtnl.rtmsg()
        message["family"] = family
        return await self._socket.dump(rtnl.RTM_GETROUTE, message)

    async def apply(self, operation: Operation) -> None:
        """Carry *operation* out.

        :raises OSError: the kernel refused it. That something is already as wanted is no refusal.
        """
        try:
            await self._apply(operation)
        except OSError as error:
            # A new link is never "already there": somebody else's has its name or its tag.
            if error.errno not in _ALREADY_SO or (isinstance(operation, MakeLink) and error.errno == errno.EEXIST):
                raise OSError(error.errno, f"{_words(operation)}: {error.strerror}") from error

    async def _apply(self, operation: Operation) -> None:
        request = self._socket.request
        match operation:
            case SetLink():
                await request(rtnl.RTM_NEWLINK, linkmessages.set_link(operation))
            case MakeLink():
                await request(rtnl.RTM_NEWLINK, linkmessages.make_link(operation), rtnl.CREATE)
            case ChangeLink():
                await request(rtnl.RTM_NEWLINK, linkmessages.change_link(operation))
            case DeleteLink(index):
                await request(rtnl.RTM_DELLINK, linkmessages.delete_link(index))
            case Enslave(index, name, master):
                if operation.down_first:
                    await request(rtnl.RTM_NEWLINK, linkmessages.set_link(SetLink(index, name, up=False)))
                await request(rtnl.RTM_NEWLINK, linkmessages.join_link(index, master))
            case Release(index):
                await request(rtnl.RTM_NEWLINK, linkmessages.join_link(index, 0))
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
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        valid = max(1, int(address.valid_until - now))
        preferred = valid if address.preferred_until is None else min(max(0, int(address.preferred_until - now)), valid)
        attributes.append(("IFA_CACHEINFO", {"ifa_preferred": preferred, "ifa_valid": valid, "cstamp": 0, "tstamp": 0}))
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
        case MakeLink(name):
            return f"making {name}"
        case ChangeLink(_, name):
            return f"changing {name}"
        case DeleteLink(_, name):
            return f"deleting {name}"
        case Enslave(_, name, _, master):
            return f"making {name} a member of {master}"
        case Release(_, name, master):
            return f"releasing {name} from {master}"
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
        duplicate=bool(flags & _IFA_F_DADFAILED),
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

    What changed does not matter, because the reconciler looks at everything again; so nothing is parsed, and lost events (ENOBUFS)
    are events like any other. Two exceptions are handed on, of which the kernel keeps nothing to look at: what routers say about DNS,
    and that it took an address back because another machine answered to it.

    :param on_duplicate: gets the link's index and the address.
    """

    _GROUPS = (1, 5, 7, 9, 11, 20)  # RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE, ND_USEROPT

    def __init__(
        self,
        on_event: Callable[[], None],
        on_advertisement: Callable[[bytes], None],
        on_duplicate: Callable[[int, Address], None],
    ) -> None:
        self._on_event = on_event
        self._on_advertisement = on_advertisement
        self._on_duplicate = on_duplicate
        self._listener = Listener(socket.NETLINK_ROUTE, self._GROUPS, self._heard)

    def start(self) -> None:
        """Begin to listen."""
        self._listener.start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _heard(self, data: bytes | None) -> None:
        for kind, _, _, message in split(data or b""):
            if kind == rtnl.RTM_NEWNDUSEROPT:
                self._on_advertisement(message[HEADER.size :])
            elif kind == rtnl.RTM_DELADDR:
                self._removed(message[HEADER.size :])
        self._on_event()

    def _removed(self, message: bytes) -> None:
        family, _, flags, _, index = _IFADDRMSG.unpack_from(message)
        packed = dict(attributes(message[_IFADDRMSG.size :])).get(_IFA_ADDRESS)
        if family == socket.AF_INET6 and flags & _IFA_F_DADFAILED and packed:
            self._on_duplicate(index, ipaddress.IPv6Address(packed))
