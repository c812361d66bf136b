"""What of a change touches the way by which its caller came, and so could cut the node off from whoever made it. Pure.

Cautious: a change that only may cut the caller off counts. The price of a false alarm is a confirmation, that of a missed one is a
walk to the machine. What comes on top and takes nothing away (another address, a route that leads elsewhere) does not count.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from basalt.config.documents import Configuration, FirewallConfig, Link, NetworkConfig, Route
from machined import access

if TYPE_CHECKING:
    from machined.network.model import Address, Network
    from machined.network.way import Way, WayLink


class Caller(Struct, frozen=True):
    """Whoever asks for the change.

    *way* None: it came from no network. *way_problem*: why the way is not known although there is one. *bootstrap_authority* (PEM)
    is whose certificates are accepted without an AccessConfig.
    """

    way: Way | None = None
    way_problem: str = ""
    certificate_pem: bytes = b""
    bootstrap_authority: bytes = b""


def cutoffs(old: Configuration, new: Configuration, caller: Caller) -> Iterator[str]:
    """What of going from *old* to *new* touches the caller's way, in words."""
    if caller.way_problem and (old.network, old.firewall) != (new.network, new.firewall):
        yield f"the way to the caller is not known ({caller.way_problem})"
    if caller.way is not None and not caller.way.loopback:
        if old.network != new.network:
            yield from _links(old.network, new.network, caller.way)
            yield from _routes(old.network, new.network, caller.way)
        if old.firewall != new.firewall and not admits(new.firewall, caller.way.peer):
            yield f"the firewall would no longer let {caller.way.peer} reach the API"
    if old.access != new.access and (
        why := access.admits(new.access, caller.bootstrap_authority, caller.certificate_pem)
    ):
        yield f"the caller would no longer be let in: {why}"


# --- links


def _links(old: NetworkConfig | None, new: NetworkConfig | None, way: Way) -> Iterator[str]:
    version = way.peer.version
    before, after = wish_of(old, way.link), wish_of(new, way.link)
    name = way.link.name
    yield from _layer2(before, after, name)
    if version == 4 and before.dhcp4 and not after.dhcp4:
        yield f"link {name}, through which the caller came, would no longer ask for an address by DHCP"
    if version == 6 and before.slaac and not after.slaac:
        yield f"link {name}, through which the caller came, would no longer follow router advertisements"
    if version == 6 and before.dhcp6 and not after.dhcp6:
        yield f"link {name}, through which the caller came, would no longer ask for an address by DHCPv6"
    for address in before.addresses:
        if address not in after.addresses and _carries(ipaddress.ip_interface(address), way):
            yield f"link {name}, through which the caller came, would lose the address {address}"
    for link in way.below:
        yield from _layer2(wish_of(old, link), wish_of(new, link), link.name)
    if before.wireguard is not None:
        for link in way.others:
            if wish_of(old, link) != wish_of(new, link):
                yield f"link {link.name} would change, and may carry the tunnel {name} through which the caller came"
    for link in (way.link, *way.below):
        for master in sorted(_masters(new, link.name) - _masters(old, link.name)):
            yield f"link {link.name}, through which the caller came, would become part of {master}"


def _carries(address: ipaddress.IPv4Interface | ipaddress.IPv6Interface, way: Way) -> bool:
    """Whether the caller speaks to *address*, or may, or is reached because of it."""
    if address.version != way.peer.version:
        return False
    return way.local in (None, address.ip) or way.peer in address.network


def _layer2(before: Link, after: Link, name: str) -> Iterator[str]:
    if before.up and not after.up:
        yield f"link {name}, through which the caller came, would be switched off"
    if before.mtu != after.mtu:
        yield f"link {name}, through which the caller came, would get another MTU"
    kinds = [(link.vlan, link.bond, link.bridge, link.wireguard) for link in (before, after)]
    if kinds[0] != kinds[1]:
        yield f"link {name}, through which the caller came, would be made anew"


def wish_of(config: NetworkConfig | None, link: WayLink) -> Link:
    """What *config* wants of a link that is there, its defaults included."""
    if config is None:
        return Link(name=link.name, dhcp4=link.physical)
    for wish in config.links:
        if wish.name == link.name or (link.physical and wish.match and wish.match.mac.lower() in link.macs):
            return wish
    return Link(name=link.name)


def _masters(config: NetworkConfig | None, name: str) -> set[str]:
    """The bonds and bridges of which *config* makes a link a member."""
    return {
        link.name or ""
        for link in (config.links if config else ())
        for kind in (link.bond, link.bridge)
        if kind is not None and name in kind.links
    }


# --- routes


class _Path(Struct, frozen=True):
    """A network that is reached through a link."""

    link: str
    to: Network
    via: str
    metric: int | None


def _routes(old: NetworkConfig | None, new: NetworkConfig | None, way: Way) -> Iterator[str]:
    before, after = set(_paths(old, way)), set(_paths(new, way))
    for path in sorted(after - before, key=str):
        if _decides(path, way):
            yield f"the caller's address would lie behind a new route to {path.to} through {path.link}"
    for path in sorted(before - after, key=str):
        # The link's own networks go with its addresses, which are judged with the link.
        if _decides(path, way) and (path.via or path.link != way.link.name):
            yield f"a route to {path.to} through {path.link}, behind which the caller's address lies, would go"
    asking = _asking(new, way) - _asking(old, way)
    if way.prefix_length == 0:
        for name in sorted(asking):
            yield f"link {name} would ask for a default route by DHCP, and the caller came through one"


def _decides(path: _Path, way: Way) -> bool:
    """Whether a path can take the answers to the caller: it leads there, and is no wider than the route in use."""
    return path.to.version == way.peer.version and way.peer in path.to and path.to.prefixlen >= way.prefix_length


def _paths(config: NetworkConfig | None, way: Way) -> Iterator[_Path]:
    for link in config.links if config else ():
        if not link.up:
            continue
        name = _name_of(link, way)
        for address in link.addresses:
            yield _Path(name, ipaddress.ip_interface(address).network, "", None)
        for route in link.routes:
            for to in _destinations(route):
                yield _Path(name, to, route.via or "on the link", route.metric)


def _destinations(route: Route) -> Iterator[Network]:
    if route.to != "default":
        yield ipaddress.ip_network(route.to)
    elif route.via:
        yield ipaddress.ip_network("0.0.0.0/0" if ipaddress.ip_address(route.via).version == 4 else "::/0")
    else:
        yield ipaddress.ip_network("0.0.0.0/0")
        yield ipaddress.ip_network("::/0")


def _name_of(wish: Link, way: Way) -> str:
    for link in (way.link, *way.below, *way.others):
        if wish.name == link.name or (wish.match and link.physical and wish.match.mac.lower() in link.macs):
            return link.name
    return wish.name or (wish.match.mac if wish.match else "")


def _asking(config: NetworkConfig | None, way: Way) -> set[str]:
    """The links, other than the caller's, that ask a DHCP server for routes of the caller's family."""
    if way.peer.version != 4:
        return set()
    if config is None:
        return {link.name for link in way.others if link.physical}
    return {_name_of(link, way) for link in config.links if link.dhcp4 and link.up} - {way.link.name}


# --- firewall and access


def admits(firewall: FirewallConfig | None, peer: Address) -> bool:
    """Whether *peer* can open a connection to the API. No rule has a say in that: those with the API's port are refused."""
    return firewall is None or not firewall.api_sources or _covered(peer, firewall.api_sources)


def _covered(peer: Address, networks: tuple[str, ...]) -> bool:
    return any(peer in network for network in map(ipaddress.ip_network, networks) if network.version == peer.version)
