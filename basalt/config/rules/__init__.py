"""What fields of a document demand of one another. Pure functions from a valid Struct to findings.

A rule runs once its Struct's fields are valid by themselves; those of :data:`CONFIGURATION_RULES` once every document is, and
each of their findings stands beside the document that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from basalt.config.documents import (
    AccessConfig,
    Bond,
    Bridge,
    Configuration,
    Container,
    DiskSelector,
    Document,
    FirewallConfig,
    FirewallRule,
    HealthCheck,
    Hugepages,
    Link,
    LogDestination,
    Logging,
    MachineConfig,
    NetworkConfig,
    RegistryAuth,
    RegistryConfig,
    RegistryMirror,
    RegistrySignature,
    Resources,
    Security,
    ServiceConfig,
    TimeConfig,
    Wireguard,
    WorkloadConfig,
    WorkloadNetwork,
    WorkloadVolume,
)
from basalt.config.rules import access, links, machine, network, system, workload
from basalt.config.rules.finding import Finding

Rule = Callable[[Any], Iterator[Finding]]

RULES: dict[type, tuple[Rule, ...]] = {
    MachineConfig: (machine.sysctls_are_harmless, machine.modules_differ),
    Logging: (machine.destinations_differ,),
    LogDestination: (machine.services_of_destination_differ,),
    Link: (
        links.link_is_named_one_way,
        links.link_addresses_differ,
        links.ipv6_fits_the_mtu,
        links.routes_have_gateways_in_reach,
        links.link_routes_differ,
        links.wireguard_carries_no_dhcp,
        links.vlan_is_not_on_itself,
    ),
    Bond: (links.bond_members_differ, links.bond_options_fit_its_mode, links.bond_delays_are_whole_intervals),
    Bridge: (links.bridge_ports_differ,),
    Wireguard: (links.wireguard_peers_differ,),
    NetworkConfig: (
        network.links_differ,
        network.vlans_differ,
        network.listen_ports_differ,
        network.members_have_one_master,
        network.members_carry_nothing,
        network.members_are_of_a_fitting_kind,
        network.vlans_lie_on_free_links,
        network.links_form_no_circle,
        network.names_of_dns_differ,
    ),
    TimeConfig: (system.time_servers_differ,),
    AccessConfig: (access.certificates_differ,),
    RegistryConfig: (access.registries_differ,),
    RegistryMirror: (access.endpoints_differ,),
    RegistryAuth: (access.credentials_are_of_one_kind,),
    RegistrySignature: (access.keys_differ,),
    DiskSelector: (system.selector_selects,),
    FirewallConfig: (access.firewall_rules_differ, access.api_stays_restricted),
    FirewallRule: (access.parts_of_firewall_rule_differ,),
    ServiceConfig: (
        system.environment_is_not_the_launchers,
        system.memory_is_enough,
        system.settings_are_the_programs_to_change,
    ),
    WorkloadConfig: (workload.parts_of_workload_differ, workload.mounts_have_something_to_show),
    Container: (workload.mounts_have_places_of_their_own, workload.devices_differ),
    WorkloadNetwork: (workload.only_bridges_publish, workload.ports_are_free),
    WorkloadVolume: (workload.volume_in_memory_has_bounds,),
    HealthCheck: (workload.one_thing_is_checked,),
    Resources: (workload.memory_is_enough, workload.hugepages_differ),
    Hugepages: (workload.hugepages_are_whole,),
    Security: (workload.capabilities_are_added_or_dropped, workload.privileged_has_it_all),
}

CONFIGURATION_RULES: tuple[Callable[[Configuration], Iterator[tuple[Document, Finding]]], ...] = (
    system.volumes_want_different_disks,
    workload.workloads_lie_on_volumes,
    workload.workloads_publish_different_ports,
)
