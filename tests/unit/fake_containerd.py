"""A fake of containerd 1.7 on a unix socket, for what machined asks of it. It runs nothing.

Sandboxes, containers and images are kept in dictionaries and told as containerd's CRI tells them; every call is taken down. A test ends
containers, refuses or holds up calls, and has the whole of it go away and come back on the same socket with all that it had.

The other parts: :mod:`tests.unit.fake_containerd_images` (images, archives), :mod:`tests.unit.fake_containerd_tasks` (processes).
"""

# ruff: noqa: N802 - the methods have the contract's names
from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from machined.wire import (
    containers_pb2_grpc,
    content_pb2_grpc,
    cri_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    images_pb2_grpc,
    streaming_pb2_grpc,
    tasks_pb2_grpc,
    transfer_pb2_grpc,
)
from machined.wire import cri_pb2 as cri
from tests.unit.fake_containerd_images import (
    Archives,
    ContentService,
    CriImages,
    ImagesService,
    ImageTable,
    StreamingService,
    TransferService,
)
from tests.unit.fake_containerd_tasks import ContainersService, Execs, TasksService

if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor  # generic in its stubs alone

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")
STOPPED = 143  # 128 + SIGTERM
START_FAILED = 128  # containerd's errorStartExitCode


@dataclass
class FakeSandbox:
    """A sandbox and the request that it was made by."""

    shown: cri.PodSandbox
    request: cri.RunPodSandboxRequest


@dataclass
class FakeContainer:
    """A container and what it was made from."""

    sandbox: str
    config: cri.ContainerConfig
    status: cri.ContainerStatus
    pid: int = 0

    @property
    def runs(self) -> bool:
        return self.status.state == cri.CONTAINER_RUNNING


