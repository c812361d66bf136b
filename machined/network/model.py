"""What is, what should be, and the operations between them, as values."""

from __future__ import annotations

import ipaddress

from msgspec import Struct

from machined import paths

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Values of IFA_PROTO and rtm_protocol that mark what machined made; all others belong to somebody else and are never removed.
OURS = frozenset({paths.RTPROT_STATIC, paths.RTPROT_DHCP})
RTPROT_RA = 9  # routes of router advertisements
ROUTER_ADVERTISEMENT = 2  # IFAPROT_KERNEL_RA: the kernel made the address from a router's advertisement

IPV6_DEFAULT_METRIC = 1024  # IP6_RT_PRIO_USER: what the kernel makes of "no metric" for IPv6

FOREVER = None  # a lifetime without end


class VlanTraits(Struct, frozen=True):
    """What makes a VLAN."""

    parent: int  # index of the link that it lies on
    id: int
    protocol: str  # 802.1q, 802.1ad


class BondTraits(Struct, frozen=True):
    """What makes a bond. None where the mode knows no such option."""

    mode: str
    monitor_ms: int
    up_delay_ms: int
    down_delay_ms: int
    primary: int | None = None  # index of the preferred member
    lacp_rate: str | None = None
    transmit_hash: str | None = None


class BridgeTraits(Struct, frozen=True):
    """What makes a bridge."""

    stp: bool
    vlan_filtering: bool


class WireguardTraits(Struct, frozen=True):
    """A WireGuard tunnel; its keys and peers are not rtnetlink's (see :mod:`machined.network.wireguard`)."""


Traits = VlanTraits | BondTraits | BridgeTraits | WireguardTraits


class ObservedLink(Struct, frozen=True):
    """A link as the kernel has it."""

    index: int
    name: str
    mac: str  # lower case, with colons
    permanent_mac: str  # the card's own, where the driver knows it; else as *mac*
    up: bool
    carrier: bool
    mtu: int
    loopback: bool
    physical: bool  # it has a device behind it: neither a bridge nor a veth nor a tunnel
    kind: str = ""  # of a link that somebody made: vlan, bond, bridge, veth, ...
    ours: bool = False  # the node made it: it is in group :data:`machined.paths.LINK_GROUP`
    master: int = 0  # index of the bond or bridge that it belongs to
    parent: int = 0  # index of the link that it lies on
    traits: Traits | None = None  # of the kinds that the node makes
    active_member: int = 0  # of a bond with one: the index of the member that carries the traffic


class ObservedAddress(Struct, frozen=True):
    """An address as the kernel has it; *valid_until* in seconds of CLOCK_BOOTTIME."""

    index: int
    interface: Interface
    protocol: int
    valid_until: float | None = FOREVER
    tentative: bool = False
    link_local: bool = False
    duplicate: bool = False  # another machine of the link answered to it (RFC 4862, section 5.4)


class ObservedRoute(Struct, frozen=True):
    """A route of the main table; *index* 0 where it leads through no single link."""

    index: int
    destination: Network
    via: Address | None
    metric: int
    protocol: int


class Observed(Struct, frozen=True):
    """All of it."""

    links: tuple[ObservedLink, ...] = ()
    addresses: tuple[ObservedAddress, ...] = ()
    routes: tuple[ObservedRoute, ...] = ()


class DesiredLink(Struct, frozen=True):
    """How a managed link should be; *mtu* None leaves it to the driver."""

    index: int
    name: str
    up: bool
    mtu: int | None = None


class DesiredAddress(Struct, frozen=True):
    """An address that should be there."""

    index: int
    interface: Interface
    protocol: int = paths.RTPROT_STATIC
    valid_until: float | None = FOREVER
    preferred_until: float | None = FOREVER  # IPv6: until then new connections start from it


class DesiredRoute(Struct, frozen=True):
    """A route that should be there; *metric* None is the kernel's default."""

    index: int
    destination: Network
    via: Address | None = None
    metric: int | None = None
    protocol: int = paths.RTPROT_STATIC

    @property
    def effective_metric(self) -> int:
        """The metric that the kernel will show."""
        if self.metric is not None:
            return self.metric
        return 0 if self.destination.version == 4 else IPV6_DEFAULT_METRIC


class Desired(Struct, frozen=True):
    """All of it. Links that are not here are left alone, except for what machined once put on them."""

    links: tuple[DesiredLink, ...] = ()
    addresses: tuple[DesiredAddress, ...] = ()
    routes: tuple[DesiredRoute, ...] = ()
    deaf: frozenset[int] = frozenset()  # links that must not follow router advertisements, by index


class SetLink(Struct, frozen=True):
    """Switch a link on or off, or change its MTU; None leaves that part."""

    index: int
    name: str
    up: bool | None = None
    mtu: int | None = None


class PutAddress(Struct, frozen=True):
    """Add an address, or renew its lifetime."""

    address: DesiredAddress


class RemoveAddress(Struct, frozen=True):
    """Remove an address that machined made."""

    address: ObservedAddress


class PutRoute(Struct, frozen=True):
    """Add a route."""

    route: DesiredRoute


class RemoveRoute(Struct, frozen=True):
    """Remove a route that machined made."""

    route: ObservedRoute


class MakeLink(Struct, frozen=True):
    """Make a link."""

    name: str
    traits: Traits
    mtu: int | None = None


class ChangeLink(Struct, frozen=True):
    """Change what can be changed on a living link."""

    index: int
    name: str
    traits: Traits


class DeleteLink(Struct, frozen=True):
    """Delete a link that the node made; what lies on it goes with it."""

    index: int
    name: str


class Enslave(Struct, frozen=True):
    """Make a link a member of a bond or a port of a bridge. A bond takes only what is switched off (*down_first*)."""

    index: int
    name: str
    master: int
    master_name: str
    down_first: bool


class Release(Struct, frozen=True):
    """Let a member go."""

    index: int
    name: str
    master_name: str


Operation = (
    SetLink
    | PutAddress
    | RemoveAddress
    | PutRoute
    | RemoveRoute
    | MakeLink
    | ChangeLink
    | DeleteLink
    | Enslave
    | Release
)
