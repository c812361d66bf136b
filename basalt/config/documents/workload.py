"""What a node runs without an orchestrator: workloads, each one or more containers that share a sandbox."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from basalt.config.documents.base import DocumentBase, Element, Port, Weight
from basalt.config.values import (
    CapabilityName,
    CdiName,
    ContainerDirectory,
    ContainerPath,
    CpuAmount,
    EnvironmentName,
    FileMode,
    HugepageSize,
    ImageReference,
    IpAddress,
    Line,
    Owner,
    SecretText,
    Size,
    UrlPath,
    UserAndGroup,
    VolumeName,
    WorkloadName,
)

Seconds = Annotated[int, Meta(ge=1, le=3600)]
SecondsOrNone = Annotated[int, Meta(ge=0, le=3600)]


class PublishedPort(Element, frozen=True, kw_only=True):
    """A port of the node that leads to a container. The firewall lets it in by itself."""

    container: Annotated[Port, Meta(description="The port that a container listens on.")]
    host: Annotated[Port | None, Meta(description="The node's port; the container's where left out.")] = None
    protocol: Annotated[Literal["tcp", "udp"], Meta(description="What is spoken on it.")] = "tcp"
    address: Annotated[
        IpAddress | None, Meta(description="The one address of the node on which it is open; all where left out.")
    ] = None


class WorkloadNetwork(Element, frozen=True, kw_only=True):
    """The network that a workload's containers share."""

    mode: Annotated[
        Literal["bridge", "host"],
        Meta(description="An address of its own behind the node's, or the node's own network."),
    ] = "bridge"
    ports: Annotated[
        tuple[PublishedPort, ...],
        Meta(max_length=64, description="What of it can be reached from outside; only with `bridge`."),
    ] = ()


class WorkloadVolume(Element, frozen=True, kw_only=True):
    """A directory that outlives containers, or, in memory, the sandbox that it was made for."""

    name: Annotated[WorkloadName, Meta(description="The volume's name, for mounts.")]
    size: Annotated[
        Size | None,
        Meta(description="The most that it may hold; where left out, as much as there is. Required in memory."),
    ] = None
    medium: Annotated[
        Literal["data", "memory"], Meta(description="Kept on DATA across reboots, or gone when the workload ends.")
    ] = "data"
    disk: Annotated[
        VolumeName | None, Meta(description="The VolumeConfig on whose disk it lies, instead of on DATA.")
    ] = None
    owner: Annotated[Owner | None, Meta(description="Whose it is when it is made; root where left out.")] = None


class WorkloadSecret(Element, frozen=True, kw_only=True):
    """A value that containers read as a file in memory. No command shows it."""

    name: Annotated[WorkloadName, Meta(description="The secret's name, for mounts.")]
    value: Annotated[SecretText, Meta(description="Its content, which may have several lines.")]


class VolumeMount(Element, frozen=True, kw_only=True):
    """A volume of the workload in a container."""

    volume: Annotated[WorkloadName, Meta(description="The volume's name.")]
    path: Annotated[ContainerPath, Meta(description="Where the container sees it.")]
    read_only: Annotated[bool, Meta(description="Whether the container may only read it.")] = False


class SecretMount(Element, frozen=True, kw_only=True):
    """A secret of the workload in a container, as a file."""

    secret: Annotated[WorkloadName, Meta(description="The secret's name.")]
    path: Annotated[ContainerPath, Meta(description="The file that the container sees.")]
    mode: Annotated[FileMode, Meta(description="The file's mode, in octal digits.")] = "0400"
    owner: Annotated[
        Owner | None,
        Meta(description="Whose it is; where left out the container's `user` if that is a number, or else root."),
    ] = None


class Hugepages(Element, frozen=True, kw_only=True):
    """Huge pages of one size that a container may use."""

    page: Annotated[HugepageSize, Meta(description="The size of one.")]
    limit: Annotated[Size, Meta(description="The most memory in such pages, a multiple of one.")]


class Resources(Element, frozen=True, kw_only=True):
    """What a container may use. What is left out has no limit but the node's."""

    cpu: Annotated[CpuAmount | None, Meta(description="The most processor time, in processors.")] = None
    cpu_weight: Annotated[
        Weight | None, Meta(description="Its share of the processors when they are busy (default 100).")
    ] = None
    memory: Annotated[Size | None, Meta(description="The most memory; a container that wants more is ended.")] = None
    pids: Annotated[int, Meta(ge=1, le=4_194_304, description="The most processes and threads.")] = 4096
    hugepages: Annotated[tuple[Hugepages, ...], Meta(max_length=4, description="Huge pages.")] = ()


