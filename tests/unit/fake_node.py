"""Things that listen: a small node with the real API over real mutual TLS, and peers that are no node at all."""

# ruff: noqa: N802 - the methods have the contract's names
from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from basalt import config, pki, roles
from basalt.client import Target
from basalt.endpoint import Endpoint
from basalt.machine.v1 import machine_pb2 as api
from basalt.machine.v1 import machine_pb2_grpc as stubs
from basalt.roles import Role

DAY = datetime.timedelta(days=1)


class Authority:
    """A client authority that has existed for a while, so that it can sign certificates of any date."""

    def __init__(self, name: str = "test operators", *, identity: pki.Identity | None = None) -> None:
        self.identity = identity or pki.make_ca(name, 1000 * DAY, now=pki.utc_now() - 100 * DAY)

    def client(
        self,
        name: str = "alice",
        *granted: Role,
        starts_in: datetime.timedelta = -DAY,
        lifetime: datetime.timedelta = 10 * DAY,
    ) -> pki.Identity:
        """A client certificate; an admin's where no role is named."""
        return pki.issue_client(self.identity, name, granted or (Role.ADMIN,), lifetime, now=pki.utc_now() + starts_in)


if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.ServerInterceptor  # generic in its stubs alone


class _Roles(_Interceptor):
    """The gateway's rule: the contract says which role a call needs."""

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        method = details.method

        def check(context: grpc.ServicerContext) -> None:
            from cryptography import x509

            properties: Any = context.auth_context()
            certificate = x509.load_pem_x509_certificate(properties["x509_pem_cert"][0])
            needed = roles.of_method(method)
            if needed is None or not roles.permitted(pki.roles_of(certificate), needed):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{method} needs the role {needed}")

        if handler.response_streaming:

            def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
                check(context)
                yield from handler.unary_stream(request, context)

            return grpc.unary_stream_rpc_method_handler(
                stream, handler.request_deserializer, handler.response_serializer
            )

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            check(context)
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)


