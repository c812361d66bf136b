"""Rules about one link by itself."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from basalt.config.documents import Bond, Bridge, Link, Route, Wireguard
from basalt.config.rules.finding import Finding, repeated
from basalt.config.tree import Path

# RFC 8200, section 5: every link that carries IPv6 must carry packets of this size.
IPV6_MINIMUM_MTU = 1280

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def link_is_named_one_way(link: Link) -> Iterator[Finding]:
    if link.name is None and link.match is None:
        yield Finding((), "neither name nor match", "one of them: it says which link is meant")
    if link.name is not None and link.match is not None:
        yield Finding(("match",), "both name and match", "one of them")
    made = made_as(link)
    if made and link.match is not None:
        yield Finding(("match",), f"match for a link that the node makes ({made[0]})", "name: what it is to be called")
    for other in made[1:]:
        yield Finding((other,), f"both {made[0]} and {other}", "one of them: a link is of one kind")
    if made and link.name == "lo":
        yield Finding(("name",), "found lo, which every kernel has", "another name")


def made_as(link: Link) -> tuple[str, ...]:
    """The fields that have the node make the link: one of ``vlan``, ``bond``, ``bridge``, ``wireguard``, or none."""
    return tuple(field for field in ("vlan", "bond", "bridge", "wireguard") if getattr(link, field) is not None)


def link_addresses_differ(link: Link) -> Iterator[Finding]:
    yield from repeated([(("addresses", i), text) for i, text in enumerate(link.addresses)], "the address")


def ipv6_fits_the_mtu(link: Link) -> Iterator[Finding]:
    if link.mtu is None or link.mtu >= IPV6_MINIMUM_MTU:
        return
    if link.dhcp6 or any(":" in text for text in link.addresses):
        yield Finding(("mtu",), f"found {link.mtu} on a link with IPv6", f"at least {IPV6_MINIMUM_MTU}")


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


def wireguard_carries_no_dhcp(link: Link) -> Iterator[Finding]:
    if link.wireguard is None:
        return
    for field in ("dhcp4", "dhcp6"):
        if getattr(link, field):
            yield Finding((field,), "found true on a WireGuard link", "false: DHCP needs a link with broadcasts")


def vlan_is_not_on_itself(link: Link) -> Iterator[Finding]:
    if link.vlan is not None and link.vlan.link == link.name:
        yield Finding(("vlan", "link"), f"found {link.name}, the link itself", "the link that it lies on")


# The kernel's Documentation/networking/bonding.rst: which mode each option is for.
_PRIMARY_MODES = ("active-backup", "balance-tlb", "balance-alb")
_HASH_MODES = ("balance-xor", "802.3ad")


def bond_members_differ(bond: Bond) -> Iterator[Finding]:
    yield from repeated(((("links", i), name) for i, name in enumerate(bond.links)), "the link")


def bond_options_fit_its_mode(bond: Bond) -> Iterator[Finding]:
    if bond.primary is not None:
        if bond.primary not in bond.links:
            yield Finding(("primary",), f"found {bond.primary}, which is no member", " or ".join(bond.links))
        elif bond.mode not in _PRIMARY_MODES:
            yield Finding(("primary",), f"primary in the mode {bond.mode}", f"only in {', '.join(_PRIMARY_MODES)}")
    if bond.lacp_rate != "slow" and bond.mode != "802.3ad":
        yield Finding(("lacpRate",), f"lacpRate in the mode {bond.mode}", "only in 802.3ad")
    if bond.transmit_hash != "layer2" and bond.mode not in _HASH_MODES:
        yield Finding(("transmitHash",), f"transmitHash in the mode {bond.mode}", f"only in {', '.join(_HASH_MODES)}")


def bond_delays_are_whole_intervals(bond: Bond) -> Iterator[Finding]:
    """The kernel rounds others down."""
    for field, delay_ms in (("upDelayMs", bond.up_delay_ms), ("downDelayMs", bond.down_delay_ms)):
        if delay_ms % bond.monitor_interval_ms:
            yield Finding(
                (field,), f"found {delay_ms}", f"a multiple of monitorIntervalMs ({bond.monitor_interval_ms})"
            )


def bridge_ports_differ(bridge: Bridge) -> Iterator[Finding]:
    yield from repeated(((("links", i), name) for i, name in enumerate(bridge.links)), "the link")


def wireguard_peers_differ(wireguard: Wireguard) -> Iterator[Finding]:
    """Of two peers with one key, or with one network, the kernel would keep the last."""
    peers = list(enumerate(wireguard.peers))
    yield from repeated(((("peers", i, "publicKey"), peer.public_key) for i, peer in peers), "the key")
    networks = (
        (("peers", i, "allowedIps", at), network) for i, peer in peers for at, network in enumerate(peer.allowed_ips)
    )
    yield from repeated(networks, "the network")
