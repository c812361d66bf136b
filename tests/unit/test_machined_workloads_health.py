"""Health checks: what each kind counts as well, when failures count, and what follows for the container."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from msgspec import structs

from basalt.config.documents.workload import HealthCheck, HttpCheck, TcpCheck
from machined.runtime.client import Runtime
from machined.wire import cri_pb2 as cri
from machined.workloads import decide
from machined.workloads.health import HEALTHY, STARTING, UNHEALTHY, Monitor
from machined.workloads.view import State
from tests.unit.fake_containerd_world import World, one, play, workload

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def often(check: HealthCheck, **fields: Any) -> HealthCheck:
    """The same check in short: a document's numbers are whole seconds."""
    return structs.replace(check, **{"interval_s": 0.005, "timeout_s": 5, "grace_s": 0, "failures": 1, **fields})


def saying(text: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        writer.close()

    return answer


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[int]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def a_free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def verdict(check: HealthCheck, tmp_path: Path) -> tuple[str, str]:
    """What a monitor says first of what listens on the loopback interface."""
    said, runtime = asyncio.Event(), Runtime(tmp_path / "nobody")
    monitor = Monitor(runtime, "c", check, "127.0.0.1", said.set)
    task = asyncio.create_task(monitor.run())
    try:
        await asyncio.wait_for(said.wait(), 5)
    finally:
        task.cancel()
        await runtime.close()
    return monitor.state, monitor.reason


class TestHttp:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (HEALTHY, "")),
            (b"HTTP/1.0 204\r\n\r\n", (HEALTHY, "")),
            (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", (HEALTHY, "")),
            (b"HTTP/1.1 399 x\r\n\r\n", (HEALTHY, "")),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", (UNHEALTHY, "GET /well?a=b: status 400")),
            (b"HTTP/1.1 503 x\r\n\r\n", (UNHEALTHY, "GET /well?a=b: status 503")),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", (UNHEALTHY, "GET /well?a=b: status 101")),
            (b"SSH-2.0-OpenSSH_9.2\r\n", (UNHEALTHY, "port @ does not speak HTTP")),
            (b"HTTP/1.1\r\n", (UNHEALTHY, "port @ does not speak HTTP")),
            (b"HTTP/1.1 \xb2\xb3 OK\r\n", (UNHEALTHY, "port @ does not speak HTTP")),
            (b"", (UNHEALTHY, "port @ does not speak HTTP")),
        ],
    )
    def test_the_status_decides(self, text: bytes, expected: tuple[str, str], tmp_path: Path) -> None:
        async def body() -> None:
            async with listening(saying(text)) as port:
                state, reason = await verdict(often(HealthCheck(http=HttpCheck(port=port, path="/well?a=b"))), tmp_path)
                assert (state, reason.replace(str(port), "@")) == expected

        asyncio.run(body())

    def test_a_line_without_an_end_is_not_read_for_ever(self, tmp_path: Path) -> None:
        async def body() -> None:
            async with listening(saying(b"HTTP/1.1 200 " + b"x" * 100_000)) as port:
                state, reason = await verdict(often(HealthCheck(http=HttpCheck(port=port))), tmp_path)
                assert state == UNHEALTHY and reason.startswith(f"port {port}: ")

        asyncio.run(body())

    def test_what_is_asked(self, tmp_path: Path) -> None:
        asked = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        async def body() -> None:
            async with listening(answer) as port:
                await verdict(often(HealthCheck(http=HttpCheck(port=port, path="/healthz"))), tmp_path)
                assert asked[0].startswith("GET /healthz HTTP/1.1\r\n")
                assert f"\r\nHost: 127.0.0.1:{port}\r\n" in asked[0] and "\r\nConnection: close\r\n" in asked[0]

        asyncio.run(body())

    def test_one_that_does_not_answer_in_time_is_not_well(self, tmp_path: Path) -> None:
        async def body() -> None:
            async with listening(silent) as port:
                check = often(HealthCheck(http=HttpCheck(port=port)), timeout_s=0.05)
                assert await verdict(check, tmp_path) == (UNHEALTHY, "no answer within 0.05 s")

        asyncio.run(body())


class TestTcp:
    def test_a_connection_is_enough(self, tmp_path: Path) -> None:
        async def body() -> None:
            async with listening(silent) as port:
                assert await verdict(often(HealthCheck(tcp=TcpCheck(port=port))), tmp_path) == (HEALTHY, "")

        asyncio.run(body())

    @pytest.mark.parametrize("kind", ["tcp", "http"])
    def test_a_port_on_which_nobody_listens(self, kind: str, tmp_path: Path) -> None:
        port = a_free_port()
        check = HealthCheck(tcp=TcpCheck(port=port)) if kind == "tcp" else HealthCheck(http=HttpCheck(port=port))
        state, reason = asyncio.run(verdict(often(check), tmp_path))
        assert state == UNHEALTHY and reason.startswith(f"port {port}: ")


