"""The gateway over real TLS on the loopback interface: what is relayed, and what becomes of it when things change."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from basalt import pki, pki_node
from basalt.roles import Role
from machined.gateway import relay
from machined.gateway.authorise import Rule, Verdict, contract, decide, rules_of
from machined.gateway.relay import RESTARTING, address_of
from machined.gateway.trust import CONFIGURED, FIRST_CONTACT, LOCKED, ServerIdentity, Trust, TrustFile, write_trust
from tests.unit import gateway_world
from tests.unit.gateway_world import (
    APPLY,
    DAY,
    LOGS,
    NOW,
    VERSION,
    Play,
    Scenario,
    World,
    serial_of,
    shown,
    start_inner,
)


@pytest.fixture(scope="module")
def authority() -> pki.Identity:
    return pki.make_ca("operators", 30 * DAY)


@pytest.fixture(scope="module")
def server() -> pki.Identity:
    return pki.make_server_identity("node-1", NOW - DAY)


@pytest.fixture
def play(tmp_path: Path, authority: pki.Identity, server: pki.Identity) -> Play:
    """Run a scenario against a gateway in the given mode."""

    def run(scenario: Scenario, mode: str = CONFIGURED, authorities: str | None = None) -> None:
        trusted = authority.certificate_pem.decode() if authorities is None else authorities
        gateway_world.run(tmp_path, scenario, server=server, authorities=trusted, mode=mode)

    return run


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
        assert told["basalt-certificate-bin"] == reader.certificate_pem.decode()
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
            world.tell(client_authorities=both)
            assert await standing.unary_unary(VERSION)(
                b"2"
            )  # this call makes the gateway read the file before TLS asks for it
            assert await world.call(new)
            assert await standing.unary_unary(VERSION)(b"3")

    play(scenario)


async def ended(stream: grpc.aio.UnaryStreamCall) -> tuple[grpc.StatusCode, str]:
    """How a stream that was open comes to its end."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        while True:
            await asyncio.wait_for(stream.read(), 60)
    return raised.value.code(), raised.value.details() or ""


def test_revocation_ends_what_is_open_and_nothing_of_others(play: Play, authority: pki.Identity) -> None:
    """A stream and a call in flight of the one who is revoked end at once; the others' stream goes on."""
    ada, bob = (pki.issue_client(authority, name, [Role.ADMIN], DAY) for name in ("ada", "bob"))

    async def scenario(world: World) -> None:
        async with world.channel(ada) as hers, world.channel(bob) as his:
            going_on = his.unary_stream(LOGS)(b"y")
            await going_on.read()
            following = hers.unary_stream(LOGS)(b"one")
            await following.read()
            waiting = asyncio.ensure_future(hers.unary_unary(VERSION)(b"hang"))
            while world.stand_in.calls < 3:
                await asyncio.sleep(0.01)
            world.tell(revoked=(serial_of(ada),))
            code, why = await ended(following)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert f"serial number {serial_of(ada)} is revoked" in why
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await waiting
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as raised:  # the connection lives on, and serves nothing any more
                await hers.unary_unary(VERSION)(b"again")
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert await going_on.read()
            assert await his.unary_unary(VERSION)(b"1")
            while len(world.stand_in.refusals) < 2:  # the stream and the call
                await asyncio.sleep(0.01)
            assert {(each.identity, each.rpc) for each in world.stand_in.refusals} == {("ada", LOGS), ("ada", VERSION)}
            going_on.cancel()

    play(scenario)


