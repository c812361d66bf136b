"""The calls about images, workloads and containers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import grpc

from basalt.client.calling import Caller
from basalt.client.target import Target
from basalt.machine.v1 import containers_pb2 as api
from basalt.machine.v1 import containers_pb2_grpc as stubs

# Of an archive in one message; a node takes messages of 4 MiB.
CHUNK_BYTES_MAX = 1024 * 1024


class ContainerCalls(Caller):
    """What a node does with images, workloads and containers, call by call."""

    def __init__(self, target: Target, channel: grpc.Channel, timeout_s: float) -> None:
        super().__init__(target, channel, timeout_s)
        self._images = stubs.ImageServiceStub(channel)
        self._workloads = stubs.WorkloadServiceStub(channel)
        self._containers = stubs.ContainerServiceStub(channel)

    def pull_image(self, reference: str) -> Iterator[api.PullImageResponse]:
        """Have the node fetch an image: how far it is, and at the end its digest."""
        request = api.PullImageRequest(reference=reference)
        return self._stream("ImageService/PullImage", self._images.PullImage, request)

    def import_image(self, chunks: Iterator[bytes], *, reference: str = "") -> api.ImportImageResponse:
        """Give the node the images of an archive, as it takes them; *chunks* are asked for on another thread.

        :param chunks: of an OCI or Docker archive, of any size. An error that they raise ends the call and is raised here.
        :param reference: what to call an image that the archive does not name.
        """
        requests = itertools.chain(
            [api.ImportImageRequest(reference=reference)],
            (api.ImportImageRequest(chunk=part) for chunk in chunks for part in _parts(chunk)),
        )
        return self._upload("ImageService/ImportImage", self._images.ImportImage, requests)

    def export_image(self, references: Sequence[str]) -> Iterator[bytes]:
        """The images as one OCI archive, in pieces."""
        request = api.ExportImageRequest(references=references)
        for response in self._stream("ImageService/ExportImage", self._images.ExportImage, request):
            yield response.chunk

    def images(self) -> api.ListImagesResponse:
        return self._call("ImageService/ListImages", self._images.ListImages, api.ListImagesRequest())

    def remove_image(self, references: Sequence[str], *, force: bool = False) -> api.RemoveImageResponse:
        """Remove images; with *force* also those that a container uses."""
        request = api.RemoveImageRequest(references=references, force=force)
        return self._call("ImageService/RemoveImage", self._images.RemoveImage, request)

    def prune_images(self, *, dry_run: bool = False) -> api.PruneImagesResponse:
        """Remove the images that nothing names or uses, or with *dry_run* say which they are."""
        request = api.PruneImagesRequest(dry_run=dry_run)
        return self._call("ImageService/PruneImages", self._images.PruneImages, request)

    def workloads(self, names: Sequence[str] = ()) -> api.ListWorkloadsResponse:
        """How these workloads are, or all of them."""
        request = api.ListWorkloadsRequest(names=names)
        return self._call("WorkloadService/ListWorkloads", self._workloads.ListWorkloads, request)

    def workload_logs(
        self,
        workload: str,
        *,
        container: str = "",
        follow: bool = False,
        tail_lines: int = 0,
        since_unix: float = 0.0,
        previous: bool = False,
    ) -> Iterator[api.WorkloadLogLine]:
        """What a container has written, line by line; 0 *tail_lines* is everything kept.

        :param container: may be empty where the workload has one.
        :param previous: of the container before the present one.
        """
        request = api.WorkloadLogsRequest(
            workload=workload,
            container=container,
            follow=follow,
            tail_lines=tail_lines,
            since_unix=since_unix,
            previous=previous,
        )
        for response in self._stream("WorkloadService/WorkloadLogs", self._workloads.WorkloadLogs, request):
            yield from response.lines

    def workload_events(
        self, workloads: Sequence[str] = (), *, follow: bool = False, tail: int = 0
    ) -> Iterator[api.WorkloadEvent]:
        """What happened to these workloads, or to all, the oldest first; 0 *tail* is everything kept."""
        request = api.WorkloadEventsRequest(follow=follow, workloads=workloads, tail_events=tail)
        for response in self._stream("WorkloadService/WorkloadEvents", self._workloads.WorkloadEvents, request):
            yield from response.events

    def restart_workload(self, workload: str, *, container: str = "") -> None:
        """Have a workload's containers, or one of them, stopped and started anew."""
        request = api.RestartWorkloadRequest(workload=workload, container=container)
        self._call("WorkloadService/RestartWorkload", self._workloads.RestartWorkload, request)

    def workload_exec(
        self,
        workload: str,
        command: Sequence[str],
        *,
        container: str = "",
        terminal: bool = False,
        env: Sequence[str] = (),
        size: api.TerminalSize | None = None,
        further: Iterable[api.WorkloadExecRequest] = (),
    ) -> Iterator[api.WorkloadExecResponse]:
        """Run a command in a container: its output as it comes, and at the end its exit code.

        :param env: more variables, each ``NAME=value``.
        :param size: of the terminal, where it has one.
        :param further: its input and the terminal's new sizes, asked for on another thread. When they are at their end nothing
            more is sent, and the command goes on.
        """
        first = api.WorkloadExecRequest(
            workload=workload, container=container, command=command, terminal=terminal, env=env, size=size
        )
        requests = itertools.chain([first], further)
        return self._converse("WorkloadService/WorkloadExec", self._workloads.WorkloadExec, requests)

    def workload_usage(self, workloads: Sequence[str] = ()) -> api.WorkloadUsageResponse:
        """What the containers of these workloads, or of all, use at this moment."""
        request = api.WorkloadUsageRequest(workloads=workloads)
        return self._call("WorkloadService/WorkloadUsage", self._workloads.WorkloadUsage, request)

    def containers(self) -> api.ListContainersResponse:
        """What the container runtime holds, whoever had it made."""
        request = api.ListContainersRequest()
        return self._call("ContainerService/ListContainers", self._containers.ListContainers, request)


def _parts(chunk: bytes) -> Iterator[bytes]:
    """*chunk* in pieces that fit a message."""
    for start in range(0, len(chunk), CHUNK_BYTES_MAX):
        yield chunk[start : start + CHUNK_BYTES_MAX]
