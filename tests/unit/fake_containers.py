"""The part of the fake node that has images, workloads and containers: what it is asked, and answers that tests can set."""

# ruff: noqa: N802 - the methods have the contract's names
from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from basalt.machine.v1 import containers_pb2 as api
from basalt.machine.v1 import containers_pb2_grpc as stubs

DIGEST = "sha256:" + "d1" * 32
STARTED = 1_700_000_000


def an_image(name: str, *, used_by: tuple[str, ...] = (), tagged: bool = True) -> api.Image:
    """An image of this name."""
    repository = f"registry.example.org/{name}"
    return api.Image(
        references=[f"{repository}@{DIGEST}", *([f"{repository}:1"] if tagged else [])],
        id="sha256:" + "1d" * 32,
        digest=DIGEST,
        size_bytes=3 << 20,
        used_by=used_by,
    )


def some_workloads() -> list[api.Workload]:
    """One that runs, and one that does not."""
    return [
        api.Workload(
            name="web",
            state=api.WORKLOAD_STATE_RUNNING,
            since_unix=STARTED,
            address="10.88.0.4",
            published=["0.0.0.0:8080->80/tcp"],
            network="bridge",
            runtime="runc",
            containers=[
                api.WorkloadContainer(
                    name="nginx",
                    image="registry.example.org/nginx:1",
                    image_digest=DIGEST,
                    state="running",
                    id="c0" * 32,
                    restarts=1,
                    started_unix=STARTED,
                    finished_unix=STARTED - 10,
                    exit_code=137,
                    exit_reason="out of memory at 512 MiB",
                    health="healthy",
                    pid=812,
                ),
                api.WorkloadContainer(name="sidecar", image="registry.example.org/s:1", state="running"),
            ],
        ),
        api.Workload(
            name="batch",
            state=api.WORKLOAD_STATE_BACK_OFF,
            since_unix=STARTED,
            reason="main ended with 1",
            remedy="see `osctl workload logs batch`",
            network="none",
            containers=[
                api.WorkloadContainer(name="main", image="registry.example.org/b:1", state="exited", restarts=4)
            ],
        ),
    ]