class Security(Element, frozen=True, kw_only=True):
    """What a container may do. The defaults allow what most programs need and no more."""

    user: Annotated[
        UserAndGroup | None,
        Meta(description="Whom it runs as, by number or by a name in the image; the image says so where left out."),
    ] = None
    add_capabilities: Annotated[
        tuple[CapabilityName, ...], Meta(max_length=64, description="Capabilities besides the runtime's default ones.")
    ] = ()
    drop_capabilities: Annotated[
        tuple[CapabilityName, ...],
        Meta(max_length=64, description="Default capabilities that it does not get; `ALL` for none of them."),
    ] = ()
    read_only_root: Annotated[bool, Meta(description="Whether it may only read its own file system.")] = False
    no_new_privileges: Annotated[
        bool, Meta(description="Whether its programs may gain nothing by setuid files and file capabilities.")
    ] = True
    seccomp: Annotated[
        Literal["default", "unconfined"],
        Meta(description="Which system calls it may make: the runtime's list, or all."),
    ] = "default"
    privileged: Annotated[
        bool,
        Meta(description="Whether it may do what the node may: every capability, every device. For system software."),
    ] = False


class TcpCheck(Element, frozen=True, kw_only=True):
    """Healthy when the port takes a connection."""

    port: Annotated[Port, Meta(description="The container's port.")]


class HttpCheck(Element, frozen=True, kw_only=True):
    """Healthy when the answer's status is from 200 to 399."""

    port: Annotated[Port, Meta(description="The container's port.")]
    path: Annotated[UrlPath, Meta(description="What is asked for.")] = "/"


class HealthCheck(Element, frozen=True, kw_only=True):
    """How it is seen that a container works: one of `exec`, `tcp`, `http`. One that does not is started again."""

    exec: Annotated[
        Annotated[tuple[Line, ...], Meta(min_length=1, max_length=64)] | None,
        Meta(description="A command in the container; healthy when it ends with 0."),
    ] = None
    tcp: Annotated[TcpCheck | None, Meta(description="A connection.")] = None
    http: Annotated[HttpCheck | None, Meta(description="A request.")] = None
    interval_s: Annotated[Seconds, Meta(description="Seconds between two checks.")] = 10
    timeout_s: Annotated[Seconds, Meta(description="Seconds that one may take.")] = 5
    failures: Annotated[
        int, Meta(ge=1, le=100, description="Failed checks in a row after which it counts as unhealthy.")
    ] = 3
    grace_s: Annotated[SecondsOrNone, Meta(description="Seconds after its start in which failures do not count.")] = 30


class Container(Element, frozen=True, kw_only=True):
    """One container of a workload."""

    name: Annotated[WorkloadName, Meta(description="The container's name in its workload.")]
    image: Annotated[
        ImageReference,
        Meta(description="What it runs: a name with a tag or, better, a digest, which always means the same image."),
    ]
    command: Annotated[
        tuple[Line, ...], Meta(max_length=256, description="The program, instead of the image's entry point.")
    ] = ()
    args: Annotated[tuple[Line, ...], Meta(max_length=256, description="Its arguments, instead of the image's.")] = ()
    working_dir: Annotated[
        ContainerDirectory | None, Meta(description="Where it starts; the image says so where left out.")
    ] = None
    env: Annotated[
        dict[EnvironmentName, Line],
        Meta(description="Environment variables. They are shown to readers: secrets belong in `secrets`."),
    ] = field(default_factory=dict)
    mounts: Annotated[tuple[VolumeMount, ...], Meta(max_length=64, description="Volumes that it sees.")] = ()
    secrets: Annotated[tuple[SecretMount, ...], Meta(max_length=64, description="Secrets that it sees.")] = ()
    devices: Annotated[
        tuple[CdiName, ...], Meta(max_length=64, description="Devices that it is given, by their CDI names.")
    ] = ()
    resources: Annotated[Resources, Meta(description="What it may use.")] = Resources()
    security: Annotated[Security, Meta(description="What it may do.")] = Security()
    health: Annotated[HealthCheck | None, Meta(description="How it is seen that it works.")] = None


class WorkloadConfig(DocumentBase, frozen=True, kw_only=True):
    """Containers that the node keeps running. One document per workload."""

    name: Annotated[WorkloadName, Meta(description="The workload's name.")]
    containers: Annotated[
        tuple[Container, ...],
        Meta(min_length=1, max_length=16, description="Its containers; they share its network and volumes."),
    ]
    network: Annotated[WorkloadNetwork, Meta(description="Their network.")] = WorkloadNetwork()
    volumes: Annotated[tuple[WorkloadVolume, ...], Meta(max_length=64, description="Directories for their data.")] = ()
    secrets: Annotated[tuple[WorkloadSecret, ...], Meta(max_length=64, description="Values for their eyes only.")] = ()
    restart: Annotated[
        Literal["always", "on-failure", "never"],
        Meta(description="When a container that ended is started again: always, unless it ended with 0, or never."),
    ] = "always"
    start_order: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="At boot, those with a higher number wait until those with a lower one work or have failed once.",
        ),
    ] = 100
    stop_grace_s: Annotated[SecondsOrNone, Meta(description="Seconds between SIGTERM and SIGKILL.")] = 10
    runtime: Annotated[Literal["runc", "crun"], Meta(description="Which runtime starts them.")] = "runc"
