"""The gateway over real TLS on the loopback interface: who gets in, who does not, and what is relayed."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from basalt import pki
from basalt.roles import Role, permitted
from machined.gateway.authorise import Rule, Verdict, contract, decide, rules_of
from machined.gateway.main import Gateway
from machined.gateway.relay import RESTARTING, address_of
from machined.gateway.trust import CONFIGURED, FIRST_CONTACT, LOCKED, ServerIdentity, Trust, TrustFile, write_trust

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)
LOGS = "/basalt.machine.v1.LogService/Logs"
VERSION = "/basalt.machine.v1.SystemService/Version"


@pytest.fixture(scope="module")
def authority() -> pki.Identity:
    return pki.make_ca("operators", 30 * DAY)


@pytest.fixture(scope="module")
def server() -> pki.Identity:
    return pki.make_server_identity("node-1", NOW - DAY)


def shown(server: pki.Identity, name: str = pki.SERVER_NAME) -> ServerIdentity:
    return ServerIdentity(name, server.key_pem.decode(), server.certificate_pem.decode())


def with_usage(
    authority: pki.Identity, usages: list[x509.ObjectIdentifier] | None, name: str | None = "eve"
) -> pki.Identity:
    """A certificate of *authority* for an admin with these extended key usages (None: without the extension)."""
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
    signer = serialization.load_pem_private_key(authority.key_pem, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, Role.ADMIN.value)]
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
        self.sent = 0

    def service(self, handler_call_details: Any) -> Any:
        if contract()[handler_call_details.method].server_streaming:
            return grpc.unary_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(self.unary)

    async def unary(self, request: bytes, context: Any) -> bytes:
        if request == b"fail":
            await context.abort(grpc.StatusCode.ABORTED, "generation 3 stands, 2 was expected")
        if request == b"hang":
            try:
                await asyncio.sleep(3600)
            finally:
                self.cancelled.set()
        told = {
            key: value.decode() if isinstance(value, bytes) else value for key, value in context.invocation_metadata()
        }
        return json.dumps(told).encode()

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
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


async def start_inner(socket_path: Path, stand_in: StandIn) -> grpc.aio.Server:
    inner = grpc.aio.server()
    inner.add_generic_rpc_handlers((stand_in,))
    inner.add_insecure_port(f"unix:{socket_path}")
    await inner.start()
    return inner


Scenario = Callable[[World], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, authority: pki.Identity, server: pki.Identity) -> Play:
    """Run a scenario against a gateway in the given mode."""

    def run(scenario: Scenario, mode: str = CONFIGURED, authorities: str | None = None) -> None:
        async def body() -> None:
            trusted = authority.certificate_pem.decode() if authorities is None else authorities
            path = tmp_path / "gateway" / "trust.json"
            write_trust(path, Trust(mode, (shown(server),), trusted), group=None)
            trust_file = TrustFile(path)
            trust_file.refresh()
            stand_in = StandIn()
            socket_path = tmp_path / "m.sock"
            inner = await start_inner(socket_path, stand_in)
            gateway = Gateway(trust_file, socket_path, "127.0.0.1:0")
            await gateway.start()
            try:
                await scenario(World(gateway, stand_in, inner, path, server))
            finally:
                await gateway.stop()
                await inner.stop(None)

        asyncio.run(body())

    return run


@pytest.mark.parametrize("mode", [CONFIGURED, FIRST_CONTACT, LOCKED])
def test_every_method_for_every_role(play: Play, authority: pki.Identity, mode: str) -> None:
    """Each RPC of the contract, each role: exactly those that the contract lets in get in."""

    async def scenario(world: World) -> None:
        for role in Role:
            client = pki.issue_client(authority, "ada", [role], DAY)
            for method, rule in contract().items():
                assert rule.role is not None, f"{method} names no role"
                if mode == LOCKED:
                    expected = grpc.StatusCode.UNAUTHENTICATED
                elif not permitted([role], rule.role):
                    expected = grpc.StatusCode.PERMISSION_DENIED
                elif mode == FIRST_CONTACT and not rule.first_contact:
                    expected = grpc.StatusCode.FAILED_PRECONDITION
                else:
                    assert await world.call(client, method)
                    continue
                assert (await world.refusal(client, method))[0] is expected, (method, role)

    play(scenario, mode)


def test_certificates_that_tls_refuses_reach_no_method(
    play: Play, authority: pki.Identity, server: pki.Identity
) -> None:
    """None, of another authority, expired, not yet valid, a server's, self-made with the authority's name."""
    stranger = pki.make_ca("operators", 30 * DAY)
    rejected = {
        "none": None,
        "wrong authority": pki.issue_client(stranger, "eve", [Role.ADMIN], DAY),
        "expired": pki.issue_client(
            pki.make_ca("operators", 30 * DAY, now=NOW - 20 * DAY), "eve", [Role.ADMIN], DAY, now=NOW - 10 * DAY
        ),
        "the node's own": server,
        "the authority's own": authority,
    }

    async def scenario(world: World) -> None:
        for name, client in rejected.items():
            for method in contract():
                code, _ = await world.refusal(client, method)
                assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED), (name, method)

    play(scenario)


def test_dates_outside_of_the_authoritys_own_certificates(play: Play) -> None:
    authority = pki.make_ca("operators", 60 * DAY, now=NOW - 30 * DAY)
    expired = pki.issue_client(authority, "eve", [Role.ADMIN], DAY, now=NOW - 10 * DAY)
    early = pki.issue_client(authority, "eve", [Role.ADMIN], DAY, now=NOW + 10 * DAY)

    async def scenario(world: World) -> None:
        for client in (expired, early):
            for method in contract():
                code, _ = await world.refusal(client, method)
                assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)

    play(scenario, authorities=authority.certificate_pem.decode())


@pytest.mark.parametrize(
    ("usages", "name", "why"),
    [
        (None, "eve", "extended key usage"),
        ([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH], "eve", ""),
        (
            [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH],
            "eve",
            "extended key usage",
        ),
        (
            [x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH],
            "eve",
            "extended key",
        ),
        ([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH], None, "names nobody"),
    ],
)
def test_the_right_authority_is_not_enough(
    play: Play, authority: pki.Identity, usages: list[x509.ObjectIdentifier] | None, name: str | None, why: str
) -> None:
    client = with_usage(authority, usages, name)

    async def scenario(world: World) -> None:
        for method in contract():
            code, details = await world.refusal(client, method)
            assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
            assert why in details

    play(scenario)


def test_locked_refuses_everybody_at_the_handshake(play: Play, authority: pki.Identity) -> None:
    admin = pki.issue_client(authority, "ada", [Role.ADMIN], DAY)

    async def scenario(world: World) -> None:
        for client in (None, admin):
            assert (await world.refusal(client))[0] is grpc.StatusCode.UNAVAILABLE

    play(scenario, LOCKED, authorities="")


def test_machined_hears_only_what_the_gateway_found_out(play: Play, authority: pki.Identity) -> None:
    """A caller that claims to be somebody else in its metadata is not believed, nor is anything of it passed on."""
    reader = pki.issue_client(authority, "Zoë", [Role.READER], DAY)
    claims = (("basalt-identity-bin", b"root"), ("basalt-roles", "os:admin"), ("x-other", "1"))

    async def scenario(world: World) -> None:
        told = json.loads(await world.call(reader, metadata=claims))
        assert told["basalt-identity-bin"] == "Zoë"
        assert told["basalt-roles"] == "os:reader"
        assert told["basalt-address"].startswith("127.0.0.1:")
        assert len(told["basalt-request-id"]) == 16
        assert "x-other" not in told

    play(scenario)


def test_errors_pass_through(play: Play, authority: pki.Identity) -> None:
    admin = pki.issue_client(authority, "ada", [Role.ADMIN], DAY)

    async def scenario(world: World) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.call(admin, request=b"fail")
        assert raised.value.code() is grpc.StatusCode.ABORTED
        assert raised.value.details() == "generation 3 stands, 2 was expected"

    play(scenario)


def test_a_caller_that_goes_away_stops_the_work_behind(play: Play, authority: pki.Identity) -> None:
    admin = pki.issue_client(authority, "ada", [Role.ADMIN], DAY)

    async def scenario(world: World) -> None:
        async with world.channel(admin) as channel:
            stream = channel.unary_stream(LOGS)(b"x")
            await stream.read()
            stream.cancel()
            await asyncio.wait_for(world.stand_in.cancelled.wait(), 30)
            world.stand_in.cancelled.clear()
            with pytest.raises(grpc.aio.AioRpcError) as raised:  # a deadline travels too
                await channel.unary_unary(VERSION)(b"hang", timeout=0.3)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(world.stand_in.cancelled.wait(), 30)

    play(scenario)


def test_a_reader_that_does_not_read_stops_the_writer(play: Play, authority: pki.Identity) -> None:
    """Back-pressure: what piles up between a stalled caller and machined is bounded by the windows, not by time."""
    reader = pki.issue_client(authority, "ada", [Role.READER], DAY)

    async def scenario(world: World) -> None:
        async with world.channel(reader) as channel:
            stream = channel.unary_stream(LOGS)(b"x" * 64)  # 64,000 bytes a message
            await stream.read()
            before = -1
            while world.stand_in.sent != before:  # until it stands still
                before = world.stand_in.sent
                await asyncio.sleep(1)
            assert world.stand_in.sent < 1000
            stream.cancel()

    play(scenario)


def test_machined_gone_and_back(play: Play, authority: pki.Identity, tmp_path: Path) -> None:
    reader = pki.issue_client(authority, "ada", [Role.READER], DAY)

    async def scenario(world: World) -> None:
        async with world.channel(reader) as channel:
            version = channel.unary_unary(VERSION)
            assert await version(b"1")
            await world.inner.stop(None)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await version(b"2")
            assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNAVAILABLE, RESTARTING)
            world.inner = await start_inner(tmp_path / "m.sock", world.stand_in)
            for _ in range(100):
                try:
                    assert await version(b"3")
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
            else:
                pytest.fail("the gateway did not find machined again")
        await world.inner.stop(None)

    play(scenario)


def test_new_trust_takes_effect_without_a_restart(play: Play, authority: pki.Identity, server: pki.Identity) -> None:
    successor = pki.make_ca("operators, next year", 30 * DAY)
    old = pki.issue_client(authority, "ada", [Role.READER], DAY)
    new = pki.issue_client(successor, "ada", [Role.READER], DAY)

    async def scenario(world: World) -> None:
        assert await world.call(old)
        assert (await world.refusal(new))[0] is grpc.StatusCode.UNAVAILABLE
        async with world.channel(old) as standing:
            assert await standing.unary_unary(VERSION)(b"1")
            both = authority.certificate_pem.decode() + successor.certificate_pem.decode()
            write_trust(
                world.trust_path,
                Trust(CONFIGURED, (shown(server),), both),
                group=None,
            )
            assert await standing.unary_unary(VERSION)(
                b"2"
            )  # this call makes the gateway read the file before TLS asks for it
            assert await world.call(new)
            assert await standing.unary_unary(VERSION)(b"3")

    play(scenario)


def test_old_tls_and_no_tls_are_refused(play: Play) -> None:
    async def scenario(world: World) -> None:
        def old_tls() -> None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            with socket.create_connection(("127.0.0.1", world.gateway.port)) as raw, context.wrap_socket(raw):
                pass

        with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, OSError)):
            await asyncio.to_thread(old_tls)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{world.gateway.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(VERSION)(b"")
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    play(scenario)


def test_requests_beyond_the_limit_and_unknown_methods(play: Play, authority: pki.Identity) -> None:
    admin = pki.issue_client(authority, "ada", [Role.ADMIN], DAY)

    async def scenario(world: World) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.call(admin, request=b"x" * (5 * 1024 * 1024))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await world.refusal(admin, "/basalt.machine.v1.SystemService/Nonsense"))[
            0
        ] is grpc.StatusCode.UNIMPLEMENTED

    play(scenario)


def test_a_method_without_a_role_is_closed_to_everybody() -> None:
    from google.protobuf import descriptor_pb2

    assert {rule.method for rule in contract().values() if rule.role is None} == set()
    rule = Rule("/x.Y/Z", None, first_contact=True, client_streaming=False, server_streaming=False)
    for role in Role:
        for mode in (FIRST_CONTACT, CONFIGURED):
            assert decide(rule, mode, frozenset({role})) is Verdict.CLOSED
    # and a file of the contract that forgets the option yields exactly such a rule
    assert rules_of([descriptor_pb2.DESCRIPTOR]) == {}


def test_trust_file_survives_garbage_and_keeps_the_key_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / "trust.json"
    trust = Trust(CONFIGURED, (ServerIdentity("basalt-node", "key", "certificate"),), "authorities", ("4a1f",))
    write_trust(path, trust, group=None)
    assert oct(path.stat().st_mode & 0o777) == oct(0o640)
    file = TrustFile(path)
    assert file.refresh()
    assert not file.refresh()
    os.utime(path, ns=(0, 0))
    path.write_text("{not json")
    assert not file.refresh()
    assert file.current == trust
    path.unlink()
    assert not file.refresh()
    assert file.current == trust
    assert "key'" not in repr(trust)


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:192.0.2.1:4711", "192.0.2.1:4711"), ("ipv6:%5B2001:db8::1%5D:4711", "[2001:db8::1]:4711")],
)
def test_addresses_read_as_people_write_them(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_connections_that_say_nothing_or_nonsense_keep_nobody_out(play: Play, authority: pki.Identity) -> None:
    reader = pki.issue_client(authority, "ada", [Role.READER], DAY)

    async def scenario(world: World) -> None:
        silent = [socket.create_connection(("127.0.0.1", world.gateway.port)) for _ in range(200)]
        for number, connection in enumerate(silent):
            if number % 3 == 1:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            elif number % 3 == 2:
                connection.sendall(
                    b"\x16\x03\x01\xff\xff" + bytes(64)
                )  # a TLS record that promises more than it brings
        try:
            for _ in range(20):
                assert await world.call(reader)
        finally:
            for connection in silent:
                connection.close()

    play(scenario)
