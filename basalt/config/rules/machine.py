"""Rules about the machine itself: kernel settings, modules, where logs go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from basalt.config.documents import LogDestination, Logging, MachineConfig
from basalt.config.rules.finding import Finding, repeated


class _Guard(NamedTuple):
    """Kernel settings that a configuration may not set, or not to every value."""

    names: str  # a regular expression
    reason: str
    values: str = ""  # a regular expression; empty where none is allowed
    allowed: str = ""


# What makes the node unreachable, runs programs, opens what the image has closed, or belongs to another field. Settings that merely
# make no sense are the kernel's to refuse.
_GUARDS = (
    _Guard(r"kernel\.hostname", "belongs to another field", allowed="MachineConfig's hostname"),
    _Guard(
        r"net\.ipv6\.conf\.[^.]+\.(accept_ra|autoconf)",
        "belongs to another field",
        allowed="slaac of a link in NetworkConfig",
    ),
    _Guard(r"net\.ipv6\.conf\.[^.]+\.mtu", "belongs to another field", allowed="mtu of a link in NetworkConfig"),
    _Guard(
        r"net\.(ipv4\.icmp_|ipv6\.icmp\.)echo_ignore_all", "belongs to another field", allowed="ping in FirewallConfig"
    ),
    _Guard(
        r"kernel\.(modprobe|hotplug|poweroff_cmd|core_pattern)|kernel\.usermodehelper\..*|fs\.binfmt_misc\..*",
        "has the kernel run a program of somebody's choice, as root",
    ),
    _Guard(r"kernel\.modules_disabled", "cannot be taken back, and devices that come later need their modules"),
    _Guard(r"kernel\.loadpin\..*", "decides whether modules come from the verified root alone"),
    _Guard(
        r"vm\.(drop_caches|compact_memory|stat_refresh)|net\.ipv[46]\.route\.flush",
        "is an order, not a setting that stays",
    ),
    # Without these a node that has crashed stays down, and boot counting never takes it to the other slot.
    _Guard(r"kernel\.panic", "would keep a crashed node down", r"-?[1-9][0-9]*", "any number but 0"),
    _Guard(r"kernel\.panic_on_oops", "would let a damaged kernel run on", "1", "1"),
    # The node takes addresses away one by one.
    _Guard(r"net\.ipv4\.conf\.[^.]+\.promote_secondaries", "would drop a network's addresses with its first", "1", "1"),
    _Guard(r"kernel\.kptr_restrict", "would show where the kernel's code lies", "2", "2"),
    _Guard(r"kernel\.dmesg_restrict", "would show the kernel's log to containers", "1", "1"),
    _Guard(r"kernel\.unprivileged_bpf_disabled", "would let containers load programs into the kernel", "1", "1"),
    _Guard(r"kernel\.perf_event_paranoid", "would let containers watch the kernel", "[2-4]", "2 to 4"),
    _Guard(r"kernel\.randomize_va_space", "would make addresses of programs predictable", "2", "2"),
    _Guard(r"kernel\.yama\.ptrace_scope", "would let programs read one another's memory", "[12]", "1 or 2"),
    _Guard(r"kernel\.sysrq", "would let a keyboard act as root", "0", "0"),
    _Guard(r"fs\.suid_dumpable", "would put memory of privileged programs on disk", "0", "0"),
    _Guard(r"fs\.protected_(hardlinks|symlinks)", "would open an old way to become root", "1", "1"),
    _Guard(r"fs\.protected_(fifos|regular)", "would open an old way to become root", "2", "2"),
    _Guard(r"dev\.tty\.(ldisc_autoload|legacy_tiocsti)", "would let programs type into others' terminals", "0", "0"),
    _Guard(r"net\.ipv4\.conf\.[^.]+\.accept_source_route", "would let senders choose routes around filters", "0", "0"),
    _Guard(
        r"net\.ipv6\.conf\.[^.]+\.accept_source_route",
        "would let senders choose routes around filters",
        "0|-1",
        "0 or -1",
    ),
    _Guard(r"net\.ipv4\.tcp_syncookies", "would let a flood of connections shut the API", "[12]", "1 or 2"),
)


def sysctls_are_harmless(machine: MachineConfig) -> Iterator[Finding]:
    for name, value in machine.sysctls.items():
        for guard in _GUARDS:
            if re.fullmatch(guard.names, name) and not (guard.values and re.fullmatch(guard.values, value)):
                found = f"found {value}, which {guard.reason}" if guard.values else f"{name} {guard.reason}"
                yield Finding(("sysctls", name), found, guard.allowed)


def modules_differ(machine: MachineConfig) -> Iterator[Finding]:
    # To the kernel '-' and '_' in a module's name are one.
    names = ((("modules", i, "name"), module.name.replace("-", "_")) for i, module in enumerate(machine.modules))
    yield from repeated(names, "the module")


def destinations_differ(logging: Logging) -> Iterator[Finding]:
    yield from repeated(
        ((("destinations", i, "endpoint"), each.endpoint) for i, each in enumerate(logging.destinations)),
        "the collector",
    )


def services_of_destination_differ(destination: LogDestination) -> Iterator[Finding]:
    yield from repeated(((("services", i), name) for i, name in enumerate(destination.services)), "the service")