class FakeContainerd:
    """See the module."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.containers: dict[str, FakeContainer] = {}
        self.images = ImageTable()
        self.archives = Archives()
        self.execs = Execs()
        self.calls: list[tuple[str, Any]] = []
        self.subscribers: list[asyncio.Queue[events_pb2.Envelope]] = []
        self.unstartable: dict[str, str] = {}  # names of containers, and why they cannot be started
        self.stop_code = STOPPED  # what a container ends with that is told to
        self.check: Callable[[cri.ExecSyncRequest], cri.ExecSyncResponse] = lambda _: cri.ExecSyncResponse()
        self._numbers = itertools.count(1)
        self._refusals: dict[str, tuple[grpc.StatusCode, str]] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._gone = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    # --- coming and going

    async def start(self) -> None:
        """Listen."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        server = grpc.aio.server(interceptors=(_Taker(self),))
        cri_pb2_grpc.add_RuntimeServiceServicer_to_server(RuntimeService(self), server)
        cri_pb2_grpc.add_ImageServiceServicer_to_server(CriImages(self), server)
        images_pb2_grpc.add_ImagesServicer_to_server(ImagesService(self), server)
        content_pb2_grpc.add_ContentServicer_to_server(ContentService(self), server)
        events_pb2_grpc.add_EventsServicer_to_server(EventsService(self), server)
        containers_pb2_grpc.add_ContainersServicer_to_server(ContainersService(self), server)
        tasks_pb2_grpc.add_TasksServicer_to_server(TasksService(self), server)
        transfer_pb2_grpc.add_TransferServicer_to_server(TransferService(self), server)
        streaming_pb2_grpc.add_StreamingServicer_to_server(StreamingService(self), server)
        self._gone.clear()
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Go away; what it has, stays."""
        if self._server:
            self._gone.set()
            await asyncio.sleep(0.005)
            await self._server.stop(None)
            self._server = None

    # --- faults

    def refuse(self, method: str, words: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        """Answer every call of *method* with an error from now on; see :meth:`allow`."""
        self._refusals[method] = (code, words)

    def allow(self, method: str) -> None:
        """No longer refuse it."""
        self._refusals.pop(method, None)

    def hold(self, method: str) -> None:
        """Answer no call of *method* until :meth:`let_go`."""
        self._held[method] = asyncio.Event()

    def let_go(self, method: str) -> None:
        """Answer what was held up."""
        self._held.pop(method).set()

    async def unless_gone(self, work: Coroutine[Any, Any, T], context: Context) -> T:
        """The outcome of *work*; the caller of one that is under way when containerd goes sees a connection that ends."""
        answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        finally:
            answer.cancel()
            gone.cancel()

    async def met(self, method: str, request: Message, context: Context) -> None:
        """A call has come."""
        self.calls.append((method, request))
        if method in self._held:
            await self._held[method].wait()
        if method in self._refusals:
            await context.abort(*self._refusals[method])

    def asked(self, method: str) -> list[Any]:
        """The requests of all calls of a method."""
        return [request for name, request in self.calls if name == method]

    # --- what tests look at and do

    def named(self, name: str) -> FakeContainer:
        """The latest container of a name such as ``web/nginx``."""
        found = [one for one in self.containers.values() if self._name(one) == name]
        return max(found, key=lambda one: one.config.metadata.attempt)

    def attempt(self, name: str) -> int:
        """The attempt of the latest container of a name; -1 while there is none."""
        return max(
            (one.config.metadata.attempt for one in self.containers.values() if self._name(one) == name), default=-1
        )

    def running(self) -> dict[str, str]:
        """Ids of the containers that run, by names such as ``web/nginx``."""
        return {self._name(one): id_ for id_, one in self.containers.items() if one.runs}

    def _name(self, container: FakeContainer) -> str:
        return f"{self.sandboxes[container.sandbox].shown.metadata.name}/{container.config.metadata.name}"

    def end(self, name: str, exit_code: int = 0, reason: str = "") -> None:
        """Have the container *name*, which runs, end by itself."""
        container = self.named(name)
        assert container.runs, name
        self._exit(container, exit_code, reason or ("Error" if exit_code else "Completed"))

    def lose(self, workload: str) -> None:
        """Have a sandbox end with all that is in it, as when its shim is killed."""
        (sandbox,) = [one for one in self.sandboxes.values() if one.shown.metadata.name == workload]
        sandbox.shown.state = cri.SANDBOX_NOTREADY
        for container in self.containers.values():
            if container.sandbox == sandbox.shown.id and container.runs:
                self._exit(container, 255, "Unknown")

    def announce(self, topic: str) -> None:
        """Tell whoever listens to events."""
        for subscriber in self.subscribers:
            subscriber.put_nowait(events_pb2.Envelope(namespace="k8s.io", topic=topic))

    # --- what it does

    def number(self) -> int:
        return next(self._numbers)

    def stop_container(self, container: FakeContainer) -> None:
        """It runs no longer, whatever its state was."""
        if container.runs:
            self._exit(container, self.stop_code, "Error" if self.stop_code else "Completed")

    def _exit(self, container: FakeContainer, exit_code: int, reason: str) -> None:
        status = container.status
        status.state, status.exit_code, status.reason = cri.CONTAINER_EXITED, exit_code, reason
        status.finished_at, container.pid = time.time_ns(), 0
        self.announce("/tasks/exit")


class _Taker(_Interceptor):
    """Takes calls down, holds them up and refuses them."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._fake = fake

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not handler.unary_unary:
            return handler
        service, _, method = details.method.rpartition("/")
        if not service.startswith("/runtime.v1."):
            method = f"{service.rpartition('.')[2]}.{method}"

        async def done(request: Message, context: Context) -> Any:
            await self._fake.met(method, request, context)
            return await handler.unary_unary(request, context)

        async def answer(request: Message, context: Context) -> Any:
            return await self._fake.unless_gone(done(request, context), context)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


