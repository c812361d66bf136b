"""Rules about time, volumes and the node's own programs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from basalt.config.documents import Configuration, DiskSelector, ServiceConfig, TimeConfig, VolumeConfig
from basalt.config.rules.finding import Finding, repeated
from basalt.config.values import size_bytes
from basalt.toml import leaves, quoted

# A number without a unit is bytes, which is seldom what was meant; no program of the node lives with less than this.
_LEAST_MEMORY_BYTES = 16 << 20


def time_servers_differ(time: TimeConfig) -> Iterator[Finding]:
    yield from repeated(
        [(("servers", i, "address"), server.address) for i, server in enumerate(time.servers)], "the server"
    )


def selector_selects(disk: DiskSelector) -> Iterator[Finding]:
    if disk == DiskSelector():
        yield Finding((), "found nothing that says which disk", "at least one of wwn, serial, model, sizeMin, sizeMax")
    if (
        disk.size_min is not None
        and disk.size_max is not None
        and size_bytes(disk.size_min) > size_bytes(disk.size_max)
    ):
        yield Finding(("sizeMin",), f"found {disk.size_min}", f"at most sizeMax ({disk.size_max})")


def volumes_want_different_disks(configuration: Configuration) -> Iterator[tuple[VolumeConfig, Finding]]:
    """Two volumes with the same selector want the same disk; of others only the node can tell."""
    first: dict[DiskSelector, str] = {}
    for volume in configuration.volumes:
        if (name := first.setdefault(volume.disk, volume.name)) != volume.name:
            yield volume, Finding(("disk",), f"the same disk as VolumeConfig {name}", "a disk for each volume")


# What decides how a program is loaded, found or talked to is the launcher's. glibc's ld.so(8), Python's and OpenSSL's manuals.
_LAUNCHER = re.compile(
    r"LD_.*|PYTHON.*|S6_.*|GCONV_PATH|PATH|HOME|GLIBC_TUNABLES|LOCPATH|NOTIFY_SOCKET|OPENSSL_(CONF|ENGINES|MODULES)"
)


def environment_is_not_the_launchers(service: ServiceConfig) -> Iterator[Finding]:
    for name in service.environment:
        if _LAUNCHER.fullmatch(name):
            yield Finding(
                ("environment", name),
                f"{name}, which decides what code the program runs",
                "variables that the program itself reads",
            )


def memory_is_enough(service: ServiceConfig) -> Iterator[Finding]:
    if service.memory_max is not None and size_bytes(service.memory_max) < _LEAST_MEMORY_BYTES:
        yield Finding(("memoryMax",), f"found {service.memory_max}", "at least 16MiB; a number without a unit is bytes")


# What may be set in containerd's configuration, and what of it is the node's: paths, or beginnings of paths.
_CRI = ("plugins", "io.containerd.grpc.v1.cri")
_NRI = ("plugins", "io.containerd.nri.v1.nri")
CONTAINERD_OPEN = ("plugins", "debug", "metrics", "timeouts")
CONTAINERD_OWN = (
    (*_CRI, "enable_cdi"),
    (*_CRI, "cdi_spec_dirs"),
    (*_CRI, "sandbox_image"),
    (*_CRI, "disable_hugetlb_controller"),
    (*_CRI, "device_ownership_from_security_context"),
    (*_CRI, "image_pull_progress_timeout"),
    (*_CRI, "cni"),
    (*_CRI, "registry"),
    (*_CRI, "containerd", "default_runtime_name"),
    *((*_CRI, "containerd", "runtimes", name) for name in ("runc", "crun", "bridge-runc", "bridge-crun")),
    (*_NRI, "disable"),
    (*_NRI, "plugin_path"),
    (*_NRI, "plugin_config_path"),
    (*_NRI, "socket_path"),
)


def settings_are_the_programs_to_change(service: ServiceConfig) -> Iterator[Finding]:
    if service.settings is None:
        return
    if service.name != "containerd":
        yield Finding(("settings",), f"settings of {service.name}", "settings of containerd")
        return
    import tomllib

    for path in leaves(tomllib.loads(service.settings)):
        shown = ".".join(name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else quoted(name) for name in path)
        if path[0] not in CONTAINERD_OPEN:
            yield Finding(("settings",), f"found {shown}", f"names below {', '.join(CONTAINERD_OPEN)}")
        elif any(own[: len(path)] == path or path[: len(own)] == own for own in CONTAINERD_OWN):
            yield Finding(
                ("settings",), f"found {shown}, which the node itself sets", "what the node does not depend on"
            )
