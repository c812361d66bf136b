"""The configuration's documents. Their field names, limits and descriptions are the reference; see `osctl config schema`.

A document is a YAML mapping with ``apiVersion`` and ``kind``. To add a kind: a Struct here, a field of
:class:`Configuration`, and, where fields constrain one another, rules in :mod:`basalt.config.rules`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from basalt.config.values import (
    CertificatePem,
    Destination,
    Domain,
    EnvironmentName,
    Host,
    Hostname,
    HttpUrl,
    InterfaceAddress,
    InterfaceName,
    IpAddress,
    LabelKey,
    LabelValue,
    LogEndpoint,
    MacAddress,
    ModuleName,
    ParameterName,
    ParameterValue,
    PortRange,
    Prefix,
    Registry,
    RegistryHost,
    RuleName,
    Secret,
    SecretValue,
    Serial,
    ServiceName,
    Size,
    SocketAddress,
    SysctlName,
    SysctlValue,
    UserName,
    VolumeName,
    WireguardKey,
    WireguardSecret,
    Words,
)

API_VERSION: Literal["basalt.dev/v1alpha1"] = "basalt.dev/v1alpha1"

# RFC 791 lets no IPv4 link carry less than 68 bytes; 65536 is the loopback's and the most that Linux takes.
Mtu = Annotated[int, Meta(ge=68, le=65536)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Keepalive = Annotated[int, Meta(ge=1, le=65535)]
Weight = Annotated[int, Meta(ge=1, le=10_000)]
Metric = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class _Element(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """A part of a document."""


class _Document(_Element, frozen=True, kw_only=True, tag_field="kind", tag=str):
    """A whole document."""

    api_version: Annotated[Literal["basalt.dev/v1alpha1"], Meta(description="Version of the document's format.")] = (
        API_VERSION
    )


class Topology(_Element, frozen=True, kw_only=True):
    """Where the machine stands, from the narrow to the wide."""

    rack: Annotated[LabelValue | None, Meta(description="The rack.")] = None
    zone: Annotated[LabelValue | None, Meta(description="What fails together: a room, a power feed.")] = None
    region: Annotated[LabelValue | None, Meta(description="The site, or group of zones.")] = None


class Module(_Element, frozen=True, kw_only=True):
    """A kernel module."""

    name: Annotated[ModuleName, Meta(description="Its name, as `modprobe` takes it.")]
    parameters: Annotated[
        dict[ParameterName, ParameterValue],
        Meta(description="Its parameters; those of a module that is loaded already take effect at the next boot."),
    ] = {}


class WatchdogSettings(_Element, frozen=True, kw_only=True):
    """The watchdog, which resets a node that hangs."""

    timeout_s: Annotated[
        int, Meta(ge=20, le=600, description="Seconds without a sign of life after which the machine is reset.")
    ] = 60


class LogDestination(_Element, frozen=True, kw_only=True):
    """A collector that gets a copy of the logs."""

    endpoint: Annotated[LogEndpoint, Meta(description="Where it listens.")]
    format: Annotated[
        Literal["json-lines", "syslog"],
        Meta(description="One JSON object per line, or syslog (RFC 5424; over TCP with the framing of RFC 6587)."),
    ] = "json-lines"
    services: Annotated[
        tuple[ServiceName, ...], Meta(description="Only the logs of these; all of them where left out.")
    ] = ()
    kernel: Annotated[bool, Meta(description="The kernel's messages too.")] = True


class Logging(_Element, frozen=True, kw_only=True):
    """What becomes of logs besides being kept on the node."""

    destinations: Annotated[tuple[LogDestination, ...], Meta(max_length=8, description="Collectors.")] = ()


class MachineConfig(_Document, frozen=True, kw_only=True):
    """The machine itself."""

    hostname: Annotated[Hostname, Meta(description="The node's name, one DNS label; lower case is the one spelling.")]
    labels: Annotated[
        dict[LabelKey, LabelValue], Meta(description="Free words for people and schedulers; the node ignores them.")
    ] = {}
    topology: Annotated[Topology, Meta(description="Where the machine stands.")] = Topology()
    sysctls: Annotated[
        dict[SysctlName, SysctlValue],
        Meta(description="Kernel settings below `/proc/sys`; one that is taken out gets the value that it had."),
    ] = {}
    modules: Annotated[
        tuple[Module, ...], Meta(description="Kernel modules to load besides those that devices ask for.")
    ] = ()
    watchdog: Annotated[WatchdogSettings, Meta(description="The watchdog.")] = WatchdogSettings()
    logging: Annotated[Logging, Meta(description="Where logs go besides the node itself.")] = Logging()


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


class Vlan(_Element, frozen=True, kw_only=True):
    """A tagged link on top of another (IEEE 802.1Q)."""

    link: Annotated[InterfaceName, Meta(description="The link that it lies on.")]
    id: Annotated[int, Meta(ge=1, le=4094, description="Its tag.")]
    protocol: Annotated[Literal["802.1q", "802.1ad"], Meta(description="The kind of tag.")] = "802.1q"


class Bond(_Element, frozen=True, kw_only=True):
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


class Bridge(_Element, frozen=True, kw_only=True):
    """A switch inside the node (IEEE 802.1D)."""

    links: Annotated[tuple[InterfaceName, ...], Meta(description="Its ports.")] = ()
    stp: Annotated[bool, Meta(description="Speak the spanning tree protocol.")] = False
    vlan_filtering: Annotated[bool, Meta(description="Keep tagged networks apart.")] = False


class WireguardPeerConfig(_Element, frozen=True, kw_only=True):
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


class Wireguard(_Element, frozen=True, kw_only=True):
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


class Link(_Element, frozen=True, kw_only=True):
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


class AccessConfig(_Document, frozen=True, kw_only=True):
    """Whose client certificates are accepted. Without it: those of the authority that the first contact was made with."""

    client_authorities: Annotated[
        tuple[CertificatePem, ...],
        Meta(
            min_length=1,
            max_length=8,
            description="Certificates of authorities (PEM) that sign operators' certificates.",
        ),
    ]
    revoked_serials: Annotated[
        tuple[Serial, ...],
        Meta(
            max_length=4096,
            description="Serial numbers of client certificates that are refused, open connections included.",
        ),
    ] = ()
    server_lifetime_h: Annotated[
        int, Meta(ge=1, le=720, description="Hours that the node's own certificates are valid; renewed at half of it.")
    ] = 24


class RegistryMirror(_Element, frozen=True, kw_only=True):
    """Where images of a registry are fetched instead."""

    registry: Annotated[Registry, Meta(description="The registry in image names; `*` for all that are not listed.")]
    endpoints: Annotated[
        tuple[HttpUrl, ...], Meta(min_length=1, description="Tried in this order, before the registry itself.")
    ]
    fallback: Annotated[bool, Meta(description="Whether the registry itself is asked in the end.")] = True
    override_path: Annotated[bool, Meta(description="The endpoints' paths are complete: no `/v2` is added.")] = False


class RegistryAuth(_Element, frozen=True, kw_only=True):
    """Credentials for a registry or mirror."""

    host: Annotated[RegistryHost, Meta(description="The host that gets them, with its port if it has one.")]
    username: Annotated[UserName | None, Meta(description="User name.")] = None
    password: Annotated[Secret | None, Meta(description="Its password.")] = None
    identity_token: Annotated[Secret | None, Meta(description="A token instead of user name and password.")] = None


class RegistryAuthority(_Element, frozen=True, kw_only=True):
    """An authority for a registry's own certificate."""

    host: Annotated[RegistryHost, Meta(description="The host whose certificate it signs.")]
    certificate: Annotated[CertificatePem, Meta(description="The authority's certificate (PEM).")]


