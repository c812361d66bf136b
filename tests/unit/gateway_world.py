"""A gateway over real TLS on the loopback interface with a stand-in for machined behind it, for the tests of either."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from basalt import pki
from basalt.roles import Role
from machined.audit import Record
from machined.gateway.authorise import contract
from machined.gateway.main import Gateway
from machined.gateway.refusals import REFUSED
from machined.gateway.trust import CONFIGURED, ServerIdentity, Trust, TrustFile, write_trust

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)
LOGS = "/basalt.machine.v1.LogService/Logs"
APPLY = "/basalt.machine.v1.ConfigService/ApplyConfig"
VERSION = "/basalt.machine.v1.SystemService/Version"


def shown(server: pki.Identity, name: str = pki.SERVER_NAME) -> ServerIdentity:
    return ServerIdentity(name, server.key_pem.decode(), server.certificate_pem.decode())


def with_usage(
    authority: pki.Identity,
    usages: list[x509.ObjectIdentifier] | None,
    name: str | None = "eve",
    role: Role = Role.ADMIN,
) -> pki.Identity:
    """A certificate of *authority* with these extended key usages (None: without the extension)."""
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
    signer = serialization.load_pem_private_key(authority.key_pem, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, role.value)]
    if name:
        names.append(x509.NameAttribute(x509.NameOID.COMMON_NAME, name))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
    )
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return pki.Identity(
        builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


class StandIn(grpc.GenericRpcHandler):
    """In machined's place: answers what it was told, streams without end, records that a stream was cancelled."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.go = asyncio.Event()
        self.calls = 0
        self.sent = 0
        self.refusals: list[Record] = []

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == REFUSED:
            return grpc.unary_unary_rpc_method_handler(self.refused)
        self.calls += 1
        if contract()[handler_call_details.method].server_streaming:
            return grpc.unary_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(self.unary)

    async def refused(self, request: bytes, context: Any) -> bytes:
        self.refusals.append(msgspec.json.decode(request, type=Record))
        return b""

    async def unary(self, request: bytes, context: Any) -> bytes:
        if request == b"fail":
            await context.abort(grpc.StatusCode.ABORTED, "generation 3 stands, 2 was expected")
        if request == b"hang":
            try:
                await asyncio.sleep(3600)
            finally:
                self.cancelled.set()
        if request == b"wait":
            await self.go.wait()
        told = {
            key: value.decode() if isinstance(value, bytes) else value for key, value in context.invocation_metadata()
        }
        return json.dumps(told).encode()

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            if request == b"one":
                yield b"one"
                await asyncio.sleep(3600)
            while True:
                self.sent += 1
                yield request * 1000
        finally:
            self.cancelled.set()


@dataclass
class World:
    """A running gateway with a stand-in behind it."""

    gateway: Gateway
    stand_in: StandIn
    inner: grpc.aio.Server
    trust_path: Path
    server: pki.Identity
    trust: Trust

    def tell(self, **changes: Any) -> None:
        """Have the gateway trust otherwise, as machined does: the file, then the signal."""
        self.trust = replace(self.trust, **changes)
        write_trust(self.trust_path, self.trust, group=None)
        self.gateway.trust_changed()

    def channel(self, client: pki.Identity | None) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            self.server.certificate_pem,
            client.key_pem if client else None,
            client.certificate_pem if client else None,
        )
        return grpc.aio.secure_channel(
            f"127.0.0.1:{self.gateway.port}",
            credentials,
            options=[("grpc.ssl_target_name_override", pki.SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)],
        )

    async def call(
        self, client: pki.Identity | None, method: str = VERSION, request: bytes = b"hello", **more: Any
    ) -> bytes:
        async with self.channel(client) as channel:
            if contract().get(method, contract()[VERSION]).server_streaming:
                stream = channel.unary_stream(method)(request, **more)
                return bytes(await stream.read())
            return bytes(await channel.unary_unary(method)(request, **more))

    async def refusal(self, client: pki.Identity | None, method: str = VERSION) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.call(client, method)
        return raised.value.code(), raised.value.details() or ""


def serial_of(identity: pki.Identity) -> str:
    return f"{x509.load_pem_x509_certificate(identity.certificate_pem).serial_number:x}"


async def start_inner(socket_path: Path, stand_in: StandIn) -> grpc.aio.Server:
    inner = grpc.aio.server()
    inner.add_generic_rpc_handlers((stand_in,))
    inner.add_insecure_port(f"unix:{socket_path}")
    await inner.start()
    return inner


Scenario = Callable[[World], Awaitable[None]]
Play = Callable[..., None]


def run(
    directory: Path,
    scenario: Scenario,
    *,
    server: pki.Identity,
    authorities: str,
    mode: str = CONFIGURED,
    revoked: tuple[str, ...] = (),
) -> None:
    """Play *scenario* against a gateway that was told this."""

    async def body() -> None:
        path = directory / "gateway" / "trust.json"
        trust = Trust(mode, (shown(server),), authorities, revoked)
        write_trust(path, trust, group=None)
        trust_file = TrustFile(path)
        trust_file.refresh()
        stand_in = StandIn()
        socket_path = directory / "m.sock"
        inner = await start_inner(socket_path, stand_in)
        gateway = Gateway(trust_file, socket_path, "127.0.0.1:0")
        await gateway.start()
        try:
            await scenario(World(gateway, stand_in, inner, path, server, trust))
        finally:
            await gateway.stop()
            await inner.stop(None)

    asyncio.run(body())
