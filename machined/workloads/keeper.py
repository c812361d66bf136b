"""Keeps one workload as its document wants it.

A keeper looks at what the runtime has, does what is missing, says how it stands, and sleeps until something happens or is due. It
remembers nothing that matters: what it needs after a restart of machined stands in the labels and annotations of sandbox and
containers. Those of an earlier boot, and those that have not been made from the present document, are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct

from basalt.config.documents.workload import Container, WorkloadConfig
from basalt.errors import BasaltError
from machined.runtime.client import NotThereError, Runtime, RuntimeGoneError, explained
from machined.runtime.images import Images, Progress
from machined.wire import cri_pb2 as cri
from machined.workloads import decide, desired, health
from machined.workloads.history import History
from machined.workloads.logs import next_run
from machined.workloads.storage import WorkloadStorage
from machined.workloads.view import SETTLED, ContainerView, State, WorkloadView, stands

RESYNC_S = 30.0  # for what sent no event
GONE_RETRY_S = 1.0
STOP_EXTRA_S = 15.0  # beyond a container's grace, for the runtime's own work


class Crew(Struct, frozen=True):
    """What all keepers share.

    :param boot: the boot's id.
    :param key: a random number of this boot.
    :param ahead: the workloads that one of this start order has to wait for.
    :param changed: called when there is something new to say.
    :param settled: called when a workload has had its chance, for which others may have waited.
    """

    runtime: Runtime
    images: Images
    storage: WorkloadStorage
    history: History
    boot: str
    key: bytes
    ahead: Callable[[str, int], list[str]]
    changed: Callable[[], None]
    settled: Callable[[], None]


class Keeper:
    """One workload's keeper. *config* None means: it is no longer configured, so everything of it goes."""

    def __init__(self, name: str, crew: Crew) -> None:
        self.name = name
        self.view = WorkloadView(name, since_unix=time.time())
        self.done = False  # everything of a workload that is no longer configured has gone
        self.config: WorkloadConfig | None = None
        self._crew = crew
        self._wanted = asyncio.Event()
        self._monitors: dict[str, tuple[health.Monitor, asyncio.Task[None]]] = {}
        self._unhealthy: set[str] = set()  # containers of which it is an event already
        self._told: set[str] = set()  # containers whose end is an event already
        self._failures: dict[
            str, tuple[int, float, BasaltError | OSError]
        ] = {}  # what cannot be made, and when to try again
        self._restart: set[str] = set()  # containers that somebody wants restarted

    # --- what others say

    def configure(self, config: WorkloadConfig | None) -> None:
        """Take up another document."""
        if config != self.config:
            self._failures.clear()
        if config is None and self.config is not None:
            self._stop_grace_s = self.config.stop_grace_s
        self.config = config
        self.wake()

    def wake(self) -> None:
        """Look soon."""
        self._wanted.set()

    def restart(self, containers: list[str]) -> None:
        """Replace these containers by new ones, whatever back-off is left."""
        self._restart.update(containers)
        self._failures.clear()
        self.wake()

    # --- the loop

    async def run(self) -> None:
        """Look until the workload has gone."""
        try:
            while not self.done:
                self._wanted.clear()
                pause = await self._look()
                self._crew.changed()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
        finally:
            for _, task in self._monitors.values():
                task.cancel()

    async def _look(self) -> float:
        try:
            if self.config is None:
                await self._end()
                return 0.0
            if (left := self._pause_left("")) > 0:
                return left  # woken by what happened to others
            return await self._keep(self.config)
        except RuntimeGoneError as error:
            self._say(State.STARTING, error.why, error.remedy)
            return GONE_RETRY_S
        except (BasaltError, OSError) as error:
            return self._failed("", error)

    def _failed(self, part: str, error: BasaltError | OSError) -> float:
        """Note that something cannot be made; the seconds until it is tried again."""
        count = self._failures[part][0] + 1 if part in self._failures else 1
        pause = decide.back_off_s(count + 1)
        if not part:
            pause = min(pause, RESYNC_S)  # nothing of the workload is looked at meanwhile
        if count == 1 or str(error) != str(self._failures[part][2]):
            self._crew.history.add(self.name, "failed", str(error), part)
        self._failures[part] = (count, time.monotonic() + pause, error)
        if not part:
            self._say(State.FAILED, str(error), getattr(error, "remedy", ""))
        return pause

    def _pause_left(self, part: str) -> float:
        """The seconds until what could not be made is tried again; 0 when it may be."""
        return max(0.0, self._failures[part][1] - time.monotonic()) if part in self._failures else 0.0

    def _say(self, state: State, reason: str = "", remedy: str = "") -> None:
        if (state, reason) != (self.view.state, self.view.reason):
            moved = state is not self.view.state
            self.view.state, self.view.reason, self.view.remedy = state, reason, remedy
            if moved:
                self.view.since_unix = time.time()
            self._crew.changed()
            if moved and state in SETTLED:
                self._crew.settled()

    # --- what is there

    async def _sandboxes(self) -> list[cri.PodSandbox]:
        selector = {desired.WORKLOAD: self.name}
        with explained("cannot list sandboxes"):
            answer = await self._crew.runtime.cri.ListPodSandbox(
                cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector=selector))
            )
        return list(answer.items)

    async def _containers(self, sandbox: str) -> list[cri.Container]:
        with explained("cannot list containers"):
            answer = await self._crew.runtime.cri.ListContainers(
                cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=sandbox))
            )
        return list(answer.containers)

    # --- the end

    _stop_grace_s = 10

    async def _end(self) -> None:
        self._say(State.STOPPING, "its containers are stopped")
        for sandbox in await self._sandboxes():
            await self._remove_sandbox(sandbox.id, self._stop_grace_s)
        self._crew.storage.remove(self.name)
        self._crew.history.add(self.name, "removed", "no longer configured: its containers are gone, its volumes stay")
        self.done = True

    async def stop(self) -> None:
        """Stop every container, and let it say goodbye; the node is about to go down."""
        grace = self.config.stop_grace_s if self.config else self._stop_grace_s
        for sandbox in await self._sandboxes():
            containers = await self._containers(sandbox.id)
            await asyncio.gather(*(self._stop_container(container.id, grace) for container in containers))

    async def _remove_sandbox(self, sandbox: str, grace_s: int) -> None:
        containers = await self._containers(sandbox)
        await asyncio.gather(*(self._stop_container(container.id, grace_s) for container in containers))
        with contextlib.suppress(NotThereError), explained(f"cannot remove the sandbox of {self.name}"):
            await self._crew.runtime.cri.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
            await self._crew.runtime.cri.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox))

    async def _stop_container(self, container: str, grace_s: int) -> None:
        self._forget(container)
        with contextlib.suppress(NotThereError), explained("cannot stop a container"):
            await self._crew.runtime.cri.StopContainer(
                cri.StopContainerRequest(container_id=container, timeout=grace_s), timeout=grace_s + STOP_EXTRA_S
            )

    async def _remove_container(self, container: str) -> None:
        self._forget(container)
        with contextlib.suppress(NotThereError), explained("cannot remove a container"):
            await self._crew.runtime.cri.RemoveContainer(cri.RemoveContainerRequest(container_id=container))

    def _forget(self, container: str) -> None:
        """End a container's health check."""
        if container in self._monitors:
            self._monitors.pop(container)[1].cancel()

    # --- keeping

    async def _keep(self, config: WorkloadConfig) -> float:
        sandbox = await self._sandbox_at_hand(config)
        self._show(config)
        if sandbox is None:
            for view in self.view.containers:  # what they say is of a sandbox that is no more
                view.state, view.stands, view.id, view.pid, view.health = "waiting", State.STARTING, "", 0, ""
            if names := self._crew.ahead(self.name, config.start_order):
                self._say(State.STARTING, f"waits for {', '.join(names)}, which start before it")
                return RESYNC_S
            pause = await self._pull_all(config)
            if pause is not None:
                return pause
            sandbox = await self._make_sandbox(config)
        await asyncio.to_thread(self._crew.storage.follow_names, sandbox)
        await self._find_address(sandbox, config)
        present = await self._containers(sandbox)
        wanted = {container.name for container in config.containers}
        for container in present:
            if container.labels.get(desired.CONTAINER, "") not in wanted:
                await self._stop_container(container.id, config.stop_grace_s)
                await self._remove_container(container.id)
        pauses = [await self._keep_container(config, container, sandbox, present) for container in config.containers]
        self._failures.pop("", None)
        self._say(*stands(self.view.containers))
        return min([RESYNC_S, *pauses])

    async def _sandbox_at_hand(self, config: WorkloadConfig) -> str | None:
        """The sandbox of this boot that was made from the present document; all others are removed."""
        digest = desired.sandbox_digest(config, self._crew.key)
        found: str | None = None
        for sandbox in await self._sandboxes():
            fits = (
                sandbox.annotations.get(desired.BOOT) == self._crew.boot
                and sandbox.annotations.get(desired.SPEC) == digest
            )
            if fits and sandbox.state == cri.SANDBOX_READY and found is None:
                found = sandbox.id
                continue
            if fits:
                self._crew.history.add(self.name, "failed", "its sandbox ended; it is made anew")
            await self._remove_sandbox(sandbox.id, config.stop_grace_s)
        return found

    async def _make_sandbox(self, config: WorkloadConfig) -> str:
        storage = self._crew.storage
        await asyncio.to_thread(storage.prepare, config)
        sandbox = desired.sandbox_config(config, storage.places(self.name), boot=self._crew.boot, key=self._crew.key)
        with explained(f"cannot make the sandbox of {self.name}"):
            answer = await self._crew.runtime.cri.RunPodSandbox(
                cri.RunPodSandboxRequest(config=sandbox, runtime_handler=desired.handler_of(config))
            )
        return answer.pod_sandbox_id

    async def _find_address(self, sandbox: str, config: WorkloadConfig) -> None:
        if config.network.mode != "bridge":
            self.view.address = ""
            return
        with explained("cannot ask for the sandbox"):
            answer = await self._crew.runtime.cri.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
        self.view.address = answer.status.network.ip

    def _show(self, config: WorkloadConfig) -> None:
        """Have a view of every configured container, and of no other."""
        present = {view.name: view for view in self.view.containers}
        self.view.containers = tuple(
            present.get(one.name) or ContainerView(one.name, one.image) for one in config.containers
        )
        for view, container in zip(self.view.containers, config.containers, strict=True):
            view.image = container.image

    def _view(self, name: str) -> ContainerView:
        return next(view for view in self.view.containers if view.name == name)

    # --- images

    async def _pull_all(self, config: WorkloadConfig) -> float | None:
        """Have every image there; None when they are, else the seconds until the next try."""
        pauses = [
            pause for container in config.containers if (pause := await self._have_image(config, container)) is not None
        ]
        if pauses:
            self._say(*stands(self.view.containers))
            return min(pauses)
        return None

    async def _have_image(self, config: WorkloadConfig, container: Container) -> float | None:
        """Have the image of one container; None when it is there, else the seconds until the next try."""
        if await self._crew.images.at_hand(container.image):
            return None
        view = self._view(container.name)
        if (left := self._pause_left(container.name)) > 0:
            self._wait(view, container.name)
            return left
        view.state, view.stands, view.detail, view.remedy = "pulling", State.STARTING, "pulling", ""
        view.percent = -1
        self._say(State.STARTING, f"{container.name}: pulling {container.image}")
        try:
            async with contextlib.aclosing(self._crew.images.pull(container.image)) as pull:
                async for step in pull:
                    if isinstance(step, Progress):
                        view.percent = -1 if step.percent is None else step.percent
                        if self.config is not config:
                            return 0.0  # another document, or none: who knows whether this image is still wanted
        except RuntimeGoneError:
            raise
        except BasaltError as error:
            pause = self._failed(container.name, error)
            self._wait(view, container.name)
            return pause
        self._failures.pop(container.name, None)
        view.state, view.detail = "waiting", ""
        self._crew.history.add(self.name, "pulled", f"has {container.image}", container.name)
        return None

    def _wait(self, view: ContainerView, part: str) -> None:
        """Show what cannot be made, and when it is tried again."""
        _, view.due, error = self._failures[part]
        view.state, view.stands, view.detail = "waiting", State.FAILED, str(error)
        view.remedy = getattr(error, "remedy", "")

    # --- containers

    async def _keep_container(
        self, config: WorkloadConfig, container: Container, sandbox: str, present: list[cri.Container]
    ) -> float:
        """Look at one container and do what follows; the seconds until something of it is due."""
        own = [one for one in present if one.labels.get(desired.CONTAINER) == container.name]
        own.sort(key=lambda one: one.metadata.attempt)
        view = self._view(container.name)
        if not own:
            self._restart.discard(container.name)
            return await self._start(config, container, sandbox, attempt=0, failures=0)
        for older in own[:-1]:
            await self._stop_container(older.id, config.stop_grace_s)
            await self._remove_container(older.id)
        latest = own[-1]
        attempt, failures = latest.metadata.attempt, int(latest.annotations.get(desired.FAILURES, "0"))
        changed = latest.annotations.get(desired.SPEC) != desired.container_digest(config, container, self._crew.key)
        if changed or container.name in self._restart or latest.state == cri.CONTAINER_CREATED:
            if (
                latest.state == cri.CONTAINER_RUNNING
                and (pause := await self._have_image(config, container)) is not None
            ):
                return pause  # what runs goes on until there is something to replace it by
            self._begins(view, "the one before is stopped")
            # One that was made and never started: machined or containerd ended in between.
            self._restart.discard(container.name)
            await self._stop_container(latest.id, config.stop_grace_s)
            await self._remove_container(latest.id)
            if not changed and latest.state != cri.CONTAINER_CREATED:
                self._crew.history.add(self.name, "restarted", "restarted on request", container.name)
            return await self._start(config, container, sandbox, attempt=attempt + 1, failures=0)
        status, pid = await self._status(latest.id)
        self._note(view, latest, status, pid)
        if status.state != cri.CONTAINER_RUNNING and (left := self._pause_left(container.name)) > 0:
            self._wait(view, container.name)
            return left
        if status.state == cri.CONTAINER_RUNNING:
            return await self._watch(config, container, latest.id, view)
        return await self._ended(config, container, sandbox, latest, status, failures)

    async def _status(self, container: str) -> tuple[cri.ContainerStatus, int]:
        with explained("cannot ask for a container"):
            answer = await self._crew.runtime.cri.ContainerStatus(
                cri.ContainerStatusRequest(container_id=container, verbose=True)
            )
        try:
            pid = int(json.loads(answer.info.get("info", "{}")).get("pid", 0))
        except (ValueError, TypeError):
            pid = 0
        return answer.status, pid

    def _note(self, view: ContainerView, container: cri.Container, status: cri.ContainerStatus, pid: int) -> None:
        view.id, view.image_id, view.restarts = container.id, container.image_ref, container.metadata.attempt
        view.started_unix, view.pid = status.started_at // 10**9, pid
        view.run = int(container.annotations.get(desired.RUN, "0"))

    def _begins(self, view: ContainerView, detail: str) -> None:
        """A container is on its way; the workload is, too."""
        view.state, view.stands, view.detail, view.health, view.due = "waiting", State.STARTING, detail, "", 0.0
        self._say(*stands(self.view.containers))

    async def _start(
        self, config: WorkloadConfig, container: Container, sandbox: str, *, attempt: int, failures: int
    ) -> float:
        """Make and start a container."""
        view, runtime = self._view(container.name), self._crew.runtime
        if (left := self._pause_left(container.name)) > 0:
            self._wait(view, container.name)
            return left
        self._begins(view, "")
        if (pause := await self._have_image(config, container)) is not None:
            return pause
        self._begins(view, "")
        storage = self._crew.storage
        places = storage.places(self.name)
        try:
            await asyncio.to_thread(storage.prepare, config)
            began = time.monotonic()
            run = next_run(places.logs / container.name)
            made = desired.container_config(
                config,
                container,
                places,
                storage.disks,
                attempt=attempt,
                failures=failures,
                run=run,
                key=self._crew.key,
            )
            pod = desired.sandbox_config(config, places, boot=self._crew.boot, key=self._crew.key)
            with explained(f"cannot make container {container.name}"):
                answer = await runtime.cri.CreateContainer(
                    cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=made, sandbox_config=pod)
                )
            view.state, view.id, view.run = "created", answer.container_id, run
            with explained(f"cannot start container {container.name}"):
                await runtime.cri.StartContainer(cri.StartContainerRequest(container_id=answer.container_id))
        except RuntimeGoneError:
            raise
        except (BasaltError, OSError) as error:
            pause = self._failed(container.name, error)
            self._wait(view, container.name)
            return pause
        self._failures.pop(container.name, None)
        again = f" again, for the {ordinal(attempt)} time" if attempt else ""
        words = f"started{again}, in {time.monotonic() - began:.2f} s"
        self._crew.history.add(self.name, "started", words, container.name)
        status, pid = await self._status(answer.container_id)
        view.restarts, view.started_unix, view.pid = attempt, status.started_at // 10**9, pid
        return await self._watch(config, container, answer.container_id, view)

    async def _watch(
        self, config: WorkloadConfig, container: Container, container_id: str, view: ContainerView
    ) -> float:
        """A container runs: see that it is healthy."""
        view.state, view.detail, view.remedy, view.due = "running", "", "", 0.0
        if container.health is None:
            self._forget(container_id)
            view.health, view.stands = "", State.RUNNING
            return RESYNC_S
        monitor = self._monitor(container_id, container)
        view.health = monitor.state
        if monitor.state == health.HEALTHY:
            self._unhealthy.discard(container_id)
            view.stands = State.RUNNING
            return RESYNC_S
        if monitor.state == health.STARTING:
            view.stands, view.detail = State.STARTING, "not healthy yet"
            return RESYNC_S
        view.detail = f"unhealthy: {monitor.reason}"
        if container_id not in self._unhealthy:
            self._crew.history.add(self.name, "unhealthy", monitor.reason, container.name)
            self._unhealthy.add(container_id)
        if config.restart == "never":
            view.stands = State.FAILED
            return RESYNC_S
        view.stands = State.BACK_OFF
        self._crew.storage.note_unhealthy(self.name, container_id, view.detail)
        await self._stop_container(container_id, config.stop_grace_s)
        return 0.0

    def _monitor(self, container_id: str, container: Container) -> health.Monitor:
        known = self._monitors.get(container_id)
        if known and known[0].check == container.health:
            return known[0]
        self._forget(container_id)
        if container.health is None:
            raise ValueError("nothing to check")
        address = self.view.address or "127.0.0.1"
        monitor = health.Monitor(self._crew.runtime, container_id, container.health, address, self.wake)
        self._monitors[container_id] = (monitor, _task(monitor.run(), f"health {self.name}/{container.name}"))
        return monitor

    async def _ended(
        self,
        config: WorkloadConfig,
        container: Container,
        sandbox: str,
        latest: cri.Container,
        status: cri.ContainerStatus,
        failures: int,
    ) -> float:
        """A container has ended: say so, and start another when its time has come."""
        self._forget(latest.id)
        view = self._view(container.name)
        ended = decide.ended_of(status, failures, container, self._crew.storage.why_unhealthy(self.name, latest.id))
        view.state, view.pid, view.health = "exited", 0, ""
        view.finished_unix, view.exit_code, view.exit_reason = (
            status.finished_at // 10**9,
            ended.exit_code,
            ended.reason,
        )
        if latest.id not in self._told:
            self._told = {latest.id} | {one for one in self._told if one in {view.id for view in self.view.containers}}
            self._crew.history.add(self.name, "exited", ended.reason, container.name)
        if not decide.is_started_again(config.restart, ended):
            view.stands, view.detail, view.due = State.FAILED if ended.failed else State.FINISHED, ended.reason, 0.0
            return RESYNC_S
        pause = decide.back_off_s(ended.failures)
        left = decide.wait_left_s(pause, status.finished_at, time.time())
        if left > 0:
            view.stands, view.detail, view.due = State.BACK_OFF, ended.reason, time.monotonic() + left
            return left
        self._unhealthy.discard(latest.id)
        self._crew.storage.forget_unhealthy(self.name, latest.id)
        await self._remove_container(latest.id)
        return await self._start(
            config, container, sandbox, attempt=latest.metadata.attempt + 1, failures=ended.failures
        )


def _task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ..., 11th."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{suffix}"
