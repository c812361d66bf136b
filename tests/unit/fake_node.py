"""Things that listen: a small node with the real API over real mutual TLS, and peers that are no node at all."""

# ruff: noqa: N802 - the methods have the contract's names
from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509

from basalt import config, pki, pki_node, roles
from basalt.client import Target
from basalt.endpoint import Endpoint
from basalt.machine.v1 import machine_pb2 as api
from basalt.machine.v1 import machine_pb2_grpc as stubs
from basalt.roles import Role
from machined.gateway.main import REPLACEMENT_PAUSE_S
from tests.unit.fake_containers import FakeContainers

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


class _Checks(_Interceptor):
    """The gateway's rules: the contract says which role a call needs, and the authorities in force whose calls are heard."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        method = details.method

        def check(context: grpc.ServicerContext) -> None:
            properties: Any = context.auth_context()
            certificate = x509.load_pem_x509_certificate(properties["x509_pem_cert"][0])
            if not self._node.admits(certificate):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate's authority is not trusted any more")
            needed = roles.of_method(method)
            if needed is None or not roles.permitted(pki.roles_of(certificate), needed):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{method} needs the role {needed}")

        kind = f"{_word(handler.request_streaming)}_{_word(handler.response_streaming)}"
        inner: Any = getattr(handler, kind)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            check(context)
            yield from inner(request, context)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            check(context)
            return inner(request, context)

        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        checked = stream if handler.response_streaming else unary
        return make(checked, handler.request_deserializer, handler.response_serializer)


def _word(streaming: bool) -> str:
    """How gRPC calls it."""
    return "stream" if streaming else "unary"


class FakeNode(
    stubs.SystemServiceServicer,
    stubs.ConfigServiceServicer,
    stubs.IdentityServiceServicer,
    stubs.NetworkServiceServicer,
    stubs.ServiceServiceServicer,
    stubs.LogServiceServicer,
):
    """A node as its clients see it. Use it as a context manager.

    It has two identities, told apart by SNI as a real one does: the pinned one, and once enrolled a short-lived one.
    """

    def __init__(self, authority: Authority, *, name: str = "node-1") -> None:
        self.authority = authority
        self.name = name
        self.identity = pki.make_server_identity(name, pki.utc_now() - DAY)
        self.node_id = hashlib.sha256(name.encode()).hexdigest()[:32]
        self.issuing_key = pki_node.make_issuing_key()
        self.issuer_pem = b""  # empty before enrolment
        self.server: pki.Identity | None = None  # what it issued itself
        self.clock_ahead = datetime.timedelta()
        self.boot = 1
        self.generation = 0
        self.trial = 0  # the generation on trial
        self.base = 0  # what it replaced
        self.generations: dict[int, config.Configuration] = {}
        self.reverted: list[int] = []
        self.staged = 0
        self.lock = threading.Lock()
        self.before_apply: Callable[[], None] = lambda: None
        self.status: tuple[grpc.StatusCode, str] | None = None  # refuse every call with this
        self.hold = threading.Event()  # set: streams that follow come to their end
        self.followed = threading.Event()  # set by the node when a follower has got what there was
        self.asked_to: list[str] = []
        self.on_reboot: Callable[[], None] = lambda: None
        self.on_shutdown: Callable[[], None] = lambda: None
        self.loses_answers = False  # goes down before it has answered the call that asks for it
        self.containers = FakeContainers(self._refuse)
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
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), interceptors=[_Checks(self)])
        stubs.add_SystemServiceServicer_to_server(self, self._server)
        stubs.add_ConfigServiceServicer_to_server(self, self._server)
        stubs.add_IdentityServiceServicer_to_server(self, self._server)
        stubs.add_NetworkServiceServicer_to_server(self, self._server)
        stubs.add_ServiceServiceServicer_to_server(self, self._server)
        stubs.add_LogServiceServicer_to_server(self, self._server)
        self.containers.add_to(self._server)
        credentials = grpc.dynamic_ssl_server_credentials(
            self._tls(), self._next_tls, require_client_authentication=True
        )
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    @property
    def configuration(self) -> config.Configuration:
        """What is in force."""
        return self.generations.get(self.generation, config.Configuration())

    @property
    def client_authorities(self) -> list[bytes]:
        """Whose client certificates are accepted (PEM)."""
        access = self.configuration.access
        if access is None:
            return [self.authority.identity.certificate_pem]
        return [pem.encode() for pem in access.client_authorities]

    def admits(self, certificate: x509.Certificate) -> bool:
        """Whether an authority in force signed *certificate*."""
        for pem in self.client_authorities:
            with contextlib.suppress(Exception):
                certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(pem))
                return True
        return False

    def enroll(self, issuer_pem: bytes, lifetime: datetime.timedelta = DAY) -> None:
        """Take an issuing certificate, and issue a server certificate with it."""
        issuer = pki.Identity(issuer_pem, self.issuing_key)
        self.server = pki_node.issue_server(issuer, self.node_id, lifetime, pki.utc_now() + self.clock_ahead)
        self.issuer_pem = issuer_pem

    def revert(self) -> None:
        """The time of the trial is up."""
        self.reverted.append(self.trial)
        self.trial = 0
        self.generation = self.base

    def _tls(self) -> grpc.ServerCertificateConfiguration:
        """What handshakes are made with; the first pair is for clients that ask for no name that it has."""
        pairs = [(self.identity.key_pem, self.identity.certificate_pem)]
        if self.server is not None:
            pairs.append((self.server.key_pem, self.server.certificate_pem))
        self._shown = (tuple(pairs), b"".join(self.client_authorities))
        return grpc.ssl_server_certificate_configuration(pairs, self._shown[1])

    def _next_tls(self) -> Any:
        """As the gateway does: nothing where nothing has changed, and a pause before what has."""
        shown = self._shown
        following = self._tls()
        if self._shown == shown:
            return None
        time.sleep(REPLACEMENT_PAUSE_S)
        return following

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    def target(self, identity: pki.Identity | None = None, *, fingerprint: str | None = None) -> Target:
        return Target(
            self.name, self.endpoint, fingerprint or self.identity.fingerprint, identity or self.authority.client()
        )

    def enrolled_target(self, node_authorities: bytes, identity: pki.Identity | None = None) -> Target:
        """The node as a client that knows it by its id sees it."""
        client = identity or self.authority.client()
        return Target(self.name, self.endpoint, self.identity.fingerprint, client, self.node_id, node_authorities)

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
            node_id=self.node_id,
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
                    name="time",
                    state=api.CONCERN_STATE_WAITING,
                    reason="no server answers",
                    remedy="asks again",
                    since_unix=1_900_000_000,
                    failures=3,
                    next_look_s=8.0,
                ),
            ],
            addresses=[api.NodeAddress(link="eth0", address="192.0.2.10/24", source="dhcp4")],
            memory_total_bytes=1 << 30,
            memory_available_bytes=1 << 29,
            uptime_s=61.0,
            trial_left_s=250.0 if self.trial else 0.0,
            clock_unix=1_900_000_100,
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
        self.before_apply()
        with self.lock:
            if request.expected_generation not in (0, self.generation):
                context.abort(
                    grpc.StatusCode.ABORTED,
                    f"generation {self.generation} stands now, not {request.expected_generation}",
                )
            if self.trial:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"generation {self.trial} is on trial")
            try:
                new = config.parse(request.documents, request.source_name)
            except config.ConfigError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return self._put(new, request, context)

    def _put(
        self,
        new: config.Configuration,
        request: api.ApplyConfigRequest | api.RollbackConfigRequest,
        context: grpc.ServicerContext,
    ) -> api.ApplyConfigResponse:
        difference = config.diff(self.configuration, new)
        answer = api.ApplyConfigResponse(
            generation=self.generation, diff=difference, mode=request.mode or api.APPLY_MODE_NO_REBOOT
        )
        if not difference:
            return answer
        answer.actions.append("sets the host name")
        if request.mode == api.APPLY_MODE_AUTO:
            if new.access != self.configuration.access:
                answer.mode = api.APPLY_MODE_TRY
                answer.trial_reasons.append("AccessConfig: the authority of your certificate")
            if new.machine and self.configuration.machine and new.machine.modules != self.configuration.machine.modules:
                answer.mode = api.APPLY_MODE_REBOOT
                answer.reboot_reasons.append(
                    api.RebootReason(path="MachineConfig: $.modules", reason="parameters are read when a module loads")
                )
        if answer.mode == api.APPLY_MODE_TRY:
            answer.trial_timeout_s = request.try_timeout_s or 300
        if request.dry_run:
            return answer
        number = max(self.generations, default=0) + 1
        self.generations[number] = new
        answer.generation = number
        if answer.mode == api.APPLY_MODE_STAGED:
            self.staged = number
            return answer
        self.base = self.generation
        self.trial = number if answer.mode == api.APPLY_MODE_TRY else 0
        self.generation = number
        if answer.mode == api.APPLY_MODE_REBOOT:
            answer.rebooting = True
            self._go_down(self.on_reboot, context)
        return answer

    def ConfirmConfig(
        self, request: api.ConfirmConfigRequest, context: grpc.ServicerContext
    ) -> api.ConfirmConfigResponse:
        self._refuse(context)
        if not self.trial or request.generation not in (0, self.trial):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no such configuration is on trial")
        self.trial = 0
        return api.ConfirmConfigResponse(generation=self.generation)

    def RollbackConfig(
        self, request: api.RollbackConfigRequest, context: grpc.ServicerContext
    ) -> api.ApplyConfigResponse:
        self._refuse(context)
        if self.trial:
            self.revert()
            return api.ApplyConfigResponse(generation=self.generation, mode=api.APPLY_MODE_NO_REBOOT, diff="-x\n")
        wanted = request.generation or self.generation - 1
        if wanted not in self.generations:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no generation {wanted}")
        return self._put(self.generations[wanted], request, context)

    def GetConfig(self, request: api.GetConfigRequest, context: grpc.ServicerContext) -> api.GetConfigResponse:
        self._refuse(context)
        if not self.generation:
            context.abort(grpc.StatusCode.NOT_FOUND, "the node has no configuration yet")
        number = request.generation or self.generation
        return api.GetConfigResponse(
            documents=config.render(self.generations[number]),
            generation=number,
            applied_unix=1_900_000_000,
            applied_by="alice",
            generations=[number],
        )

    def ListGenerations(
        self, request: api.ListGenerationsRequest, context: grpc.ServicerContext
    ) -> api.ListGenerationsResponse:
        self._refuse(context)

        def state(number: int) -> api.GenerationState.ValueType:
            if number in self.reverted:
                return api.GENERATION_STATE_REVERTED
            if number == self.staged:
                return api.GENERATION_STATE_STAGED
            if number == self.trial:
                return api.GENERATION_STATE_TRIAL
            return api.GENERATION_STATE_CURRENT if number == self.generation else api.GENERATION_STATE_PREVIOUS

        return api.ListGenerationsResponse(
            generations=[
                api.Generation(
                    number=number,
                    state=state(number),
                    applied_unix=1_900_000_000,
                    applied_by="alice",
                    source="node.yaml",
                    reason="not confirmed in time" if number in self.reverted else "",
                    trial_left_s=250.0 if number == self.trial else 0.0,
                )
                for number in sorted(self.generations, reverse=True)
            ]
        )

    def Provenance(self, request: api.ProvenanceRequest, context: grpc.ServicerContext) -> api.ProvenanceResponse:
        self._refuse(context)
        return api.ProvenanceResponse(
            configuration=[
                api.SourceReport(source="STATE", outcome="none", detail="no generation yet"),
                api.SourceReport(source="image", outcome="used", detail="/usr/lib/basalt/config.yaml"),
            ],
            authority=[api.SourceReport(source="fw_cfg", outcome="used", detail="opt/basalt/client-ca")],
        )

    def GetIdentity(self, request: api.GetIdentityRequest, context: grpc.ServicerContext) -> api.GetIdentityResponse:
        self._refuse(context)
        certificates = [self._described(pki.SERVER_NAME, self.identity)]
        answer = api.GetIdentityResponse(
            node_id=self.node_id,
            signing_request=pki_node.make_signing_request(self.issuing_key, self.node_id),
            clock_unix=int((pki.utc_now() + self.clock_ahead).timestamp()),
        )
        if self.server is not None:
            certificates.append(self._described(pki.server_name(self.node_id), self.server))
            issuer = x509.load_pem_x509_certificate(self.issuer_pem)
            answer.issuer_certificate = self.issuer_pem
            answer.issuer_not_after_unix = int(issuer.not_valid_after_utc.timestamp())
            answer.issuer_authority = issuer.issuer.rfc4514_string()
        answer.certificates.extend(certificates)
        return answer

    def _described(self, name: str, identity: pki.Identity) -> api.ServerCertificate:
        certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        end = certificate.not_valid_after_utc
        return api.ServerCertificate(
            server_name=name,
            certificate_chain=identity.certificate_pem,
            fingerprint=identity.fingerprint,
            not_before_unix=int(certificate.not_valid_before_utc.timestamp()),
            not_after_unix=int(end.timestamp()),
            renew_unix=int((end - DAY / 2).timestamp()) if name != pki.SERVER_NAME else 0,
        )

    def Enroll(self, request: api.EnrollRequest, context: grpc.ServicerContext) -> api.EnrollResponse:
        self._refuse(context)
        if not self.generation:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the node is in first contact")
        self.enroll(request.issuer_certificate)
        assert self.server is not None
        return api.EnrollResponse(certificate=self._described(pki.server_name(self.node_id), self.server))

    def Audit(self, request: api.AuditRequest, context: grpc.ServicerContext) -> Iterator[api.AuditResponse]:
        self._refuse(context)
        records = [
            api.AuditRecord(
                time_unix=1_900_000_000.5,
                identity=who,
                serial="ab12",
                address="192.0.2.7:4711",
                rpc="/basalt.machine.v1.ConfigService/ApplyConfig",
                request_id="r-1",
                outcome=outcome,
                detail="generation 1",
                roles=["os:admin"],
            )
            for who, outcome in (("alice", "OK"), ("mallory", "PERMISSION_DENIED"))
        ]
        yield api.AuditResponse(records=records[-request.tail_records :])
        if request.follow:
            self.followed.set()
            self.hold.wait()

    def ListLinks(self, request: api.ListLinksRequest, context: grpc.ServicerContext) -> api.ListLinksResponse:
        self._refuse(context)
        return api.ListLinksResponse(
            links=[
                api.Link(
                    name="eth0",
                    index=2,
                    kind="physical",
                    mac="52:54:00:12:34:56",
                    mtu=1500,
                    up=True,
                    carrier=True,
                    addresses=[api.NodeAddress(link="eth0", address="192.0.2.10/24", source="dhcp4")],
                    routes=[api.LinkRoute(to="default", via="192.0.2.1", metric=100, source="dhcp4")],
                ),
                api.Link(name="wg0", index=3, kind="wireguard", mtu=1420, up=True, wireguard_public_key="PUB="),
            ]
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
