"""Asks s6 about services and tells it what to do, through its own programs: their formats on disk are s6's business."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec import Struct

from basalt.errors import BasaltError
from machined import paths
from machined.services import SERVICES, Service
from machined.tools import run

_FIELDS = "up,wantedup,ready,pid,updownfor"
STOP_POLL_S = 0.1
_DEATH_RECORD_BYTES = 14  # of supervise/death_tally: a 12-byte stamp, an exit code, a signal (s6_dtally_pack)


class ServiceStatus(Struct, frozen=True):
    """A service as s6 sees it."""

    name: str
    up: bool
    wanted: bool
    ready: bool
    pid: int  # 0 when it is down
    seconds: int  # in this state
    restarts: int  # since boot

    @property
    def state(self) -> str:
        """``up``, ``down``, or ``restarting``: wanted, but not there."""
        if self.up:
            return "up"
        return "restarting" if self.wanted else "down"


class Deaths(Struct, frozen=True):
    """How often a service has died since boot, and when the last time was (seconds since the epoch)."""

    count: int
    last_unix: float


def deaths_of(directory: Path) -> Deaths | None:
    """The deaths of the service in *directory*; None when there was none. s6 rewrites its tally at each."""
    try:
        tally = (directory / "supervise/death_tally").stat()
    except FileNotFoundError:
        return None
    count = tally.st_size // _DEATH_RECORD_BYTES
    return Deaths(count, tally.st_mtime) if count else None


def parse_status(name: str, output: str, restarts: int) -> ServiceStatus:
    """Read what ``s6-svstat -o`` printed."""
    up, wanted, ready, pid, seconds = output.split()
    return ServiceStatus(
        name, up == "true", wanted == "true", ready == "true", max(0, int(pid)), max(0, int(seconds)), restarts
    )


class Supervisor:
    """The services below *directory*, s6-svscan's scan directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def status(self, service: Service) -> ServiceStatus:
        """One service.

        :raises BasaltError: s6 does not supervise it.
        """
        directory = self._directory / service.name
        output = await run([paths.S6_SVSTAT, "-o", _FIELDS, str(directory)])
        deaths = deaths_of(directory)
        return parse_status(service.name, output, deaths.count if deaths else 0)

    async def statuses(self) -> list[ServiceStatus]:
        """All services of the table that s6 knows."""
        found = []
        for service in SERVICES:
            try:
                found.append(await self.status(service))
            except BasaltError as error:
                print(f"services: {service.name}: {error}", flush=True)
        return found

    async def start(self, name: str) -> None:
        """Start a service and its logger; nothing happens when they run."""
        directory = self._directory / name
        await run([paths.S6_SVC, "-u", str(directory / "log")])
        await run([paths.S6_SVC, "-u", str(directory)])

    async def stop(self, name: str, timeout_ms: int) -> None:
        """Stop a service and wait until it is down.

        :raises BasaltError: it was not down within the time.
        """
        # Not s6-svc's own way of waiting, which takes further programs (s6-svlisten1, s6-ftrigrd) for a thing this rare.
        await run([paths.S6_SVC, "-d", str(self._directory / name)])
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while not await self._is_down(name):
                    await asyncio.sleep(STOP_POLL_S)
        except TimeoutError:
            raise BasaltError(
                f"{name} does not stop", why=f"it was still there after {timeout_ms / 1000:.0f} s"
            ) from None

    async def _is_down(self, name: str) -> bool:
        return await run([paths.S6_SVSTAT, "-o", "up", str(self._directory / name)]) == "false\n"

    async def hang_up(self, name: str) -> None:
        """SIGHUP: read your configuration again."""
        await run([paths.S6_SVC, "-h", str(self._directory / name)])

    async def restart(self, name: str) -> None:
        """SIGTERM to a service that is to come back with a new configuration."""
        await run([paths.S6_SVC, "-r", str(self._directory / name)])

    async def end(self) -> None:
        """End all services; PID 1 then runs ``.s6-svscan/finish``."""
        await run([paths.S6_SVSCANCTL, "-t", str(self._directory)])
