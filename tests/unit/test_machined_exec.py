"""Further processes in containers over a fake containerd, which starts real ones: what goes in, what comes out, and what is left."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from machined.runtime.client import NotThereError, Runtime, RuntimeGoneError, RuntimeRefusedError
from machined.runtime.exec import Process, started
from machined.wire import cri_pb2 as cri
from tests.unit.fake_containerd import FakeContainer, FakeContainerd

CONTAINER = "c1"

pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="the fake starts processes of this machine")


class Inside:
    """A container in which processes can be started."""

    def __init__(self, root: Path) -> None:
        self.fake = FakeContainerd(root / "containerd.sock")
        self.fake.containers[CONTAINER] = FakeContainer("s1", cri.ContainerConfig(), cri.ContainerStatus())
        self.scratch = root / "exec"
        self.runtime = Runtime(self.fake.socket)

    def start(self, *command: str, **fields: Any) -> AbstractAsyncContextManager[Process]:
        return started(
            self.runtime, fields.pop("container", CONTAINER), self.scratch, command, **{"terminal": False, **fields}
        )

    def shell(self, script: str, **fields: Any) -> AbstractAsyncContextManager[Process]:
        return self.start("sh", "-c", script, **fields)

    @property
    def left(self) -> list[object]:
        """What is left of processes on either side."""
        return [*self.fake.execs.known, *(self.scratch.iterdir() if self.scratch.exists() else ())]


Scenario = Callable[[Inside], Awaitable[None]]


def play(root: Path, scenario: Scenario) -> None:
    async def body() -> None:
        inside = Inside(root)
        await inside.fake.start()
        try:
            await asyncio.wait_for(scenario(inside), 20)
            assert not inside.left
        finally:
            await inside.runtime.close()
            await inside.fake.stop()

    asyncio.run(body())


async def whole(process: Process, pause_s: float = 0) -> tuple[bytes, bytes, int]:
    """Everything that it writes, and its exit code."""
    ended = asyncio.ensure_future(process.wait())
    out, err = b"", b""
    async for output in process.output(ended):
        out, err = (out, err + output.data) if output.error else (out + output.data, err)
        await asyncio.sleep(pause_s)
    return out, err, await ended


class TestOutput:
    def test_of_both_pipes_and_the_exit_code_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.shell("echo out; echo err >&2; exit 3") as process:
                assert await whole(process) == (b"out\n", b"err\n", 3)
            async with inside.shell("exit 0") as process:
                assert await whole(process) == (b"", b"", 0)
            async with inside.shell("kill -9 $$") as process:
                assert (await whole(process))[2] == 137

        play(tmp_path, scenario)

    def test_it_is_the_containers_process_with_another_command_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.shell('echo "$OF $TERM"', env=["TERM=xterm"]) as process:
                (known,) = inside.fake.execs.known.values()
                assert (await whole(process))[0] == b"container xterm\n"
            assert known.spec["args"] == ["sh", "-c", 'echo "$OF $TERM"']
            assert known.spec["user"] == {"uid": 7, "gid": 7} and known.spec["cwd"] == "/"
            assert known.spec["terminal"] is False and known.request.container_id == CONTAINER

        play(tmp_path, scenario)

    @pytest.mark.parametrize("pause_s", [0, 0.002])
    def test_much_of_it_comes_whole_to_a_reader_of_any_speed_against_fake_containerd(
        self, pause_s: float, tmp_path: Path
    ) -> None:
        async def scenario(inside: Inside) -> None:
            script = "head -c 2000000 /dev/zero; head -c 300000 /dev/zero >&2; printf end; exit 5"
            async with inside.shell(script) as process:
                out, err, code = await whole(process, pause_s)
            assert (len(out), out[-3:], len(err), code) == (2_000_003, b"end", 300_000, 5)

        play(tmp_path, scenario)

    def test_a_reader_that_does_not_read_holds_it_up_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.shell(f"head -c 1000000 /dev/zero; touch {tmp_path}/written") as process:
                ended = asyncio.ensure_future(process.wait())
                output = process.output(ended)
                await anext(output)
                await asyncio.sleep(0.1)
                assert not (tmp_path / "written").exists() and not ended.done()
                async for _ in output:
                    pass
                assert await ended == 0 and (tmp_path / "written").exists()

        play(tmp_path, scenario)

    @pytest.mark.parametrize("size_bytes", [5, 150_000])
    def test_a_shim_that_still_copies_when_the_process_has_ended_against_fake_containerd(
        self, size_bytes: int, tmp_path: Path
    ) -> None:
        """containerd says so at once, and waits for the copying when the process is deleted alone (pkg/process/exec.go)."""

        async def scenario(inside: Inside) -> None:
            inside.fake.execs.lag_s = 0.03
            async with inside.shell(f"head -c {size_bytes} /dev/zero") as process:
                out, _, code = await whole(process)
            assert (len(out), code) == (size_bytes, 0)

        play(tmp_path, scenario)

    @pytest.mark.xfail(
        strict=True, reason="a shim that is to forget a process waits two seconds for a reader, and no longer"
    )
    def test_a_reader_that_pauses_at_the_end_misses_nothing_against_fake_containerd(self, tmp_path: Path) -> None:
        """As a pager does: what lies in the pipes when the process ends is to be read whenever the reader goes on."""

        async def scenario(inside: Inside) -> None:
            inside.fake.execs.delete_wait_s = 0.05
            async with inside.shell("head -c 200000 /dev/zero") as process:
                ended = asyncio.ensure_future(process.wait())
                output = process.output(ended)
                await asyncio.sleep(0.1)  # every pipe is full, and some of it is not even written
                size = len((await anext(output)).data)
                while inside.fake.execs.running:
                    await asyncio.sleep(0.002)
                await asyncio.sleep(0.2)
                async for one in output:
                    size += len(one.data)
                assert (size, await ended) == (200_000, 0)

        play(tmp_path, scenario)

    def test_of_a_terminal_there_is_one_pipe_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.shell("echo out; sleep 0.01; echo err >&2", terminal=True) as process:
                await process.resize(24, 80)
                assert await whole(process) == (b"out\nerr\n", b"", 0)
            (request,) = inside.fake.asked("Tasks.Exec")
            assert request.terminal and request.stderr == ""
            (resize,) = inside.fake.asked("Tasks.ResizePty")
            assert (resize.height, resize.width) == (24, 80)

        play(tmp_path, scenario)


class TestInput:
    def test_what_is_given_and_its_end_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.start("cat") as process:
                await process.write(b"one\n")
                await process.write(b"")
                await process.write(b"two\n")
                await process.close_input()
                assert await whole(process) == (b"one\ntwo\n", b"", 0)
                await process.write(b"nobody reads it any longer")

        play(tmp_path, scenario)

    def test_it_does_not_end_by_itself_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.start("cat") as process:
                ended = asyncio.ensure_future(process.wait())
                output = process.output(ended)
                await process.write(b"one\n")
                assert (await anext(output)).data == b"one\n"
                await asyncio.sleep(0.05)
                assert not ended.done()
                await process.close_input()
                assert [one async for one in output] == [] and await ended == 0

        play(tmp_path, scenario)

    def test_much_of_it_waits_for_a_process_that_takes_its_time_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.shell("sleep 0.05; exec wc -c") as process:

                async def feed() -> None:
                    await process.write(bytes(500_000))
                    await process.close_input()

                feeding = asyncio.create_task(feed())
                out, _, code = await whole(process)
                await feeding
                assert (out.strip(), code) == (b"500000", 0)

        play(tmp_path, scenario)

    def test_one_that_ended_takes_none_and_that_is_no_failure_of_its_own_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.shell("exit 4") as process:
                assert (await whole(process))[2] == 4
                await process.write(b"late")
                inside.fake.refuse("Tasks.ResizePty", "process has ended")
                await process.resize(1, 1)  # a window that changes at this moment is nobody's error

        play(tmp_path, scenario)


class TestEnd:
    @pytest.mark.parametrize("script", ["exec sleep 1000", "exec cat /dev/zero"])
    def test_it_is_killed_and_forgotten_when_the_caller_goes_away_against_fake_containerd(
        self, script: str, tmp_path: Path
    ) -> None:
        async def scenario(inside: Inside) -> None:
            async def call() -> None:
                async with inside.shell(script) as process:
                    await whole(process)

            task = asyncio.create_task(call())
            while not inside.fake.asked("Tasks.Wait"):
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (kill,) = inside.fake.asked("Tasks.Kill")
            assert kill.signal == 9

        play(tmp_path, scenario)

    def test_one_that_has_ended_is_not_killed_twice_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            async with inside.shell("exit 0") as process:
                await whole(process)
            assert len(inside.fake.asked("Tasks.DeleteProcess")) == 1

        play(tmp_path, scenario)

    def test_a_program_that_is_not_there_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            with pytest.raises(RuntimeRefusedError, match=r"cannot run /no/such: .*No such file"):
                async with inside.start("/no/such"):
                    pytest.fail("it was started")

        play(tmp_path, scenario)

    def test_a_container_that_is_not_there_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            with pytest.raises(NotThereError, match="cannot read the container's specification"):
                async with inside.start("true", container="gone"):
                    pytest.fail("it was started")
            assert not inside.fake.asked("Tasks.Exec")

        play(tmp_path, scenario)

    def test_containerd_that_goes_away_ends_the_call_against_fake_containerd(self, tmp_path: Path) -> None:
        async def scenario(inside: Inside) -> None:
            with pytest.raises(RuntimeGoneError):
                async with inside.shell("echo out; exec sleep 1000") as process:
                    ended = asyncio.ensure_future(process.wait())
                    output = process.output(ended)
                    assert (await anext(output)).data == b"out\n"
                    await inside.fake.stop()
                    assert [one async for one in output] == []
                    await ended
            assert not list(inside.scratch.iterdir())
            for process_ in inside.fake.execs.known.values():
                process_.kill()
            inside.fake.execs.known.clear()

        play(tmp_path, scenario)
