"""How long each step from power-on to an answering API took; kept in ``/run`` so that a restarted machined still knows."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import Struct, structs

from machined.bootloader import loader_times
from machined.network.names import put
from machined.paths import Paths


class Stage(Struct, frozen=True):
    """One step. *start_usec* counts from where the kernel took over; firmware and loader came before it and start at 0."""

    name: str
    start_usec: int
    duration_usec: int


class Stages:
    """The stages of this boot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stages: dict[str, Stage] = {}
        try:
            for values in json.loads(path.read_bytes()):
                self._stages[values["name"]] = Stage(**values)
        except (OSError, ValueError, TypeError, KeyError):
            self._stages = {}  # this boot's first machined

    def record(self, name: str, start_usec: int, end_usec: int) -> None:
        """Record a stage. The first word stands: a later machined of the same boot does not rewrite history."""
        if name in self._stages:
            return
        self._stages[name] = Stage(name, start_usec, max(0, end_usec - start_usec))
        put(self._path, json.dumps([structs.asdict(stage) for stage in self._stages.values()]))

    def record_way_here(self, node: Paths, started_usec: int) -> None:
        """Record what came before machined: firmware and loader where the loader measured them, the kernel, /init, s6."""
        if times := loader_times(node.efivars):
            self.record("firmware", 0, times.loader_started_usec)
            self.record("loader", 0, times.kernel_started_usec - times.loader_started_usec)
        if times_of_init := read_init_times(node.init_times):
            begun, ended = times_of_init
            self.record("kernel", 0, begun)
            self.record("init", begun, ended)
            self.record("supervisor", ended, started_usec)

    @property
    def all(self) -> tuple[Stage, ...]:
        """In the order in which they were recorded."""
        return tuple(self._stages.values())


def read_init_times(path: Path) -> tuple[int, int] | None:
    """When ``/init`` began and handed over, in microseconds of CLOCK_BOOTTIME; None outside of a booted node."""
    try:
        begun, ended = path.read_text(encoding="ascii").split()
        return int(begun), int(ended)
    except (OSError, ValueError):
        return None