class Checked:
    """A monitor of an exec check whose answers a test gives, one after the other, on a clock of its own."""

    def __init__(self, answers: list[int], **fields: Any) -> None:
        self.states: list[tuple[float, str]] = []
        self._answers = answers
        self._now = 0.0
        check = HealthCheck(exec=("/check",))
        self.check = structs.replace(check, **{"interval_s": 0, "grace_s": 10, "failures": 3, **fields})

    def play(self) -> list[tuple[float, str]]:
        """When it changed to what. A check takes a second."""
        asyncio.run(self._play())
        return self.states

    async def _play(self) -> None:
        done = asyncio.Event()

        class Cri:
            async def ExecSync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:  # noqa: N802
                inner._now += 1
                if not inner._answers:
                    done.set()
                    await asyncio.Event().wait()
                if (code := inner._answers.pop(0)) < 0:
                    raise grpc.aio.AioRpcError(
                        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "away", None
                    )
                return cri.ExecSyncResponse(exit_code=code)

        class Faked:
            cri = Cri()

        inner = self
        runtime: Any = Faked()
        monitor = Monitor(runtime, "c", self.check, "", lambda: self._note(monitor.state), clock=lambda: self._now)
        task = asyncio.create_task(monitor.run())
        await asyncio.wait_for(done.wait(), 5)
        task.cancel()

    def _note(self, state: str) -> None:
        self.states.append((self._now, state))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([0], [(1, HEALTHY)]),
        ([0, 0, 0], [(1, HEALTHY)]),
        ([1, 1, 1, 0], [(4, HEALTHY)]),
        ([1] * 11, []),  # two after the grace
        ([1] * 12, [(12, UNHEALTHY)]),
        ([1] * 11 + [0, 1, 1], [(12, HEALTHY)]),  # in a row is what counts
        ([0, 1, 1, 1], [(1, HEALTHY), (4, UNHEALTHY)]),  # once it was well, it has no grace any longer
        ([0, 1, 1, 0, 1, 1], [(1, HEALTHY)]),
        ([0, 1, 1, 1, 1, 0], [(1, HEALTHY), (4, UNHEALTHY), (6, HEALTHY)]),
        ([0, 1, 1, -1, -1, -1, -1], [(1, HEALTHY)]),  # that containerd is away says nothing of the container
        ([0, 1, 1, -1, 1], [(1, HEALTHY), (5, UNHEALTHY)]),
    ],
)
def test_when_failures_count_against_fake_cri(answers: list[int], expected: list[tuple[float, str]]) -> None:
    assert Checked(answers).play() == expected


def test_without_a_grace_the_first_failures_count_against_fake_cri() -> None:
    assert Checked([1, 1, 0], grace_s=0, failures=2).play() == [(2, UNHEALTHY), (3, HEALTHY)]


EXEC = HealthCheck(exec=("/check", "-x"))


def answers(code: int = 0, stdout: bytes = b"", stderr: bytes = b"") -> Callable[[cri.ExecSyncRequest], Any]:
    return lambda _: cri.ExecSyncResponse(exit_code=code, stdout=stdout, stderr=stderr)


