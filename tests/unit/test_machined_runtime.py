"""Reconcilers, sequences, logs, the kernel's log, time: the machinery of the daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from basalt.config.documents import TimeConfig, TimeServer
from basalt.errors import BasaltError
from machined import kmsg, logs
from machined.reconcile import CONVERGED, Board, Reconciler, State, Status, failed, waiting
from machined.sequences import Phase, Sequence, StepEvent, Task, run
from machined.timesync import chrony_conf, servers_of
from machined.tools import run as run_tool


class TestBoard:
    def test_since_moves_with_the_state_and_its_reason_only(self) -> None:
        now = iter([10.0, 20.0, 30.0, 40.0])
        board = Board(clock=lambda: next(now))
        board.post("a", waiting("for b"))
        board.post("a", waiting("for b", "patience"))
        assert board.entries()["a"].since == 10.0
        assert board.entries()["a"].status.remedy == "patience"
        board.post("a", failed("b is gone"))
        board.post("a", failed("b is gone"))
        assert board.entries()["a"].since == 20.0
        assert board.state_of("a") is State.FAILED
        assert board.state_of("b") is None


class TestReconciler:
    def test_it_looks_again_when_triggered_and_after_a_failure(self) -> None:
        async def body() -> None:
            board = Board()
            answers: list[Any] = [BasaltError("no", remedy="wait"), OSError(5, "eio"), ValueError("bug"), CONVERGED]
            looks: list[int] = []

            async def step() -> Status:
                looks.append(len(looks))
                answer = answers[min(len(looks) - 1, 3)]
                if isinstance(answer, Exception):
                    raise answer
                status: Status = answer
                return status

            reconciler = Reconciler("c", step, board, every_s=3600)
            task = asyncio.create_task(reconciler.run())
            for expected in ("no", "[Errno 5] eio", "internal error: ValueError('bug')"):
                assert await reconciler.settle(10) if len(looks) else True
                while board.state_of("c") is None:
                    await asyncio.sleep(0)
                assert board.entries()["c"].status.reason == expected
            assert await reconciler.settle(10)
            assert board.state_of("c") is State.CONVERGED
            count = len(looks)
            for _ in range(20):
                reconciler.trigger()
            assert await reconciler.settle(10)
            assert len(looks) <= count + 2  # a burst is one look
            task.cancel()

        asyncio.run(body())

    def test_settle_gives_up_on_a_step_that_hangs(self) -> None:
        async def body() -> None:
            async def step() -> Status:
                await asyncio.sleep(3600)
                return CONVERGED

            reconciler = Reconciler("c", step, Board(), every_s=1)
            task = asyncio.create_task(reconciler.run())
            assert not await reconciler.settle(0.05)
            task.cancel()

        asyncio.run(body())


class TestSequences:
    def test_phases_in_order_tasks_side_by_side_every_step_an_event(self) -> None:
        order: list[str] = []
        meeting = asyncio.Event()

        async def first(_: list[str]) -> None:
            await meeting.wait()
            order.append("first")

        async def second(_: list[str]) -> None:
            meeting.set()  # would never be reached if tasks of a phase waited for one another
            order.append("second")

        async def third(subject: list[str]) -> None:
            subject.append("third")

        events: list[StepEvent] = []
        sequence = Sequence(
            "s", (Phase("one", (Task("f", first), Task("g", second))), Phase("two", (Task("h", third),)))
        )
        assert asyncio.run(run(sequence, order, events.append))
        assert order == ["second", "first", "third"]
        assert [(event.phase, event.task, event.error) for event in events] == [
            ("one", "g", ""),
            ("one", "f", ""),
            ("two", "h", ""),
        ]

    @pytest.mark.parametrize("error", [BasaltError("x"), OSError("x"), ValueError("a defect")])
    @pytest.mark.parametrize("required", [True, False])
    def test_only_a_required_task_stops_the_rest(self, error: Exception, required: bool) -> None:
        reached: list[int] = []

        async def fails(_: None) -> None:
            raise error

        async def after(_: None) -> None:
            reached.append(1)

        events: list[StepEvent] = []
        sequence = Sequence("s", (Phase("a", (Task("f", fails, required),)), Phase("b", (Task("g", after),))))
        assert asyncio.run(run(sequence, None, events.append)) is not required
        assert reached == ([] if required else [1])
        assert events[0].error


async def collect(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


class TestLogs:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        (tmp_path / "@400000005f0a.s").write_bytes(b"1\n2\n")
        (tmp_path / "@400000005f0b.s").write_bytes(b"3\n4\n")
        (tmp_path / "current").write_bytes(b"5\n6\n")
        (tmp_path / "lock").write_bytes(b"")
        return tmp_path

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [(0, b"1\n2\n3\n4\n5\n6\n"), (1, b"6\n"), (3, b"4\n5\n6\n"), (99, b"1\n2\n3\n4\n5\n6\n")],
    )
    def test_what_is_kept(self, directory: Path, lines: int, expected: bytes) -> None:
        assert asyncio.run(collect(logs.read(directory, follow=False, tail_lines=lines))) == expected

    def test_a_service_that_has_never_run_has_an_empty_log(self, tmp_path: Path) -> None:
        assert asyncio.run(collect(logs.read(tmp_path / "nothing", follow=False, tail_lines=0))) == b""

    @pytest.mark.parametrize("tail", [0, 1])
    def test_following_over_a_rotation_loses_no_line(self, directory: Path, tail: int) -> None:
        async def body() -> bytes:
            seen = b""
            stream = logs.read(directory, follow=True, tail_lines=tail)
            async for chunk in stream:
                seen += chunk
                if seen.endswith(b"6\n"):
                    with (directory / "current").open("ab") as old:
                        old.write(b"7\npart")
                    with (directory / "current").open("ab") as old:
                        old.write(b"ly\n8\n")
                    (directory / "current").rename(directory / "@400000005f0c.s")
                    (directory / "current").write_bytes(b"9\n")
                if seen.endswith(b"9\n"):
                    return seen
            return seen

        assert asyncio.run(asyncio.wait_for(body(), 30)).endswith(b"6\n7\npartly\n8\n9\n")

    def test_lines_are_not_cut(self) -> None:
        assert logs.whole_lines(b"a\nb") == (b"a\n", b"b")
        assert logs.whole_lines(b"no end") == (b"", b"no end")
        endless = b"x" * (logs.LINE_BYTES_MAX + 1)
        assert logs.whole_lines(endless) == (endless, b"")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            b"6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n",
            kmsg.KernelMessage(6, 0, 339, 5140900, "NET: Registered"),
        ),
        (b"30,1,2,-,caller=T1;a;b", kmsg.KernelMessage(6, 3, 1, 2, "a;b")),
    ],
)
def test_kernel_records(record: bytes, expected: kmsg.KernelMessage) -> None:
    assert kmsg.parse_record(record) == expected
    with pytest.raises(ValueError, match="not enough values"):
        kmsg.parse_record(b"nonsense")


class TestTime:
    def test_configured_servers_win_over_those_of_dhcp(self) -> None:
        config = TimeConfig(servers=(TimeServer(address="192.0.2.1"),))
        assert [server.address for server in servers_of(config, [])] == ["192.0.2.1"]
        assert servers_of(None, []) == ()
        assert servers_of(TimeConfig(), []) == ()

    def test_the_file(self) -> None:
        text = chrony_conf(
            (TimeServer(address="a.example", pool=True, nts=True), TimeServer(address="192.0.2.1", iburst=False))
        )
        assert text.splitlines()[:2] == ["pool a.example iburst nts", "server 192.0.2.1"]
        assert "cmdport 0" in text
        assert "makestep 1.0 3" in text


class TestTools:
    def test_a_failing_program_says_its_last_words(self) -> None:
        with pytest.raises(BasaltError) as raised:
            asyncio.run(run_tool(["/bin/sh", "-c", "echo lots; echo why >&2; exit 3"]))
        assert "failed with 3" in raised.value.what
        assert "why" in raised.value.why

    def test_input_output_and_accepted_codes(self) -> None:
        assert asyncio.run(run_tool(["/bin/cat"], stdin=b"x")) == "x"
        assert asyncio.run(run_tool(["/bin/sh", "-c", "echo $0"], name="modprobe")) == "modprobe\n"
        asyncio.run(run_tool(["/bin/sh", "-c", "exit 1"], accept=frozenset({0, 1})))
        with pytest.raises(BasaltError, match="cannot start"):
            asyncio.run(run_tool([f"/nonexistent/{os.getpid()}"]))


def test_an_end_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    """machined killed between asking for the reboot and ending the services: the next one ends them, and boots nothing."""
    from machined import power
    from machined.daemon import serve
    from machined.node import Node
    from machined.paths import Paths

    node = Node(Paths(str(tmp_path)))
    node.paths.run.mkdir(parents=True)
    node.paths.state.mkdir()
    ended: list[str] = []

    class Supervision:
        async def status(self, service: Any) -> Any:
            raise BasaltError("s6 is ending")

        async def end(self) -> None:
            ended.append(power.pending(node.paths.shutdown_request))

    node.supervisor = Supervision()  # type: ignore[assignment]
    power.request(node.paths.shutdown_request, power.POWER_OFF)
    assert asyncio.run(serve(node)) == 0
    assert ended == [power.POWER_OFF]
    assert node.paths.clock.exists()
