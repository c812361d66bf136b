"""The API's three services of containers, over gRPC, on a node whose containerd is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from basalt.config.documents.workload import PublishedPort, Resources, WorkloadNetwork
from basalt.machine.v1 import containers_pb2 as pb
from basalt.machine.v1 import containers_pb2_grpc as stubs
from machined.api import workloads as api
from machined.api.containers import ContainerApi
from machined.api.images import ImageApi
from machined.api.workloads import WorkloadApi
from machined.gateway import relay
from machined.wire import content_pb2 as content
from machined.wire import cri_pb2 as cri
from machined.workloads import decide
from machined.workloads.view import State
from tests.unit import fake_containerd_world
from tests.unit.fake_containerd_images import Brought, digest_of, id_of
from tests.unit.fake_containerd_world import HOST, IMAGE, World, one, workload

OTHER = "docker.io/library/other:1"
CALLER = ((relay.IDENTITY, b"ada"),)
STAMP = "2023-11-14T22:13:{:02}Z"
MOMENT = 1_700_000_000 - 20


class Desk:
    """A caller of the API."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fake = world.fake
        self.socket = world.node.run / "api.sock"
        self.images: Any
        self.workloads: Any
        self.containers: Any
        self._server = grpc.aio.server()
        self._channel: grpc.aio.Channel
        self.node: Any = SimpleNamespace(
            paths=world.node,
            containers=None,
            configuration=SimpleNamespace(current=SimpleNamespace(workloads=world.configs)),
        )

    async def open(self) -> None:
        self.world.begin()
        self.node.containers = self.world.containers
        stubs.add_ImageServiceServicer_to_server(ImageApi(self.node), self._server)
        stubs.add_WorkloadServiceServicer_to_server(WorkloadApi(self.node), self._server)
        stubs.add_ContainerServiceServicer_to_server(ContainerApi(self.node), self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"unix:{self.socket}")
        self.images = stubs.ImageServiceStub(self._channel)
        self.workloads = stubs.WorkloadServiceStub(self._channel)
        self.containers = stubs.ContainerServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close(None)
        await self._server.stop(None)

    def runs(self, *configs: Any) -> None:
        self.world.runs(*configs)
        self.node.configuration.current.workloads = self.world.configs

    def log(self, name: str, run: int, *lines: str, stream: str = "stdout") -> None:
        """Have a container's log hold these lines, the seconds in front of each."""
        workload_, _, container = name.partition("/")
        directory = self.world.containers.workloads.logs(workload_, container)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{run}.log").open("a") as file:
            for line in lines:
                second, _, text = line.partition(" ")
                file.write(f"{STAMP.format(int(second))} {stream} F {text}\n")

    async def logs(self, name: str = "web", container: str = "", **fields: Any) -> list[str]:
        request = pb.WorkloadLogsRequest(workload=name, container=container, **fields)
        answers = self.workloads.WorkloadLogs(request, metadata=CALLER)
        return [line.text.decode() async for answer in answers for line in answer.lines]


Scenario = Callable[[Desk], Awaitable[None]]


def play(root: Path, scenario: Scenario) -> None:
    async def at_desk(world: World) -> None:
        desk = Desk(world)
        await desk.open()
        try:
            await scenario(desk)
        finally:
            await desk.close()

    fake_containerd_world.play(root, at_desk)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the words of a call that fails, whether it answers once or many times."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return raised.value.code(), raised.value.details() or ""


