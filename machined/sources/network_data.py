"""OpenStack's ``network_data.json`` to a NetworkConfig. Pure.

The format is Nova's (doc/source/user/metadata.rst, and the schema beside it): *links* are cards, bonds and VLANs, *networks* what lies
on them, *services* the DNS servers. A link is known by an id that means nothing on the node, and a card by its MAC address.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from basalt.config import documents as config

_LINK_NAME_MAX = 15  # IFNAMSIZ without its zero byte
_DNS_SERVERS_MAX = 3  # what the resolver reads


class _Link(Struct, frozen=True):
    id: str
    type: str = ""
    ethernet_mac_address: str | None = None
    mtu: int | None = None
    bond_links: list[str] = []
    bond_mode: str = "active-backup"
    bond_miimon: Annotated[int, Meta(ge=1)] | None = None
    bond_xmit_hash_policy: str = "layer2"
    vlan_link: str = ""
    vlan_id: int = 0


class _Route(Struct, frozen=True):
    network: str
    gateway: str
    netmask: str = ""


class _Service(Struct, frozen=True):
    type: str = ""
    address: str = ""


class _Network(Struct, frozen=True):
    link: str
    type: str
    ip_address: str = ""
    netmask: str = ""
    routes: list[_Route] = []
    services: list[_Service] = []


class _Data(Struct, frozen=True):
    links: list[_Link] = []
    networks: list[_Network] = []
    services: list[_Service] = []


_STATIC = ("ipv4", "ipv6", "static", "static6")
_DHCP6 = ("ipv6_dhcp", "ipv6_dhcpv6-stateful")
_SLAAC = ("ipv6_slaac", "ipv6_dhcpv6-stateless", *_DHCP6)


def network_config(data: bytes, names: Mapping[str, str]) -> config.NetworkConfig:
    """The NetworkConfig that *data* means.

    :param names: the node's cards: permanent MAC address, lower case → name. Bonds and VLANs name what they lie on.
    :raises ValueError: with everything that is wrong with it, in words.
    """
    try:
        # msgspec's JSON decoder bounds what nested input costs; a null in place of a list is Nova's way to say "none".
        described = msgspec.convert(_without_nulls(json.loads(data)), _Data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not network data: {error}") from error
    by_id = {link.id: link for link in described.links}
    problems = [f"network on an unknown link {net.link!r}" for net in described.networks if net.link not in by_id]
    builder = _Builder(by_id, names, problems)
    links = tuple(
        builder.link(link, [net for net in described.networks if net.link == link.id]) for link in by_id.values()
    )
    if problems:
        raise ValueError("; ".join(problems))
    return config.NetworkConfig(links=links, dns=config.Dns(servers=_dns_servers(described)))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _dns_servers(described: _Data) -> tuple[str, ...]:
    services = [*described.services, *(service for network in described.networks for service in network.services)]
    servers = dict.fromkeys(service.address for service in services if service.type == "dns")
    return tuple(servers)[:_DNS_SERVERS_MAX]


class _Builder:
    """Translates links; what cannot be translated is added to *problems*."""

    def __init__(self, links: Mapping[str, _Link], names: Mapping[str, str], problems: list[str]) -> None:
        self._links = links
        self._problems = problems
        self._names: dict[str, str] = {}
        # What others lie on has to be named; every other card is found by its address, whatever its name becomes.
        self._needed = {lower for link in links.values() for lower in (*link.bond_links, link.vlan_link) if lower}
        bonds = [link.id for link in links.values() if link.type == "bond"]
        for link in links.values():
            if link.type == "bond":
                self._names[link.id] = f"bond{bonds.index(link.id)}"
            elif link.type != "vlan":
                self._names[link.id] = names.get((link.ethernet_mac_address or "").lower(), "")
        for link in links.values():
            if link.type == "vlan":
                self._names[link.id] = self._vlan_name(link)

    def _vlan_name(self, link: _Link) -> str:
        below = self._links.get(link.vlan_link)
        if below is None or below.type == "vlan":
            self._problems.append(f"VLAN {link.id!r} lies on {link.vlan_link!r}, which is no card and no bond")
            return ""
        name = f"{self._names[below.id]}.{link.vlan_id}"
        return name if len(name) <= _LINK_NAME_MAX else f"vlan{link.vlan_id}"

    def link(self, link: _Link, networks: Iterable[_Network]) -> config.Link:
        """One link with what lies on it."""
        present = list(networks)
        fields: dict[str, Any] = {
            "mtu": link.mtu,
            "dhcp4": any(net.type == "ipv4_dhcp" for net in present),
            "dhcp6": any(net.type in _DHCP6 for net in present),
            # The data says everything that is to be on the link, so nothing else is taken from routers.
            "slaac": any(net.type in _SLAAC for net in present),
            "addresses": tuple(self._address(net) for net in present if net.type in _STATIC),
            "routes": tuple(self._route(route) for net in present for route in net.routes if net.type in _STATIC),
        }
        for net in present:
            if net.type not in (*_STATIC, *_SLAAC, "ipv4_dhcp"):
                self._problems.append(f"network on {link.id!r} is of the unknown type {net.type!r}")
        if link.type == "bond":
            members = tuple(self._name_of(member) for member in link.bond_links)
            options = {"mode": link.bond_mode, "transmit_hash": link.bond_xmit_hash_policy}
            interval = {"monitor_interval_ms": link.bond_miimon} if link.bond_miimon else {}
            fields["bond"] = config.Bond(links=members, **options, **interval)  # type: ignore[arg-type]
        if link.type == "vlan":
            fields["vlan"] = config.Vlan(link=self._name_of(link.vlan_link), id=link.vlan_id)
        if link.type in ("bond", "vlan") or link.id in self._needed:
            return config.Link(name=self._name_of(link.id), **fields)
        if not link.ethernet_mac_address:
            self._problems.append(f"link {link.id!r} has no MAC address to find it by")
            return config.Link(**fields)
        return config.Link(match=config.LinkMatch(mac=link.ethernet_mac_address), **fields)

    def _name_of(self, identifier: str) -> str:
        if identifier not in self._links:
            self._problems.append(f"there is no link {identifier!r}")
        elif not self._names.get(identifier):
            mac = self._links[identifier].ethernet_mac_address
            self._problems.append(f"the node has no card with the MAC address {mac} (link {identifier!r})")
        return self._names.get(identifier, "")

    def _address(self, net: _Network) -> str:
        text = (
            net.ip_address if "/" in net.ip_address or not net.netmask else f"{net.ip_address}/{_length(net.netmask)}"
        )
        try:
            return str(ipaddress.ip_interface(text))
        except ValueError as error:
            self._problems.append(f"address on {net.link!r}: {error}")
            return text

    def _route(self, route: _Route) -> config.Route:
        text = f"{route.network}/{_length(route.netmask)}" if route.netmask else route.network
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            self._problems.append(f"route to {text}: {error}")
            return config.Route(to="default", via=route.gateway)
        return config.Route(to="default" if network.prefixlen == 0 else str(network), via=route.gateway)


def _length(netmask: str) -> str:
    """The prefix length of a mask; an IPv6 mask stands written out (``ffff:ffff::``), which :mod:`ipaddress` does not read."""
    if ":" not in netmask:
        return netmask
    try:
        bits = f"{int(ipaddress.IPv6Address(netmask)):0128b}"
    except ValueError:
        return netmask
    ones = bits.rstrip("0")
    return netmask if "0" in ones else str(len(ones))
