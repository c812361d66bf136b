"""machined and its gateway together, over mutual TLS, below a scratch directory: first contact, configuration, refusals, records."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest

from basalt import pki, pki_node
from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from basalt.roles import Role
from machined import power
from machined.api.auditing import AuditInterceptor, note
from machined.api.callers import DETAILS_BYTES_MAX, words_of
from machined.api.server import start
from machined.api.system import read_memory
from machined.audit import AuditLog, Record
from machined.gateway import relay
from machined.gateway.authorise import contract
from machined.gateway.main import Gateway
from machined.gateway.refusals import REFUSED
from machined.gateway.trust import TrustFile
from machined.node import Node
from machined.paths import Paths

DAY = datetime.timedelta(days=1)
DOCUMENT = b"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: edge-7\n"


@dataclass
class World:
    """A node with its gateway, and clients of it."""

    node: Node
    gateway: Gateway
    authority: pki.Identity

    def channel(self, *roles: Role) -> grpc.aio.Channel:
        client = pki.issue_client(self.authority, "ada", roles, DAY)
        credentials = grpc.ssl_channel_credentials(
            self.node.identity.certificate_pem, client.key_pem, client.certificate_pem
        )
        options = [("grpc.ssl_target_name_override", pki.SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.gateway.port}", credentials, options=options)

    def audit(self) -> list[Record]:
        return self.node.audit.read()


def scratch_root(root: Path, authority: pki.Identity) -> Paths:
    """The files of an image and a kernel that the daemon reads."""
    node = Paths(str(root))
    for directory in (
        node.image_info.parent,
        node.state,
        node.proc / "sys/kernel/random",
        node.logs / "gateway",
        node.etc,
    ):
        directory.mkdir(parents=True, exist_ok=True)
    node.image_info.write_text(
        '{"version": "0.1.0", "profile": "minimal", "arch": "x86_64", "build_epoch": 1700000000}'
    )
    node.image_client_ca.write_bytes(authority.certificate_pem)
    (node.proc / "cmdline").write_text("root=/dev/dm-0")
    (node.proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 600 kB\nHugePages_Total: 0\n")
    (node.proc / "uptime").write_text("12.50 3.00\n")
    (node.proc / "sys/kernel/random/boot_id").write_text("boot-1\n")
    (node.logs / "gateway/current").write_text("2026-01-01 hello\n")
    return node


Scenario = Callable[[World], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    authority = pki.make_ca("operators", 30 * DAY)

    def run(scenario: Scenario) -> None:
        async def body() -> None:
            node = Node(scratch_root(tmp_path, authority))
            await node.prepare_run()
            await node.establish_identity()
            await node.load_configuration()
            server = await start(node)
            trust = TrustFile(node.paths.gateway_trust)
            trust.refresh()
            gateway = Gateway(trust, node.paths.socket, "127.0.0.1:0")
            await gateway.start()
            try:
                await scenario(World(node, gateway, authority))
            finally:
                await gateway.stop()
                await server.stop(None)
                await node.close()

        asyncio.run(body())

    return run


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


def test_from_first_contact_to_configured(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        async with world.channel(Role.ADMIN) as channel:
            system, config = stubs.SystemServiceStub(channel), stubs.ConfigServiceStub(channel)
            version = await system.Version(pb.VersionRequest())
            assert (version.version, version.profile, version.boot_id) == ("0.1.0", "minimal", "boot-1")
            assert version.fingerprint == world.node.identity.fingerprint
            assert (await system.Status(pb.StatusRequest())).mode == "first-contact"
            code, why = await refused(config.GetConfig(pb.GetConfigRequest()))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "no configuration yet" in why

            dry = await config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT, dry_run=True))
            assert (dry.generation, list(dry.actions)) == (0, ["set the hostname to edge-7"])
            assert world.node.mode == "first-contact"
            done = await config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT))
            assert done.generation == 1

            status = await system.Status(pb.StatusRequest())
            assert (status.mode, status.hostname, status.generation) == ("configured", "edge-7", 1)
            assert (status.memory_total_bytes, status.uptime_s) == (1024000, 12.5)
            assert {concern.name for concern in status.concerns} >= {"configuration", "identity", "trust"}
            shown = await config.GetConfig(pb.GetConfigRequest())
            assert (shown.generation, shown.applied_by, list(shown.generations)) == (1, "ada", [1])
            assert (world.node.paths.etc / "hostname").read_text() == "edge-7\n"
            assert (world.node.paths.trust / "client-ca.pem").read_bytes() == world.authority.certificate_pem

    play(scenario)


def test_refusals_carry_all_that_is_wrong(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        async with world.channel(Role.ADMIN) as channel:
            config = stubs.ConfigServiceStub(channel)
            bad = b"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: A B\nmtuu: 5\n"
            code, why = await refused(config.ApplyConfig(pb.ApplyConfigRequest(documents=bad, source_name="node.yaml")))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "node.yaml:3:" in why
            assert "node.yaml:4:" in why
            code, why = await refused(config.ApplyConfig(pb.ApplyConfigRequest(documents=b"#" * 2_000_000)))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "too large" in why
            code, why = await refused(
                config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT, expected_generation=7))
            )
            assert code is grpc.StatusCode.ABORTED
            assert "generation 0 stands, 7 was expected" in why
            assert world.node.mode == "first-contact"
            await config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT))
            code, why = await refused(config.GetConfig(pb.GetConfigRequest(generation=9)))
            assert (code, "kept are: 1" in why) == (grpc.StatusCode.NOT_FOUND, True)
            log = stubs.LogServiceStub(channel)
            code, why = await refused(log.Logs(pb.LogsRequest(service="../../state/identity")).read())
            assert (code, "there are: machined" in why) == (grpc.StatusCode.NOT_FOUND, True)

    play(scenario)


def test_each_change_leaves_a_record_and_looking_does_not(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        async with world.channel(Role.ADMIN) as channel:
            system, config = stubs.SystemServiceStub(channel), stubs.ConfigServiceStub(channel)
            await system.Version(pb.VersionRequest())
            assert world.audit() == []
            await config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT, dry_run=True))
            await refused(config.ApplyConfig(pb.ApplyConfigRequest(documents=b"nonsense: [")))
            call = config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT))
            await call
            request_id = dict(await call.trailing_metadata())["basalt-request-id"]
            await system.Reboot(pb.RebootRequest())
            dry, wrong, right, reboot = world.audit()
            assert [record.rpc.rpartition("/")[2] for record in (dry, wrong, right, reboot)] == [
                "ApplyConfig",
                "ApplyConfig",
                "ApplyConfig",
                "Reboot",
            ]
            assert (dry.outcome, dry.detail) == ("OK", "dry run")
            assert wrong.outcome.startswith("INVALID_ARGUMENT: ")
            assert (right.outcome, right.identity, right.roles) == ("OK", "ada", ("os:admin",))
            assert (right.request_id, right.address.partition(":")[0]) == (request_id, "127.0.0.1")
            assert right.detail == "generation 1: set the hostname to edge-7"
            assert reboot.detail == power.REBOOT

    play(scenario)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another task does."""
    while not true():
        await asyncio.sleep(0.02)


