"""What fields of a document demand of one another. Pure functions from a valid Struct to findings.

A rule runs once its Struct's fields are valid by themselves; findings name a path below that Struct.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

from basalt.config.documents import Link, NetworkConfig, Route, TimeConfig
from basalt.config.tree import Path

# RFC 8200, section 5: every link that carries IPv6 must carry packets of this size.
IPV6_MINIMUM_MTU = 1280

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Finding(NamedTuple):
    path: Path
    found: str
    allowed: str = ""


def _repeated(values: list[tuple[Path, Hashable]], what: str) -> Iterator[Finding]:
    first: dict[Hashable, Path] = {}
    for path, value in values:
        if value in first:
            yield Finding(path, f"{what} {value} again", "each once")
        first.setdefault(value, path)


def link_is_named_one_way(link: Link) -> Iterator[Finding]:
    if link.name is None and link.match is None:
        yield Finding((), "neither name nor match", "one of them: it says which link is meant")
    if link.name is not None and link.match is not None:
        yield Finding(("match",), "both name and match", "one of them")


def link_addresses_differ(link: Link) -> Iterator[Finding]:
    yield from _repeated([(("addresses", i), text) for i, text in enumerate(link.addresses)], "the address")


def ipv6_fits_the_mtu(link: Link) -> Iterator[Finding]:
    if link.mtu is None or link.mtu >= IPV6_MINIMUM_MTU:
        return
    if any(":" in text for text in link.addresses):
        yield Finding(("mtu",), f"found {link.mtu} on a link with an IPv6 address", f"at least {IPV6_MINIMUM_MTU}")


def _destination(route: Route) -> _Network | None:
    """The network that a route leads to; None where nothing says of which family its ``default`` is."""
    if route.to != "default":
        return ipaddress.ip_network(route.to)
    if route.via is None:
        return None
    return ipaddress.ip_network("::/0" if ":" in route.via else "0.0.0.0/0")


def routes_have_gateways_in_reach(link: Link) -> Iterator[Finding]:
    own = [ipaddress.ip_interface(text) for text in link.addresses]
    destinations = [_destination(route) for route in link.routes]
    on_link = [network for network, route in zip(destinations, link.routes, strict=True) if network and not route.via]
    reachable = [interface.network for interface in own] + on_link
    for index, (route, network) in enumerate(zip(link.routes, destinations, strict=True)):
        path: Path = ("routes", index, "via")
        if network is None:
            yield Finding(("routes", index), "a default route without a gateway", "via with the gateway's address")
            continue
        if route.via is None:
            continue
        gateway = ipaddress.ip_address(route.via)
        if gateway.version != network.version:
            yield Finding(path, f"found {gateway} for a route to IPv{network.version}", "a gateway of that family")
        elif any(gateway == interface.ip for interface in own):
            yield Finding(path, f"found {gateway}, the link's own address", "the address of another machine")
        elif not (
            any(gateway in candidate for candidate in reachable)
            or (gateway.version == 6 and gateway.is_link_local)
            # What a DHCP server will give out is not known here.
            or (gateway.version == 4 and link.dhcp4)
        ):
            known = ", ".join(str(candidate) for candidate in reachable) or "none: the link has no address"
            yield Finding(path, f"found {gateway}, which is out of the link's reach", f"an address in {known}")


def link_routes_differ(link: Link) -> Iterator[Finding]:
    routes = [(("routes", index), (str(_destination(route)), route.metric)) for index, route in enumerate(link.routes)]
    seen: set[tuple[str, int | None]] = set()
    for path, key in routes:
        if key in seen:
            yield Finding(path, f"a route to {key[0]} with the same metric again", "each destination and metric once")
        seen.add(key)


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
    yield from _repeated(names, "the link")
    yield from _repeated(addresses, "the address")


def names_of_dns_differ(network: NetworkConfig) -> Iterator[Finding]:
    yield from _repeated([(("dns", "servers", i), text) for i, text in enumerate(network.dns.servers)], "the server")
    yield from _repeated([(("dns", "search", i), text) for i, text in enumerate(network.dns.search)], "the domain")


def time_servers_differ(time: TimeConfig) -> Iterator[Finding]:
    yield from _repeated(
        [(("servers", i, "address"), server.address) for i, server in enumerate(time.servers)], "the server"
    )


Rule = Callable[[Any], Iterator[Finding]]

RULES: dict[type, tuple[Rule, ...]] = {
    Link: (
        link_is_named_one_way,
        link_addresses_differ,
        ipv6_fits_the_mtu,
        routes_have_gateways_in_reach,
        link_routes_differ,
    ),
    NetworkConfig: (links_differ, names_of_dns_differ),
    TimeConfig: (time_servers_differ,),
}
