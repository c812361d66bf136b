"""Has one forwarder per configured destination, and says how each stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from basalt.config.documents import LogDestination, MachineConfig
from machined import paths
from machined.forwarding.forwarder import Forwarder
from machined.reconcile import Status, failed, together


class LoggingReconciler:
    """Owns the forwarders.

    :param changed: asks for another look: a collector has gone or come back.
    """

    def __init__(
        self,
        node: paths.Paths,
        *,
        config: Callable[[], MachineConfig | None],
        hostname: Callable[[], str],
        changed: Callable[[], None],
    ) -> None:
        self._node = node
        self._config = config
        self._hostname = hostname
        self._changed = changed
        self._running: dict[LogDestination, tuple[Forwarder, asyncio.Task[None]]] = {}
        # A thread of their own: a name server that does not answer holds nobody up but other collectors' names.
        self._resolver = ThreadPoolExecutor(1, thread_name_prefix="collector-names")

    async def reconcile(self) -> Status:
        """One look."""
        config = self._config()
        wanted = dict.fromkeys(config.logging.destinations if config else ())
        for destination in [known for known in self._running if known not in wanted]:
            await self._end(destination)
        for destination in wanted:
            if destination not in self._running:
                forwarder = Forwarder(
                    self._node,
                    destination,
                    hostname=self._hostname,
                    resolver=self._resolver,
                    changed=self._changed,
                )
                task = asyncio.get_running_loop().create_task(forwarder.run(), name=f"logs to {destination.endpoint}")
                self._running[destination] = forwarder, task
        return together([(destination.endpoint, self._status(destination)) for destination in wanted])

    def _status(self, destination: LogDestination) -> Status:
        forwarder, task = self._running[destination]
        if task.done() and not task.cancelled():
            del self._running[destination]  # the next look begins anew
            return failed(f"internal error: {task.exception()!r}", "this is a defect of machined; it tries again")
        return forwarder.status

    async def _end(self, destination: LogDestination) -> None:
        _, task = self._running.pop(destination)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """End all of them; what they have sent is remembered."""
        for destination in tuple(self._running):
            await self._end(destination)
        self._resolver.shutdown(wait=False, cancel_futures=True)
