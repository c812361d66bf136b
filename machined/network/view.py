"""What others are told about the network: addresses under which the node is reached, and each link with all that is on it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from msgspec import Struct

from machined import paths
from machined.network.model import (
    ROUTER_ADVERTISEMENT,
    RTPROT_RA,
    BondTraits,
    Observed,
    ObservedAddress,
    ObservedLink,
    ObservedRoute,
    VlanTraits,
)
from machined.network.wireguard import Tunnel

_RTPROT_KERNEL = 2
_IFAPROT_LO, _IFAPROT_LL = 1, 3
_ADDRESS_SOURCES = {
    paths.RTPROT_STATIC: "static",
    ROUTER_ADVERTISEMENT: "slaac",
    _IFAPROT_LO: "kernel",
    _IFAPROT_LL: "kernel",
}
_ROUTE_SOURCES = {paths.RTPROT_STATIC: "static", RTPROT_RA: "ra", _RTPROT_KERNEL: "kernel"}


class ReachableAddress(Struct, frozen=True):
    """An address under which the node can be reached."""

    link: str
    address: str  # with prefix length
    source: str  # static, dhcp4, dhcp6, slaac, kernel, or "" when somebody else made it


class RouteView(Struct, frozen=True):
    """A route."""

    to: str  # "default" or a network
    via: str  # empty on the link itself
    metric: int
    source: str  # static, dhcp4, dhcp6, ra, kernel, or "" when somebody else made it


class LinkView(Struct, frozen=True):
    """A link with all that is on it."""

    link: ObservedLink
    kind: str  # physical, loopback, or what the kernel calls it
    master: str
    parent: str
    active_member: str
    addresses: tuple[ReachableAddress, ...]
    routes: tuple[RouteView, ...]
    tunnel: Tunnel | None = None  # of a WireGuard link


def reachable(observed: Observed) -> tuple[ReachableAddress, ...]:
    """The addresses of *observed* that others can use: neither the loopback's nor link-local nor still being checked."""
    links = {link.index: link for link in observed.links if not link.loopback}
    return tuple(
        _address(links[address.index].name, address)
        for address in observed.addresses
        if address.index in links and not (address.link_local or address.tentative)
    )


def link_views(observed: Observed, tunnels: Mapping[int, Tunnel]) -> tuple[LinkView, ...]:
    """Every link, in the order of their indexes."""
    names = {link.index: link.name for link in observed.links}
    return tuple(
        LinkView(
            link=link,
            kind=_kind(link),
            master=names.get(link.master, ""),
            parent=names.get(link.parent, "") if isinstance(link.traits, VlanTraits) else "",
            active_member=names.get(link.active_member, ""),
            addresses=tuple(
                _address(link.name, address) for address in observed.addresses if address.index == link.index
            ),
            routes=tuple(_route(route) for route in observed.routes if route.index == link.index),
            tunnel=tunnels.get(link.index),
        )
        for link in sorted(observed.links, key=lambda link: link.index)
    )


def bond_mode(link: ObservedLink) -> str:
    """The mode of a bond; empty for another link."""
    return link.traits.mode if isinstance(link.traits, BondTraits) else ""


def vlan_id(link: ObservedLink) -> int:
    """The tag of a VLAN; 0 for another link."""
    return link.traits.id if isinstance(link.traits, VlanTraits) else 0


def _kind(link: ObservedLink) -> str:
    if link.loopback:
        return "loopback"
    return link.kind or ("physical" if link.physical else "")


def _address(link: str, address: ObservedAddress) -> ReachableAddress:
    return ReachableAddress(link, str(address.interface), _address_source(address))


def _address_source(address: ObservedAddress) -> str:
    if address.protocol == paths.RTPROT_DHCP:
        return f"dhcp{address.interface.version}"
    return _ADDRESS_SOURCES.get(address.protocol, "")


def _route(route: ObservedRoute) -> RouteView:
    anywhere = ipaddress.ip_network("0.0.0.0/0" if route.destination.version == 4 else "::/0")
    dhcp = f"dhcp{route.destination.version}"
    source = dhcp if route.protocol == paths.RTPROT_DHCP else _ROUTE_SOURCES.get(route.protocol, "")
    to = "default" if route.destination == anywhere else str(route.destination)
    return RouteView(to, str(route.via) if route.via else "", route.metric, source)