class FakeContainers(stubs.ImageServiceServicer, stubs.WorkloadServiceServicer, stubs.ContainerServiceServicer):
    """The three services.

    :param refuse: called at the beginning of every call; ends it where the whole node refuses.
    """

    def __init__(self, refuse: Callable[[grpc.ServicerContext], None]) -> None:
        self._refuse = refuse
        self.images = [an_image("nginx", used_by=("web/nginx",)), an_image("old", tagged=False)]
        self.workloads = some_workloads()
        self.pull_ends_early = False
        self.imported = b""
        self.imported_as = ""
        self.chunks: list[int] = []  # the sizes that an import came in
        self.refuse_import_after = 0  # messages, the first included
        self.exported: list[bytes] = [b"one", b"two"]
        self.export_fails = False
        self.export_stays = False  # until its caller has gone
        self.removed_with_force = False
        self.restarted: list[tuple[str, str]] = []
        self.asked: api.WorkloadLogsRequest | api.WorkloadEventsRequest | None = None
        self.log_lines = [
            api.WorkloadLogLine(time_unix=STARTED + 0.25, text=b"to out"),
            api.WorkloadLogLine(time_unix=STARTED + 0.5, text=b"to error", error=True),
            api.WorkloadLogLine(time_unix=STARTED + 0.75, text=b"a long ", partial=True),
            api.WorkloadLogLine(time_unix=STARTED + 1, text=b"line"),
        ]
        self.usage_s = [10.0, 10.5]  # processor time at each look, of a container that is there at both
        self.looks = 0
        self.first_exec: api.WorkloadExecRequest | None = None
        self.exec_ended = threading.Event()

    def add_to(self, server: grpc.Server) -> None:
        """Serve them there."""
        stubs.add_ImageServiceServicer_to_server(self, server)
        stubs.add_WorkloadServiceServicer_to_server(self, server)
        stubs.add_ContainerServiceServicer_to_server(self, server)

    def PullImage(
        self, request: api.PullImageRequest, context: grpc.ServicerContext
    ) -> Iterator[api.PullImageResponse]:
        self._refuse(context)
        if "missing" in request.reference:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"{request.reference}: not found\ncheck the name and the tag"
            )
        yield api.PullImageResponse(fetched_bytes=0)
        yield api.PullImageResponse(fetched_bytes=1 << 20, total_bytes=3 << 20)
        if not self.pull_ends_early:
            yield api.PullImageResponse(fetched_bytes=3 << 20, total_bytes=3 << 20)
            yield api.PullImageResponse(digest=DIGEST, reference=request.reference)

    def ImportImage(
        self, requests: Iterator[api.ImportImageRequest], context: grpc.ServicerContext
    ) -> api.ImportImageResponse:
        self._refuse(context)
        self.imported_as = next(requests).reference
        received = []
        for number, request in enumerate(requests, 2):
            received.append(request.chunk)
            self.chunks.append(len(request.chunk))
            if number == self.refuse_import_after:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "DATA is full\n`osctl image prune` makes room")
        archive = b"".join(received)
        try:
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:*") as tar:
                names = [member.name.removeprefix("./") for member in tar if member.isfile()]
        except (tarfile.TarError, EOFError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the archive is not whole: {error}")
        if "index.json" not in names:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the archive has no index.json")
        self.imported = archive
        return api.ImportImageResponse(images=[an_image("imported")])

    def ExportImage(
        self, request: api.ExportImageRequest, context: grpc.ServicerContext
    ) -> Iterator[api.ExportImageResponse]:
        self._refuse(context)
        for reference in request.references:
            self._image(reference, context)
        for chunk in self.exported:
            yield api.ExportImageResponse(chunk=chunk)
        while self.export_stays and context.is_active():
            time.sleep(0.02)
        if self.export_fails:
            context.abort(grpc.StatusCode.INTERNAL, "a layer cannot be read")

    def _image(self, reference: str, context: grpc.ServicerContext) -> api.Image:
        for image in self.images:
            if reference in (*image.references, image.id, image.digest):
                return image
        context.abort(grpc.StatusCode.NOT_FOUND, f"there is no image {reference!r}")
        raise AssertionError

    def ListImages(self, request: api.ListImagesRequest, context: grpc.ServicerContext) -> api.ListImagesResponse:
        self._refuse(context)
        return api.ListImagesResponse(images=self.images)

    def RemoveImage(self, request: api.RemoveImageRequest, context: grpc.ServicerContext) -> api.RemoveImageResponse:
        self._refuse(context)
        for reference in request.references:
            image = self._image(reference, context)
            if image.used_by and not request.force:
                users = ", ".join(image.used_by)
                context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION, f"{reference} is used by {users}\n--force removes it"
                )
        self.removed_with_force = request.force
        return api.RemoveImageResponse(removed=request.references)

    def PruneImages(self, request: api.PruneImagesRequest, context: grpc.ServicerContext) -> api.PruneImagesResponse:
        self._refuse(context)
        unused = [image for image in self.images if not image.used_by]
        if not request.dry_run:
            self.images = [image for image in self.images if image.used_by]
        return api.PruneImagesResponse(removed=unused, freed_bytes=sum(image.size_bytes for image in unused))

    def ListWorkloads(
        self, request: api.ListWorkloadsRequest, context: grpc.ServicerContext
    ) -> api.ListWorkloadsResponse:
        self._refuse(context)
        for name in request.names:
            self._workload(name, context)
        return api.ListWorkloadsResponse(
            workloads=[one for one in self.workloads if not request.names or one.name in request.names]
        )

    def _workload(self, name: str, context: grpc.ServicerContext) -> api.Workload:
        for workload in self.workloads:
            if workload.name == name:
                return workload
        context.abort(grpc.StatusCode.NOT_FOUND, f"there is no workload {name!r}")
        raise AssertionError

    def WorkloadLogs(
        self, request: api.WorkloadLogsRequest, context: grpc.ServicerContext
    ) -> Iterator[api.WorkloadLogsResponse]:
        self._refuse(context)
        workload = self._workload(request.workload, context)
        if not request.container and len(workload.containers) > 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "it has several containers: nginx, sidecar")
        self.asked = request
        yield api.WorkloadLogsResponse(lines=self.log_lines[:2])
        yield api.WorkloadLogsResponse(lines=self.log_lines[2:])

    def WorkloadEvents(
        self, request: api.WorkloadEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[api.WorkloadEventsResponse]:
        self._refuse(context)
        self.asked = request
        events = [
            api.WorkloadEvent(
                sequence=1, time_unix=STARTED, workload="web", container="nginx", kind="started", text="pid 812"
            ),
            api.WorkloadEvent(sequence=2, time_unix=STARTED, workload="batch", kind="back-off", text="20 s"),
        ]
        yield api.WorkloadEventsResponse(
            events=[one for one in events if not request.workloads or one.workload in request.workloads]
        )

    def RestartWorkload(
        self, request: api.RestartWorkloadRequest, context: grpc.ServicerContext
    ) -> api.RestartWorkloadResponse:
        self._refuse(context)
        self._workload(request.workload, context)
        self.restarted.append((request.workload, request.container))
        return api.RestartWorkloadResponse()

    def WorkloadExec(
        self, requests: Iterator[api.WorkloadExecRequest], context: grpc.ServicerContext
    ) -> Iterator[api.WorkloadExecResponse]:
        """Knows few commands: exit, both, cat, sizes, keys, cut, fail."""
        self._refuse(context)
        self.first_exec = first = next(requests)
        self._workload(first.workload, context)
        context.add_callback(self.exec_ended.set)
        code = 0
        match list(first.command):
            case ["exit", text]:
                code = int(text)
            case ["both"]:
                yield api.WorkloadExecResponse(output=b"out\n", error=b"error\n")
            case ["cat"]:
                for request in requests:
                    if request.input:
                        yield api.WorkloadExecResponse(output=request.input)
                    if request.end_of_input:
                        break
            case ["sizes", text]:
                yield api.WorkloadExecResponse(output=f"{first.size.columns}x{first.size.rows}\r\n".encode())
                sizes = (one for one in requests if one.HasField("size"))
                for _, request in zip(range(int(text)), sizes, strict=False):
                    yield api.WorkloadExecResponse(output=f"{request.size.columns}x{request.size.rows}\r\n".encode())
            case ["keys"]:
                yield api.WorkloadExecResponse(output=b"ready\r\n")
                keys = b""
                while not keys.endswith(b"q"):
                    keys += next(requests).input
                yield api.WorkloadExecResponse(output=repr(keys).encode())
            case ["cut"]:
                yield api.WorkloadExecResponse(output=b"some\n")
                return
            case ["fail"]:
                yield api.WorkloadExecResponse(output=b"some\n")
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the container ended")
            case ["wait"]:
                yield api.WorkloadExecResponse(output=b"waiting\n")
                for _ in requests:
                    pass
        yield api.WorkloadExecResponse(ended=True, exit_code=code)

    def WorkloadUsage(
        self, request: api.WorkloadUsageRequest, context: grpc.ServicerContext
    ) -> api.WorkloadUsageResponse:
        self._refuse(context)
        look, self.looks = self.looks, self.looks + 1
        usage = [
            api.ContainerUsage(
                workload="web",
                container="nginx",
                cpu_s=self.usage_s[look % 2],
                memory_bytes=45 << 20,
                memory_limit_bytes=512 << 20,
                pids=3,
                written_bytes=4096,
                sampled_unix=STARTED + look,
            )
        ]
        if look % 2:
            usage.append(api.ContainerUsage(workload="web", container="sidecar", cpu_s=0.1, pids=1))
        return api.WorkloadUsageResponse(containers=usage, processors=2)

    def ListContainers(
        self, request: api.ListContainersRequest, context: grpc.ServicerContext
    ) -> api.ListContainersResponse:
        self._refuse(context)
        return api.ListContainersResponse(
            containers=[
                api.ContainerInfo(
                    id="c0" * 32,
                    name="nginx",
                    image="registry.example.org/nginx:1",
                    state="running",
                    pod="basalt/web",
                    workload="web",
                    created_unix=STARTED,
                ),
                api.ContainerInfo(
                    id="c1" * 32, name="dns", image=f"dns@{DIGEST}", state="exited", pod="kube-system/dns"
                ),
                api.ContainerInfo(id="made-by-hand", name="", image="", state="unknown"),
            ]
        )