def test_refused_calls_are_recorded_once_and_counted(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        async with world.channel(Role.READER) as channel:
            system = stubs.SystemServiceStub(channel)
            for _ in range(5):
                assert (await refused(system.Reboot(pb.RebootRequest())))[0] is grpc.StatusCode.PERMISSION_DENIED
            await until(lambda: bool(world.audit()))
            (record,) = world.audit()
            assert (record.identity, record.roles) == ("ada", ("os:reader",))
            assert record.rpc == "/basalt.machine.v1.SystemService/Reboot"
            assert record.outcome.startswith("PERMISSION_DENIED: ")

    play(scenario)


def test_the_audit_log_is_read_and_followed_by_admins(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        async with world.channel(Role.OPERATOR) as channel:
            log = stubs.IdentityServiceStub(channel)
            assert (await refused(log.Audit(pb.AuditRequest()).read()))[0] is grpc.StatusCode.PERMISSION_DENIED
        async with world.channel(Role.ADMIN) as channel:
            config, log = stubs.ConfigServiceStub(channel), stubs.IdentityServiceStub(channel)
            await config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT))
            stream = log.Audit(pb.AuditRequest(follow=True, tail_records=1))
            first = await stream.read()
            assert [record.rpc.rpartition("/")[2] for record in first.records] == ["Audit"], (
                "reading it is recorded too"
            )
            await config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT, dry_run=True))
            assert [record.detail for record in (await stream.read()).records] == ["dry run"]
            stream.cancel()
            everything = [record async for part in log.Audit(pb.AuditRequest()) for record in part.records]
            assert [record.rpc.rpartition("/")[2] for record in everything if record.outcome == "OK"] == [
                "ApplyConfig",
                "Audit",
                "ApplyConfig",
                "Audit",
            ]

    play(scenario)


