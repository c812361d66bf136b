"""Rules about workloads: what their containers see, what they publish, what they may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from basalt.config.documents import (
    Configuration,
    Container,
    HealthCheck,
    Hugepages,
    PublishedPort,
    Resources,
    Security,
    WorkloadConfig,
    WorkloadNetwork,
    WorkloadVolume,
)
from basalt.config.rules.finding import Finding, repeated
from basalt.config.spelling import ALL_CAPABILITIES
from basalt.config.tree import Path
from basalt.config.values import size_bytes
from basalt.endpoint import DEFAULT_PORT as API_PORT

# A number without a unit is bytes, which is seldom what was meant; runc does not start anything in less than this.
_LEAST_MEMORY_BYTES = 4 << 20

# The runtime's own mounts, and the two directories below them that are a program's business.
_KERNELS = re.compile("/(proc|sys|dev)(/.*)?")
_PROGRAMS = re.compile("/dev/(shm|hugepages)(/.*)?")


def parts_of_workload_differ(workload: WorkloadConfig) -> Iterator[Finding]:
    containers = ((("containers", i, "name"), each.name) for i, each in enumerate(workload.containers))
    yield from repeated(containers, "the container")
    yield from repeated(((("volumes", i, "name"), each.name) for i, each in enumerate(workload.volumes)), "the volume")
    yield from repeated(((("secrets", i, "name"), each.name) for i, each in enumerate(workload.secrets)), "the secret")


def mounts_have_something_to_show(workload: WorkloadConfig) -> Iterator[Finding]:
    volumes = [volume.name for volume in workload.volumes]
    secrets = [secret.name for secret in workload.secrets]
    for index, container in enumerate(workload.containers):
        for at, mount in enumerate(container.mounts):
            yield from _known(("containers", index, "mounts", at, "volume"), mount.volume, volumes, "volume")
        for at, file in enumerate(container.secrets):
            yield from _known(("containers", index, "secrets", at, "secret"), file.secret, secrets, "secret")


def _known(path: Path, name: str, known: Sequence[str], what: str) -> Iterator[Finding]:
    if name not in known:
        allowed = " or ".join(known) or f"none: the workload has no {what}s"
        yield Finding(path, f"found {name}, which is no {what} of the workload", allowed)


def mounts_have_places_of_their_own(container: Container) -> Iterator[Finding]:
    places: list[tuple[Path, str]] = [(("mounts", i, "path"), each.path) for i, each in enumerate(container.mounts)]
    places += [(("secrets", i, "path"), each.path) for i, each in enumerate(container.secrets)]
    yield from repeated(places, "the path")
    for path, place in places:
        if _KERNELS.fullmatch(place) and not _PROGRAMS.fullmatch(place):
            yield Finding(path, f"found {place}, where the kernel's files are", "others; /dev/shm and /dev/hugepages")


def devices_differ(container: Container) -> Iterator[Finding]:
    yield from repeated(((("devices", i), name) for i, name in enumerate(container.devices)), "the device")


def volume_in_memory_has_bounds(volume: WorkloadVolume) -> Iterator[Finding]:
    if volume.medium != "memory":
        return
    if volume.size is None:
        yield Finding(("size",), "size is missing for a volume in memory", "what it may take of the node's memory")
    if volume.disk is not None:
        yield Finding(("disk",), f"found {volume.disk} for a volume in memory", "only with the medium data")


def only_bridges_publish(network: WorkloadNetwork) -> Iterator[Finding]:
    if network.ports and network.mode != "bridge":
        yield Finding(("ports",), f"ports in the mode {network.mode}", "only in bridge")


def ports_are_free(network: WorkloadNetwork) -> Iterator[Finding]:
    taken = _Taken()
    for index, port in enumerate(network.ports):
        path = _place(index, port)
        if (_number(port), port.protocol) == (API_PORT, "tcp"):
            yield Finding(path, f"found {API_PORT}, the API's port", "others")
        if (first := taken.by(port, f"ports[{index}]")) is not None:
            yield Finding(path, f"{_words(port)}, which {first} takes", "each port of an address once")


def workloads_publish_different_ports(configuration: Configuration) -> Iterator[tuple[WorkloadConfig, Finding]]:
    """Of workloads in the node's own network nobody knows the ports beforehand."""
    taken = _Taken()
    for workload in configuration.workloads:
        for index, port in enumerate(workload.network.ports):
            first = taken.by(port, workload.name)
            if first not in (None, workload.name):
                found = f"{_words(port)}, which WorkloadConfig {first} takes"
                yield workload, Finding(("network", *_place(index, port)), found, "each port of an address once")


