"""What going from one configuration to another does to the node: in words, what of it needs a reboot, who has to look. Pure.

Removing a document means its defaults, so it is a change like any other.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, structs

from basalt.config.documents import (
    AccessConfig,
    Configuration,
    FirewallConfig,
    LogDestination,
    MachineConfig,
    NetworkConfig,
    RegistryConfig,
    ServiceConfig,
)
from basalt.reference import EVERY
from machined.cutoff import Caller, cutoffs
from machined.modes import RebootReason

# Settings of the kernel that only go one way: from this value on, no other is taken (Documentation/admin-guide/sysctl/kernel.rst,
# Documentation/admin-guide/LSM/Yama.rst).
ONE_WAY_SYSCTLS = {
    "kernel.modules_disabled": "1",
    "kernel.kexec_load_disabled": "1",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.yama.ptrace_scope": "3",
}

# Which concerns a field of Configuration is the business of; what an apply waits for is among them.
CONCERNS: dict[str, tuple[str, ...]] = {
    "machine": ("kernel", "watchdog", "logging", "network"),
    "network": ("network", "firewall", "time"),
    "time": ("time",),
    "access": ("identity", "access"),
    "registry": ("registry", "containers", "workloads"),
    "volumes": ("volumes", "workloads"),
    "firewall": ("firewall",),
    "services": ("containers", "time"),
    "workloads": ("workloads",),
}


class Circumstances(Struct, frozen=True):
    """What the change meets on the node.

    *loaded_modules*: as ``/sys/module`` has them, with underscores. *mounted_volumes*: names below ``/var/mnt``.
    """

    loaded_modules: frozenset[str] = frozenset()
    mounted_volumes: frozenset[str] = frozenset()
    caller: Caller = Caller()


class Effects(Struct, frozen=True):
    """What a change does. *trial_reasons*: what of it touches the way by which the caller came."""

    actions: tuple[str, ...] = ()
    reboot_reasons: tuple[RebootReason, ...] = ()
    trial_reasons: tuple[str, ...] = ()
    concerns: frozenset[str] = frozenset()


def effects_of(old: Configuration, new: Configuration, circumstances: Circumstances) -> Effects:
    """What going from *old* to *new* does."""
    changed = [field for field in CONCERNS if getattr(old, field) != getattr(new, field)]
    return Effects(
        describe(old, new),
        tuple(_reboot_reasons(old, new, circumstances)),
        tuple(dict.fromkeys(cutoffs(old, new, circumstances.caller))),
        frozenset(concern for field in changed for concern in CONCERNS[field]),
    )


def _reboot_reasons(old: Configuration, new: Configuration, circumstances: Circumstances) -> Iterator[RebootReason]:
    modules = {module.name: module for module in (old.machine.modules if old.machine else ())}
    wanted = new.machine.modules if new.machine else ()
    for at, module in enumerate(wanted):
        before = modules[module.name].parameters if module.name in modules else {}
        if module.parameters != before and module.name.replace("-", "_") in circumstances.loaded_modules:
            yield RebootReason(
                f"MachineConfig: $.modules[{at}]",
                f"{module.name} is loaded, and a module reads its parameters when it is loaded",
            )
    names = {module.name for module in wanted}
    for name in modules:
        if name not in names and name.replace("-", "_") in circumstances.loaded_modules:
            yield RebootReason("MachineConfig: $.modules", f"{name} is loaded, and stays so for the length of a boot")
    before_settings = old.machine.sysctls if old.machine else {}
    settings = new.machine.sysctls if new.machine else {}
    for name, value in before_settings.items():
        if ONE_WAY_SYSCTLS.get(name) == value and settings.get(name) != value:
            yield RebootReason(f"MachineConfig: $.sysctls.{name}", f"the kernel takes no other value after {value}")
    volumes = {volume.name: volume for volume in new.volumes}
    for volume in old.volumes:
        successor = volumes.get(volume.name)
        if volume.name in circumstances.mounted_volumes and successor and successor.disk != volume.disk:
            yield RebootReason(f"VolumeConfig {volume.name}: $.disk", "the volume is mounted from the disk that it had")


def describe(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """What going from *old* to *new* changes on the node, in words."""
    actions = list(_describe_machine(old.machine, new.machine))
    if old.network != new.network:
        actions += _describe_network(old.network, new.network)
    if old.time != new.time:
        servers = ", ".join(server.address for server in new.time.servers) if new.time else ""
        actions.append(f"take the time from {servers}" if servers else "stop taking the time from servers")
    actions += _describe_access(old, new)
    actions += _describe_registries(old.registry or RegistryConfig(), new.registry or RegistryConfig())
    actions += _describe_volumes(old, new)
    if (old.firewall or FirewallConfig()) != (new.firewall or FirewallConfig()):
        rules = ", ".join(rule.name for rule in new.firewall.rules) if new.firewall else ""
        actions.append(f"let in: the API, {rules}" if rules else "let in nothing but the API")
    actions += _describe_services(old, new)
    actions += _describe_workloads(old, new)
    return tuple(actions)


def _describe_machine(old: MachineConfig | None, new: MachineConfig | None) -> Iterator[str]:
    hostnames = [config.hostname if config else "" for config in (old, new)]
    if hostnames[0] != hostnames[1]:
        yield f"set the hostname to {hostnames[1] or 'its default'}"
    old, new = old or MachineConfig(hostname=""), new or MachineConfig(hostname="")
    if (old.labels, old.topology) != (new.labels, new.topology):
        yield "change labels and topology"
    for name, value in new.sysctls.items():
        if old.sysctls.get(name) != value:
            yield f"set {name} to {value}"
    for name in old.sysctls:
        if name not in new.sysctls:
            yield f"give {name} the value that it had"
    before = {module.name: module for module in old.modules}
    after = {module.name: module for module in new.modules}
    for name, module in after.items():
        if name not in before:
            yield f"load the module {name}"
        elif before[name] != module:
            yield f"change the parameters of the module {name}"
    for name in before:
        if name not in after:
            yield f"no longer load the module {name}"
    if old.watchdog != new.watchdog:
        yield f"have the watchdog reset the machine after {new.watchdog.timeout_s} s"
    if old.logging != new.logging:
        yield _describe_logging(new.logging.destinations)


def _describe_logging(destinations: tuple[LogDestination, ...]) -> str:
    if not destinations:
        return "send logs nowhere"
    return f"send logs to {', '.join(str(destination.endpoint) for destination in destinations)}"


def _describe_network(old: NetworkConfig | None, new: NetworkConfig | None) -> Iterator[str]:
    if new is None:
        yield "ask for addresses by DHCP on every network card"
        return
    before = {link.name or (link.match.mac if link.match else ""): link for link in (old.links if old else ())}
    after = {link.name or (link.match.mac if link.match else ""): link for link in new.links}
    for name, link in after.items():
        if before.get(name) != link:
            yield f"configure link {name}"
    for name in before:
        if name not in after:
            yield f"take back what was configured on link {name}"
    if (old.dns if old else None) != new.dns:
        yield "change the DNS servers"


def _describe_access(old: Configuration, new: Configuration) -> Iterator[str]:
    if old.access == new.access:
        return
    if new.access is None:
        yield "accept client certificates of the authority of the first contact alone"
        return
    if old.access is None or old.access.client_authorities != new.access.client_authorities:
        count = len(new.access.client_authorities)
        yield f"accept client certificates of {count} configured {'authority' if count == 1 else 'authorities'}"
    before = set(old.access.revoked_serials if old.access else ())
    after = set(new.access.revoked_serials)
    for serial in sorted(after - before):
        yield f"refuse the client certificate with serial {serial}"
    for serial in sorted(before - after):
        yield f"no longer refuse the client certificate with serial {serial}"
    if (old.access or AccessConfig(client_authorities=())).server_lifetime_h != new.access.server_lifetime_h:
        yield f"issue server certificates for {new.access.server_lifetime_h} h"


def _describe_registries(old: RegistryConfig, new: RegistryConfig) -> Iterator[str]:
    if structs.replace(old, signatures=()) != structs.replace(new, signatures=()):
        yield "change how container images are fetched"
    before = {signature.images: set(signature.keys) for signature in old.signatures}
    after = {signature.images: set(signature.keys) for signature in new.signatures}
    for images, keys in after.items():
        if images not in before:
            yield f"pull {_images(images)} with a signature alone"
        elif before[images] != keys:
            yield f"change whose signatures count for {_images(images)}"
    for images in before:
        if images not in after:
            yield f"no longer ask for signatures by the keys of {_images(images)}"


def _images(pattern: str) -> str:
    return "all images" if pattern == EVERY else f"images of {pattern}"


def _describe_volumes(old: Configuration, new: Configuration) -> Iterator[str]:
    before = {volume.name: volume for volume in old.volumes}
    after = {volume.name: volume for volume in new.volumes}
    for name, volume in after.items():
        if name not in before:
            erased = ", erasing what is on the disk" if volume.existing_data == "wipe" else ""
            yield f"set up volume {name}{erased}"
        elif before[name] != volume:
            yield f"change volume {name}"
    for name in before:
        if name not in after:
            yield f"let go of volume {name}, its data stays"


def _describe_services(old: Configuration, new: Configuration) -> Iterator[str]:
    before = {service.name: service for service in old.services}
    after = {service.name: service for service in new.services}
    for name in dict.fromkeys((*after, *before)):
        was = before.get(name) or ServiceConfig(name=name)
        becomes = after.get(name) or ServiceConfig(name=name)
        if was.enabled and not becomes.enabled:
            yield f"stop {name}"
        elif becomes.enabled and not was.enabled:
            yield f"start {name}"
        elif was != becomes:
            yield f"restart {name} with other settings"


def _describe_workloads(old: Configuration, new: Configuration) -> Iterator[str]:
    before = {workload.name: workload for workload in old.workloads}
    after = {workload.name: workload for workload in new.workloads}
    for name, workload in after.items():
        if name not in before:
            yield f"start workload {name}"
        elif before[name] != workload:
            yield f"change workload {name}: its containers are made anew"
    for name in before:
        if name not in after:
            yield f"stop workload {name} and remove its containers; volumes stay"
