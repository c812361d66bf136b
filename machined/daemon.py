"""machined as a program: boot the node, look after it, end it when asked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from machined.lifecycle import BOOT, POWER_OFF, REBOOT
from machined.node import Node
from machined.paths import Paths
from machined.power import ANSWER_GRACE_S, pending
from machined.power import REBOOT as REBOOT_ACTION
from machined.sequences import StepEvent, run
from machined.services import NOTIFICATION_FD


def report(event: StepEvent) -> None:
    """One line per step in machined's log."""
    outcome = f"failed: {event.error}" if event.error else "done"
    print(
        f"{event.sequence}: {event.phase}: {event.task}: {outcome} in {event.duration_usec / 1000:.1f} ms", flush=True
    )


async def serve(node: Node) -> int:
    """Run the node until it is told to stop; the exit code."""

    def progress(event: StepEvent) -> None:
        report(event)
        node.watchdog.feed()  # a boot that gets on is well, however slow the machine

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, node.stopping.set)
    if action := pending(node.paths.shutdown_request):
        node.stop_soon(action)  # an earlier machined was ended while it ended the boot: nothing is begun again
    elif not await run(BOOT, node, progress):
        node.console.say("machined cannot go on; s6 starts it again")
        return 1
    await node.stopping.wait()
    if node.end_action:
        await asyncio.sleep(ANSWER_GRACE_S)
        await node.rest()
        await run(REBOOT if node.end_action == REBOOT_ACTION else POWER_OFF, node, report)
    await node.close()
    return 0


def notify_ready() -> None:
    """Tell s6 that the API's socket accepts calls (notification-fd)."""
    os.write(NOTIFICATION_FD, b"\n")
    os.close(NOTIFICATION_FD)


async def _run() -> int:
    node = Node(Paths())
    node.on_serving = notify_ready
    return await serve(node)


def main() -> None:
    """Entry of the service ``machined``."""
    sys.exit(asyncio.run(_run()))
