"""Whether a container does its work: its health check, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from basalt.config.documents.workload import HealthCheck
from basalt.errors import BasaltError
from machined.runtime.client import Runtime, RuntimeGoneError, explained
from machined.wire import cri_pb2 as cri

HEALTHY, UNHEALTHY, STARTING = "healthy", "unhealthy", "starting"
OUTPUT_SHOWN = 200  # characters of what a failed command said
STATUS_LINE_BYTES_MAX = 4096


class FailedCheckError(Exception):
    """A check failed; its text says why."""


class Monitor:
    """Checks one container until it is told to stop.

    :param address: where the container listens.
    :param changed: called when *state* has changed.
    """

    def __init__(
        self,
        runtime: Runtime,
        container_id: str,
        check: HealthCheck,
        address: str,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._id = container_id
        self._address = address
        self._changed = changed
        self._clock = clock
        self.check = check
        self.state = STARTING
        self.reason = ""

    async def run(self) -> None:
        """Check for ever."""
        began, failures = self._clock(), 0
        while True:
            try:
                async with asyncio.timeout(self.check.timeout_s):
                    await self._once()
            except FailedCheckError as error:
                reason = str(error)
            except TimeoutError:
                reason = f"no answer within {self.check.timeout_s} s"
            except RuntimeGoneError:
                # that says nothing of the container
                await asyncio.sleep(self.check.interval_s)
                continue
            except BasaltError as error:
                reason = str(error)
            else:
                reason = ""
            if not reason:
                failures = 0
                self._set(HEALTHY, "")
            elif self.state is HEALTHY or self._clock() - began >= self.check.grace_s:
                failures += 1
                if failures >= self.check.failures:
                    self._set(UNHEALTHY, reason)
            await asyncio.sleep(self.check.interval_s)

    def _set(self, state: str, reason: str) -> None:
        if state != self.state:
            self.state, self.reason = state, reason
            self._changed()

    async def _once(self) -> None:
        if self.check.exec:
            await self._command(list(self.check.exec))
        elif self.check.http:
            await self._request(self.check.http.port, self.check.http.path)
        elif self.check.tcp:
            reader_writer = await self._connect(self.check.tcp.port)
            reader_writer[1].close()

    async def _command(self, command: list[str]) -> None:
        with explained("the health check's command cannot be run"):
            answer = await self._runtime.cri.ExecSync(
                cri.ExecSyncRequest(container_id=self._id, cmd=command, timeout=self.check.timeout_s)
            )
        if answer.exit_code:
            said = b" ".join((answer.stderr or answer.stdout).split()).decode(errors="replace")[:OUTPUT_SHOWN]
            raise FailedCheckError(f"{command[0]} ended with {answer.exit_code}{f': {said}' if said else ''}")

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection(self._address, port, limit=STATUS_LINE_BYTES_MAX)
        except OSError as error:
            raise FailedCheckError(f"port {port}: {error.strerror or error}") from error

    async def _request(self, port: int, path: str) -> None:
        reader, writer = await self._connect(port)
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: {self._address}:{port}\r\nUser-Agent: basalt\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            line = await reader.readline()
        except (OSError, ValueError) as error:
            raise FailedCheckError(f"port {port}: {error}") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        words = line.decode("latin-1").split()
        if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
            raise FailedCheckError(f"port {port} does not speak HTTP")
        if not 200 <= int(words[1]) < 400:
            raise FailedCheckError(f"GET {path}: status {words[1]}")
