"""One destination: read on from its cursor, send, move the cursor; connect again with growing pauses when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from basalt.config.documents import LogDestination
from machined import kmsg, paths
from machined.forwarding import cursor as cursors
from machined.forwarding.formats import Line, Transport, encode, kernel_line, rfc3339, service_line
from machined.forwarding.sender import Sender
from machined.reconcile import State, Status, failed, waiting

POLL_S = 1.0  # how far a copy lags behind when there is little to say
BATCH_PAUSE_S = 0.02  # between batches: a backlog must not keep the node's daemon from its work
RETRY_FIRST_S = 1.0
RETRY_LONGEST_S = 15.0


class Batch(Struct, frozen=True):
    """Lines on their way, the cursor behind them, and whether lines before them were lost."""

    lines: tuple[Line, ...]
    after: cursors.Cursor
    lost: bool


class Forwarder:
    """A destination's task.

    :param changed: called when :attr:`status` says something else.
    """

    def __init__(
        self,
        node: paths.Paths,
        destination: LogDestination,
        *,
        hostname: Callable[[], str],
        resolver: Executor,
        changed: Callable[[], None],
    ) -> None:
        endpoint = urlsplit(destination.endpoint)
        self.destination = destination
        self.status: Status = waiting("it is being connected to")
        self._said = self.status
        self._host, self._port = endpoint.hostname or "", endpoint.port or 0
        self._transport: Transport = "tcp" if endpoint.scheme == "tcp" else "udp"
        self._logs = node.logs
        self._audit = node.audit.name
        self._kmsg = node.kmsg
        # What is forwarded is part of the name: another selection begins anew, a change of format alone does not.
        what = msgspec.json.encode((destination.endpoint, destination.services, destination.kernel))
        self._record = node.forwarding / f"{hashlib.blake2b(what, digest_size=16).hexdigest()}.json"
        self._cursor = cursors.load(self._record)
        self._hostname = hostname
        self._resolver = resolver
        self._changed = changed
        self._kernel: kmsg.Reader | None = None
        self._messages: list[kmsg.KernelMessage] = []  # read and not yet acknowledged: /dev/kmsg cannot be read twice
        self._gaps = 0

    async def run(self) -> None:
        """Forward for ever."""
        if self.destination.kernel:
            with contextlib.suppress(OSError):
                self._kernel = kmsg.Reader(self._kmsg)
        pause_s = RETRY_FIRST_S
        try:
            while True:
                try:
                    async with await Sender.connect(self._transport, self._host, self._port, self._resolver) as sender:
                        while True:
                            await self._once(sender)
                            pause_s = RETRY_FIRST_S
                except OSError as error:
                    self._say(_problem(error))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_LONGEST_S)
        finally:
            if self._kernel is not None:
                self._kernel.close()

    async def _once(self, sender: Sender) -> None:
        """One batch, or a pause where there is none."""
        sender.check()
        batch = self._read()
        if batch is not None:
            host, form = self._hostname(), self.destination.format
            await sender.send([encode(line, form, self._transport, host) for line in batch.lines])
            self._messages.clear()
            self._cursor = batch.after
            cursors.save(self._record, self._cursor)
            self._gaps += batch.lost
        gaps = f"{self._gaps} times lines were rotated away before they could be sent" if self._gaps else ""
        self._say(Status(State.CONVERGED, gaps))
        await asyncio.sleep(POLL_S if batch is None else BATCH_PAUSE_S)

    def _services(self) -> list[str]:
        wanted = self.destination.services
        names = sorted(entry.name for entry in self._logs.iterdir() if entry.name != self._audit)
        return [name for name in names if not wanted or name in wanted]

    def _read(self) -> Batch | None:
        lines: list[Line] = []
        places: dict[str, cursors.Place] = {}
        lost = False
        for name in self._services():
            chunk = cursors.next_chunk(self._logs / name, self._cursor.services.get(name))
            if chunk is not None:
                lines += [service_line(name, raw) for raw in chunk.lines]
                places[name] = chunk.end
                lost |= chunk.lost
        last = self._cursor.kernel
        if self._kernel is not None and not self._messages:
            self._messages = [message for message in self._kernel.some() if message.sequence > last]
        if self._messages:
            # The clock of kernel messages begins with the boot; what the wall clock was then follows from what it is now.
            booted_unix = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
            lines += [kernel_line(message, booted_unix) for message in self._messages]
            lost |= 0 <= last < self._messages[0].sequence - 1
            last = self._messages[-1].sequence
        after = cursors.Cursor({**self._cursor.services, **places}, last)
        return Batch(tuple(lines), after, lost) if lines else None

    def _say(self, status: Status) -> None:
        if status == self._said:
            return
        self._said = self.status = status
        if status.state is not State.CONVERGED:
            since = rfc3339(time.time())[:19]
            self.status = Status(status.state, f"{status.reason} (since {since}Z)", status.remedy)
        self._changed()


def _problem(error: OSError) -> Status:
    """What an unreachable collector means. Nothing is wrong with the node, and nothing is lost for as long as its own log is kept."""
    remedy = "it is tried again every few seconds, and gets then what the node still has"
    if isinstance(error, socket.gaierror):
        return failed(f"its name is not known: {error.strerror}", f"check the endpoint and DNS; {remedy}")
    # asyncio words its errors itself; the errno's own words are shorter and known to everybody.
    said = os.strerror(error.errno) if error.errno else str(error)
    return waiting(f"it cannot be reached: {said}", remedy)