class FakeNode(
    stubs.SystemServiceServicer, stubs.ConfigServiceServicer, stubs.ServiceServiceServicer, stubs.LogServiceServicer
):
    """A node as its clients see it. Use it as a context manager."""

    def __init__(self, authority: Authority, *, name: str = "node-1") -> None:
        self.authority = authority
        self.name = name
        self.identity = pki.make_server_identity(name, pki.utc_now() - DAY)
        self.boot = 1
        self.generation = 0
        self.configuration = config.Configuration()
        self.status: tuple[grpc.StatusCode, str] | None = None  # refuse every call with this
        self.hold = threading.Event()  # set: streams that follow come to their end
        self.followed = threading.Event()  # set by the node when a follower has got what there was
        self.asked_to: list[str] = []
        self.on_reboot: Callable[[], None] = lambda: None
        self.on_shutdown: Callable[[], None] = lambda: None
        self.loses_answers = False  # goes down before it has answered the call that asks for it
        self.port = 0
        self._server: grpc.Server | None = None

    def __enter__(self) -> FakeNode:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.stop()

    def start(self) -> None:
        """Listen; after a stop on the same port again."""
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), interceptors=[_Roles()])
        stubs.add_SystemServiceServicer_to_server(self, self._server)
        stubs.add_ConfigServiceServicer_to_server(self, self._server)
        stubs.add_ServiceServiceServicer_to_server(self, self._server)
        stubs.add_LogServiceServicer_to_server(self, self._server)
        credentials = grpc.ssl_server_credentials(
            [(self.identity.key_pem, self.identity.certificate_pem)],
            root_certificates=self.authority.identity.certificate_pem,
            require_client_auth=True,
        )
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    def target(self, identity: pki.Identity | None = None, *, fingerprint: str | None = None) -> Target:
        return Target(
            self.name, self.endpoint, fingerprint or self.identity.fingerprint, identity or self.authority.client()
        )

    def _go_down(self, action: Callable[[], None], context: grpc.ServicerContext) -> None:
        """Do *action* once the caller has the answer, or instead of answering."""
        ended = threading.Event()
        context.add_callback(ended.set)
        if self.loses_answers:
            threading.Thread(target=action).start()
            ended.wait()
        else:
            context.add_callback(lambda: threading.Thread(target=action).start())

    def _refuse(self, context: grpc.ServicerContext) -> None:
        if self.status is not None:
            context.abort(*self.status)

    def Version(self, request: api.VersionRequest, context: grpc.ServicerContext) -> api.VersionResponse:
        self._refuse(context)
        return api.VersionResponse(
            version="0.1.0",
            profile="minimal",
            arch="x86_64",
            kernel_release="6.12.1",
            root_hash="ab" * 32,
            slot="A",
            node_id=self.name,
            fingerprint=self.identity.fingerprint,
            boot_id=f"boot-{self.boot}",
            boot_stages=[api.BootStage(name="kernel", duration_usec=1_250_000)],
        )

    def Status(self, request: api.StatusRequest, context: grpc.ServicerContext) -> api.StatusResponse:
        self._refuse(context)
        return api.StatusResponse(
            mode="configured" if self.generation else "first-contact",
            hostname=self.name,
            generation=self.generation,
            concerns=[
                api.Concern(name="network", state=api.CONCERN_STATE_CONVERGED),
                api.Concern(
                    name="time", state=api.CONCERN_STATE_WAITING, reason="no server answers", remedy="asks again in 8 s"
                ),
            ],
            addresses=[api.NodeAddress(link="eth0", address="192.0.2.10/24", source="dhcp4")],
            memory_total_bytes=1 << 30,
            memory_available_bytes=1 << 29,
            uptime_s=61.0,
        )

    def Reboot(self, request: api.RebootRequest, context: grpc.ServicerContext) -> api.RebootResponse:
        self._refuse(context)
        self.asked_to.append("reboot")
        self._go_down(self.on_reboot, context)
        return api.RebootResponse()

    def Shutdown(self, request: api.ShutdownRequest, context: grpc.ServicerContext) -> api.ShutdownResponse:
        self._refuse(context)
        self.asked_to.append("shutdown")
        self._go_down(self.on_shutdown, context)
        return api.ShutdownResponse()

    def ApplyConfig(self, request: api.ApplyConfigRequest, context: grpc.ServicerContext) -> api.ApplyConfigResponse:
        self._refuse(context)
        if request.expected_generation not in (0, self.generation):
            context.abort(grpc.StatusCode.ABORTED, f"generation {self.generation} stands now")
        new = config.parse(request.documents, request.source_name)
        difference = config.diff(self.configuration, new)
        if difference and not request.dry_run:
            self.generation += 1
            self.configuration = new
        actions = ["sets the host name"] if difference else []
        return api.ApplyConfigResponse(generation=self.generation, diff=difference, actions=actions)

    def GetConfig(self, request: api.GetConfigRequest, context: grpc.ServicerContext) -> api.GetConfigResponse:
        self._refuse(context)
        return api.GetConfigResponse(
            documents=config.render(self.configuration),
            generation=self.generation,
            applied_unix=1_900_000_000,
            applied_by="alice",
            generations=[self.generation],
        )

    def ListServices(self, request: api.ListServicesRequest, context: grpc.ServicerContext) -> api.ListServicesResponse:
        self._refuse(context)
        return api.ListServicesResponse(
            services=[
                api.ServiceInfo(name="machined", state="up", pid=100, state_seconds=3700, ready=True),
                api.ServiceInfo(name="chronyd", state="restarting", restarts=3),
            ]
        )

    def Logs(self, request: api.LogsRequest, context: grpc.ServicerContext) -> Iterator[api.LogsResponse]:
        self._refuse(context)
        if request.service != "machined":
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        yield api.LogsResponse(chunk=b"one\ntwo\xff\n")
        yield api.LogsResponse(chunk=b"three\n")
        if request.follow:
            self.followed.set()
            self.hold.wait()

    def Dmesg(self, request: api.DmesgRequest, context: grpc.ServicerContext) -> Iterator[api.DmesgResponse]:
        self._refuse(context)
        message = api.KernelMessage(priority=3, sequence=7, timestamp_usec=1_500_000, text="Linux version 6.12")
        yield api.DmesgResponse(messages=[message])


@contextlib.contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """A listener on a free port that gives each connection to *handle* and closes it afterwards."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed: the test is over
                return
            with connection, contextlib.suppress(OSError):
                handle(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Endpoint("127.0.0.1", server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def tls_peer(
    identity: pki.Identity,
    directory: Path,
    *,
    authority: pki.Identity | None = None,
    configure: Callable[[ssl.SSLContext], None] = lambda _: None,
) -> Callable[[socket.socket], None]:
    """Handles a connection as a TLS server of OpenSSL's, which unlike gRPC's sends alerts."""
    chain = directory / "peer.pem"
    chain.write_bytes(identity.certificate_pem + identity.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.certificate_pem.decode())
    configure(context)

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as stream:
            stream.recv(1)

    return handle