async def sent(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


class TestImages:
    def test_a_pull_tells_how_far_it_is_and_then_the_digest_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            digest = digest_of("other")
            desk.fake.images.registry[OTHER] = digest
            desk.fake.images.downloads["a"] = content.Status(ref="a", offset=7, total=10)
            desk.fake.hold("PullImage")
            call = desk.images.PullImage(pb.PullImageRequest(reference="other:1"), metadata=CALLER)
            answers = aiter(call)
            first = await anext(answers)
            assert (first.fetched_bytes, first.total_bytes, first.digest) == (7, 10, "")
            desk.fake.let_go("PullImage")
            *_, last = [answer async for answer in answers]
            assert (last.digest, last.reference) == (digest, OTHER)

        play(tmp_path, scenario)

    def test_refusals_say_why_and_what_to_do_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            code, words = await refused(desk.images.PullImage(pb.PullImageRequest(reference=OTHER), metadata=CALLER))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert words.startswith(f"cannot pull {OTHER}: ") and words.endswith("\nlook at the image's name and tag")
            call = desk.images.PullImage(pb.PullImageRequest(reference="UPPER"), metadata=CALLER)
            code, words = await refused(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT and "is no image" in words
            code, words = await refused(desk.images.ExportImage(pb.ExportImageRequest(), metadata=CALLER))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            code, words = await refused(
                desk.images.RemoveImage(pb.RemoveImageRequest(references=["no"]), metadata=CALLER)
            )
            assert code is grpc.StatusCode.FAILED_PRECONDITION and words == "there is no image no\nosctl image list"
            await desk.fake.stop()
            code, words = await refused(desk.images.ListImages(pb.ListImagesRequest(), metadata=CALLER))
            assert code is grpc.StatusCode.FAILED_PRECONDITION and "containerd does not answer" in words

        play(tmp_path, scenario)

    def test_archives_come_and_go_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.fake.archives.brings = [Brought(digest_of("other"), tag="1")]
            data = bytes(300_000)
            chunks = [pb.ImportImageRequest(chunk=data[at : at + 99_999]) for at in range(0, len(data), 99_999)]
            chunks[0].reference = "other:1"
            answer = await desk.images.ImportImage(sent(chunks), metadata=CALLER)
            (image,) = answer.images
            assert (list(image.references), image.digest) == ([OTHER], digest_of("other"))
            assert desk.fake.archives.taken == data
            chunks[0].reference = ""
            code, words = await refused(desk.images.ImportImage(sent(chunks), metadata=CALLER))
            assert code is grpc.StatusCode.FAILED_PRECONDITION and "does not name its image" in words
            desk.fake.archives.given = data
            call = desk.images.ExportImage(pb.ExportImageRequest(references=["other:1"]), metadata=CALLER)
            assert b"".join([answer.chunk async for answer in call]) == data

        play(tmp_path, scenario)

    def test_a_list_says_who_uses_what_and_prune_leaves_what_is_configured_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(desk: Desk) -> None:
            by_digest = f"docker.io/library/pinned@{digest_of('pinned')}"
            desk.fake.images.put(by_digest, digest_of("pinned"))
            desk.fake.images.put("docker.io/library/pinned:1", digest_of("pinned"))
            desk.fake.images.put(OTHER)
            desk.runs(workload(), workload("batch", one(image=by_digest), restart="never"))
            await desk.world.until_runs("web", "batch")
            desk.fake.end("batch/main")
            await desk.world.until(lambda: desk.world.is_(State.FINISHED, "batch"))
            answer = await desk.images.ListImages(pb.ListImagesRequest(), metadata=CALLER)
            used = {image.references[0]: list(image.used_by) for image in answer.images}
            assert used == {IMAGE: ["web/main"], OTHER: [], "docker.io/library/pinned:1": ["batch/main"]}
            del desk.fake.containers[desk.world.container("batch/main").id]
            pruned = await desk.images.PruneImages(pb.PruneImagesRequest(dry_run=True), metadata=CALLER)
            assert [list(image.references) for image in pruned.removed] == [[OTHER]]
            assert pruned.freed_bytes == pruned.removed[0].size_bytes > 0 and OTHER in desk.fake.images.names
            await desk.images.PruneImages(pb.PruneImagesRequest(), metadata=CALLER)
            assert OTHER not in desk.fake.images.names and by_digest in desk.fake.images.names
            code, words = await refused(
                desk.images.RemoveImage(pb.RemoveImageRequest(references=[IMAGE]), metadata=CALLER)
            )
            assert code is grpc.StatusCode.FAILED_PRECONDITION and "in use: by web/main" in words
            request = pb.RemoveImageRequest(references=[IMAGE], force=True)
            assert list((await desk.images.RemoveImage(request, metadata=CALLER)).removed) == [IMAGE]

        play(tmp_path, scenario)


class TestWorkloads:
    def test_how_they_stand_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            ports = (
                PublishedPort(container=80, host=8080),
                PublishedPort(container=53, protocol="udp", address="192.0.2.1"),
            )
            web = workload("web", one(), network=WorkloadNetwork(ports=ports), start_order=7, runtime="crun")
            desk.runs(web, workload("batch", restart="never"))
            await desk.world.until_runs("web", "batch")
            desk.fake.end("batch/main", 3)
            await desk.world.until(lambda: desk.world.is_(State.FAILED, "batch"))
            answer = await desk.workloads.ListWorkloads(pb.ListWorkloadsRequest(), metadata=CALLER)
            batch, shown = answer.workloads
            assert (batch.name, batch.state, batch.reason) == ("batch", pb.WORKLOAD_STATE_FAILED, "main: exit 3")
            assert (batch.network, batch.address, list(batch.published)) == ("host", "", [])
            assert (shown.state, shown.address, shown.start_order) == (pb.WORKLOAD_STATE_RUNNING, "127.0.0.1", 7)
            assert (shown.network, shown.runtime) == ("bridge", "crun")
            assert list(shown.published) == ["*:8080->80/tcp", "192.0.2.1:53->53/udp"]
            (container,) = shown.containers
            assert (container.name, container.image, container.state) == ("main", IMAGE, "running")
            assert (container.id, container.pid) == (desk.world.container().id, desk.world.container().pid)
            assert (batch.containers[0].exit_code, batch.containers[0].detail) == (3, "exit 3")
            only = await desk.workloads.ListWorkloads(pb.ListWorkloadsRequest(names=["web"]), metadata=CALLER)
            assert [one.name for one in only.workloads] == ["web"]
            code, words = await refused(
                desk.workloads.ListWorkloads(pb.ListWorkloadsRequest(names=["no"]), metadata=CALLER)
            )
            assert (code, words) == (grpc.StatusCode.NOT_FOUND, "there is no workload no\nworkloads: batch, web")

        play(tmp_path, scenario)

    def test_one_that_was_not_looked_at_yet_is_there_all_the_same_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.world.ready = False
            desk.runs(workload())
            answer = await desk.workloads.ListWorkloads(pb.ListWorkloadsRequest(), metadata=CALLER)
            (shown,) = answer.workloads
            assert (shown.state, shown.reason) == (pb.WORKLOAD_STATE_STARTING, "it has not been looked at yet")

        play(tmp_path, scenario)

    def test_a_restart_is_of_one_container_or_of_all_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.runs(workload("web", one(), one("side")))
            await desk.world.until_runs("web")
            before = desk.fake.running()
            await desk.workloads.RestartWorkload(
                pb.RestartWorkloadRequest(workload="web", container="side"), metadata=CALLER
            )
            await desk.world.until(lambda: desk.fake.running().get("web/side") not in (None, before["web/side"]))
            await desk.world.until_runs("web")
            assert desk.fake.running()["web/main"] == before["web/main"]
            before = desk.fake.running()
            await desk.workloads.RestartWorkload(pb.RestartWorkloadRequest(workload="web"), metadata=CALLER)
            await desk.world.until(lambda: not set(before.values()) & set(desk.fake.containers))
            await desk.world.until_runs("web")
            request = pb.RestartWorkloadRequest(workload="web", container="no")
            code, words = await refused(desk.workloads.RestartWorkload(request, metadata=CALLER))
            assert code is grpc.StatusCode.NOT_FOUND
            assert words == "web has no container no\nits containers: web/main, web/side"

        play(tmp_path, scenario)

    def test_what_happened_and_what_happens_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                desk.world.patch.setattr(decide, name, 300.0)
            desk.runs(workload(), workload("db"))
            await desk.world.until_runs("web", "db")
            request = pb.WorkloadEventsRequest(workloads=["web"], follow=True)
            call = desk.workloads.WorkloadEvents(request, metadata=CALLER)
            (started,) = (await call.read()).events
            assert (started.workload, started.container, started.kind) == ("web", "main", "started")
            desk.fake.end("db/main", 1)
            desk.fake.end("web/main", 3)
            (ended,) = (await asyncio.wait_for(call.read(), 5)).events
            assert (ended.workload, ended.kind, ended.text) == ("web", "exited", "exit 3")
            call.cancel()
            await desk.world.until(lambda: "exited" in desk.world.kinds("db"))
            request = pb.WorkloadEventsRequest(tail_events=1)
            answers = [one async for one in desk.workloads.WorkloadEvents(request, metadata=CALLER)]
            assert [len(answer.events) for answer in answers] == [1]

        play(tmp_path, scenario)

    def test_what_containers_use_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.runs(workload("web", one(resources=Resources(memory="64MiB"))), workload("db"))
            await desk.world.until_runs("web", "db")
            group = desk.world.node.cgroup_workloads / "web" / desk.world.container().id
            group.mkdir(parents=True)
            (group / "pids.current").write_text("3\n")
            answer = await desk.workloads.WorkloadUsage(pb.WorkloadUsageRequest(), metadata=CALLER)
            found = {usage.workload: usage for usage in answer.containers}
            assert answer.processors >= 1 and set(found) == {"web", "db"}
            web = found["web"]
            assert (web.container, web.cpu_s, web.memory_bytes, web.pids) == ("main", 1.5, 4096, 3)
            assert (web.memory_limit_bytes, web.written_bytes, web.sampled_unix) == (64 << 20, 512, 7.5)
            assert (found["db"].memory_limit_bytes, found["db"].pids) == (0, 0)
            answer = await desk.workloads.WorkloadUsage(pb.WorkloadUsageRequest(workloads=["db"]), metadata=CALLER)
            assert [usage.workload for usage in answer.containers] == ["db"]

        play(tmp_path, scenario)

    def test_nobody_is_answered_who_did_not_come_by_the_gateway_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            code, _ = await refused(desk.workloads.ListWorkloads(pb.ListWorkloadsRequest()))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            desk.node.containers = None
            code, words = await refused(desk.containers.ListContainers(pb.ListContainersRequest(), metadata=CALLER))
            assert code is grpc.StatusCode.FAILED_PRECONDITION and "still starting" in words

        play(tmp_path, scenario)


class TestLogs:
    def test_what_is_kept_of_the_present_container_and_of_the_one_before_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(desk: Desk) -> None:
            desk.runs(workload())
            await desk.world.until_runs("web")
            assert await desk.logs() == []
            desk.log("web/main", 1, "1 one", "2 two", "3 three")
            assert await desk.logs() == ["one", "two", "three"]
            assert await desk.logs(tail_lines=2) == ["two", "three"]
            assert await desk.logs(since_unix=MOMENT + 2) == ["two", "three"]
            assert await desk.logs(previous=True) == []
            desk.log("web/main", 2, "4 four")
            assert await desk.logs() == ["four"]
            assert await desk.logs(previous=True) == ["one", "two", "three"]
            assert await desk.logs(previous=True, follow=True) == ["one", "two", "three"]  # nothing will come of it

        play(tmp_path, scenario)

    def test_which_container_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.runs(workload("web", one(), one("side")))
            await desk.world.until_runs("web")
            desk.log("web/side", 1, "1 of the side", stream="stderr")
            assert await desk.logs(container="side") == ["of the side"]
            code, words = await refused(
                desk.workloads.WorkloadLogs(pb.WorkloadLogsRequest(workload="web"), metadata=CALLER)
            )
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert words == "web has several containers\nits containers: web/main, web/side"
            code, _ = await refused(desk.workloads.WorkloadLogs(pb.WorkloadLogsRequest(workload="no"), metadata=CALLER))
            assert code is grpc.StatusCode.NOT_FOUND

        play(tmp_path, scenario)

    def test_a_follower_sees_what_comes_over_rotation_and_restarts_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(desk: Desk) -> None:
            desk.world.patch.setattr(api, "FOLLOW_POLL_S", 0.005)
            desk.runs(workload())
            await desk.world.until_runs("web")
            desk.log("web/main", 1, "1 one")
            request = pb.WorkloadLogsRequest(workload="web", follow=True)
            call = desk.workloads.WorkloadLogs(request, metadata=CALLER)
            seen: list[str] = []

            async def read() -> None:
                async for answer in call:
                    seen.extend(line.text.decode() for line in answer.lines)

            task = asyncio.create_task(read())
            await desk.world.until(lambda: seen == ["one"])
            await asyncio.sleep(0.05)
            desk.log("web/main", 1, "2 two")
            await desk.world.until(lambda: seen[1:] == ["two"])
            directory = desk.world.containers.workloads.logs("web", "main")
            with (directory / "1.log").open("a") as file:
                file.write(f"{STAMP.format(3)} stdout F thr")  # half a line
                file.flush()
                await asyncio.sleep(0.02)
                file.write("ee\n")
            await desk.world.until(lambda: seen[2:] == ["three"])
            desk.log("web/main", 1, "4 four")
            (directory / "1.log").rename(directory / "1.log.1")
            desk.log("web/main", 1, "5 five")
            await desk.world.until(lambda: seen[3:] == ["four", "five"])
            desk.log("web/main", 2, "6 six")
            await desk.world.until(lambda: seen[5:] == ["six"])
            call.cancel()
            await asyncio.gather(task, return_exceptions=True)

        play(tmp_path, scenario)

    def test_nothing_is_lost_between_what_was_kept_and_what_comes_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.world.patch.setattr(api, "FOLLOW_POLL_S", 0.005)
            desk.runs(workload())
            await desk.world.until_runs("web")
            desk.log("web/main", 1, "1 one")

            class Context:
                def invocation_metadata(self) -> Any:
                    return CALLER

            context: Any = Context()
            answers = WorkloadApi(desk.node).WorkloadLogs(pb.WorkloadLogsRequest(workload="web", follow=True), context)
            assert [line.text for line in (await anext(answers)).lines] == [b"one"]
            desk.log("web/main", 1, "2 two")  # while the first ones are on their way
            answer = asyncio.ensure_future(anext(answers))
            await asyncio.sleep(0.05)
            desk.log("web/main", 1, "3 three")
            assert [line.text for line in (await asyncio.wait_for(answer, 5)).lines] == [b"two"]

        play(tmp_path, scenario)

    def test_nothing_is_lost_while_containerd_still_writes_to_the_renamed_file_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(desk: Desk) -> None:
            desk.world.patch.setattr(api, "FOLLOW_POLL_S", 0.005)
            desk.runs(workload())
            await desk.world.until_runs("web")
            desk.log("web/main", 1, "1 one")
            call = desk.workloads.WorkloadLogs(pb.WorkloadLogsRequest(workload="web", follow=True), metadata=CALLER)
            assert [line.text for line in (await call.read()).lines] == [b"one"]
            directory = desk.world.containers.workloads.logs("web", "main")
            (directory / "1.log").rename(directory / "1.log.1")
            await asyncio.sleep(0.05)
            with (directory / "1.log.1").open("a") as file:
                file.write(f"{STAMP.format(2)} stdout F two\n")
            await asyncio.sleep(0.05)
            desk.log("web/main", 1, "3 three")
            assert [line.text for line in (await asyncio.wait_for(call.read(), 5)).lines] == [b"two"]

        play(tmp_path, scenario)


class TestExec:
    async def run(self, desk: Desk, *requests: pb.WorkloadExecRequest) -> tuple[bytes, bytes, int]:
        out, err, code = b"", b"", -1
        async for answer in desk.workloads.WorkloadExec(sent(requests), metadata=CALLER):
            out, err = out + answer.output, err + answer.error
            code = answer.exit_code if answer.ended else code
        return out, err, code

    def test_a_command_with_its_input_output_and_end_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.runs(workload())
            await desk.world.until_runs("web")
            first = pb.WorkloadExecRequest(
                workload="web", command=["sh", "-c", "cat; echo $WHO >&2; exit 3"], env=["WHO=ada"], input=b"one\n"
            )
            end = pb.WorkloadExecRequest(input=b"two\n", end_of_input=True)
            assert await self.run(desk, first, end) == (b"one\ntwo\n", b"ada\n", 3)
            size = pb.TerminalSize(rows=24, columns=80)
            first = pb.WorkloadExecRequest(workload="web", command=["true"], terminal=True, size=size)
            assert await self.run(desk, first) == (b"", b"", 0)
            (resize,) = desk.fake.asked("Tasks.ResizePty")
            assert (resize.height, resize.width) == (24, 80)
            await desk.world.until(lambda: not desk.fake.execs.known)
            assert not list((desk.world.node.run / "exec").iterdir())

        play(tmp_path, scenario)

    def test_one_whose_caller_goes_away_is_killed_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.runs(workload())
            await desk.world.until_runs("web")

            async def requests() -> AsyncIterator[pb.WorkloadExecRequest]:
                yield pb.WorkloadExecRequest(workload="web", command=["sh", "-c", "echo up; exec sleep 1000"])
                await asyncio.Event().wait()

            call = desk.workloads.WorkloadExec(requests(), metadata=CALLER)
            assert (await call.read()).output == b"up\n"
            call.cancel()
            await desk.world.until(lambda: not desk.fake.execs.known)
            assert len(desk.fake.asked("Tasks.Kill")) == 1
            await desk.world.until(lambda: not list((desk.world.node.run / "exec").iterdir()))

        play(tmp_path, scenario)

    def test_refusals_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(desk: Desk) -> None:
            desk.runs(workload("web", restart="never"))
            await desk.world.until_runs("web")

            async def words(**fields: Any) -> tuple[grpc.StatusCode, str]:
                request = pb.WorkloadExecRequest(workload="web", **fields)
                return await refused(desk.workloads.WorkloadExec(sent([request]), metadata=CALLER))

            assert await words() == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "no command was given\nosctl workload exec web -- COMMAND",
            )
            code, said = await words(command=["/no/such"])
            assert code is grpc.StatusCode.FAILED_PRECONDITION and "No such file" in said
            assert (await words(container="no", command=["true"]))[0] is grpc.StatusCode.NOT_FOUND
            desk.fake.end("web/main", 7)
            await desk.world.until(lambda: desk.world.is_(State.FAILED))
            code, said = await words(command=["true"])
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert said == "web/main does not run: exit 7\nosctl workload get web"

        play(tmp_path, scenario)


def test_all_containers_whoever_had_them_made_against_fake_containerd(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.runs(workload("web", one(), network=HOST, runtime="crun"))
        await desk.world.until_runs("web")
        runtime = desk.world.containers.runtime.cri
        pod = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="dns", uid="7", namespace="kube-system"))
        sandbox = (await runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=pod))).pod_sandbox_id
        config = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="coredns"), image=cri.ImageSpec(image=IMAGE))
        await runtime.CreateContainer(cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=config))
        answer = await desk.containers.ListContainers(pb.ListContainersRequest(), metadata=CALLER)
        ours, theirs = answer.containers
        assert (ours.name, ours.pod, ours.workload, ours.state) == ("main", "basalt/web", "web", "running")
        assert (ours.runtime, ours.image) == ("crun", IMAGE) and ours.created_unix > 1_600_000_000
        assert (theirs.name, theirs.pod, theirs.workload, theirs.state) == ("coredns", "kube-system/dns", "", "created")
        assert theirs.runtime == "runc"

    play(tmp_path, scenario)


def test_the_digest_of_what_runs_is_the_one_that_the_list_of_images_has_against_fake_containerd(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:

    async def scenario(desk: Desk) -> None:
        desk.runs(workload())
        await desk.world.until_runs("web")
        desk.fake.announce("/tasks/exit")
        await desk.world.until(lambda: desk.world.container().image_id)
        (shown,) = (await desk.workloads.ListWorkloads(pb.ListWorkloadsRequest(), metadata=CALLER)).workloads
        assert shown.containers[0].image_digest != id_of(digest_of(IMAGE))
        assert shown.containers[0].image_digest == digest_of(IMAGE)

    play(tmp_path, scenario)