def test_nobody_but_the_gateway_reports_refusals(play: Callable[[Scenario], None]) -> None:
    """The method is not in the contract, so the gateway does not relay it; and a success cannot be reported with it."""

    async def scenario(world: World) -> None:
        forged = msgspec.json.encode(Record("ada", "1", "", "/x/Y", "", "OK"))
        async with world.channel(Role.ADMIN) as channel:
            code, _ = await refused(channel.unary_unary(REFUSED, None, None)(forged))
            assert code is grpc.StatusCode.UNIMPLEMENTED
        async with grpc.aio.insecure_channel(f"unix:{world.node.paths.socket}") as inner:
            code, _ = await refused(inner.unary_unary(REFUSED, None, None)(forged))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert world.audit() == []

    play(scenario)


def test_every_method_that_may_change_something_is_recorded() -> None:
    """By its role in the contract."""
    interceptor = AuditInterceptor(AuditLog(Path("/nowhere")))
    for method, rule in contract().items():
        assert (method in interceptor.audited) == (rule.role not in (Role.READER, Role.METRICS))


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("outcome", ["OK", "FAILED_PRECONDITION: no room"])
def test_calls_whose_requests_stream_are_recorded_with_what_they_are_about(
    kind: str, outcome: str, tmp_path: Path
) -> None:
    """The first request says it, so the record of a conversation waits for the handler to have made something of that."""
    log = AuditLog(tmp_path / "audit")
    method = {"stream_unary": "/basalt.machine.v1.ImageService/ImportImage"}.get(
        kind, "/basalt.machine.v1.WorkloadService/WorkloadExec"
    )

    async def begin(requests: AsyncIterator[bytes], context: Any) -> None:
        note(f"about {(await anext(requests)).decode()}")
        if outcome != "OK":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no room")

    async def one(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await begin(requests, context)
        return b"done"

    async def many(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await begin(requests, context)
        yield b"said"
        assert [record.outcome for record in log.read()] == ["OK"]
        yield b"more"

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            if kind == "stream_unary":
                return grpc.stream_unary_rpc_method_handler(one)
            return grpc.stream_stream_rpc_method_handler(many)

    async def scenario() -> None:
        server = grpc.aio.server(interceptors=(AuditInterceptor(log),))
        server.add_generic_rpc_handlers((Handler(),))
        socket = f"unix:{tmp_path}/socket"
        server.add_insecure_port(socket)
        await server.start()
        metadata = ((relay.IDENTITY, b"ada"), (relay.REQUEST_ID, "7"))
        async with grpc.aio.insecure_channel(socket) as channel:
            try:
                if kind == "stream_unary":
                    await channel.stream_unary(method)(iter([b"x", b"y"]), metadata=metadata)
                else:
                    async for _ in channel.stream_stream(method)(iter([b"x", b"y"]), metadata=metadata):
                        pass
            except grpc.aio.AioRpcError as error:
                assert outcome != "OK", error
        await server.stop(None)

    asyncio.run(scenario())
    (record,) = log.read()
    assert (record.identity, record.rpc, record.outcome, record.detail) == ("ada", method, outcome, "about x")


def node_ca_signs(response: pb.GetIdentityResponse, authority: pki.Identity) -> bytes:
    return pki_node.issue_issuer(authority, response.signing_request, 30 * DAY)


def test_enrolment_gives_the_node_a_second_certificate_and_drops_nothing(play: Callable[[Scenario], None]) -> None:
    nodes = pki_node.make_node_ca("nodes", 60 * DAY)

    async def scenario(world: World) -> None:
        async with world.channel(Role.ADMIN) as channel:
            config, identity = stubs.ConfigServiceStub(channel), stubs.IdentityServiceStub(channel)
            before = await identity.GetIdentity(pb.GetIdentityRequest())
            assert [shown.server_name for shown in before.certificates] == ["basalt-node"]
            issuer = node_ca_signs(before, nodes)
            enroll = pb.EnrollRequest(issuer_certificate=issuer)
            assert (await refused(identity.Enroll(enroll)))[0] is grpc.StatusCode.FAILED_PRECONDITION  # not configured
            await config.ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT))
            code, why = await refused(identity.Enroll(pb.EnrollRequest(issuer_certificate=nodes.certificate_pem)))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "path length" in why and "does not belong" not in why
            log = stubs.LogServiceStub(channel).Logs(pb.LogsRequest(service="gateway", follow=True))
            await log.read()  # open all the time

            enrolled = await identity.Enroll(enroll)
            name = pki.server_name(before.node_id)
            assert enrolled.certificate.server_name == name
            after = await identity.GetIdentity(pb.GetIdentityRequest())
            assert [shown.server_name for shown in after.certificates] == ["basalt-node", name]
            assert (after.issuer_certificate, after.issuer_authority) == (issuer, "nodes")
            assert after.signing_request != b""

            # A client that trusts the node authority alone gets in by the node's name, again after a renewal.
            client = pki.issue_client(world.authority, "ada", [Role.READER], DAY)
            credentials = grpc.ssl_channel_credentials(nodes.certificate_pem, client.key_pem, client.certificate_pem)
            for _ in range(2):
                options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
                async with grpc.aio.secure_channel(
                    f"127.0.0.1:{world.gateway.port}", credentials, options=options
                ) as other:
                    version = await stubs.SystemServiceStub(other).Version(pb.VersionRequest())
                    assert version.node_id == before.node_id
                kept = world.node.issuing.server
                assert kept
                world.node.issuing.server = None
                await world.node.issuing.reconcile()
                assert world.node.issuing.server not in (None, kept)
            with (world.node.paths.logs / "gateway/current").open("a") as file:
                file.write("2026-01-02 still here\n")
            assert b"still here" in (await log.read()).chunk, "the stream has outlived enrolment and renewals"
            log.cancel()

    play(scenario)


