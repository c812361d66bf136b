"""The client's calls about containers that stream to the node: back-pressure, and errors from either side."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from basalt.client import connect
from basalt.client.containers import CHUNK_BYTES_MAX
from basalt.errors import BasaltError, RefusedError, UnreachableError, UsageError
from basalt.machine.v1 import containers_pb2 as api
from tests.unit.fake_node import Authority, FakeNode


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def node(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("OSCTL_CONFIG", str(tmp_path / "osctl" / "config.yaml"))
    with FakeNode(authority) as node:
        yield node


def test_big_chunks_are_cut_to_fit_a_message_against_fake_node(node: FakeNode) -> None:
    with connect(node.target()) as client, pytest.raises(UsageError, match="has no index"):
        client.import_image(iter([bytes(5 << 19), b"", b"\0"]), reference="a")
    assert node.containers.chunks == [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX // 2, 1]
    assert node.containers.imported_as == "a"


def test_import_is_read_no_faster_than_the_node_takes_it_against_fake_node(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    slow = threading.Event()
    all_read = threading.Event()

    def take(requests: Iterator[api.ImportImageRequest], context: grpc.ServicerContext) -> api.ImportImageResponse:
        slow.wait(30)
        for _ in requests:
            pass
        return api.ImportImageResponse()

    monkeypatch.setattr(node.containers, "ImportImage", take)
    node.stop()
    node.start()

    def chunks() -> Iterator[bytes]:
        nonlocal asked
        for _ in range(64):
            asked += 1
            yield bytes(CHUNK_BYTES_MAX)
        all_read.set()

    with connect(node.target()) as client:
        sender = threading.Thread(target=lambda: client.import_image(chunks()))
        sender.start()
        assert not all_read.wait(2)
        assert 0 < asked < 32
        slow.set()
        sender.join(60)
        assert all_read.is_set()


def test_node_that_refuses_in_the_middle_of_an_endless_import_is_heard_against_fake_node(node: FakeNode) -> None:
    node.containers.refuse_import_after = 5
    with connect(node.target()) as client, pytest.raises(RefusedError) as caught:
        client.import_image(itertools.repeat(bytes(CHUNK_BYTES_MAX)))
    assert (caught.value.why, caught.value.remedy) == ("DATA is full", "`osctl image prune` makes room")


def test_node_that_refuses_is_heard_while_the_source_is_silent_against_fake_node(node: FakeNode) -> None:
    node.status = (grpc.StatusCode.FAILED_PRECONDITION, "containerd does not run")
    never = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"x"
        never.wait(60)

    with connect(node.target()) as client, pytest.raises(RefusedError, match="containerd does not run"):
        client.import_image(chunks())
    never.set()


@pytest.mark.parametrize("error", [BasaltError("the disk is gone"), ValueError("a bug")])
def test_error_of_the_source_ends_the_import_and_is_no_end_of_it_against_fake_node(
    node: FakeNode, error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cancelled: list[bool] = []
    begun = threading.Event()
    done = threading.Event()

    def take(requests: Iterator[api.ImportImageRequest], context: grpc.ServicerContext) -> api.ImportImageResponse:
        gone = threading.Event()
        assert context.add_callback(gone.set)
        begun.set()
        with contextlib.suppress(grpc.RpcError):
            for _ in requests:
                pass
        # A cancelled call may look like one that is at its end; only it ends without an answer.
        cancelled.append(gone.wait(10))
        done.set()
        return api.ImportImageResponse()

    monkeypatch.setattr(node.containers, "ImportImage", take)
    node.stop()
    node.start()

    def chunks() -> Iterator[bytes]:
        yield b"x"
        assert begun.wait(30)
        raise error

    with connect(node.target()) as client, pytest.raises(type(error)) as caught:
        client.import_image(chunks())
    assert caught.value is error
    assert done.wait(30)
    assert cancelled == [True], "the node must not take the part for the whole"
    assert "Traceback" not in capfd.readouterr().err


def test_import_to_a_node_that_goes_away_is_an_error_against_fake_node(node: FakeNode) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        node.stop()
        yield b"x"

    with connect(node.target(), timeout_s=5) as client, pytest.raises(UnreachableError):
        client.import_image(chunks())


def test_exec_carries_input_there_and_output_back_against_fake_node(node: FakeNode) -> None:
    further = [
        api.WorkloadExecRequest(input=b"one"),
        api.WorkloadExecRequest(input=b"two"),
        api.WorkloadExecRequest(end_of_input=True),
    ]
    with connect(node.target()) as client:
        answers = list(client.workload_exec("web", ["cat"], container="nginx", env=["A=b"], further=further))
    assert b"".join(answer.output for answer in answers) == b"onetwo"
    assert answers[-1].ended
    first = node.containers.first_exec
    assert first == api.WorkloadExecRequest(workload="web", container="nginx", command=["cat"], env=["A=b"])


def test_error_of_the_input_ends_the_command_against_fake_node(node: FakeNode) -> None:
    echoed = threading.Event()

    def further() -> Iterator[api.WorkloadExecRequest]:
        yield api.WorkloadExecRequest(input=b"one")
        assert echoed.wait(30)
        raise BasaltError("the input is gone")

    with connect(node.target()) as client:
        answers = client.workload_exec("web", ["cat"], further=further())
        assert next(answers).output == b"one"
        echoed.set()
        with pytest.raises(BasaltError, match="the input is gone"):
            next(answers)
    assert node.containers.exec_ended.wait(30)


def test_command_ends_with_the_iterator_against_fake_node(node: FakeNode) -> None:
    hold = threading.Event()

    def further() -> Iterator[api.WorkloadExecRequest]:
        hold.wait(60)
        yield api.WorkloadExecRequest(end_of_input=True)

    with connect(node.target()) as client:
        answers = client.workload_exec("web", ["wait"], further=further())
        assert next(answers).output == b"waiting\n"
        answers.close()  # type: ignore[attr-defined]
        assert node.containers.exec_ended.wait(30)
    hold.set()
