"""Copies of the logs: formats, the cursor over rotations, and collectors that come, go and come back, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from basalt.config.documents import LogDestination, Logging, MachineConfig
from machined import paths
from machined.forwarding import cursor, forwarder
from machined.forwarding.cursor import Cursor, Place, next_chunk
from machined.forwarding.formats import Line, encode, kernel_line, service_line
from machined.forwarding.forwarder import Forwarder
from machined.forwarding.reconciler import LoggingReconciler
from machined.kmsg import KernelMessage
from machined.reconcile import State

STAMP = b"2026-11-24 04:12:33.123456789  "


@pytest.mark.parametrize(
    ("raw", "time", "text"),
    [
        (STAMP + b"hello  world", "2026-11-24T04:12:33.123456Z", "hello  world"),
        (STAMP, "2026-11-24T04:12:33.123456Z", ""),
        (b"no stamp", "", "no stamp"),
        (STAMP + b"\xff\xfe", "2026-11-24T04:12:33.123456Z", "\ufffd\ufffd"),
    ],
)
def test_lines_of_services_bear_the_time_that_s6_log_wrote(raw: bytes, time: str, text: str) -> None:
    assert service_line("machined", raw) == Line("machined", time, text)


def test_kernel_messages_count_from_the_boot() -> None:
    line = kernel_line(KernelMessage(4, 0, 17, 1_500_000, "eth0: link down"), 1_000_000_000.0)
    assert line == Line("kernel", "2001-09-09T01:46:41.500000Z", "eth0: link down", 4, 0)


LINE = Line("machined", "2026-11-24T04:12:33.123456Z", "grüße")


def test_json_lines() -> None:
    raw = encode(LINE, "json-lines", "tcp", "node-1")
    assert raw.endswith(b"\n") and raw.count(b"\n") == 1
    assert json.loads(raw) == {
        "time": "2026-11-24T04:12:33.123456Z",
        "host": "node-1",
        "service": "machined",
        "severity": 6,
        "message": "grüße",
    }


def test_syslog_is_rfc_5424_and_counts_octets_over_tcp() -> None:
    record = "<30>1 2026-11-24T04:12:33.123456Z node-1 machined - - - grüße".encode()
    assert encode(LINE, "syslog", "udp", "node-1") == record
    assert encode(LINE, "syslog", "tcp", "node-1") == b"%d %s" % (len(record), record)
    assert encode(Line("kernel", "", "x", 3, 0), "syslog", "udp", "n") == b"<3>1 - n kernel - - - x"


class TestCursor:
    def test_it_goes_on_through_a_rotation(self, tmp_path: Path) -> None:
        current = tmp_path / "current"
        current.write_bytes(b"one\ntwo\nthr")
        first = next_chunk(tmp_path, None)
        assert first is not None and first.lines == (b"one", b"two") and not first.lost
        assert next_chunk(tmp_path, first.end) is None  # a line that is still being written
        with current.open("ab") as stream:
            stream.write(b"ee\n")
        current.rename(tmp_path / "@4000000065.s")
        current.write_bytes(b"four\n")
        second = next_chunk(tmp_path, first.end)
        assert second is not None and second.lines == (b"three",)
        third = next_chunk(tmp_path, second.end)
        assert third is not None and third.lines == (b"four",) and not third.lost
        assert next_chunk(tmp_path, third.end) is None

    def test_what_was_rotated_away_is_noticed(self, tmp_path: Path) -> None:
        (tmp_path / "current").write_bytes(b"later\n")
        found = next_chunk(tmp_path, Place(1, 5))
        assert found is not None and found.lost and found.lines == (b"later",)

    def test_it_outlives_machined_and_a_broken_one_begins_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "forwarding/x.json"
        kept = Cursor({"machined": Place(7, 8)}, 9)
        cursor.save(path, kept)
        assert cursor.load(path) == kept
        path.write_text("{")
        assert cursor.load(path) == Cursor()


class Collector:
    """A TCP server that can be taken away and put back at the same port."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while raw := await reader.readline():
                self.lines.append(json.loads(raw)["message"])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> paths.Paths:
    monkeypatch.setattr(forwarder, "POLL_S", 0.01)
    monkeypatch.setattr(forwarder, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(forwarder, "RETRY_LONGEST_S", 0.05)
    where = paths.Paths(str(tmp_path))
    where.run.mkdir(parents=True)
    for name in ("machined", "gateway", "audit"):
        (where.logs / name).mkdir(parents=True)
    return where


def write(node: paths.Paths, service: str, *lines: str) -> None:
    with (node.logs / service / "current").open("ab") as stream:
        stream.write(b"".join(STAMP + line.encode() + b"\n" for line in lines))


@contextlib.asynccontextmanager
async def forwarding(node: paths.Paths, endpoint: str, **fields: object) -> AsyncIterator[Forwarder]:
    destination = LogDestination(endpoint=endpoint, kernel=False, **fields)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as resolver:
        ours = Forwarder(node, destination, hostname=lambda: "n", resolver=resolver, changed=lambda: None)
        task = asyncio.create_task(ours.run())
        try:
            yield ours
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_a_collector_that_goes_and_comes_back_misses_nothing(node: paths.Paths) -> None:
    async def body() -> None:
        collector = Collector()
        await collector.start()
        write(node, "machined", "a", "b")
        write(node, "audit", "never")
        endpoint = f"tcp://127.0.0.1:{collector.port}"
        async with forwarding(node, endpoint) as ours:
            await until(lambda: collector.lines == ["a", "b"] and ours.status.state is State.CONVERGED)
            await collector.stop()
            await until(lambda: ours.status.state is State.WAITING)
            assert "Connection refused (since " in ours.status.reason or "closed" in ours.status.reason
            write(node, "machined", "c")
            (node.logs / "machined/current").rename(node.logs / "machined/@40000000.s")
            write(node, "machined", "d")
            await collector.start()
            await until(lambda: collector.lines[-1] == "d")
            assert collector.lines.count("c") >= 1 and collector.lines[:2] == ["a", "b"]
            await until(lambda: ours.status.state is State.CONVERGED)
        seen = len(collector.lines)
        write(node, "machined", "e")
        async with forwarding(node, endpoint):  # another machined in the same boot
            await until(lambda: len(collector.lines) > seen)
        assert collector.lines[seen:] == ["e"]
        await collector.stop()

    asyncio.run(asyncio.wait_for(body(), 60))


def test_only_the_services_that_are_asked_for(node: paths.Paths) -> None:
    async def body() -> None:
        collector = Collector()
        await collector.start()
        write(node, "machined", "no")
        write(node, "gateway", "yes")
        async with forwarding(node, f"tcp://127.0.0.1:{collector.port}", services=("gateway",)):
            await until(lambda: bool(collector.lines))
        assert collector.lines == ["yes"]
        await collector.stop()

    asyncio.run(asyncio.wait_for(body(), 60))


def test_syslog_over_udp(node: paths.Paths) -> None:
    async def body() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
            write(node, "machined", "hello")
            endpoint = f"udp://127.0.0.1:{server.getsockname()[1]}"
            async with forwarding(node, endpoint, format="syslog"):
                got = await asyncio.get_running_loop().sock_recv(server, 2048)
        assert got == b"<30>1 2026-11-24T04:12:33.123456Z n machined - - - hello"

    asyncio.run(asyncio.wait_for(body(), 60))


def test_what_was_rotated_away_unsent_is_told(node: paths.Paths) -> None:
    async def body() -> None:
        collector = Collector()
        await collector.start()
        write(node, "machined", "a")
        async with forwarding(node, f"tcp://127.0.0.1:{collector.port}") as ours:
            await until(lambda: collector.lines == ["a"])
            await collector.stop()
            await until(lambda: ours.status.state is State.WAITING)
            old = os.open(node.logs / "machined/current", os.O_RDONLY)  # its inode must not be given to the next file
            (node.logs / "machined/current").unlink()
            write(node, "machined", "z")
            await collector.start()
            await until(lambda: collector.lines[-1] == "z")
            await until(lambda: "1 times lines were rotated away" in ours.status.reason)
            assert ours.status.state is State.CONVERGED
            os.close(old)
        await collector.stop()

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_name_that_nobody_knows_is_a_failure_and_destinations_follow_the_configuration(node: paths.Paths) -> None:
    async def body() -> None:
        collector = Collector()
        await collector.start()
        write(node, "machined", "a")
        config = MachineConfig(
            hostname="n",
            logging=Logging(
                destinations=(
                    LogDestination(endpoint="tcp://nobody.invalid:1"),
                    LogDestination(endpoint=f"tcp://127.0.0.1:{collector.port}", kernel=False),
                )
            ),
        )
        reconciler = LoggingReconciler(node, config=lambda: config, hostname=lambda: "n", changed=lambda: None)
        while True:
            status = await reconciler.reconcile()
            if status.state is State.FAILED and str(collector.port) not in status.reason:
                break
            await asyncio.sleep(0.01)
        assert status.reason.startswith("tcp://nobody.invalid:1: its name is not known")
        await until(lambda: collector.lines == ["a"])
        config = MachineConfig(hostname="n")
        assert (await reconciler.reconcile()).state is State.CONVERGED
        await reconciler.close()
        await collector.stop()

    asyncio.run(asyncio.wait_for(body(), 60))
