"""The life of a node on one page: boot, reboot and power-off as tables.

The tasks are methods of :class:`machined.node.Node`; the phases run in order, the tasks of a phase side by side. The order of the
boot is what makes the API answer early: who the node is, how it is reached, and only then everything that takes long.
"""

from __future__ import annotations

from machined import api, power, system
from machined.node import Node
from machined.sequences import Phase, Sequence, Task

BOOT = Sequence(
    "boot",
    (
        Phase("prepare", (Task("run", Node.prepare_run, required=True),)),
        Phase("state", (Task("mount STATE", Node.mount_state, required=True),)),
        Phase("identity", (Task("identity", Node.establish_identity, required=True),)),
        Phase("configuration", (Task("configuration", Node.load_configuration, required=True),)),
        Phase("firewall", (Task("firewall", Node.start_firewall),)),
        Phase("network", (Task("network", Node.start_network), Task("kernel", system.start_kernel))),
        Phase(
            "api",
            (
                Task("api", api.serve, required=True),
                Task("first configuration", Node.look_for_configuration),
            ),
        ),
        Phase("data", (Task("mount DATA", Node.mount_data),)),
        Phase("services", (Task("services", system.start_services), Task("housekeeping", Node.start_housekeeping))),
    ),
)


async def _ask_for_reboot(node: Node) -> None:
    power.request(node.paths.shutdown_request, power.REBOOT)


async def _ask_for_power_off(node: Node) -> None:
    power.request(node.paths.shutdown_request, power.POWER_OFF)


async def _guard(node: Node) -> None:
    """From here on the watchdog waits longer, and nobody feeds it: a shutdown that hangs ends in a reset."""
    node.watchdog.set_timeout(power.WATCHDOG_SHUTDOWN_S)


_END = (
    Phase("services", (Task("stop services", Node.stop_services),)),
    Phase("time", (Task("note the time", Node.note_time),)),
    Phase("end", (Task("end supervision", Node.end_supervision),)),
)

REBOOT = Sequence("reboot", (Phase("ask", (Task("ask", _ask_for_reboot), Task("watchdog", _guard))), *_END))
POWER_OFF = Sequence("power-off", (Phase("ask", (Task("ask", _ask_for_power_off), Task("watchdog", _guard))), *_END))
