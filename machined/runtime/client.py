"""The connection to containerd, and what its errors mean."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import grpc.aio

from basalt.errors import BasaltError
from machined.wire import (
    containers_pb2_grpc,
    content_pb2_grpc,
    cri_pb2_grpc,
    events_pb2_grpc,
    images_pb2_grpc,
    streaming_pb2_grpc,
    tasks_pb2_grpc,
    transfer_pb2_grpc,
)

# The CRI's namespace in containerd: images and containers of workloads, of a kubelet and of CRI clients are all in it.
NAMESPACE = "k8s.io"
METADATA = (("containerd-namespace", NAMESPACE),)
MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # containerd's own limit

# What the error of a pull contains → what to do about it. The first that fits is taken.
PULL_REMEDIES = (
    (r"x509|certificate", "give the registry's authority in a RegistryConfig (authorities), if it is a private one"),
    (r"401|403|authorization|unauthorized|denied", "give its credentials in a RegistryConfig (auth)"),
    (r"not found|manifest unknown", "look at the image's name and tag"),
    (r"no such host|server misbehaving|name resolution", "look at the name, and at the DNS servers: osctl links"),
    (r"connection refused|timeout|deadline|unreachable|reset by peer", "look at the registry and the way to it"),
    (r"no space left|disk quota", "make room on DATA: osctl image prune"),
    (
        r"unexpected EOF|size validation|digest|checksum",
        "the registry or the way to it damages data; it is fetched again",
    ),
)


class RuntimeRefusedError(BasaltError):
    """containerd refused or failed a call."""


class RuntimeGoneError(BasaltError):
    """containerd does not answer: it starts, restarts, or is switched off."""


class NotThereError(RuntimeRefusedError):
    """containerd knows no such image, container or sandbox."""


class Runtime:
    """containerd behind its socket. The connection is made at the first call, and anew whenever containerd has been away."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=(
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                # containerd is back within a second of its restart: gRPC's usual two minutes of back-off would outlast it.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ),
        )
        self.cri = cri_pb2_grpc.RuntimeServiceStub(self._channel)
        self.cri_images = cri_pb2_grpc.ImageServiceStub(self._channel)
        self.content = content_pb2_grpc.ContentStub(self._channel)
        self.containers = containers_pb2_grpc.ContainersStub(self._channel)
        self.events = events_pb2_grpc.EventsStub(self._channel)
        self.images = images_pb2_grpc.ImagesStub(self._channel)
        self.tasks = tasks_pb2_grpc.TasksStub(self._channel)
        self.transfer = transfer_pb2_grpc.TransferStub(self._channel)
        self.streams = streaming_pb2_grpc.StreamingStub(self._channel)

    async def close(self) -> None:
        """End the connection, and what runs on it."""
        await self._channel.close(None)


@contextlib.contextmanager
def explained(what: str, remedies: Sequence[tuple[str, str]] = (), about: Sequence[str] = ()) -> Iterator[None]:
    """Turn gRPC's errors into ours.

    :param what: what was tried, "cannot pull docker.io/library/nginx:latest".
    :param remedies: what to do about an error that contains a pattern.
    :param about: names in the error that say nothing about it, whatever they contain.
    :raises NotThereError: containerd does not have it.
    :raises RuntimeGoneError: containerd does not answer.
    :raises RuntimeRefusedError: anything else.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), error.details() or error.code().name
        if code is grpc.StatusCode.UNAVAILABLE:
            raise RuntimeGoneError(
                what, why="containerd does not answer", remedy="osctl services; osctl logs containerd"
            ) from error
        why = short(details)
        if code is grpc.StatusCode.NOT_FOUND:
            raise NotThereError(what, why=why, remedy=remedy_of(details, remedies, about)) from error
        raise RuntimeRefusedError(what, why=why, remedy=remedy_of(details, remedies, about)) from error


def remedy_of(details: str, remedies: Sequence[tuple[str, str]], about: Sequence[str] = ()) -> str:
    """What to do about an error; empty when nothing is known. What stands in *about* says nothing of it."""
    for name in about:
        details = details.replace(name, "")
    return next((remedy for pattern, remedy in remedies if re.search(pattern, details, re.IGNORECASE)), "")


def short(details: str) -> str:
    """containerd's words without the frames that each layer of it puts around them, and on one line."""
    text = " ".join(details.split())
    text = re.sub(r"^rpc error: code = \w+ desc = ", "", text)
    return re.sub(r"^failed to (pull and unpack|pull|resolve) image [^:]*\"[^\"]*\": ", "", text)
