"""Where the time of a node's first boot goes, from power-on to an answer of its API over mutual TLS.

The node times itself from the kernel's clock on (``VersionResponse.boot_stages``). What comes before, it cannot know in a virtual
machine, where systemd-boot does not trust the processor's counter; so that part is timed from outside: firmware until it announces on
the serial port that it starts the loader, and the loader (with the UKI's loading and unpacking) until the kernel's clock begins, which
is the host's time less the uptime that the node reports.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from basalt.client import connect
from basalt.client.calls import Client
from basalt.machine.v1 import machine_pb2 as api
from benchmarks.bench import Bench
from benchmarks.figures import Figure, median

MACHINES = ("uefi", "direct")
_FIRMWARE_DONE = "BdsDxe: starting"
_TIMED_OUTSIDE = ("firmware", "loader")
_LOOKS = 5

_HOW = {
    "firmware": "power-on until the firmware's line on the console that it starts the loader",
    "loader": "from there until the kernel's clock began: systemd-boot, the UKI read and unpacked",
    "kernel": "the kernel's clock until /init runs, as the node says",
    "init": "/init until it becomes s6-svscan, as the node says",
    "supervisor": "until machined's first line of code: s6, Python, imports, as the node says",
    "machined": "until the API's socket: STATE made, identity, network, as the node says",
    "api": "until the gateway listens, as the node says",
    "answer": "until the client on the host had its answer",
}
_WITHOUT_FIRMWARE = "power-on until the kernel's clock began: QEMU loads the kernel itself"


def measure(bench: Bench) -> Iterator[Figure]:
    """Fresh nodes, each booted for the first time: it makes its identity, STATE and DATA."""
    for machine in MACHINES:
        totals: list[float] = []
        boots: list[dict[str, float]] = []
        for turn in range(bench.repeat):
            bench.note(f"booting a node, machine {machine}, turn {turn + 1}")
            with bench.node(machine) as node, connect(node.target) as client:
                kernel_s = _kernel_began(client) - node.began
                firmware_s = next((seconds for seconds, line in node.console if line.startswith(_FIRMWARE_DONE)), None)
                boots.append(timeline(firmware_s, kernel_s, client.version().boot_stages, node.seconds))
                totals.append(node.seconds)
        for stage, seconds in stage_medians(boots).items():
            how = (
                _WITHOUT_FIRMWARE
                if stage == "loader" and "firmware" not in boots[0]
                else _HOW.get(stage, "as the node says")
            )
            yield Figure(f"boot {machine}, {stage}", seconds, "s", how)
        how = (
            f"start of QEMU until an RPC over mTLS was answered, first boot; all boot figures: median of {len(totals)}"
        )
        yield Figure(f"boot {machine}, power-on to API", median(totals), "s", how)


def _kernel_began(client: Client) -> float:
    """When the node's clock of uptime began, in seconds of the host's CLOCK_BOOTTIME. The quickest answer is the most exact one."""

    def look() -> float:
        uptime_s = client.status().uptime_s
        return time.clock_gettime(time.CLOCK_BOOTTIME) - uptime_s

    return min(look() for _ in range(_LOOKS))


def timeline(
    firmware_s: float | None, kernel_s: float, stages: Sequence[api.BootStage], total_s: float
) -> dict[str, float]:
    """Seconds of each stage from power-on to answer, in their order.

    :param firmware_s: when the firmware was done; None without firmware.
    :param kernel_s: when the kernel's clock began. Both, like *total_s*, count from power-on.
    :param stages: what the node says of itself; its word on what came before the kernel is left out.
    """
    line = {} if firmware_s is None else {"firmware": firmware_s}
    line["loader"] = kernel_s - (firmware_s or 0)
    own = [stage for stage in stages if stage.name not in _TIMED_OUTSIDE]
    line |= {stage.name: stage.duration_usec / 1e6 for stage in own}
    ready_usec = max((stage.start_usec + stage.duration_usec for stage in own), default=0)
    line["answer"] = total_s - kernel_s - ready_usec / 1e6
    return line


def stage_medians(boots: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each stage that every one of *boots* has, in the order of the first."""
    if not boots:
        return {}
    return {
        stage: median([boot[stage] for boot in boots]) for stage in boots[0] if all(stage in boot for boot in boots)
    }
