"""What a WorkloadConfig means for the runtime. Pure.

Sandbox and containers carry a digest of what they were made from, so that a change of one container replaces that container alone.
The digest is keyed with a random number of this boot: an unkeyed one of a short secret could be guessed from.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path

from msgspec import Struct, structs

from basalt.config.documents.workload import Container, Resources, Security, WorkloadConfig, WorkloadVolume
from basalt.config.values import size_bytes
from machined.wire import cri_pb2 as cri

WORKLOAD = "basalt.dev/workload"  # labels
CONTAINER = "basalt.dev/container"
SPEC = "basalt.dev/spec"  # annotations
BOOT = "basalt.dev/boot"
FAILURES = "basalt.dev/failures"
RUN = "basalt.dev/run"

CRI_NAMESPACE = "basalt"  # of the sandboxes' metadata; a kubelet's are in Kubernetes' namespaces
CGROUP_PARENT = "/workloads"
CPU_PERIOD_USEC = 100_000

# What a container must not see or change of /proc and /sys: the list that Docker and kubelets have agreed on.
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROTOCOLS = {"tcp": cri.TCP, "udp": cri.UDP}


class Places(Struct, frozen=True):
    """Where things of one workload lie on the node."""

    logs: Path
    volumes: Path
    memory: Path
    secrets: Path

    def volume(self, volume: WorkloadVolume, disks: Path) -> Path:
        """Directory of a volume; *disks* is where VolumeConfigs are mounted."""
        if volume.disk:
            return disks / volume.disk / "workloads" / self.volumes.name / volume.name
        return (self.memory if volume.medium == "memory" else self.volumes) / volume.name


def handler_of(config: WorkloadConfig) -> str:
    """The runtime handler of containerd's configuration: it decides about the network as well (:mod:`machined.containerd`)."""
    return config.runtime if config.network.mode == "host" else f"bridge-{config.runtime}"


def is_privileged(config: WorkloadConfig) -> bool:
    """Whether any container of it is; its sandbox then has to be."""
    return any(container.security.privileged for container in config.containers)


def sandbox_digest(config: WorkloadConfig, key: bytes) -> str:
    """Of what belongs to the whole: a change of it remakes everything."""
    memory = [volume for volume in config.volumes if volume.medium == "memory"]
    return _digest(key, [config.name, config.network, config.runtime, memory, is_privileged(config)])


def container_digest(config: WorkloadConfig, container: Container, key: bytes) -> str:
    """Of what one container is made from. How it is watched and restarted is not in it."""
    mounted = {mount.volume for mount in container.mounts}
    seen = {mount.secret for mount in container.secrets}
    volumes = [volume for volume in config.volumes if volume.name in mounted]
    values = [secret for secret in config.secrets if secret.name in seen]
    return _digest(
        key, [structs.replace(container, health=None, env=dict(sorted(container.env.items()))), volumes, values]
    )


def _digest(key: bytes, parts: list[object]) -> str:
    # repr() shows every field; an encoder leaves out defaults, depending on how they came about
    return hashlib.blake2b(repr(parts).encode(), key=key, digest_size=16).hexdigest()


def sandbox_config(config: WorkloadConfig, places: Places, *, boot: str, key: bytes) -> cri.PodSandboxConfig:
    """The sandbox of a workload."""
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=config.name, uid=f"basalt-{config.name}", namespace=CRI_NAMESPACE),
        hostname="" if config.network.mode == "host" else config.name,
        log_directory=str(places.logs),
        port_mappings=[
            cri.PortMapping(
                protocol=_PROTOCOLS[port.protocol],
                container_port=port.container,
                host_port=port.host or port.container,
                host_ip=port.address or "",
            )
            for port in config.network.ports
        ],
        labels={WORKLOAD: config.name},
        annotations={SPEC: sandbox_digest(config, key), BOOT: boot},
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent=f"{CGROUP_PARENT}/{config.name}",
            security_context=cri.LinuxSandboxSecurityContext(
                namespace_options=_namespaces(config),
                privileged=is_privileged(config),
                seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
            ),
        ),
    )


