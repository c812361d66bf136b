"""The concern "workloads": a keeper for each WorkloadConfig, and for what is left of one that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from basalt.config.documents import WorkloadConfig
from basalt.errors import BasaltError
from machined import paths
from machined.init import CONTROLLERS
from machined.reconcile import CONVERGED, Status, failed, together, waiting
from machined.runtime.client import METADATA, Runtime, RuntimeGoneError, explained
from machined.runtime.images import Images
from machined.wire import cri_pb2 as cri
from machined.wire import events_pb2 as events
from machined.workloads import desired, logs
from machined.workloads.history import History
from machined.workloads.keeper import Crew, Keeper
from machined.workloads.storage import WorkloadStorage
from machined.workloads.view import SETTLED, State, WorkloadView

EVENT_RETRY_S = 1.0
LOOKS_AFTER_EVENT_S = (0.05, 0.5, 3.0)
STOP_ALL_S = 90.0  # at a reboot; what needs longer is killed with the machine
MEMORY_LEFT_BYTES = paths.SYSTEM_MEMORY_MIN_BYTES  # for the node's own programs, of what workloads may take together
PIDS_LEFT = 2048


class WorkloadsReconciler:
    """Owns every sandbox and container with our labels.

    :param ready: whether containerd is up.
    :param changed: asks for another look of the concern, to say how workloads stand.
    """

    def __init__(
        self,
        node: paths.Paths,
        runtime: Runtime,
        images: Images,
        *,
        config: Callable[[], Sequence[WorkloadConfig]],
        ready: Callable[[], bool],
        boot_id: Callable[[], str],
        changed: Callable[[], None],
    ) -> None:
        self._node = node
        self._runtime = runtime
        self._config = config
        self._ready = ready
        self._boot_id = boot_id
        self._changed = changed
        self._images = images
        self._storage = WorkloadStorage(node)
        self.history = History()
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._crew: Crew | None = None
        self._stopping = False

    @property
    def views(self) -> list[WorkloadView]:
        """How every workload stands, by name."""
        return [self._keepers[name].view for name in sorted(self._keepers)]

    def config_of(self, name: str) -> WorkloadConfig | None:
        """The document of a workload."""
        return next((config for config in self._config() if config.name == name), None)

    def restart(self, workload: str, containers: list[str]) -> None:
        """Have these containers of a workload replaced by new ones."""
        self._keepers[workload].restart(containers)

    def logs(self, workload: str, container: str) -> Path:
        """Directory of a container's logs."""
        return self._storage.places(workload).logs / container

    async def reconcile(self) -> Status:
        """One look."""
        configured = {config.name: config for config in self._config()}
        if self._stopping:
            return CONVERGED
        if not self._ready():
            return waiting("containerd is not up") if configured else CONVERGED
        try:
            return await self._look(configured)
        except RuntimeGoneError:
            asyncio.get_running_loop().call_later(EVENT_RETRY_S, self._changed)
            return waiting("containerd is not up")

    async def _look(self, configured: dict[str, WorkloadConfig]) -> Status:
        await asyncio.to_thread(self._prepare_cgroup)
        if self._crew is None:
            self._crew = self._make_crew()
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen(), name="containerd's events")
        self._sweep()
        names = configured.keys() | await self._left_behind()
        if self._stopping:
            return CONVERGED  # the node has begun to go down while this look waited
        before = {name: keeper.config for name, keeper in self._keepers.items()}
        for name in names:
            if name not in self._keepers:
                self._keepers[name] = Keeper(name, self._crew)
            keeper = self._keepers[name]
            if keeper.config != configured.get(name) or name not in self._tasks:
                keeper.configure(configured.get(name))
            if name not in self._tasks:
                self._tasks[name] = asyncio.get_running_loop().create_task(keeper.run(), name=f"workload {name}")
        for name, keeper in self._keepers.items():
            if name not in configured and keeper.config is not None:
                keeper.configure(None)
        if before != {name: keeper.config for name, keeper in self._keepers.items()}:
            self._wake_waiting()  # what somebody waits for may be no longer wanted
        await self._rotate_logs()
        return together((view.name, _status(view)) for view in self.views)

    def _make_crew(self) -> Crew:
        key_file = self._node.run / "workloads-key"
        try:
            key = key_file.read_bytes()
        except FileNotFoundError:
            key = secrets.token_bytes(32)
            staged = key_file.with_name(".workloads-key.new")
            staged.unlink(missing_ok=True)
            staged.touch(mode=0o600, exist_ok=False)
            staged.write_bytes(key)
            staged.rename(key_file)
        return Crew(
            runtime=self._runtime,
            images=self._images,
            storage=self._storage,
            history=self.history,
            boot=self._boot_id(),
            key=key,
            ahead=self._ahead,
            changed=self._changed,
            settled=self._wake_waiting,
        )

    def _wake_waiting(self) -> None:
        for keeper in self._keepers.values():
            if keeper.view.state is State.STARTING:
                keeper.wake()

    def _ahead(self, name: str, order: int) -> list[str]:
        """Workloads with a lower start order that have not had their chance yet."""
        before = [config.name for config in self._config() if config.start_order < order and config.name != name]
        return sorted(one for one in before if one not in self._keepers or self._keepers[one].view.state not in SETTLED)

    async def _left_behind(self) -> set[str]:
        """Names of workloads that the runtime has something of."""
        with explained("cannot list sandboxes"):
            answer = await self._runtime.cri.ListPodSandbox(cri.ListPodSandboxRequest())
        return {item.labels[desired.WORKLOAD] for item in answer.items if desired.WORKLOAD in item.labels}

    def _sweep(self) -> None:
        """Forget keepers that have done their work, and bring back those that died of a defect of ours."""
        for name, task in list(self._tasks.items()):
            if not task.done():
                continue
            del self._tasks[name]
            if self._keepers[name].done:
                del self._keepers[name]
            elif not task.cancelled() and (error := task.exception()):
                print(f"workload {name}: internal error: {error!r}", flush=True)

    async def _listen(self) -> None:
        """Wake keepers when something happens to a container. Which one is not asked: a look is cheap, and events can be lost.

        The CRI hears of it at the same time and needs a moment to take it in: so there is a second look, and a third.
        """
        request = events.SubscribeRequest(filters=[f'namespace=="{METADATA[0][1]}",topic~="/tasks/(exit|oom)"'])
        while True:
            with contextlib.suppress(BasaltError), explained("no events"):
                async for _ in self._runtime.events.Subscribe(request):
                    for delay_s in LOOKS_AFTER_EVENT_S:
                        asyncio.get_running_loop().call_later(delay_s, self._wake_all)
            await asyncio.sleep(EVENT_RETRY_S)
            self._wake_all()

    def _wake_all(self) -> None:
        for keeper in self._keepers.values():
            keeper.wake()

    def _prepare_cgroup(self) -> None:
        """The cgroup of all workloads: whatever they do together, the node's own programs have room."""
        group = self._node.cgroup_workloads
        group.mkdir(mode=0o755, exist_ok=True)
        memory = int((self._node.proc / "meminfo").read_text(encoding="ascii").split()[1]) * 1024
        threads = int((self._node.proc / "sys/kernel/threads-max").read_text(encoding="ascii"))
        for file, value in (
            ("cgroup.subtree_control", CONTROLLERS),
            ("memory.max", str(max(memory - MEMORY_LEFT_BYTES, memory // 2))),
            ("pids.max", str(max(threads - PIDS_LEFT, threads // 2))),
        ):
            (group / file).write_text(value, encoding="ascii")

    async def _rotate_logs(self) -> None:
        for keeper in self._keepers.values():
            for container in keeper.view.containers:
                if container.state == "running" and await asyncio.to_thread(
                    logs.rotate, self.logs(keeper.name, container.name), container.run
                ):
                    with contextlib.suppress(BasaltError), explained("cannot reopen a log"):
                        await self._runtime.cri.ReopenContainerLog(
                            cri.ReopenContainerLogRequest(container_id=container.id)
                        )

    async def stop_all(self) -> None:
        """Stop every container, each with its grace, and start none again: the node goes down."""
        self._stopping = True
        await self.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_ALL_S):
                await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()), return_exceptions=True)

    async def close(self) -> None:
        """Let go of everything and leave it running: a machined that starts again finds it."""
        for task in (*self._tasks.values(), *((self._listener,) if self._listener else ())):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _status(view: WorkloadView) -> Status:
    match view.state:
        case State.RUNNING | State.FINISHED:
            return CONVERGED
        case State.FAILED | State.BACK_OFF:
            return failed(view.reason, view.remedy or f"osctl workload get {view.name}")
    return waiting(view.reason or "it starts", view.remedy)
