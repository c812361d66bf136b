"""WorkloadService: what the configuration has the node run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from basalt.config.documents import WorkloadConfig
from basalt.config.values import size_bytes
from basalt.errors import BasaltError, UsageError
from basalt.machine.v1 import containers_pb2 as pb
from basalt.machine.v1 import containers_pb2_grpc as stubs
from machined.api.auditing import note
from machined.api.callers import refuse
from machined.api.images import containers_of
from machined.runtime.client import explained
from machined.runtime.exec import Process, started
from machined.wire import cri_pb2 as cri
from machined.workloads import desired, logs
from machined.workloads.history import Event
from machined.workloads.view import ContainerView, WorkloadView

if TYPE_CHECKING:
    from machined.containers import Containers
    from machined.node import Node

Context = grpc.aio.ServicerContext[Any, Any]
LINES_PER_MESSAGE = 500
FOLLOW_POLL_S = 0.5


class WorkloadApi(stubs.WorkloadServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ListWorkloads(  # noqa: N802 - the contract's name
        self, request: pb.ListWorkloadsRequest, context: Context
    ) -> pb.ListWorkloadsResponse:
        """How workloads stand."""
        containers = await containers_of(self._node, context)
        known = {view.name: view for view in containers.workloads.views}
        for config in self._node.configuration.current.workloads:
            known.setdefault(config.name, WorkloadView(config.name, reason="it has not been looked at yet"))
        wanted = list(request.names) or sorted(known)
        for name in wanted:
            if name not in known:
                await _unknown(context, name, known)
        digests: dict[str, str] = {}
        with contextlib.suppress(BasaltError):  # containerd may be away: how workloads stand is told all the same
            digests = {image.id: image.digest for image in await containers.images.all()}
        return pb.ListWorkloadsResponse(
            workloads=[_workload(known[name], containers.workloads.config_of(name), digests) for name in wanted]
        )

    async def WorkloadLogs(  # noqa: N802
        self, request: pb.WorkloadLogsRequest, context: Context
    ) -> AsyncIterator[pb.WorkloadLogsResponse]:
        """What a container wrote."""
        containers = await containers_of(self._node, context)
        view, container = await self._find(containers, request.workload, request.container, context)
        directory = containers.workloads.logs(view.name, container.name)
        runs = logs.runs_of(directory)
        chosen = runs[:-1][-1:] if request.previous else runs[-1:]
        try:
            place = (chosen[-1] if chosen else 0, (0, 0))
            for run in chosen:
                lines, end = await asyncio.to_thread(_kept, directory, run, request.tail_lines, request.since_unix)
                place = (run, end)
                for at in range(0, len(lines), LINES_PER_MESSAGE):
                    yield _lines(lines[at : at + LINES_PER_MESSAGE])
            if request.follow and not request.previous:
                async for batch in _follow(directory, *place):
                    yield _lines(batch)
        except OSError as error:
            await refuse(context, error)

    async def WorkloadEvents(  # noqa: N802
        self, request: pb.WorkloadEventsRequest, context: Context
    ) -> AsyncIterator[pb.WorkloadEventsResponse]:
        """What happened."""
        history = (await containers_of(self._node, context)).workloads.history
        names = frozenset(request.workloads)
        last = history.last
        kept = history.events(names)
        if shown := kept[-request.tail_events :] if request.tail_events else kept:
            yield _events(shown)
        if request.follow:
            async for batch in history.follow(names, last):
                yield _events(batch)

    async def RestartWorkload(  # noqa: N802
        self, request: pb.RestartWorkloadRequest, context: Context
    ) -> pb.RestartWorkloadResponse:
        """Replace containers by new ones."""
        containers = await containers_of(self._node, context)
        view = await self._workload(containers, request.workload, context)
        names = [container.name for container in view.containers]
        if request.container:
            _, container = await self._find(containers, request.workload, request.container, context)
            names = [container.name]
        note(f"{view.name}: {', '.join(names)}")
        containers.workloads.restart(view.name, names)
        return pb.RestartWorkloadResponse()

    async def WorkloadExec(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.WorkloadExecRequest], context: Context
    ) -> AsyncIterator[pb.WorkloadExecResponse]:
        """Run a command in a container."""
        containers = await containers_of(self._node, context)
        first = await anext(request_iterator, pb.WorkloadExecRequest())
        note(f"{first.workload}/{first.container}: {' '.join(first.command)}"[:1000])
        view, container = await self._find(containers, first.workload, first.container, context)
        scratch = self._node.paths.run / "exec"
        try:
            if not first.command:
                raise UsageError("no command was given", remedy=f"osctl workload exec {view.name} -- COMMAND")
            if container.state != "running":
                raise BasaltError(
                    f"{view.name}/{container.name} does not run",
                    why=container.words(time.monotonic()) or container.state,
                    remedy=f"osctl workload get {view.name}",
                )
            async with started(
                containers.runtime, container.id, scratch, first.command, terminal=first.terminal, env=first.env
            ) as process:
                async for response in _converse(process, first, request_iterator):
                    yield response
        except (BasaltError, OSError) as error:
            await refuse(context, error)

    async def WorkloadUsage(  # noqa: N802
        self, request: pb.WorkloadUsageRequest, context: Context
    ) -> pb.WorkloadUsageResponse:
        """What containers use."""
        containers = await containers_of(self._node, context)
        try:
            with explained("cannot ask what containers use"):
                answer = await containers.runtime.cri.ListContainerStats(cri.ListContainerStatsRequest())
        except (BasaltError, OSError) as error:
            await refuse(context, error)
        wanted = frozenset(request.workloads)
        return pb.WorkloadUsageResponse(
            containers=[
                self._usage(stats, containers)
                for stats in answer.stats
                if (workload := stats.attributes.labels.get(desired.WORKLOAD, ""))
                and (not wanted or workload in wanted)
            ],
            processors=os.cpu_count() or 1,
        )

    def _usage(self, stats: cri.ContainerStats, containers: Containers) -> pb.ContainerUsage:
        workload, name = stats.attributes.labels[desired.WORKLOAD], stats.attributes.metadata.name
        config = containers.workloads.config_of(workload)
        limits = [one.resources.memory for one in config.containers if one.name == name] if config else []
        group = self._node.paths.cgroup_workloads / workload / stats.attributes.id
        try:
            pids = int((group / "pids.current").read_text(encoding="ascii"))
        except (OSError, ValueError):
            pids = 0
        return pb.ContainerUsage(
            workload=workload,
            container=name,
            cpu_s=stats.cpu.usage_core_nano_seconds.value / 1e9,
            memory_bytes=stats.memory.working_set_bytes.value,
            memory_limit_bytes=size_bytes(limits[0]) if limits and limits[0] else 0,
            pids=pids,
            written_bytes=stats.writable_layer.used_bytes.value,
            sampled_unix=stats.cpu.timestamp / 1e9,
        )

    async def _workload(self, containers: Containers, name: str, context: Context) -> WorkloadView:
        known = {view.name: view for view in containers.workloads.views}
        if name not in known:
            await _unknown(context, name, known)
        return known[name]

    async def _find(
        self, containers: Containers, workload: str, name: str, context: Context
    ) -> tuple[WorkloadView, ContainerView]:
        view = await self._workload(containers, workload, context)
        found = [container for container in view.containers if name in ("", container.name)]
        if len(found) != 1:
            names = ", ".join(f"{workload}/{container.name}" for container in view.containers) or "none yet"
            words = f"{workload} has no container {name}" if name else f"{workload} has several containers"
            await context.abort(
                grpc.StatusCode.NOT_FOUND if name else grpc.StatusCode.INVALID_ARGUMENT,
                f"{words}\nits containers: {names}",
            )
        return view, found[0]


async def _unknown(context: Context, name: str, known: Iterable[str]) -> NoReturn:
    names = ", ".join(sorted(known)) or "none is configured"
    await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no workload {name}\nworkloads: {names}")


async def _converse(
    process: Process, first: pb.WorkloadExecRequest, requests: AsyncIterator[pb.WorkloadExecRequest]
) -> AsyncIterator[pb.WorkloadExecResponse]:
    async def feed() -> None:
        await _take(process, first)
        async for request in requests:
            await _take(process, request)

    feeding = asyncio.ensure_future(feed())
    ended = asyncio.ensure_future(process.wait())
    try:
        async for output in process.output(ended):
            yield (
                pb.WorkloadExecResponse(error=output.data)
                if output.error
                else pb.WorkloadExecResponse(output=output.data)
            )
        yield pb.WorkloadExecResponse(ended=True, exit_code=await ended)
    finally:
        for task in (feeding, ended):
            task.cancel()
        await asyncio.gather(feeding, ended, return_exceptions=True)


async def _take(process: Process, request: pb.WorkloadExecRequest) -> None:
    if request.HasField("size"):
        await process.resize(request.size.rows, request.size.columns)
    if request.input:
        await process.write(request.input)
    if request.end_of_input:
        await process.close_input()


def _kept(directory: Path, run: int, tail: int, since: float) -> tuple[list[logs.Line], tuple[int, int]]:
    """The lines that a run has left, and where its current file was then: its inode, and the offset behind the last whole line."""
    lines, inode, offset = [], 0, 0
    for path in logs.files_of(directory, run):
        inode, offset = _identity(path)[0], 0
        for line, end in logs.read(path):
            offset = end
            if line.time_unix >= since:
                lines.append(line)
    return lines[-tail:] if tail else lines, (inode, offset)


async def _follow(directory: Path, run: int, place: tuple[int, int]) -> AsyncIterator[list[logs.Line]]:
    """What comes, also over restarts and rotation, from a *place* in run number *run* on."""
    path, (inode, offset) = directory / f"{run}.log", place
    while True:
        lines = []
        with contextlib.suppress(FileNotFoundError):
            present = _identity(path)[0]
            if inode and present != inode:
                # Renamed, for it had grown too large; containerd writes to it until it has taken up the new one.
                for line, end in logs.read(directory / f"{run}.log.1", offset):
                    lines.append(line)
                    offset = end
            if present and present != inode:
                inode, offset = present, 0
            if present:
                for line, end in logs.read(path, offset):
                    lines.append(line)
                    offset = end
        if lines:
            yield lines
        elif (latest := (logs.runs_of(directory) or [run])[-1]) != run:
            run, path = latest, directory / f"{latest}.log"
            inode, offset = _identity(path)[0], 0
            continue
        await asyncio.sleep(FOLLOW_POLL_S)


def _identity(path: Path) -> tuple[int, int]:
    try:
        seen = path.stat()
    except FileNotFoundError:
        return 0, 0
    return seen.st_ino, seen.st_size


def _lines(lines: Iterable[logs.Line]) -> pb.WorkloadLogsResponse:
    return pb.WorkloadLogsResponse(
        lines=[
            pb.WorkloadLogLine(time_unix=line.time_unix, error=line.error, text=line.text, partial=line.partial)
            for line in lines
        ]
    )


def _events(events: Iterable[Event]) -> pb.WorkloadEventsResponse:
    return pb.WorkloadEventsResponse(
        events=[
            pb.WorkloadEvent(
                sequence=event.sequence,
                time_unix=event.time_unix,
                workload=event.workload,
                container=event.container,
                kind=event.kind,
                text=event.text,
            )
            for event in events
        ]
    )


def _workload(view: WorkloadView, config: WorkloadConfig | None, digests: Mapping[str, str]) -> pb.Workload:
    return pb.Workload(
        name=view.name,
        state=pb.WorkloadState.ValueType(view.state.value),
        reason=view.reason,
        remedy=view.remedy,
        since_unix=int(view.since_unix),
        containers=[_container(container, digests) for container in view.containers],
        address=view.address,
        published=[
            f"{port.address or '*'}:{port.host or port.container}->{port.container}/{port.protocol}"
            for port in (config.network.ports if config else ())
        ],
        start_order=config.start_order if config else 0,
        network=config.network.mode if config else "",
        runtime=config.runtime if config else "",
    )


def _container(view: ContainerView, digests: Mapping[str, str]) -> pb.WorkloadContainer:
    return pb.WorkloadContainer(
        name=view.name,
        image=view.image,
        image_digest=digests.get(view.image_id, ""),
        state=view.state,
        detail=view.words(time.monotonic()),
        id=view.id,
        restarts=view.restarts,
        started_unix=view.started_unix,
        finished_unix=view.finished_unix,
        exit_code=view.exit_code,
        exit_reason=view.exit_reason,
        health=view.health,
        pid=view.pid,
    )