class TestKeeper:
    def test_it_is_starting_until_it_is_well_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.check = answers(1)
            checked = workload("web", one(health=often(EXEC, grace_s=30)), start_order=1)
            world.runs(checked, workload("after", start_order=2))
            await world.until(lambda: world.fake.asked("ExecSync"))
            await world.settled()
            assert world.is_(State.STARTING)
            container = world.container()
            assert (container.state, container.health, container.detail) == ("running", STARTING, "not healthy yet")
            assert world.view("after").reason == "waits for web, which start before it"
            request = world.fake.asked("ExecSync")[0]
            assert (request.container_id, list(request.cmd), request.timeout) == (container.id, ["/check", "-x"], 5)
            world.fake.check = answers()
            await world.until_runs("web", "after")
            assert world.container().health == HEALTHY

        play(tmp_path, scenario)

    def test_one_that_is_unhealthy_is_stopped_and_started_again_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.stop_code = 0  # it ends well when it is told to
            world.runs(workload("web", one(health=often(EXEC)), one("side"), restart="on-failure", stop_grace_s=7))
            await world.until_runs("web")
            before = world.fake.running()
            world.fake.check = answers(1, b"out", b" cat: /tmp/well:\n No such file ")
            await world.until(lambda: "exited" in world.kinds())
            world.fake.check = answers()
            await world.until(lambda: world.fake.running().get("web/main") not in (None, before["web/main"]))
            await world.until_runs("web")
            assert world.events()[2:4] == [
                ("unhealthy", "/check ended with 1: cat: /tmp/well: No such file"),
                ("exited", "stopped: unhealthy: /check ended with 1: cat: /tmp/well: No such file"),
            ]
            assert world.fake.running()["web/side"] == before["web/side"]
            (stop,) = world.fake.asked("StopContainer")
            assert (stop.container_id, stop.timeout) == (before["web/main"], 7)
            container = world.container()
            assert (container.restarts, container.health) == (1, HEALTHY)
            assert container.exit_reason.startswith("stopped: unhealthy")

        play(tmp_path, scenario)

    def test_it_counts_as_a_failure_with_its_pause_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 300.0)
            world.fake.check = answers(1)
            world.runs(workload("web", one(health=often(EXEC))))
            await world.until(lambda: "exited" in world.kinds())
            await world.until(lambda: world.is_(State.BACK_OFF) and world.container().state == "exited")
            assert world.view().reason == "main: stopped: unhealthy: /check ended with 1"

        play(tmp_path, scenario)

    def test_under_the_policy_never_it_is_told_and_left_running_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.check = answers(1)
            world.runs(workload("web", one(health=often(EXEC)), restart="never"))
            await world.until(lambda: world.is_(State.FAILED))
            await world.settled()
            assert world.view().reason == "main: unhealthy: /check ended with 1"
            assert not world.fake.asked("StopContainer")

        play(tmp_path, scenario)

    def test_another_check_replaces_the_check_and_not_the_container_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(health=often(EXEC))))
            await world.until_runs("web")
            before = world.fake.running()
            world.runs(workload("web", one(health=often(HealthCheck(exec=("/other",))))))
            await world.until(lambda: list(world.fake.asked("ExecSync")[-1].cmd) == ["/other"])
            world.runs(workload("web", one()))
            await world.until(lambda: world.container().health == "")
            await asyncio.sleep(0.02)
            seen = len(world.fake.asked("ExecSync"))
            await asyncio.sleep(0.03)
            assert len(world.fake.asked("ExecSync")) == seen  # nobody checks any longer
            assert world.fake.running() == before and world.is_(State.RUNNING)

        play(tmp_path, scenario)

    def test_checks_end_with_what_they_check_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.runs(workload("web", one(health=often(EXEC))))
            await world.until_runs("web")
            world.runs()
            await world.until(lambda: not world.views)
            seen = len(world.fake.asked("ExecSync"))
            await asyncio.sleep(0.03)
            assert len(world.fake.asked("ExecSync")) == seen

        play(tmp_path, scenario)

    def test_two_that_are_unhealthy_are_both_started_again_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.stop_code = 0
            check = often(EXEC)
            world.runs(workload("web", one(health=check), one("side", health=check), restart="on-failure"))
            await world.until_runs("web")
            before = world.fake.running()
            world.fake.check = answers(1)
            await world.until(lambda: world.kinds().count("exited") >= 2)
            world.fake.check = answers()
            await world.settled()
            assert world.is_(State.RUNNING)
            assert set(world.fake.running()) == set(before)

        play(tmp_path, scenario)

    def test_a_command_that_cannot_be_run_is_a_failed_check_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.refuse("ExecSync", 'failed to exec in container: exec: "/check": no such file or directory')
            world.runs(workload("web", one(health=often(EXEC)), restart="never"))
            await world.until(lambda: len(world.fake.asked("ExecSync")) > 10)
            await world.settled()
            assert "/check" in world.container().detail

        play(tmp_path, scenario)

    def test_under_the_policy_never_it_is_told_once_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(world: World) -> None:
            world.fake.check = answers(1)
            world.runs(workload("web", one(health=often(EXEC)), restart="never"))
            await world.until(lambda: world.is_(State.FAILED))
            seen = len(world.fake.asked("ContainerStatus"))
            world.fake.announce("/tasks/exit")  # of another: it looks again
            await world.until(lambda: len(world.fake.asked("ContainerStatus")) > seen)
            await world.settled()
            assert world.kinds().count("unhealthy") == 1

        play(tmp_path, scenario)

    def test_it_is_started_again_also_by_a_machined_that_began_in_the_pause_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(world: World) -> None:
            for name in ("BACK_OFF_FIRST_S", "BACK_OFF_LONGEST_S"):
                world.patch.setattr(decide, name, 300.0)
            world.fake.stop_code = 0
            world.fake.check = answers(1)
            document = workload("web", one(health=often(EXEC)), restart="on-failure")
            world.runs(document)
            await world.until(lambda: world.is_(State.BACK_OFF) and world.container().state == "exited")
            await world.end()
            world.runs(document)
            await world.until(lambda: world.container().state == "exited")
            await world.settled()
            assert world.is_(State.BACK_OFF)

        play(tmp_path, scenario)
