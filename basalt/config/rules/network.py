"""Rules about the links of a node together, and about the servers of names."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterator

from basalt.config.documents import Link, NetworkConfig
from basalt.config.rules.finding import Finding, repeated
from basalt.config.rules.links import made_as
from basalt.config.tree import Path


def links_differ(network: NetworkConfig) -> Iterator[Finding]:
    names: list[tuple[Path, Hashable]] = []
    addresses: list[tuple[Path, Hashable]] = []
    for index, link in enumerate(network.links):
        if link.name is not None:
            names.append((("links", index, "name"), link.name))
        if link.match is not None:
            names.append((("links", index, "match", "mac"), link.match.mac))
        own = {text.partition("/")[0]: position for position, text in enumerate(link.addresses)}
        # A link-local address means another thing on each link.
        addresses += [
            (("links", index, "addresses", position), text)
            for text, position in own.items()
            if not ipaddress.ip_address(text).is_link_local
        ]
    yield from repeated(names, "the link")
    yield from repeated(addresses, "the address")


def vlans_differ(network: NetworkConfig) -> Iterator[Finding]:
    vlans = [(index, link.vlan) for index, link in enumerate(network.links) if link.vlan is not None]
    tags = ((("links", index, "vlan", "id"), f"{vlan.id} ({vlan.protocol}) on {vlan.link}") for index, vlan in vlans)
    yield from repeated(tags, "the tag")


def listen_ports_differ(network: NetworkConfig) -> Iterator[Finding]:
    ports = (
        (("links", index, "wireguard", "listenPort"), link.wireguard.listen_port)
        for index, link in enumerate(network.links)
        if link.wireguard is not None and link.wireguard.listen_port is not None
    )
    yield from repeated(ports, "the port")


def members_have_one_master(network: NetworkConfig) -> Iterator[Finding]:
    masters: dict[str, str] = {}
    for path, member, link in _members(network):
        if member == link.name:
            yield Finding(path, f"found {member}, the link itself", "its members")
        elif masters.setdefault(member, link.name or "") != link.name:
            yield Finding(
                path, f"{member}, which is a member of {masters[member]} already", "each in one bond or bridge"
            )


def members_carry_nothing(network: NetworkConfig) -> Iterator[Finding]:
    """A member's packets go to its bond or bridge; what it had of its own would never see one."""
    described = {link.name: link for link in network.links}
    for path, member, master in _members(network):
        link = described.get(member)
        own = [field for field in ("addresses", "routes", "dhcp4", "dhcp6") if link and getattr(link, field)]
        if own and member != master.name:
            yield Finding(path, f"found {member}, which has {' and '.join(own)} of its own", f"these in {master.name}")


def members_are_of_a_fitting_kind(network: NetworkConfig) -> Iterator[Finding]:
    """What the kernel refuses: a bridge in a bridge, and what is no Ethernet device."""
    described = {link.name: link for link in network.links}
    for path, member, master in _members(network):
        kind = _kind(described.get(member), member)
        if member == master.name:
            continue
        if kind in ("the loopback link", "wireguard", "bridge") or (kind == "bond" and master.bond is not None):
            allowed = "network cards, VLANs and bonds" if master.bridge is not None else "network cards and VLANs"
            yield Finding(path, f"found {member}, which is {kind}", allowed)


def _kind(link: Link | None, name: str) -> str:
    if name == "lo":
        return "the loopback link"
    return next(iter(made_as(link)), "") if link else ""


def vlans_lie_on_free_links(network: NetworkConfig) -> Iterator[Finding]:
    described = {link.name: link for link in network.links}
    masters = {member: master.name for _, member, master in _members(network)}
    for index, link in enumerate(network.links):
        if link.vlan is None:
            continue
        under = link.vlan.link
        path: Path = ("links", index, "vlan", "link")
        if under in masters:
            yield Finding(
                path, f"found {under}, a member of {masters[under]}", f"{masters[under]}, which gets its packets"
            )
        elif (kind := _kind(described.get(under), under)) in ("the loopback link", "wireguard"):
            yield Finding(path, f"found {under}, which is {kind}", "an Ethernet link")
        below = described.get(under)
        if below is not None and below.mtu is not None and link.mtu is not None and link.mtu > below.mtu:
            yield Finding(("links", index, "mtu"), f"found {link.mtu} on top of {under}", f"at most its {below.mtu}")


def links_form_no_circle(network: NetworkConfig) -> Iterator[Finding]:
    """Of links that lie on one another in a circle none can be made first."""
    places: dict[str, Path] = {}
    below: dict[str, tuple[str, ...]] = {}
    for index, link in enumerate(network.links):
        if link.name is None:
            continue
        master = link.bond or link.bridge
        places[link.name] = ("links", index)
        under = (link.vlan.link,) if link.vlan else master.links if master else ()
        below[link.name] = tuple(name for name in under if name != link.name)
    told: set[str] = set()
    for start in below:
        circle = _way_back(start, below)
        if circle and told.isdisjoint(circle):
            yield Finding(places[start], f"{' on '.join((*circle, start))}", "links that end on a network card")
        told.update(circle)


def _way_back(start: str, below: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The links from *start* down to itself, *start* first; empty where no way leads there."""
    seen: set[str] = set()
    ways: list[tuple[str, ...]] = [(start,)]
    while ways:
        way = ways.pop()
        for name in below.get(way[-1], ()):
            if name == start:
                return way
            if name not in seen:
                seen.add(name)
                ways.append((*way, name))
    return ()


def _members(network: NetworkConfig) -> Iterator[tuple[Path, str, Link]]:
    """Every member of a bond or bridge: where it stands, its name, and its master."""
    for index, link in enumerate(network.links):
        for field, master in (("bond", link.bond), ("bridge", link.bridge)):
            for at, member in enumerate(master.links if master is not None else ()):
                yield ("links", index, field, "links", at), member, link


def names_of_dns_differ(network: NetworkConfig) -> Iterator[Finding]:
    yield from repeated([(("dns", "servers", i), text) for i, text in enumerate(network.dns.servers)], "the server")
    yield from repeated([(("dns", "search", i), text) for i, text in enumerate(network.dns.search)], "the domain")
