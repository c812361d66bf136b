"""The part of the fake containerd that starts further processes in containers: real ones, on the machine that runs the tests.

What containerd's shim does is done here by threads: it copies between a process's own pipes and the named ones of whoever asked
(containerd 1.7, pkg/process/io.go), says that a process has ended as soon as it has, and waits for the copying only when the process is
deleted, and then not for long (pkg/process/exec.go).
"""

# ruff: noqa: N802 - the methods have the contract's names
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, empty_pb2

from machined.wire import containers_pb2 as containers
from machined.wire import containers_pb2_grpc, tasks_pb2_grpc
from machined.wire import tasks_pb2 as tasks

if TYPE_CHECKING:
    from tests.unit.fake_containerd import FakeContainerd

Context = grpc.aio.ServicerContext[Any, Any]
COPY_BYTES = 32 * 1024
POLL_S = 0.005
DELETE_WAIT_S = 0.4  # for what is still being copied; containerd waits for two seconds
QUICK_S = 0.1  # within which the shim has copied the last words of a process, unless it lags
ENVIRONMENT = ["PATH=/usr/bin:/bin", "OF=container"]


class Execs:
    """The processes, and how quick the shim is."""

    def __init__(self) -> None:
        self.known: dict[str, _Exec] = {}
        self.lag_s = 0.0  # that the shim takes for each piece that it copies
        self.delete_wait_s = DELETE_WAIT_S

    @property
    def running(self) -> list[str]:
        """Ids of the processes that run."""
        return [id_ for id_, process in self.known.items() if process.exit_code is None]


class _Exec:
    def __init__(self, request: tasks.ExecProcessRequest) -> None:
        self.request = request
        self.spec = json.loads(request.spec.value)
        self.copying: list[threading.Thread] = []
        self.cut = threading.Event()  # what has not been copied is lost
        self._process: subprocess.Popen[bytes] | None = None
        self._holds_input = -1  # so that the input does not end when whoever asked opens and closes the pipe

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        code = self._process.poll() if self._process else None
        return code if code is None or code >= 0 else 128 - code

    def start(self, lag_s: float) -> int:
        variables = dict(entry.split("=", 1) for entry in self.spec["env"])
        process = subprocess.Popen(
            self.spec["args"],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if self.request.terminal else subprocess.PIPE,
            bufsize=0,
        )
        self._process = process
        fed = os.open(self.request.stdin, os.O_RDONLY)
        self._holds_input = os.open(self.request.stdin, os.O_WRONLY | os.O_NONBLOCK)
        assert process.stdin and process.stdout
        _thread(_feed, fed, process.stdin)
        self.copying.append(_thread(_copy, process.stdout, Path(self.request.stdout), lag_s, self.cut))
        if process.stderr:
            self.copying.append(_thread(_copy, process.stderr, Path(self.request.stderr), lag_s, self.cut))
        return process.pid

    async def copied(self, within_s: float) -> None:
        """Wait until all that was written has been copied, but not for long."""
        end = time.monotonic() + within_s
        while any(thread.is_alive() for thread in self.copying) and time.monotonic() < end:
            await asyncio.sleep(POLL_S)

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def close_input(self) -> None:
        if self._holds_input >= 0:
            os.close(self._holds_input)
            self._holds_input = -1


def _thread(work: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def _feed(fed: int, stdin: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError), stdin:
        while data := os.read(fed, COPY_BYTES):
            stdin.write(data)
    os.close(fed)


def _copy(output: IO[bytes], target: Path, lag_s: float, cut: threading.Event) -> None:
    fd = os.open(target, os.O_WRONLY)
    try:
        with contextlib.suppress(BrokenPipeError), output:
            while (data := os.read(output.fileno(), COPY_BYTES)) and not cut.is_set():
                time.sleep(lag_s)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


class ContainersService(containers_pb2_grpc.ContainersServicer):
    """Specifications of containers."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._fake = fake

    async def Get(self, request: containers.GetContainerRequest, context: Context) -> containers.GetContainerResponse:
        if request.id not in self._fake.containers:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'container "{request.id}": not found')
        process = {"args": ["/pause"], "cwd": "/", "env": ENVIRONMENT, "user": {"uid": 7, "gid": 7}, "terminal": False}
        spec = any_pb2.Any(value=json.dumps({"ociVersion": "1.1.0", "process": process}).encode())
        return containers.GetContainerResponse(container=containers.Container(id=request.id, spec=spec))


class TasksService(tasks_pb2_grpc.TasksServicer):
    """Further processes in a container."""

    def __init__(self, fake: FakeContainerd) -> None:
        self._execs = fake.execs

    async def Exec(self, request: tasks.ExecProcessRequest, context: Context) -> empty_pb2.Empty:
        self._execs.known[request.exec_id] = _Exec(request)
        return empty_pb2.Empty()

    async def Start(self, request: tasks.StartRequest, context: Context) -> tasks.StartResponse:
        process = await self._exec(request.exec_id, context)
        try:
            return tasks.StartResponse(pid=process.start(self._execs.lag_s))
        except OSError as error:
            await context.abort(
                grpc.StatusCode.UNKNOWN, f'OCI runtime exec failed: exec: "{process.spec["args"][0]}": {error.strerror}'
            )

    async def Wait(self, request: tasks.WaitRequest, context: Context) -> tasks.WaitResponse:
        process = await self._exec(request.exec_id, context)
        while (code := process.exit_code) is None:
            await asyncio.sleep(POLL_S)
        if not self._execs.lag_s:
            await process.copied(QUICK_S)
        return tasks.WaitResponse(exit_status=code)

    async def Kill(self, request: tasks.KillRequest, context: Context) -> empty_pb2.Empty:
        process = await self._exec(request.exec_id, context)
        if not process.started or process.exit_code is not None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "process already finished: not found")
        process.kill()
        return empty_pb2.Empty()

    async def CloseIO(self, request: tasks.CloseIORequest, context: Context) -> empty_pb2.Empty:
        (await self._exec(request.exec_id, context)).close_input()
        return empty_pb2.Empty()

    async def ResizePty(self, request: tasks.ResizePtyRequest, context: Context) -> empty_pb2.Empty:
        await self._exec(request.exec_id, context)
        return empty_pb2.Empty()

    async def DeleteProcess(self, request: tasks.DeleteProcessRequest, context: Context) -> tasks.DeleteResponse:
        process = await self._exec(request.exec_id, context)
        if process.started and process.exit_code is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "process must be stopped before deletion")
        await process.copied(self._execs.delete_wait_s)
        process.cut.set()
        process.close_input()
        del self._execs.known[request.exec_id]
        return tasks.DeleteResponse(exit_status=process.exit_code or 0)

    async def _exec(self, id_: str, context: Context) -> _Exec:
        if id_ not in self._execs.known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"process {id_} does not exist: not found")
        return self._execs.known[id_]
