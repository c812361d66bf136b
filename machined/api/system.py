"""SystemService: what the node is, whether it is well, and the way to switch it off."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from machined import image, power
from machined.api.auditing import note
from machined.api.callers import caller_of
from machined.reconcile import State

if TYPE_CHECKING:
    from machined.node import Node

_STATES = {
    State.CONVERGED: pb.CONCERN_STATE_CONVERGED,
    State.WAITING: pb.CONCERN_STATE_WAITING,
    State.FAILED: pb.CONCERN_STATE_FAILED,
}


class SystemApi(stubs.SystemServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def Version(  # noqa: N802 - the contract's name
        self, request: pb.VersionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.VersionResponse:
        """What runs here."""
        await caller_of(context)
        node = self._node
        proc = node.paths.proc
        command_line = (proc / "cmdline").read_text(encoding="utf-8", errors="replace")
        return pb.VersionResponse(
            version=node.image.version,
            profile=node.image.profile,
            arch=node.image.arch,
            kernel_release=os.uname().release,
            root_hash=image.root_hash(command_line),
            slot=image.slot_of(node.storage.root_label),
            node_id=node.identity.node_id,
            fingerprint=node.identity.fingerprint,
            boot_id=image.read_boot_id(proc),
            boot_stages=[
                pb.BootStage(name=stage.name, start_usec=stage.start_usec, duration_usec=stage.duration_usec)
                for stage in node.stages.all
            ],
        )

    async def Status(  # noqa: N802
        self, request: pb.StatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.StatusResponse:
        """How each concern stands."""
        await caller_of(context)
        node = self._node
        memory = read_memory((node.paths.proc / "meminfo").read_text(encoding="ascii"))
        return pb.StatusResponse(
            mode=node.mode,
            hostname=node.hostname,
            generation=node.configuration.number,
            concerns=[
                pb.Concern(
                    name=name,
                    state=_STATES[entry.status.state],
                    reason=entry.status.reason,
                    remedy=entry.status.remedy,
                    since_unix=int(entry.since),
                    failures=entry.failures,
                    next_look_s=entry.next_look_s,
                )
                for name, entry in node.board.entries().items()
            ],
            addresses=[
                pb.NodeAddress(link=address.link, address=address.address, source=address.source)
                for address in node.addresses
            ],
            memory_total_bytes=memory.get("MemTotal", 0),
            memory_available_bytes=memory.get("MemAvailable", 0),
            uptime_s=float((node.paths.proc / "uptime").read_text(encoding="ascii").split()[0]),
            trial_left_s=node.configuration.trial_left_s,
            clock_unix=int(time.time()),
        )

    async def Reboot(  # noqa: N802
        self, request: pb.RebootRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RebootResponse:
        """Answers, then reboots."""
        await self._end(context, power.REBOOT)
        return pb.RebootResponse()

    async def Shutdown(  # noqa: N802
        self, request: pb.ShutdownRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ShutdownResponse:
        """Answers, then powers off."""
        await self._end(context, power.POWER_OFF)
        return pb.ShutdownResponse()

    async def _end(self, context: grpc.aio.ServicerContext[Any, Any], action: str) -> None:
        await caller_of(context)
        note(action)
        self._node.stop_soon(action)


def read_memory(text: str) -> dict[str, int]:
    """``/proc/meminfo`` in bytes."""
    values = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        amount, _, unit = rest.strip().partition(" ")
        values[name] = int(amount) * (1024 if unit == "kB" else 1)
    return values
