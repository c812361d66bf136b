"""A node's containers over a fake containerd, below a scratch directory: the concern "workloads" as machined runs it.

Pauses are short, and the look that is made for nothing does not come: what a test waits for has to come about by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from basalt.config.documents import WorkloadConfig
from basalt.config.documents.workload import Container, WorkloadNetwork
from machined import reconcile
from machined.containers import Containers
from machined.paths import Paths
from machined.reconcile import Board, Reconciler, Status
from machined.runtime import archives, images
from machined.runtime.client import Runtime
from machined.workloads import decide, keeper, reconciler
from machined.workloads.history import Event
from machined.workloads.view import ContainerView, State, WorkloadView
from tests.unit.fake_containerd import FakeContainerd

IMAGE = "docker.io/library/app:1"
HOST = WorkloadNetwork(mode="host")
NEVER_S = 3600.0
UNTIL_LOOKS, UNTIL_S = 3000, 0.002

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others and mount")


def one(name: str = "main", image: str = IMAGE, **fields: Any) -> Container:
    """A container."""
    return Container(name=name, image=image, **fields)


def workload(name: str = "web", *containers: Container, **fields: Any) -> WorkloadConfig:
    """A workload; with one container where none are given."""
    return WorkloadConfig(name=name, containers=containers or (one(),), **{"network": HOST, **fields})


@contextmanager
def quick() -> Iterator[pytest.MonkeyPatch]:
    """Pauses that a test can wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "SETTLE_S", 0.001)
        patch.setattr(keeper, "RESYNC_S", NEVER_S)
        patch.setattr(keeper, "GONE_RETRY_S", 0.02)
        patch.setattr(reconciler, "EVENT_RETRY_S", 0.02)
        patch.setattr(reconciler, "LOOKS_AFTER_EVENT_S", (0.0, 0.02))
        patch.setattr(decide, "BACK_OFF_FIRST_S", 0.02)
        patch.setattr(decide, "BACK_OFF_LONGEST_S", 0.2)
        patch.setattr(images, "PROGRESS_S", 0.01)
        patch.setattr(images, "KNOWN_LOOKS", 50)
        patch.setattr(images, "KNOWN_LOOK_S", 0.01)
        patch.setattr(archives, "LAST_WAIT_S", 0.02)
        patch.setattr(archives, "REST_WAIT_S", 0.1)
        yield patch


class World:
    """A node, its containerd, and the workloads that it is to run."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.node = Paths(str(root))
        self.boot = "boot-1"
        for directory in (
            self.node.run,
            self.node.etc,
            self.node.volumes,
            self.node.proc / "sys/kernel/random",
            self.node.cgroup_workloads.parent,
        ):
            directory.mkdir(parents=True)
        (self.node.proc / "meminfo").write_text("MemTotal: 1048576 kB\n")
        (self.node.proc / "sys/kernel/threads-max").write_text("10000\n")
        self.fake = FakeContainerd(self.node.containerd_socket)
        self.fake.images.put(IMAGE)
        self.configs: list[WorkloadConfig] = []
        self.ready = True
        self.board = Board()
        self.containers: Containers
        self._loop: asyncio.Task[None] | None = None
        self._reconciler: Reconciler

    # --- machined

    def begin(self) -> None:
        """Start machined."""
        (self.node.proc / "sys/kernel/random/boot_id").write_text(f"{self.boot}\n")
        self.containers = Containers.of(
            self.node,
            Runtime(self.fake.socket),
            config=lambda: self.configs,
            registry=lambda: None,
            ready=lambda: self.ready,
            changed=self.trigger,
        )
        self._reconciler = Reconciler("workloads", self.containers.workloads.reconcile, self.board, every_s=NEVER_S)
        self._loop = asyncio.get_running_loop().create_task(self._reconciler.run())

    async def end(self) -> None:
        """Let go of everything, as machined does when it ends; what runs, runs on."""
        if self._loop:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            await self.containers.workloads.close()
            await self.containers.runtime.close()
            self._loop = None

    def trigger(self) -> None:
        self._reconciler.trigger()

    def runs(self, *configs: WorkloadConfig) -> None:
        """Have the configuration hold exactly these."""
        self.configs = list(configs)
        if self._loop is None:
            self.begin()
        self.trigger()

    # --- looking

    @property
    def status(self) -> Status:
        """What the concern said last."""
        return self.board.entries()["workloads"].status

    @property
    def views(self) -> dict[str, WorkloadView]:
        return {view.name: view for view in self.containers.workloads.views}

    def view(self, name: str = "web") -> WorkloadView:
        """How a workload stands; nothing known of one that is not there yet."""
        return self.views.get(name) or WorkloadView(name)

    def container(self, name: str = "web/main") -> ContainerView:
        """How a container stands; nothing known of one that is not there yet."""
        workload, _, wanted = name.partition("/")
        found = [view for view in self.view(workload).containers if view.name == wanted]
        return found[0] if found else ContainerView(wanted, "")

    def is_(self, state: State, *names: str) -> bool:
        """Whether these workloads are in *state*."""
        return all(name in self.views and self.views[name].state is state for name in names or ("web",))

    def events(self, name: str = "web") -> list[tuple[str, str]]:
        """Kind and text of what happened."""
        return [(event.kind, event.text) for event in self.history(name)]

    def kinds(self, name: str = "web") -> list[str]:
        """The kinds alone."""
        return [event.kind for event in self.history(name)]

    def history(self, name: str = "web") -> list[Event]:
        return self.containers.workloads.history.events((name,))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for something to come about by itself."""
        for _ in range(UNTIL_LOOKS):
            if condition():
                return
            await asyncio.sleep(UNTIL_S)
        pytest.fail(f"it did not come about\n{self.containers.workloads.views}\n{self.board.entries()}")

    async def until_runs(self, *names: str) -> None:
        """Wait until these workloads run, and are said to."""

        def run() -> bool:
            running = self.fake.running()
            shown = {f"{name}/{view.name}": view.id for name in names for view in self.view(name).containers}
            return all(running.get(name) == id_ for name, id_ in shown.items())

        await self.until(lambda: self.is_(State.RUNNING, *names) and run())

    async def settled(self) -> None:
        """Let what is under way have its time: for what must not come about."""
        for _ in range(2):
            await self._reconciler.settle(5)
            await asyncio.sleep(0.03)


Scenario = Callable[[World], Awaitable[None]]


def play(root: Path, scenario: Scenario) -> None:
    """Run a scenario in a world of its own."""

    async def body(patch: pytest.MonkeyPatch) -> None:
        world = World(root, patch)
        await world.fake.start()
        try:
            await scenario(world)
        finally:
            await world.end()
            await world.fake.stop()

    with quick() as patch:
        asyncio.run(body(patch))
