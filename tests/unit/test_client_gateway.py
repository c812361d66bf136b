"""The client against the node's own gateway: both sides of the door, without a node around them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from basalt import pki
from basalt.client import Target, connect, diagnosis
from basalt.endpoint import Endpoint
from basalt.errors import BasaltError, RefusedError, UnreachableError
from basalt.machine.v1 import containers_pb2 as containers
from basalt.machine.v1 import containers_pb2_grpc as containers_grpc
from basalt.machine.v1 import machine_pb2 as api
from basalt.roles import Role
from machined.gateway import relay
from machined.gateway.main import Gateway
from machined.gateway.trust import CONFIGURED, FIRST_CONTACT, LOCKED, ServerIdentity, Trust, TrustFile, write_trust
from tests.unit.fake_node import DAY, Authority


async def _version(request: api.VersionRequest, context: object) -> api.VersionResponse:
    return api.VersionResponse(version="0.1.0")


class _Images(containers_grpc.ImageServiceServicer):
    """Counts what an archive has."""

    async def ImportImage(  # noqa: N802
        self, requests: AsyncIterator[containers.ImportImageRequest], context: object
    ) -> containers.ImportImageResponse:
        size = sum([len(request.chunk) async for request in requests])
        return containers.ImportImageResponse(images=[containers.Image(size_bytes=size)])


class _Workloads(containers_grpc.WorkloadServiceServicer):
    """Runs a command that says back what it is told."""

    async def WorkloadExec(  # noqa: N802
        self, requests: AsyncIterator[containers.WorkloadExecRequest], context: object
    ) -> AsyncIterator[containers.WorkloadExecResponse]:
        async for request in requests:
            if request.input:
                yield containers.WorkloadExecResponse(output=request.input)
            if request.end_of_input:
                break
        yield containers.WorkloadExecResponse(ended=True, exit_code=3)


def _stand_in() -> grpc.GenericRpcHandler[api.VersionRequest, api.VersionResponse]:
    """In machined's place."""
    method = grpc.unary_unary_rpc_method_handler(
        _version,
        request_deserializer=api.VersionRequest.FromString,
        response_serializer=api.VersionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("basalt.machine.v1.SystemService", {"Version": method})


@contextlib.contextmanager
def gateway(
    directory: Path, mode: str, authorities: bytes, server: pki.Identity, *, machined: bool = True
) -> Iterator[Endpoint]:
    """A running gateway in a loop of its own, with a stand-in for machined behind it or nothing."""
    own = ServerIdentity(pki.SERVER_NAME, server.key_pem.decode(), server.certificate_pem.decode())
    trust = TrustFile(directory / "gateway" / "trust.json")
    write_trust(
        directory / "gateway" / "trust.json",
        Trust(mode, (own,), authorities.decode()),
        group=None,
    )
    trust.refresh()
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ports: list[int] = []

    async def serve() -> None:
        inner = grpc.aio.server()
        inner.add_generic_rpc_handlers((_stand_in(),))
        containers_grpc.add_ImageServiceServicer_to_server(_Images(), inner)
        containers_grpc.add_WorkloadServiceServicer_to_server(_Workloads(), inner)
        if machined:
            inner.add_insecure_port(f"unix:{directory}/m.sock")
        await inner.start()
        outer = Gateway(trust, directory / "m.sock", "127.0.0.1:0")
        await outer.start()
        ports.append(outer.port)
        ready.set()
        await stop.wait()
        await outer.stop()
        await inner.stop(None)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield Endpoint("127.0.0.1", ports[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSCTL_CONFIG", str(tmp_path / "osctl" / "config.yaml"))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def server() -> pki.Identity:
    return pki.make_server_identity("node-1", pki.utc_now() - DAY)


def refusal(endpoint: Endpoint, server: pki.Identity, client: pki.Identity) -> BasaltError:
    with (
        pytest.raises(BasaltError) as caught,
        connect(Target("node-1", endpoint, server.fingerprint, client), timeout_s=10) as connection,
    ):
        connection.version()
    return caught.value


def test_operator_gets_through(tmp_path: Path, authority: Authority, server: pki.Identity) -> None:
    with (
        gateway(tmp_path, CONFIGURED, authority.identity.certificate_pem, server) as endpoint,
        connect(Target("node-1", endpoint, server.fingerprint, authority.client("al", Role.READER))) as client,
    ):
        assert client.version().version == "0.1.0"
        with pytest.raises(RefusedError, match="needs the role os:operator; the certificate carries: os:reader"):
            client.reboot()


def test_streams_to_the_node_get_through(tmp_path: Path, authority: Authority, server: pki.Identity) -> None:
    with (
        gateway(tmp_path, CONFIGURED, authority.identity.certificate_pem, server) as endpoint,
        connect(Target("node-1", endpoint, server.fingerprint, authority.client())) as client,
    ):
        (image,) = client.import_image(itertools.repeat(bytes(3 << 19), 5)).images
        assert image.size_bytes == 5 * (3 << 19)
        further = [containers.WorkloadExecRequest(input=b"a"), containers.WorkloadExecRequest(end_of_input=True)]
        first, last = client.workload_exec("web", ["cat"], further=further)
        assert (first.output, last.ended, last.exit_code) == (b"a", True, 3)


def test_node_without_configuration_says_so(tmp_path: Path, authority: Authority, server: pki.Identity) -> None:
    with (
        gateway(tmp_path, FIRST_CONTACT, authority.identity.certificate_pem, server) as endpoint,
        connect(Target("node-1", endpoint, server.fingerprint, authority.client())) as client,
    ):
        assert client.version().version == "0.1.0"
        with pytest.raises(RefusedError, match="this node has no configuration yet"):
            client.get_config()


def test_refused_certificates_are_explained(tmp_path: Path, authority: Authority, server: pki.Identity) -> None:
    expired = authority.client(starts_in=-2 * DAY, lifetime=datetime.timedelta(hours=1))
    with gateway(tmp_path, CONFIGURED, authority.identity.certificate_pem, server) as endpoint:
        stranger = refusal(endpoint, server, Authority("strangers").client())
        assert isinstance(stranger, diagnosis.CertificateRefusedError)
        assert "signed by CN=strangers" in stranger.why
        late = refusal(endpoint, server, expired)
        assert isinstance(late, diagnosis.CertificateRefusedError)
        assert "has expired" in late.why
        assert "the node's 20" in late.why


def test_locked_node_is_explained(tmp_path: Path, authority: Authority, server: pki.Identity) -> None:
    with gateway(tmp_path, LOCKED, b"", server) as endpoint:
        error = refusal(endpoint, server, authority.client())
    assert isinstance(error, diagnosis.CertificateRefusedError)
    assert "mode=locked" in error.why


def test_machined_that_restarts_is_no_broken_connection(
    tmp_path: Path, authority: Authority, server: pki.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RIDE_OVER_S", 0.1)
    with gateway(tmp_path, CONFIGURED, authority.identity.certificate_pem, server, machined=False) as endpoint:
        error = refusal(endpoint, server, authority.client())
    assert isinstance(error, UnreachableError)
    assert "accepts connections, but the call failed" in error.what
    assert error.why == relay.RESTARTING


def test_gateway_speaks_no_plain_tcp(tmp_path: Path, authority: Authority, server: pki.Identity) -> None:
    with (
        gateway(tmp_path, CONFIGURED, authority.identity.certificate_pem, server) as endpoint,
        socket.create_connection(endpoint, 10) as stream,
    ):
        stream.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in stream.recv(100)
