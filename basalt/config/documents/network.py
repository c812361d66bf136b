"""Links, addresses, routes and names."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from basalt.config.documents.base import DocumentBase, Element, Keepalive, Metric, Mtu, Port
from basalt.config.values import (
    Destination,
    Domain,
    InterfaceAddress,
    InterfaceName,
    IpAddress,
    MacAddress,
    Prefix,
    SocketAddress,
    WireguardKey,
    WireguardSecret,
)


class LinkMatch(Element, frozen=True, kw_only=True):
    """How to find a network card whose name is not known."""

    mac: Annotated[MacAddress, Meta(description="The card's permanent address.")]


class Route(Element, frozen=True, kw_only=True):
    """A route through a link."""

    to: Annotated[Destination, Meta(description="Where it leads: `default`, or a network.")]
    via: Annotated[
        IpAddress | None,
        Meta(description="The gateway, reachable from the link's addresses; without it the network is on the link."),
    ] = None
    metric: Annotated[Metric | None, Meta(description="The lower wins among routes to the same place.")] = None


class Vlan(Element, frozen=True, kw_only=True):
    """A tagged link on top of another (IEEE 802.1Q)."""

    link: Annotated[InterfaceName, Meta(description="The link that it lies on.")]
    id: Annotated[int, Meta(ge=1, le=4094, description="Its tag.")]
    protocol: Annotated[Literal["802.1q", "802.1ad"], Meta(description="The kind of tag.")] = "802.1q"


class Bond(Element, frozen=True, kw_only=True):
    """Several links that act as one (the kernel's Documentation/networking/bonding.rst)."""

    links: Annotated[
        tuple[InterfaceName, ...], Meta(min_length=1, description="Its members; they carry nothing of their own.")
    ]
    mode: Annotated[
        Literal["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"],
        Meta(description="How traffic is spread."),
    ] = "active-backup"
    monitor_interval_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="How often the members' carrier is looked at (miimon).")
    ] = 100
    up_delay_ms: Annotated[
        int, Meta(ge=0, le=600_000, description="How long a carrier must hold before it is used.")
    ] = 0
    down_delay_ms: Annotated[int, Meta(ge=0, le=600_000, description="How long it must be lost.")] = 0
    primary: Annotated[
        InterfaceName | None, Meta(description="The member that is preferred, in the modes with an active one.")
    ] = None
    lacp_rate: Annotated[Literal["slow", "fast"], Meta(description="How often 802.3ad asks its partner.")] = "slow"
    transmit_hash: Annotated[
        Literal["layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4", "vlan+srcmac"],
        Meta(description="What decides which member a packet takes, in balance-xor and 802.3ad."),
    ] = "layer2"


class Bridge(Element, frozen=True, kw_only=True):
    """A switch inside the node (IEEE 802.1D)."""

    links: Annotated[tuple[InterfaceName, ...], Meta(description="Its ports.")] = ()
    stp: Annotated[bool, Meta(description="Speak the spanning tree protocol.")] = False
    vlan_filtering: Annotated[bool, Meta(description="Keep tagged networks apart.")] = False


class WireguardPeerConfig(Element, frozen=True, kw_only=True):
    """Another end of the tunnel."""

    public_key: Annotated[WireguardKey, Meta(description="Its public key.")]
    preshared_key: Annotated[WireguardSecret | None, Meta(description="A second secret that both ends know.")] = None
    endpoint: Annotated[
        SocketAddress | None, Meta(description="Where it is reached; left out when it is the one that calls.")
    ] = None
    allowed_ips: Annotated[
        tuple[Prefix, ...], Meta(description="What it may send, and what is sent to it; no routes are made of it.")
    ] = ()
    keepalive_s: Annotated[Keepalive | None, Meta(description="Says something this often, for NAT in between.")] = None


class Wireguard(Element, frozen=True, kw_only=True):
    """An encrypted link (WireGuard)."""

    private_key: Annotated[
        WireguardSecret | None,
        Meta(
            description="The node's private key. Better left out: the node then makes one, which never leaves it, and "
            "`osctl get links` shows its public key."
        ),
    ] = None
    listen_port: Annotated[
        Port | None, Meta(description="UDP port; a free one where left out. The firewall opens it.")
    ] = None
    peers: Annotated[tuple[WireguardPeerConfig, ...], Meta(description="The other ends.")] = ()


class Link(Element, frozen=True, kw_only=True):
    """A network link: `name` or `match` says which, the rest how it is to be.

    One with `vlan`, `bond`, `bridge` or `wireguard` is made by the node, and unmade when it is taken out.
    """

    name: Annotated[InterfaceName | None, Meta(description="The link's name in the kernel.")] = None
    match: Annotated[LinkMatch | None, Meta(description="Finds the link instead of a name.")] = None
    vlan: Annotated[Vlan | None, Meta(description="Makes it a tagged link.")] = None
    bond: Annotated[Bond | None, Meta(description="Makes it a bond.")] = None
    bridge: Annotated[Bridge | None, Meta(description="Makes it a bridge.")] = None
    wireguard: Annotated[Wireguard | None, Meta(description="Makes it a WireGuard tunnel.")] = None
    up: Annotated[bool, Meta(description="Whether the link is switched on.")] = True
    mtu: Annotated[Mtu | None, Meta(description="Largest packet in bytes; the driver's default where left out.")] = None
    dhcp4: Annotated[bool, Meta(description="Ask a DHCPv4 server for an address, routes and DNS servers.")] = False
    dhcp6: Annotated[
        bool,
        Meta(description="Ask a DHCPv6 server for an address and DNS servers; routes come from routers (`slaac`)."),
    ] = False
    slaac: Annotated[
        bool, Meta(description="Follow IPv6 router advertisements: addresses, routes and DNS servers (RFC 4862, 8106).")
    ] = True
    addresses: Annotated[
        tuple[InterfaceAddress, ...], Meta(description="Static addresses, IPv4 or IPv6, with their prefix length.")
    ] = ()
    routes: Annotated[tuple[Route, ...], Meta(description="Static routes.")] = ()


class Dns(Element, frozen=True, kw_only=True):
    """Names to addresses."""

    # The C library reads three and ignores the rest without a word (MAXNS, resolv.conf(5)).
    servers: Annotated[
        tuple[IpAddress, ...],
        Meta(max_length=3, description="Asked in this order, before any that DHCP names; the resolver takes three."),
    ] = ()
    search: Annotated[tuple[Domain, ...], Meta(description="Domains tried for a name without dots.")] = ()


class NetworkConfig(DocumentBase, frozen=True, kw_only=True):
    """Links, addresses, routes and DNS. Links that are not named here are left alone."""

    links: Annotated[tuple[Link, ...], Meta(description="The links, one entry each.")] = ()
    dns: Annotated[Dns, Meta(description="How names are resolved.")] = Dns()
