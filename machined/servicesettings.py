"""The concern "services": how the node's own programs run, by ServiceConfig, and which of them have died.

Whoever owns a program (:mod:`machined.containerd`, :mod:`machined.timesync`) has it kept through :class:`ServiceKeeper`: running or
not, with its environment, and restarted exactly when what it was started with has changed. Limits are cgroup files, which take effect
while the program runs. s6 restarts what dies by itself; here it is noticed and told.

Below ``/run/basalt/services``, for root alone: ``NAME.environment`` (read by :mod:`machined.launch`) and ``NAME.started``, a digest of
what the running program was started with. The digest outlives machined: a restart that is due is not lost with it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from basalt.config.documents import Configuration, ServiceConfig
from basalt.config.values import size_bytes
from machined import paths
from machined.network.names import put
from machined.reconcile import CONVERGED, Status, failed, together, waiting
from machined.s6 import ServiceStatus, Supervisor, deaths_of
from machined.services import SERVICES, Service

NEWS_S = 60.0  # how long a death is told about
DYING_OFTEN = 3  # deaths in a row, each within NEWS_S of the one before, that are a failure
STOP_GRACE_MS = 2_000  # for s6 to notice that what it had to kill is dead
CPU_WEIGHT_DEFAULT = 100  # Documentation/admin-guide/cgroup-v2.rst
SETTABLE = ("containerd", "chronyd")  # ServiceConfig's names


class Started(Struct, frozen=True):
    """What a service was started with, and how many of its deaths since boot were machined's own doing."""

    digest: str = ""
    intended_deaths: int = 0


def settings_of(configuration: Configuration, name: str) -> ServiceConfig | None:
    """The document about service *name*."""
    return next((document for document in configuration.services if document.name == name), None)


def limits_of(settings: ServiceConfig | None) -> dict[str, str]:
    """Cgroup file → value; the kernel's defaults where nothing is configured."""
    memory = size_bytes(settings.memory_max) if settings and settings.memory_max else None
    weight = settings.cpu_weight if settings and settings.cpu_weight else CPU_WEIGHT_DEFAULT
    return {"memory.max": "max" if memory is None else str(memory), "cpu.weight": str(weight)}


def same_limit(now: str, wanted: str, page_bytes: int = 4096) -> bool:
    """Whether a cgroup file has a value; the kernel cuts bytes to whole pages."""
    if now.isdigit() and wanted.isdigit() and int(wanted) >= page_bytes:
        return int(now) in (int(wanted), int(wanted) // page_bytes * page_bytes)
    return now == wanted


def digest_of(*inputs: str) -> str:
    """A short name for what a service is started with."""
    return hashlib.blake2b("\0".join(inputs).encode(), digest_size=16).hexdigest()


class ServiceKeeper:
    """Runs services as their ServiceConfig wants them."""

    def __init__(self, node: paths.Paths, supervisor: Supervisor, *, config: Callable[[], Configuration]) -> None:
        self._inputs = node.service_inputs
        self._services = node.services
        self._cgroups = node.cgroup_system
        self._supervisor = supervisor
        self._config = config
        self._deaths: dict[str, list[float]] = {}

    def enabled(self, name: str) -> bool:
        """Whether the configuration lets service *name* run."""
        settings = settings_of(self._config(), name)
        return settings is None or settings.enabled

    async def keep(self, service: Service, *, wanted: bool, configuration: str = "") -> ServiceStatus:
        """Have *service* running, with this *configuration* and its environment, or stopped; how s6 saw it before.

        :raises BasaltError: s6 does not do as it is told.
        """
        status = await self._supervisor.status(service)
        if not wanted:
            if status.wanted:
                self._note(service.name, Started(intended_deaths=self.started(service.name).intended_deaths + 1))
                await self._supervisor.stop(service.name, service.kill_after_ms + STOP_GRACE_MS)
            return status
        environment = self._write_environment(service.name)
        digest, started = digest_of(configuration, environment), self.started(service.name)
        if not status.wanted:
            await self._supervisor.start(service.name)
            self._note(service.name, Started(digest, started.intended_deaths))
        elif started.digest != digest:
            await self._supervisor.restart(service.name)
            self._note(service.name, Started(digest, started.intended_deaths + 1))
        return status

    def started(self, name: str) -> Started:
        """What service *name* was started with."""
        try:
            return msgspec.json.decode((self._inputs / f"{name}.started").read_bytes(), type=Started)
        except (FileNotFoundError, msgspec.MsgspecError):
            return Started()

    def _note(self, name: str, started: Started) -> None:
        self._inputs.mkdir(mode=0o700, parents=True, exist_ok=True)
        put(self._inputs / f"{name}.started", msgspec.json.encode(started).decode(), mode=0o600)

    def _write_environment(self, name: str) -> str:
        settings = settings_of(self._config(), name)
        self._inputs.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(settings.environment if settings else {}, sort_keys=True)
        put(self._inputs / f"{name}.environment", text, mode=0o600)
        return text

    async def reconcile(self) -> Status:
        """One look: the limits of those that can have some, and who has died."""
        parts = []
        configuration = self._config()
        for name in SETTABLE:
            if (self._services / name).exists():
                parts += self._limit(name, limits_of(settings_of(configuration, name)))
        parts += [(service.name, self._health(service.name)) for service in SERVICES]
        return together(parts)

    def _limit(self, name: str, limits: dict[str, str]) -> list[tuple[str, Status]]:
        directory = self._cgroups / name
        try:
            directory.mkdir(mode=0o755, exist_ok=True)  # the launcher finds it when the service starts
        except OSError as error:
            return [(name, failed(f"its cgroup cannot be made: {error.strerror}"))]
        problems = []
        for file, value in limits.items():
            try:
                path = directory / file
                if not same_limit(path.read_text(encoding="ascii").strip(), value):
                    path.write_text(value, encoding="ascii")
            except OSError as error:
                problems.append(
                    (name, failed(f"{file} cannot be {value}: {error.strerror}", "correct its ServiceConfig"))
                )
        return problems

    def _health(self, name: str) -> Status:
        """What there is to say about deaths that nobody intended."""
        died = deaths_of(self._services / name)
        if died is None:
            return CONVERGED
        unintended = died.count - self.started(name).intended_deaths
        if name not in self._deaths:  # of earlier ones only the number is known
            self._deaths[name] = [0.0] * (unintended - 1)
        seen = self._deaths[name]
        seen += [died.last_unix] * (unintended - len(seen))
        recent = [moment for moment in seen if 0 <= time.time() - moment < NEWS_S]
        if not recent:
            return CONVERGED
        remedy = f"its log says why: osctl logs {name}"
        if len(recent) >= DYING_OFTEN:
            return failed(f"it keeps ending: {len(seen)} times since boot", remedy)
        return waiting(f"it ended and was started again, {len(seen)} times since boot", remedy)