class RegistryConfig(_Document, frozen=True, kw_only=True):
    """Registries of container images."""

    mirrors: Annotated[tuple[RegistryMirror, ...], Meta(description="Mirrors.")] = ()
    auth: Annotated[tuple[RegistryAuth, ...], Meta(description="Credentials.")] = ()
    authorities: Annotated[tuple[RegistryAuthority, ...], Meta(description="Authorities.")] = ()


class DiskSelector(_Element, frozen=True, kw_only=True):
    """Finds one disk. What is given must all fit, and fit exactly one disk; never the one that the node booted from."""

    wwn: Annotated[Words | None, Meta(description="World wide name, as `/sys` shows it.")] = None
    serial: Annotated[Words | None, Meta(description="Serial number.")] = None
    model: Annotated[Words | None, Meta(description="Model.")] = None
    size_min: Annotated[Size | None, Meta(description="At least this large.")] = None
    size_max: Annotated[Size | None, Meta(description="At most this large.")] = None


class VolumeConfig(_Document, frozen=True, kw_only=True):
    """A further disk, mounted for workloads at `/var/mnt/<name>`. One document per volume."""

    name: Annotated[VolumeName, Meta(description="The volume's name, and the label of its file system.")]
    disk: Annotated[DiskSelector, Meta(description="Which disk it is.")]
    existing_data: Annotated[
        Literal["refuse", "wipe"],
        Meta(
            description="What to do with a disk that is neither empty nor this volume already: leave it alone, or erase it."
        ),
    ] = "refuse"
    read_only: Annotated[bool, Meta(description="Mount it read-only.")] = False