def test_the_first_wish_to_end_the_boot_stands(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        async with world.channel(Role.OPERATOR) as channel:
            system = stubs.SystemServiceStub(channel)
            assert (await refused(system.Reboot(pb.RebootRequest())))[0] is grpc.StatusCode.FAILED_PRECONDITION
        async with world.channel(Role.ADMIN) as channel:
            await stubs.ConfigServiceStub(channel).ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT))
        async with world.channel(Role.OPERATOR) as channel:
            system = stubs.SystemServiceStub(channel)
            await system.Shutdown(pb.ShutdownRequest())
            await system.Reboot(pb.RebootRequest())
            assert world.node.stopping.is_set()
            assert world.node.end_action == power.POWER_OFF

    play(scenario)


def test_logs_come_through(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        async with world.channel(Role.ADMIN) as channel:
            await stubs.ConfigServiceStub(channel).ApplyConfig(pb.ApplyConfigRequest(documents=DOCUMENT))
            chunks = [
                chunk.chunk async for chunk in stubs.LogServiceStub(channel).Logs(pb.LogsRequest(service="gateway"))
            ]
            assert b"".join(chunks) == b"2026-01-01 hello\n"

    play(scenario)


def test_the_socket_answers_nobody_without_the_gateways_word(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World) -> None:
        assert oct(world.node.paths.socket.stat().st_mode & 0o777) == oct(0o600)
        async with grpc.aio.insecure_channel(f"unix:{world.node.paths.socket}") as channel:
            code, _ = await refused(stubs.SystemServiceStub(channel).Version(pb.VersionRequest()))
            assert code is grpc.StatusCode.UNAUTHENTICATED

    play(scenario)


def test_long_errors_are_cut_between_lines() -> None:
    from basalt.errors import BasaltError

    words = words_of(BasaltError("many", why="\n".join(f"problem {at}" for at in range(2000)), remedy="fix them"))
    assert len(words.encode()) < DETAILS_BYTES_MAX + 50
    assert words.endswith("… and more")
    assert words_of(BasaltError("a", why="b", remedy="c")) == "a: b\nc"


def test_memory() -> None:
    assert read_memory("MemTotal:       16 kB\nHugePages_Total:       3\n") == {"MemTotal": 16384, "HugePages_Total": 3}
