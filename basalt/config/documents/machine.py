"""The machine itself, its clock, its further disks and its own programs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from basalt.config.documents.base import DocumentBase, Element, Weight
from basalt.config.values import (
    EnvironmentName,
    Host,
    Hostname,
    LabelKey,
    LabelValue,
    LogEndpoint,
    ModuleName,
    ParameterName,
    ParameterValue,
    SecretValue,
    ServiceName,
    Size,
    SysctlName,
    SysctlValue,
    Toml,
    VolumeName,
    Words,
)


class Topology(Element, frozen=True, kw_only=True):
    """Where the machine stands, from the narrow to the wide."""

    rack: Annotated[LabelValue | None, Meta(description="The rack.")] = None
    zone: Annotated[LabelValue | None, Meta(description="What fails together: a room, a power feed.")] = None
    region: Annotated[LabelValue | None, Meta(description="The site, or group of zones.")] = None


class Module(Element, frozen=True, kw_only=True):
    """A kernel module."""

    name: Annotated[ModuleName, Meta(description="Its name, as `modprobe` takes it.")]
    parameters: Annotated[
        dict[ParameterName, ParameterValue],
        Meta(description="Its parameters; those of a module that is loaded already take effect at the next boot."),
    ] = field(default_factory=dict)


class WatchdogSettings(Element, frozen=True, kw_only=True):
    """The watchdog, which resets a node that hangs."""

    timeout_s: Annotated[
        int, Meta(ge=20, le=600, description="Seconds without a sign of life after which the machine is reset.")
    ] = 60


class LogDestination(Element, frozen=True, kw_only=True):
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


class Logging(Element, frozen=True, kw_only=True):
    """What becomes of logs besides being kept on the node."""

    destinations: Annotated[tuple[LogDestination, ...], Meta(max_length=8, description="Collectors.")] = ()


class MachineConfig(DocumentBase, frozen=True, kw_only=True):
    """The machine itself."""

    hostname: Annotated[Hostname, Meta(description="The node's name, one DNS label; lower case is the one spelling.")]
    labels: Annotated[
        dict[LabelKey, LabelValue], Meta(description="Free words for people and schedulers; the node ignores them.")
    ] = field(default_factory=dict)
    topology: Annotated[Topology, Meta(description="Where the machine stands.")] = Topology()
    sysctls: Annotated[
        dict[SysctlName, SysctlValue],
        Meta(description="Kernel settings below `/proc/sys`; one that is taken out gets the value that it had."),
    ] = field(default_factory=dict)
    modules: Annotated[
        tuple[Module, ...], Meta(description="Kernel modules to load besides those that devices ask for.")
    ] = ()
    watchdog: Annotated[WatchdogSettings, Meta(description="The watchdog.")] = WatchdogSettings()
    logging: Annotated[Logging, Meta(description="Where logs go besides the node itself.")] = Logging()


class TimeServer(Element, frozen=True, kw_only=True):
    """An NTP server."""

    address: Annotated[Host, Meta(description="Its address or name.")]
    iburst: Annotated[
        bool, Meta(description="Ask several times at once in the beginning: the clock is right sooner.")
    ] = True
    pool: Annotated[bool, Meta(description="The name stands for many servers; several of them are used.")] = False
    nts: Annotated[bool, Meta(description="Authenticate the server (NTS, RFC 8915); it must support that.")] = False


class TimeConfig(DocumentBase, frozen=True, kw_only=True):
    """Where the time comes from."""

    servers: Annotated[tuple[TimeServer, ...], Meta(description="NTP servers.")] = ()


class DiskSelector(Element, frozen=True, kw_only=True):
    """Finds one disk. What is given must all fit, and fit exactly one disk; never the one that the node booted from."""

    wwn: Annotated[Words | None, Meta(description="World wide name, as `/sys` shows it.")] = None
    serial: Annotated[Words | None, Meta(description="Serial number.")] = None
    model: Annotated[Words | None, Meta(description="Model.")] = None
    size_min: Annotated[Size | None, Meta(description="At least this large.")] = None
    size_max: Annotated[Size | None, Meta(description="At most this large.")] = None


class VolumeConfig(DocumentBase, frozen=True, kw_only=True):
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


class ServiceConfig(DocumentBase, frozen=True, kw_only=True):
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
    ] = field(default_factory=dict)
    settings: Annotated[
        Toml | None,
        Meta(
            description="containerd alone: TOML of its configuration (version 2), laid over the node's own. What the node depends on, it "
            "cannot change. containerd ignores names that it does not know."
        ),
    ] = None