def container_config(
    config: WorkloadConfig,
    container: Container,
    places: Places,
    disks: Path,
    *,
    attempt: int,
    failures: int,
    run: int,
    key: bytes,
) -> cri.ContainerConfig:
    """One container of a workload.

    :param attempt: how many containers of this name the sandbox has had before.
    :param failures: how many ended one after the other without having run for long.
    :param run: number of its log file.
    """
    volumes = {volume.name: volume for volume in config.volumes}
    mounts = [
        cri.Mount(
            container_path=mount.path,
            host_path=str(places.volume(volumes[mount.volume], disks)),
            readonly=mount.read_only,
        )
        for mount in container.mounts
    ]
    mounts += [
        cri.Mount(container_path=mount.path, host_path=str(secret_file(places, container.name, at)), readonly=True)
        for at, mount in enumerate(container.secrets)
    ]
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=container.name, attempt=attempt),
        image=cri.ImageSpec(image=container.image),
        command=container.command,
        args=container.args,
        working_dir=container.working_dir or "",
        envs=[cri.KeyValue(key=name, value=value) for name, value in sorted(container.env.items())],
        mounts=mounts,
        labels={WORKLOAD: config.name, CONTAINER: container.name},
        annotations={SPEC: container_digest(config, container, key), FAILURES: str(failures), RUN: str(run)},
        log_path=f"{container.name}/{run}.log",
        linux=cri.LinuxContainerConfig(
            resources=_resources(container.resources), security_context=_security(config, container.security)
        ),
        CDI_devices=[cri.CDIDevice(name=name) for name in container.devices],
    )


def secret_file(places: Places, container: str, at: int) -> Path:
    """Where the content of a container's secret mount number *at* lies, in memory."""
    return places.secrets / container / str(at)


def _namespaces(config: WorkloadConfig) -> cri.NamespaceOption:
    return cri.NamespaceOption(
        network=cri.NODE if config.network.mode == "host" else cri.POD, pid=cri.CONTAINER, ipc=cri.POD
    )


def _resources(resources: Resources) -> cri.LinuxContainerResources:
    # One program of a container that is short of memory takes the others along: half a container is a riddle.
    unified = {"pids.max": str(resources.pids), "memory.oom.group": "1"}
    if resources.cpu_weight is not None:
        unified["cpu.weight"] = str(resources.cpu_weight)
    return cri.LinuxContainerResources(
        cpu_period=CPU_PERIOD_USEC if resources.cpu else 0,
        cpu_quota=int(Decimal(resources.cpu) * CPU_PERIOD_USEC) if resources.cpu else 0,
        memory_limit_in_bytes=size_bytes(resources.memory) if resources.memory else 0,
        hugepage_limits=[
            # runc names sizes as cgroup files do: 2MB, 1GB
            cri.HugepageLimit(page_size=pages.page.replace("iB", "B"), limit=size_bytes(pages.limit))
            for pages in resources.hugepages
        ],
        unified=unified,
    )


def _security(config: WorkloadConfig, security: Security) -> cri.LinuxContainerSecurityContext:
    profile = cri.SecurityProfile.Unconfined if security.seccomp == "unconfined" else cri.SecurityProfile.RuntimeDefault
    context = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(
            add_capabilities=security.add_capabilities, drop_capabilities=security.drop_capabilities
        ),
        privileged=security.privileged,
        namespace_options=_namespaces(config),
        readonly_rootfs=security.read_only_root,
        no_new_privs=security.no_new_privileges and not security.privileged,
        masked_paths=() if security.privileged else MASKED_PATHS,
        readonly_paths=() if security.privileged else READ_ONLY_PATHS,
        seccomp=cri.SecurityProfile(profile_type=profile),
    )
    if security.user is None:
        return context
    user, _, group = security.user.partition(":")
    if user.isdecimal() and (not group or group.isdecimal()):
        context.run_as_user.value = int(user)
        if group:
            context.run_as_group.value = int(group)
    else:
        context.run_as_username = security.user  # containerd resolves names by the image's own files
    return context
