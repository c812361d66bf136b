"""The concern "api": whether the node answers, seen from outside. Announces it on the console, and feeds the watchdog while it does."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from machined import paths
from machined.health import served_fingerprint
from machined.reconcile import CONVERGED, failed, waiting
from machined.sequences import boottime_usec

if TYPE_CHECKING:
    from machined.node import Node

FIRST_PROBES_S = (
    0.05  # between probes while the gateway starts: each is a refused connection, which costs next to nothing
)
PROBE_EVERY_S = 30.0
DEAD_AFTER_S = 120.0  # without an answer for so long, the watchdog is no longer fed and resets the machine


async def watch(node: Node) -> None:
    """Probe until the daemon ends."""
    last_answer = time.monotonic()
    last_probe = 0.0
    node.board.post("api", waiting("the gateway is starting"))
    while True:
        now = time.monotonic()
        if not node.api_answers or now - last_probe >= PROBE_EVERY_S:
            last_probe = now
            answered = await served_fingerprint(paths.API_PORT) == node.identity.fingerprint
            last_answer = time.monotonic() if answered else last_answer
            _note(node, answered)
        if time.monotonic() - last_answer < DEAD_AFTER_S and not node.stopping.is_set():
            node.watchdog.feed()
        await asyncio.sleep(paths.WATCHDOG_FEED_S if node.api_answers else FIRST_PROBES_S)


def _note(node: Node, answered: bool) -> None:
    first = answered and not any(stage.name == "api" for stage in node.stages.all)
    node.api_answers = answered
    if answered:
        node.board.post("api", CONVERGED)
        node.trigger("boot entry")
    elif any(stage.name == "api" for stage in node.stages.all):
        node.board.post(
            "api",
            failed("the gateway does not answer", "s6 restarts it; if it stays away, the watchdog resets the node"),
        )
    if first:
        ended = boottime_usec()
        started = max((stage.start_usec + stage.duration_usec for stage in node.stages.all), default=0)
        node.stages.record("api", min(started, ended), ended)
        node.console.version(node.image.version)
        node.console.fingerprint(node.identity.fingerprint)
        node.console.api_ready(paths.API_PORT, node.mode)
