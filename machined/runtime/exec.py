"""A further process in a container: containerd's tasks, with named pipes for what goes in and comes out.

The CRI hands such a process out by a web server of its own; containerd's tasks do it without one. The process is the container's
own (user, capabilities, limits, environment) with another command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from google.protobuf import any_pb2
from msgspec import Struct

from basalt.errors import BasaltError
from machined.runtime.client import METADATA, Runtime, RuntimeRefusedError, explained
from machined.wire import containers_pb2 as containers
from machined.wire import tasks_pb2 as tasks

READ_BYTES = 64 * 1024
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"  # containerd's name for an OCI process


class Output(Struct, frozen=True):
    """Something that a process wrote."""

    data: bytes
    error: bool


class Process:
    """A process in a container. Use :func:`start`."""

    def __init__(self, runtime: Runtime, container: str, directory: Path, *, terminal: bool) -> None:
        self._runtime = runtime
        self._container = container
        self._directory = directory
        self._terminal = terminal
        self.id = f"exec-{secrets.token_hex(8)}"
        self._out = _Pipe(directory / "stdout")
        self._err = None if terminal else _Pipe(directory / "stderr")
        self._in: int | None = None
        self._deleted = False

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True)
        os.mkfifo(self._directory / "stdin", 0o600)
        # Open for both: opening never waits for the other side, and containerd's shim finds a reader.
        self._in = os.open(self._directory / "stdin", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._out.open()
        if self._err:
            self._err.open()

    async def start(self, command: Sequence[str], env: Sequence[str]) -> None:
        """Make the pipes and start it."""
        self._prepare()
        with explained("cannot read the container's specification"):
            request = containers.GetContainerRequest(id=self._container)
            answer = await self._runtime.containers.Get(request, metadata=METADATA)
        process = json.loads(answer.container.spec.value)["process"]
        process["args"], process["terminal"] = list(command), self._terminal
        process["env"] = [*process.get("env", []), *env]
        with explained(f"cannot run {command[0]}"):
            await self._runtime.tasks.Exec(
                tasks.ExecProcessRequest(
                    container_id=self._container,
                    exec_id=self.id,
                    stdin=str(self._directory / "stdin"),
                    stdout=str(self._out.path),
                    stderr=str(self._err.path) if self._err else "",
                    terminal=self._terminal,
                    spec=any_pb2.Any(type_url=_PROCESS, value=json.dumps(process).encode()),
                ),
                metadata=METADATA,
            )
            await self._runtime.tasks.Start(
                tasks.StartRequest(container_id=self._container, exec_id=self.id), metadata=METADATA
            )

    async def wait(self) -> int:
        """Its exit code."""
        with explained("cannot wait for the process"):
            answer = await self._runtime.tasks.Wait(
                tasks.WaitRequest(container_id=self._container, exec_id=self.id), metadata=METADATA
            )
        return answer.exit_status

    async def output(self, ended: asyncio.Future[int]) -> AsyncIterator[Output]:
        """What it writes, until it has ended and all has been read."""
        pipes = [(self._out, False), *([(self._err, True)] if self._err else [])]
        written: asyncio.Queue[Output | None] = asyncio.Queue()
        room = asyncio.Semaphore(1)  # a caller that does not read holds up the process

        async def pump(pipe: _Pipe, error: bool) -> None:
            while True:
                await pipe.readable()
                await room.acquire()
                if data := pipe.rest():
                    written.put_nowait(Output(data, error))  # nothing can come between reading it and having it here
                else:
                    room.release()

        async def finish() -> None:
            await asyncio.wait([ended])
            await self._delete()  # which waits until its shim has copied all that it wrote
            written.put_nowait(None)

        tasks_ = [asyncio.ensure_future(pump(pipe, error)) for pipe, error in pipes]
        tasks_.append(asyncio.ensure_future(finish()))
        try:
            while (output := await written.get()) is not None:
                yield output
                room.release()
            for task in tasks_:
                task.cancel()
            await asyncio.gather(*tasks_, return_exceptions=True)
            while not written.empty():  # a pump had put it there while the end was read
                if output := written.get_nowait():
                    yield output
            for pipe, error in pipes:
                while data := pipe.rest():
                    yield Output(data, error)
        finally:
            for task in tasks_:
                task.cancel()

    async def write(self, data: bytes) -> None:
        """Give it input; waits while it takes none."""
        view = memoryview(data)
        while view and self._in is not None:
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                await asyncio.sleep(0.02)

    async def close_input(self) -> None:
        """Its input has ended."""
        if self._in is not None:
            os.close(self._in)
            self._in = None
        with explained("cannot end the process's input"):
            await self._runtime.tasks.CloseIO(
                tasks.CloseIORequest(container_id=self._container, exec_id=self.id, stdin=True), metadata=METADATA
            )

    async def resize(self, rows: int, columns: int) -> None:
        """The size of its terminal."""
        with contextlib.suppress(RuntimeRefusedError), explained("cannot resize the terminal"):
            await self._runtime.tasks.ResizePty(
                tasks.ResizePtyRequest(container_id=self._container, exec_id=self.id, width=columns, height=rows),
                metadata=METADATA,
            )

    async def _delete(self) -> None:
        """Have containerd forget it, once."""
        if self._deleted:
            return
        self._deleted = True
        with contextlib.suppress(BasaltError), explained("cannot remove the process"):
            await self._runtime.tasks.DeleteProcess(
                tasks.DeleteProcessRequest(container_id=self._container, exec_id=self.id), metadata=METADATA
            )

    async def close(self) -> None:
        """Kill it if it still runs, and remove every trace."""
        with contextlib.suppress(BasaltError), explained("cannot kill the process"):
            await self._runtime.tasks.Kill(
                tasks.KillRequest(container_id=self._container, exec_id=self.id, signal=signal.SIGKILL, all=True),
                metadata=METADATA,
            )
            await self.wait()
        await self._delete()
        for pipe in (self._out, self._err):
            if pipe:
                pipe.close()
        if self._in is not None:
            os.close(self._in)
        shutil.rmtree(self._directory, ignore_errors=True)


class _Pipe:
    """A named pipe that something in a container writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def open(self) -> None:
        """Make and open it; for both directions, so that it does not end when a writer comes and goes."""
        os.mkfifo(self.path, 0o600)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    async def readable(self) -> None:
        """Wait until there is something to read."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, _resolve, waiting)
        try:
            await waiting
        finally:
            loop.remove_reader(self._fd)

    def rest(self) -> bytes:
        """What is there now; empty when nothing is."""
        try:
            return os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Give it up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _resolve(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


@contextlib.asynccontextmanager
async def started(
    runtime: Runtime, container: str, scratch: Path, command: Sequence[str], *, terminal: bool, env: Sequence[str] = ()
) -> AsyncIterator[Process]:
    """A process that runs in *container*; it is killed when the block ends.

    :param scratch: a directory below which its pipes lie.
    :raises BasaltError: there is no such program, or the container does not run.
    """
    process = Process(runtime, container, scratch / secrets.token_hex(8), terminal=terminal)
    try:
        await process.start(command, env)
        yield process
    finally:
        await process.close()