class FirewallRule(_Element, frozen=True, kw_only=True):
    """Lets traffic in."""

    name: Annotated[RuleName, Meta(description="What it is for.")]
    protocol: Annotated[Literal["tcp", "udp", "sctp"], Meta(description="The transport.")] = "tcp"
    ports: Annotated[
        tuple[PortRange, ...], Meta(min_length=1, description="Ports of the node: `443`, or a range `30000-32767`.")
    ]
    sources: Annotated[tuple[Prefix, ...], Meta(description="Networks that may; everybody where left out.")] = ()
    links: Annotated[tuple[InterfaceName, ...], Meta(description="Only through these links; all where left out.")] = ()


class FirewallConfig(_Document, frozen=True, kw_only=True):
    """Who may connect to the node itself. What no rule lets in is dropped, with or without this document; the API is open.

    Traffic that containers forward is not touched.
    """

    api_sources: Annotated[
        tuple[Prefix, ...], Meta(description="Networks that may reach the API; everybody where left out.")
    ] = ()
    rules: Annotated[tuple[FirewallRule, ...], Meta(description="What else is let in.")] = ()
    ping: Annotated[bool, Meta(description="Answer ICMP echo requests.")] = True
    log_dropped: Annotated[bool, Meta(description="Say in the kernel's log what was dropped, at a limited rate.")] = (
        False
    )


class ServiceConfig(_Document, frozen=True, kw_only=True):
    """How one of the node's own programs runs. One document per program."""

    name: Annotated[Literal["containerd", "chronyd"], Meta(description="Which program.")]
    enabled: Annotated[bool, Meta(description="Whether it runs.")] = True
    memory_max: Annotated[Size | None, Meta(description="The most memory that it may use; more ends it.")] = None
    cpu_weight: Annotated[
        Weight | None, Meta(description="Its share of the processors when they are busy (default 100).")
    ] = None
    environment: Annotated[
        dict[EnvironmentName, SecretValue],
        Meta(description="Environment variables, such as HTTPS_PROXY; values are treated as secrets."),
    ] = {}


Document = (
    MachineConfig
    | NetworkConfig
    | TimeConfig
    | AccessConfig
    | RegistryConfig
    | VolumeConfig
    | FirewallConfig
    | ServiceConfig
)


class Configuration(Struct, frozen=True, kw_only=True):
    """A whole configuration. A kind that is left out means its defaults.

    Of most kinds there is at most one document; volumes and services are named, and there is one for each name, sorted by it.
    """

    machine: MachineConfig | None = None
    network: NetworkConfig | None = None
    time: TimeConfig | None = None
    access: AccessConfig | None = None
    registry: RegistryConfig | None = None
    volumes: tuple[VolumeConfig, ...] = ()
    firewall: FirewallConfig | None = None
    services: tuple[ServiceConfig, ...] = ()

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents that are there, in canonical order."""
        single = (self.machine, self.network, self.time, self.access, self.registry, self.firewall)
        return (*(document for document in single if document is not None), *self.volumes, *self.services)


# Kind → the field of Configuration that holds it.
KINDS: dict[str, tuple[type[Document], str]] = {
    "MachineConfig": (MachineConfig, "machine"),
    "NetworkConfig": (NetworkConfig, "network"),
    "TimeConfig": (TimeConfig, "time"),
    "AccessConfig": (AccessConfig, "access"),
    "RegistryConfig": (RegistryConfig, "registry"),
    "VolumeConfig": (VolumeConfig, "volumes"),
    "FirewallConfig": (FirewallConfig, "firewall"),
    "ServiceConfig": (ServiceConfig, "services"),
}

# Kinds of which there may be several, told apart by their name.
NAMED_KINDS = frozenset({"VolumeConfig", "ServiceConfig"})