@pytest.mark.parametrize("answers", [True, False])
def test_change_by_which_its_caller_loses_access_may_be_answered_for_a_while(
    play: Play, authority: pki.Identity, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """It is under way, and ending it would undo nothing; but it does not get for ever, and no new call is let in."""
    monkeypatch.setattr(relay, "ANSWER_S", 60.0 if answers else 0.05)
    ada = pki.issue_client(authority, "ada", [Role.ADMIN], DAY)

    async def scenario(world: World) -> None:
        async with world.channel(ada) as hers:
            applying = asyncio.ensure_future(hers.unary_unary(APPLY)(b"wait"))
            while not world.stand_in.calls:
                await asyncio.sleep(0.01)
            world.tell(revoked=(serial_of(ada),))
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await hers.unary_unary(VERSION)(b"new")
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            if answers:
                world.stand_in.go.set()
                assert await applying
            else:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await applying
                assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED

    play(scenario)


def test_revocation_without_the_signal_is_noticed_all_the_same(play: Play, authority: pki.Identity) -> None:
    ada = pki.issue_client(authority, "ada", [Role.READER], DAY)

    async def scenario(world: World) -> None:
        async with world.channel(ada) as channel:
            following = channel.unary_stream(LOGS)(b"one")
            await following.read()
            write_trust(world.trust_path, replace(world.trust, revoked=(serial_of(ada),)), group=None)
            assert (await ended(following))[0] is grpc.StatusCode.UNAUTHENTICATED

    play(scenario)


def test_an_authority_that_is_taken_away_takes_its_connections_along(play: Play, authority: pki.Identity) -> None:
    successor = pki.make_ca("operators, next year", 30 * DAY)
    old = pki.issue_client(authority, "ada", [Role.READER], DAY)
    new = pki.issue_client(successor, "ada", [Role.READER], DAY)
    both = authority.certificate_pem.decode() + successor.certificate_pem.decode()

    async def scenario(world: World) -> None:
        async with world.channel(old) as hers, world.channel(new) as his:
            going_on = his.unary_stream(LOGS)(b"y")
            await going_on.read()
            following = hers.unary_stream(LOGS)(b"one")
            await following.read()
            world.tell(client_authorities=successor.certificate_pem.decode())
            code, why = await ended(following)
            assert (code, "not one that this node accepts" in why) == (grpc.StatusCode.UNAUTHENTICATED, True)
            assert await going_on.read()
            assert (await world.refusal(old))[0] is grpc.StatusCode.UNAVAILABLE, "new connections fail at the handshake"
            going_on.cancel()

    play(scenario, authorities=both)


def test_a_certificate_ends_on_an_open_stream_too(play: Play, authority: pki.Identity) -> None:
    brief = pki.issue_client(authority, "ada", [Role.READER], datetime.timedelta(seconds=3))

    async def scenario(world: World) -> None:
        async with world.channel(brief) as channel:
            following = channel.unary_stream(LOGS)(b"one")
            await following.read()
            code, why = await ended(following)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "expired at" in why and "this node's clock says" in why

    play(scenario)


def test_renewal_drops_no_stream_and_shows_the_new_certificate(play: Play, authority: pki.Identity) -> None:
    """The node's issued certificate is replaced ten times while a stream is open; each new connection sees the latest."""
    nodes = pki_node.make_node_ca("nodes", 30 * DAY)
    node_id = "ab" * 16
    key = pki_node.make_issuing_key()
    issuer = pki.Identity(pki_node.issue_issuer(nodes, pki_node.make_signing_request(key, node_id), 20 * DAY), key)
    ada = pki.issue_client(authority, "ada", [Role.READER], DAY)
    name = pki.server_name(node_id)

    async def scenario(world: World) -> None:
        async with world.channel(ada) as channel:
            going_on = channel.unary_stream(LOGS)(b"y")
            await going_on.read()
            for _ in range(10):
                issued = pki_node.issue_server(issuer, node_id, DAY, pki.utc_now())
                world.tell(identities=(world.trust.identities[0], shown(issued, name)))
                credentials = grpc.ssl_channel_credentials(nodes.certificate_pem, ada.key_pem, ada.certificate_pem)
                options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
                address = f"127.0.0.1:{world.gateway.port}"
                async with grpc.aio.secure_channel(address, credentials, options=options) as other:
                    assert await other.unary_unary(VERSION)(b"1")
                served = await asyncio.to_thread(served_certificate, world.gateway.port, name)
                assert served == pki.pem_to_der(issued.certificate_pem)
                served = await asyncio.to_thread(served_certificate, world.gateway.port, pki.SERVER_NAME)
                assert served == world.server.certificate_der
                assert await going_on.read()
            assert await channel.unary_unary(VERSION)(b"1")
            going_on.cancel()

    play(scenario)


def served_certificate(port: int, name: str) -> bytes | None:
    """What is shown to a client that asks for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw, server_hostname=name) as stream:
        return stream.getpeercert(binary_form=True)


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