class _Taken:
    """The node's ports that are taken, and by whom. A port without an address is taken on all of them."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[int, str], dict[str | None, str]] = {}

    def by(self, port: PublishedPort, taker: str) -> str | None:
        """Who has it already; where nobody does, it is *taker*'s from now on."""
        addresses = self._addresses.setdefault((_number(port), port.protocol), {})
        if port.address is None and addresses:
            return next(iter(addresses.values()))
        if (first := addresses.get(port.address, addresses.get(None))) is None:
            addresses[port.address] = taker
        return first


def _number(port: PublishedPort) -> int:
    return port.container if port.host is None else port.host


def _place(index: int, port: PublishedPort) -> Path:
    return ("ports", index, "container" if port.host is None else "host")


def _words(port: PublishedPort) -> str:
    on = f" on {port.address}" if port.address is not None else ""
    return f"found the node's port {_number(port)}/{port.protocol}{on}"


def one_thing_is_checked(health: HealthCheck) -> Iterator[Finding]:
    given = [field for field in ("exec", "tcp", "http") if getattr(health, field) is not None]
    if not given:
        yield Finding((), "nothing that is checked", "one of exec, tcp, http")
    for other in given[1:]:
        yield Finding((other,), f"both {given[0]} and {other}", "one of them")


def memory_is_enough(resources: Resources) -> Iterator[Finding]:
    if resources.memory is not None and size_bytes(resources.memory) < _LEAST_MEMORY_BYTES:
        yield Finding(("memory",), f"found {resources.memory}", "at least 4MiB; a number without a unit is bytes")


def hugepages_differ(resources: Resources) -> Iterator[Finding]:
    yield from repeated(
        ((("hugepages", i, "page"), each.page) for i, each in enumerate(resources.hugepages)), "the size"
    )


def hugepages_are_whole(hugepages: Hugepages) -> Iterator[Finding]:
    if size_bytes(hugepages.limit) % size_bytes(hugepages.page):
        yield Finding(("limit",), f"found {hugepages.limit}", f"a multiple of the page ({hugepages.page})")


def capabilities_are_added_or_dropped(security: Security) -> Iterator[Finding]:
    for field, names in (
        ("addCapabilities", security.add_capabilities),
        ("dropCapabilities", security.drop_capabilities),
    ):
        yield from repeated((((field, i), name) for i, name in enumerate(names)), "the capability")
    for index, name in enumerate(security.add_capabilities):
        if name == ALL_CAPABILITIES:
            yield Finding(("addCapabilities", index), "found ALL", "names; ALL is for dropCapabilities")
        elif name in security.drop_capabilities:
            yield Finding(("addCapabilities", index), f"found {name}, which is dropped too", "each in one of the lists")


def privileged_has_it_all(security: Security) -> Iterator[Finding]:
    if not security.privileged:
        return
    for field, names in (
        ("addCapabilities", security.add_capabilities),
        ("dropCapabilities", security.drop_capabilities),
    ):
        if names:
            yield Finding((field,), f"{field} of a privileged container", "none: it has every capability")
    if security.seccomp != "default":
        yield Finding(
            ("seccomp",), "seccomp of a privileged container", "default: it may make every system call anyway"
        )


def workloads_lie_on_volumes(configuration: Configuration) -> Iterator[tuple[WorkloadConfig, Finding]]:
    known = [volume.name for volume in configuration.volumes]
    allowed = " or ".join(known) or "none: the configuration has no VolumeConfig"
    for workload in configuration.workloads:
        for index, volume in enumerate(workload.volumes):
            if volume.disk is not None and volume.disk not in known:
                found = f"found {volume.disk}, which is no VolumeConfig"
                yield workload, Finding(("volumes", index, "disk"), found, allowed)