class EventsService(events_pb2_grpc.EventsServicer):
    """containerd's events."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._fake = fake

    async def Subscribe(
        self, request: events_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[events_pb2.Envelope]:
        self._fake.calls.append(("Events.Subscribe", request))
        mine: asyncio.Queue[events_pb2.Envelope] = asyncio.Queue()
        self._fake.subscribers.append(mine)
        try:
            while True:
                yield await mine.get()
        finally:
            self._fake.subscribers.remove(mine)


def _has(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


async def missing(context: Context, what: str) -> NoReturn:
    """The answer to a call about something that is not there."""
    await context.abort(grpc.StatusCode.NOT_FOUND, f"{what}: not found")


class RuntimeService(cri_pb2_grpc.RuntimeServiceServicer):
    """The CRI's sandboxes and containers."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._fake = fake

    async def Version(self, request: cri.VersionRequest, context: Context) -> cri.VersionResponse:
        return cri.VersionResponse(
            version="0.1.0", runtime_name="containerd", runtime_version="1.7", runtime_api_version="v1"
        )

    async def Status(self, request: cri.StatusRequest, context: Context) -> cri.StatusResponse:
        return cri.StatusResponse()

    async def RunPodSandbox(self, request: cri.RunPodSandboxRequest, context: Context) -> cri.RunPodSandboxResponse:
        config = request.config
        if any(one.shown.metadata == config.metadata for one in self._fake.sandboxes.values()):
            await context.abort(grpc.StatusCode.UNKNOWN, f'failed to reserve sandbox name "{config.metadata.name}"')
        number = self._fake.number()
        shown = cri.PodSandbox(
            id=f"sandbox-{number}",
            metadata=config.metadata,
            state=cri.SANDBOX_READY,
            created_at=time.time_ns(),
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=request.runtime_handler,
        )
        self._fake.sandboxes[shown.id] = FakeSandbox(shown, request)
        return cri.RunPodSandboxResponse(pod_sandbox_id=shown.id)

    async def StopPodSandbox(self, request: cri.StopPodSandboxRequest, context: Context) -> cri.StopPodSandboxResponse:
        for container in self._fake.containers.values():
            if container.sandbox == request.pod_sandbox_id:
                self._fake.stop_container(container)
        if request.pod_sandbox_id in self._fake.sandboxes:
            self._fake.sandboxes[request.pod_sandbox_id].shown.state = cri.SANDBOX_NOTREADY
        return cri.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: cri.RemovePodSandboxRequest, context: Context
    ) -> cri.RemovePodSandboxResponse:
        for id_, container in list(self._fake.containers.items()):
            if container.sandbox == request.pod_sandbox_id:
                del self._fake.containers[id_]
        self._fake.sandboxes.pop(request.pod_sandbox_id, None)
        return cri.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: cri.PodSandboxStatusRequest, context: Context
    ) -> cri.PodSandboxStatusResponse:
        if request.pod_sandbox_id not in self._fake.sandboxes:
            await missing(context, f'sandbox "{request.pod_sandbox_id}"')
        shown = self._fake.sandboxes[request.pod_sandbox_id].shown
        host = shown.runtime_handler in ("runc", "crun")
        network = cri.PodSandboxNetworkStatus(ip="" if host else "127.0.0.1")
        return cri.PodSandboxStatusResponse(
            status=cri.PodSandboxStatus(id=shown.id, metadata=shown.metadata, state=shown.state, network=network)
        )

    async def ListPodSandbox(self, request: cri.ListPodSandboxRequest, context: Context) -> cri.ListPodSandboxResponse:
        shown = [one.shown for one in self._fake.sandboxes.values()]
        return cri.ListPodSandboxResponse(
            items=[one for one in shown if _has(one.labels, request.filter.label_selector)]
        )

    async def CreateContainer(
        self, request: cri.CreateContainerRequest, context: Context
    ) -> cri.CreateContainerResponse:
        config = request.config
        sandbox = self._fake.sandboxes.get(request.pod_sandbox_id)
        if sandbox is None or sandbox.shown.state != cri.SANDBOX_READY:
            await missing(context, f'sandbox "{request.pod_sandbox_id}"')
        if any(
            one.sandbox == request.pod_sandbox_id and one.config.metadata == config.metadata
            for one in self._fake.containers.values()
        ):
            await context.abort(grpc.StatusCode.UNKNOWN, f'failed to reserve container name "{config.metadata.name}"')
        image = self._fake.images.find(config.image.image)
        if image is None:
            await missing(context, f'image "{config.image.image}"')
        id_ = f"container-{self._fake.number()}"
        status = cri.ContainerStatus(
            id=id_,
            metadata=config.metadata,
            state=cri.CONTAINER_CREATED,
            created_at=time.time_ns(),
            image=config.image,
            image_ref=image.id,
        )
        self._fake.containers[id_] = FakeContainer(request.pod_sandbox_id, config, status)
        return cri.CreateContainerResponse(container_id=id_)

    async def StartContainer(self, request: cri.StartContainerRequest, context: Context) -> cri.StartContainerResponse:
        container = await self._container(request.container_id, context)
        status = container.status
        if why := self._fake.unstartable.get(container.config.metadata.name):
            status.state, status.exit_code, status.reason = cri.CONTAINER_EXITED, START_FAILED, "StartError"
            status.finished_at, status.message = time.time_ns(), why
            await context.abort(grpc.StatusCode.UNKNOWN, why)
        self._open_log(container)
        status.state, status.started_at = cri.CONTAINER_RUNNING, time.time_ns()
        container.pid = 1000 + self._fake.number()
        return cri.StartContainerResponse()

    async def StopContainer(self, request: cri.StopContainerRequest, context: Context) -> cri.StopContainerResponse:
        self._fake.stop_container(await self._container(request.container_id, context))
        return cri.StopContainerResponse()

    async def RemoveContainer(
        self, request: cri.RemoveContainerRequest, context: Context
    ) -> cri.RemoveContainerResponse:
        if request.container_id in self._fake.containers:
            self._fake.stop_container(self._fake.containers.pop(request.container_id))
        return cri.RemoveContainerResponse()

    async def ListContainers(self, request: cri.ListContainersRequest, context: Context) -> cri.ListContainersResponse:
        wanted = request.filter.pod_sandbox_id
        return cri.ListContainersResponse(
            containers=[
                cri.Container(
                    id=id_,
                    pod_sandbox_id=one.sandbox,
                    metadata=one.config.metadata,
                    image=one.config.image,
                    image_ref=one.status.image_ref,
                    state=one.status.state,
                    created_at=one.status.created_at,
                    labels=one.config.labels,
                    annotations=one.config.annotations,
                )
                for id_, one in self._fake.containers.items()
                if wanted in ("", one.sandbox) and _has(one.config.labels, request.filter.label_selector)
            ]
        )

    async def ContainerStatus(
        self, request: cri.ContainerStatusRequest, context: Context
    ) -> cri.ContainerStatusResponse:
        container = await self._container(request.container_id, context)
        info = {"info": json.dumps({"pid": container.pid, "sandboxID": container.sandbox})} if request.verbose else {}
        return cri.ContainerStatusResponse(status=container.status, info=info)

    async def ReopenContainerLog(
        self, request: cri.ReopenContainerLogRequest, context: Context
    ) -> cri.ReopenContainerLogResponse:
        await self._container(request.container_id, context)
        return cri.ReopenContainerLogResponse()

    async def ExecSync(self, request: cri.ExecSyncRequest, context: Context) -> cri.ExecSyncResponse:
        await self._container(request.container_id, context)
        return self._fake.check(request)

    async def ListContainerStats(
        self, request: cri.ListContainerStatsRequest, context: Context
    ) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse(
            stats=[
                cri.ContainerStats(
                    attributes=cri.ContainerAttributes(id=id_, metadata=one.config.metadata, labels=one.config.labels),
                    cpu=cri.CpuUsage(
                        timestamp=7_500_000_000, usage_core_nano_seconds=cri.UInt64Value(value=1_500_000_000)
                    ),
                    memory=cri.MemoryUsage(working_set_bytes=cri.UInt64Value(value=4096)),
                    writable_layer=cri.FilesystemUsage(used_bytes=cri.UInt64Value(value=512)),
                )
                for id_, one in self._fake.containers.items()
                if one.runs
            ]
        )

    def _open_log(self, container: FakeContainer) -> None:
        directory = self._fake.sandboxes[container.sandbox].request.config.log_directory
        if directory and container.config.log_path:
            (Path(directory) / container.config.log_path).touch()

    async def _container(self, id_: str, context: Context) -> FakeContainer:
        if id_ not in self._fake.containers:
            await missing(context, f'container "{id_}"')
        return self._fake.containers[id_]
