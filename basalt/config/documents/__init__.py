"""The configuration's documents. Their field names, limits and descriptions are the reference; see `osctl config schema`.

A document is a YAML mapping with ``apiVersion`` and ``kind``. To add a kind: a Struct in one of these modules, a field of
:class:`Configuration`, an example in :mod:`basalt.docs_examples` and, where fields constrain one another, rules in
:mod:`basalt.config.rules`.
"""

from __future__ import annotations

from msgspec import Struct

from basalt.config.documents.access import (
    AccessConfig,
    FirewallConfig,
    FirewallRule,
    RegistryAuth,
    RegistryAuthority,
    RegistryConfig,
    RegistryMirror,
    RegistrySignature,
)
from basalt.config.documents.base import API_VERSION
from basalt.config.documents.machine import (
    DiskSelector,
    LogDestination,
    Logging,
    MachineConfig,
    Module,
    ServiceConfig,
    TimeConfig,
    TimeServer,
    Topology,
    VolumeConfig,
    WatchdogSettings,
)
from basalt.config.documents.network import (
    Bond,
    Bridge,
    Dns,
    Link,
    LinkMatch,
    NetworkConfig,
    Route,
    Vlan,
    Wireguard,
    WireguardPeerConfig,
)
from basalt.config.documents.workload import (
    Container,
    HealthCheck,
    HttpCheck,
    Hugepages,
    PublishedPort,
    Resources,
    SecretMount,
    Security,
    TcpCheck,
    VolumeMount,
    WorkloadConfig,
    WorkloadNetwork,
    WorkloadSecret,
    WorkloadVolume,
)

__all__ = [
    "API_VERSION",
    "KINDS",
    "NAMED_KINDS",
    "AccessConfig",
    "Bond",
    "Bridge",
    "Configuration",
    "Container",
    "DiskSelector",
    "Dns",
    "Document",
    "FirewallConfig",
    "FirewallRule",
    "HealthCheck",
    "HttpCheck",
    "Hugepages",
    "Link",
    "LinkMatch",
    "LogDestination",
    "Logging",
    "MachineConfig",
    "Module",
    "NetworkConfig",
    "PublishedPort",
    "RegistryAuth",
    "RegistryAuthority",
    "RegistryConfig",
    "RegistryMirror",
    "RegistrySignature",
    "Resources",
    "Route",
    "SecretMount",
    "Security",
    "ServiceConfig",
    "TcpCheck",
    "TimeConfig",
    "TimeServer",
    "Topology",
    "Vlan",
    "VolumeConfig",
    "VolumeMount",
    "WatchdogSettings",
    "Wireguard",
    "WireguardPeerConfig",
    "WorkloadConfig",
    "WorkloadNetwork",
    "WorkloadSecret",
    "WorkloadVolume",
]

Document = (
    MachineConfig
    | NetworkConfig
    | TimeConfig
    | AccessConfig
    | RegistryConfig
    | VolumeConfig
    | FirewallConfig
    | ServiceConfig
    | WorkloadConfig
)


class Configuration(Struct, frozen=True, kw_only=True):
    """A whole configuration. A kind that is left out means its defaults.

    Of most kinds there is at most one document; volumes, services and workloads are named, and there is one for each name, sorted
    by it.
    """

    machine: MachineConfig | None = None
    network: NetworkConfig | None = None
    time: TimeConfig | None = None
    access: AccessConfig | None = None
    registry: RegistryConfig | None = None
    volumes: tuple[VolumeConfig, ...] = ()
    firewall: FirewallConfig | None = None
    services: tuple[ServiceConfig, ...] = ()
    workloads: tuple[WorkloadConfig, ...] = ()

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents that are there, in canonical order."""
        single = (self.machine, self.network, self.time, self.access, self.registry, self.firewall)
        alone = (document for document in single if document is not None)
        return (*alone, *self.volumes, *self.services, *self.workloads)


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
    "WorkloadConfig": (WorkloadConfig, "workloads"),
}

# Kinds of which there may be several, told apart by their name.
NAMED_KINDS = frozenset({"VolumeConfig", "ServiceConfig", "WorkloadConfig"})
