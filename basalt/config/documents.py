"""The configuration's documents. Their field names, limits and descriptions are the reference; see `osctl config schema`.

A document is a YAML mapping with ``apiVersion`` and ``kind``. To add a kind: a Struct here, a field of
:class:`Configuration`, and, where fields constrain one another, rules in :mod:`basalt.config.rules`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from basalt.config.values import (
    Destination,
    Domain,
    Host,
    Hostname,
    InterfaceAddress,
    InterfaceName,
    IpAddress,
    LabelKey,
    LabelValue,
    MacAddress,
)

API_VERSION: Literal["basalt.dev/v1alpha1"] = "basalt.dev/v1alpha1"

# RFC 791 lets no IPv4 link carry less than 68 bytes; 65536 is the loopback's and the most that Linux takes.
Mtu = Annotated[int, Meta(ge=68, le=65536)]
Metric = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class _Element(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """A part of a document."""


class _Document(_Element, frozen=True, kw_only=True, tag_field="kind", tag=str):
    """A whole document."""

    api_version: Annotated[Literal["basalt.dev/v1alpha1"], Meta(description="Version of the document's format.")] = (
        API_VERSION
    )


class MachineConfig(_Document, frozen=True, kw_only=True):
    """The machine itself."""

    hostname: Annotated[Hostname, Meta(description="The node's name, one DNS label; lower case is the one spelling.")]
    labels: Annotated[
        dict[LabelKey, LabelValue], Meta(description="Free words for people and schedulers; the node ignores them.")
    ] = {}


class LinkMatch(_Element, frozen=True, kw_only=True):
    """How to find a network card whose name is not known."""

    mac: Annotated[MacAddress, Meta(description="The card's permanent address.")]


class Route(_Element, frozen=True, kw_only=True):
    """A route through a link."""

    to: Annotated[Destination, Meta(description="Where it leads: `default`, or a network.")]
    via: Annotated[
        IpAddress | None,
        Meta(description="The gateway, reachable from the link's addresses; without it the network is on the link."),
    ] = None
    metric: Annotated[Metric | None, Meta(description="The lower wins among routes to the same place.")] = None


class Link(_Element, frozen=True, kw_only=True):
    """A network link: `name` or `match` says which, the rest how it is to be."""

    name: Annotated[InterfaceName | None, Meta(description="The link's name in the kernel.")] = None
    match: Annotated[LinkMatch | None, Meta(description="Finds the link instead of a name.")] = None
    up: Annotated[bool, Meta(description="Whether the link is switched on.")] = True
    mtu: Annotated[Mtu | None, Meta(description="Largest packet in bytes; the driver's default where left out.")] = None
    dhcp4: Annotated[bool, Meta(description="Ask a DHCPv4 server for an address, routes and DNS servers.")] = False
    addresses: Annotated[
        tuple[InterfaceAddress, ...], Meta(description="Static addresses, IPv4 or IPv6, with their prefix length.")
    ] = ()
    routes: Annotated[tuple[Route, ...], Meta(description="Static routes.")] = ()


class Dns(_Element, frozen=True, kw_only=True):
    """Names to addresses."""

    # The C library reads three and ignores the rest without a word (MAXNS, resolv.conf(5)).
    servers: Annotated[
        tuple[IpAddress, ...],
        Meta(max_length=3, description="Asked in this order, before any that DHCP names; the resolver takes three."),
    ] = ()
    search: Annotated[tuple[Domain, ...], Meta(description="Domains tried for a name without dots.")] = ()


class NetworkConfig(_Document, frozen=True, kw_only=True):
    """Links, addresses, routes and DNS. Links that are not named here are left alone."""

    links: Annotated[tuple[Link, ...], Meta(description="The links, one entry each.")] = ()
    dns: Annotated[Dns, Meta(description="How names are resolved.")] = Dns()


class TimeServer(_Element, frozen=True, kw_only=True):
    """An NTP server."""

    address: Annotated[Host, Meta(description="Its address or name.")]
    iburst: Annotated[
        bool, Meta(description="Ask several times at once in the beginning: the clock is right sooner.")
    ] = True
    pool: Annotated[bool, Meta(description="The name stands for many servers; several of them are used.")] = False
    nts: Annotated[bool, Meta(description="Authenticate the server (NTS, RFC 8915); it must support that.")] = False


class TimeConfig(_Document, frozen=True, kw_only=True):
    """Where the time comes from."""

    servers: Annotated[tuple[TimeServer, ...], Meta(description="NTP servers.")] = ()


Document = MachineConfig | NetworkConfig | TimeConfig


class Configuration(Struct, frozen=True, kw_only=True):
    """A whole configuration: at most one document of each kind. A kind that is left out means its defaults."""

    machine: MachineConfig | None = None
    network: NetworkConfig | None = None
    time: TimeConfig | None = None

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents that are there, in canonical order."""
        return tuple(document for document in (self.machine, self.network, self.time) if document is not None)


# Kind → the field of Configuration that holds it.
KINDS: dict[str, tuple[type[Document], str]] = {
    "MachineConfig": (MachineConfig, "machine"),
    "NetworkConfig": (NetworkConfig, "network"),
    "TimeConfig": (TimeConfig, "time"),
}
