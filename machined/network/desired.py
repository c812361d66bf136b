"""What the configuration and the DHCP leases ask for, on the links that are there. Pure.

Without a network document every physical link asks a DHCP server and listens to router advertisements: a node that is plugged in
can be reached. With one, exactly the links that it names are managed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from msgspec import Struct

from basalt.config.documents import Link, NetworkConfig, Route
from machined import paths
from machined.network.dhcp.lease import Lease, Lease6
from machined.network.model import Desired, DesiredAddress, DesiredLink, DesiredRoute, ObservedLink
from machined.network.stack import is_made, members_of, supports

DHCP_METRIC_BASE = 1024  # plus the link's index: static routes win over DHCP's, and two DHCP links do not fight


class Managed(Struct, frozen=True):
    """A link that is there, together with what the configuration wants of it."""

    link: ObservedLink
    wish: Link


class Selection(Struct, frozen=True):
    """The links to manage, and the wishes that no link fits (in words)."""

    managed: tuple[Managed, ...]
    missing: tuple[str, ...]


def select(config: NetworkConfig | None, links: Iterable[ObservedLink]) -> Selection:
    """Match the configuration's links with those that are there. The loopback is switched on always."""
    present = tuple(links)
    loopback = tuple(Managed(link, Link(name=link.name)) for link in present if link.loopback)
    if config is None:
        physical = tuple(Managed(link, Link(name=link.name, dhcp4=True)) for link in present if link.physical)
        return Selection(loopback + physical, ())
    members = {name for wish in config.links for name in members_of(wish)}
    managed, missing = [], []
    for wish in config.links:
        link = next((link for link in present if _fits(wish, link)), None)
        if link is not None:
            managed.append(Managed(link, _carrying_nothing(wish) if link.name in members else wish))
        elif not is_made(wish):
            missing.append(f"no link {describe(wish)}")
    taken = {entry.link.index for entry in managed}
    under = [
        link for link in present if link.name in supports(config) and link.index not in taken and not link.loopback
    ]
    managed += [Managed(link, Link(name=link.name, slaac=False)) for link in under]
    return Selection((*(entry for entry in loopback if entry.link.index not in taken), *managed), tuple(missing))


def _carrying_nothing(wish: Link) -> Link:
    """A member of a bond or bridge: traffic is its master's."""
    return Link(name=wish.name, match=wish.match, up=wish.up, mtu=wish.mtu, slaac=False)


def describe(wish: Link) -> str:
    """A configured link as people speak of it."""
    return f"named {wish.name}" if wish.name else f"with MAC address {wish.match.mac if wish.match else '?'}"


def _fits(wish: Link, link: ObservedLink) -> bool:
    if wish.name:
        return wish.name == link.name and (link.ours or not is_made(wish))
    # Only cards: a bridge or VLAN on top of a card carries the same address.
    return wish.match is not None and link.physical and wish.match.mac.lower() in (link.permanent_mac, link.mac)


def desired(selection: Selection, leases: Mapping[int, Lease], leases6: Mapping[int, Lease6] | None = None) -> Desired:
    """What should be. *leases* (DHCPv4) and *leases6* by link index."""
    links, addresses, routes = [], [], []
    for managed in selection.managed:
        index, wish = managed.link.index, managed.wish
        links.append(DesiredLink(index, managed.link.name, wish.up, wish.mtu))
        if not wish.up:
            continue
        addresses += [DesiredAddress(index, ipaddress.ip_interface(text)) for text in wish.addresses]
        routes += [_static_route(index, route, wish) for route in wish.routes]
        lease = leases.get(index) if wish.dhcp4 else None
        if lease:
            addresses.append(
                DesiredAddress(index, lease.interface, protocol=paths.RTPROT_DHCP, valid_until=lease.expires_at)
            )
            routes += _lease_routes(index, lease)
        lease6 = (leases6 or {}).get(index) if wish.dhcp6 else None
        if lease6:
            addresses.append(
                DesiredAddress(index, lease6.interface, paths.RTPROT_DHCP, lease6.expires_at, lease6.preferred_until)
            )
    deaf = frozenset(
        entry.link.index for entry in selection.managed if not entry.wish.slaac and not entry.link.loopback
    )
    return Desired(tuple(links), tuple(addresses), tuple(dict.fromkeys(routes)), deaf)


def _static_route(index: int, route: Route, wish: Link) -> DesiredRoute:
    via = ipaddress.ip_address(route.via) if route.via else None
    if route.to != "default":
        destination = ipaddress.ip_network(route.to)
    else:
        # Without a gateway the family follows the link's own addresses: "default" alone does not say which it means.
        version = via.version if via else ipaddress.ip_interface(wish.addresses[0]).version if wish.addresses else 4
        destination = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return DesiredRoute(index, destination, via, route.metric)


def _lease_routes(index: int, lease: Lease) -> list[DesiredRoute]:
    """The routes of a lease. A router outside of the lease's own network (common in clouds, /32) gets a host route first."""
    routes = []
    for destination, router in lease.routes:
        if router is not None and router not in lease.interface.network:
            routes.append(
                DesiredRoute(
                    index, ipaddress.ip_network(f"{router}/32"), None, DHCP_METRIC_BASE + index, paths.RTPROT_DHCP
                )
            )
        routes.append(DesiredRoute(index, destination, router, DHCP_METRIC_BASE + index, paths.RTPROT_DHCP))
    return routes
