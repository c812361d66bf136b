"""Every RPC of the contract, every role, every kind of certificate: exactly those whom the contract lets in get in.

The cases are generated from the proto: a new RPC or a new role is covered by being there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from basalt import pki
from basalt.roles import Role, permitted
from machined.gateway.authorise import Rule, contract
from machined.gateway.trust import CONFIGURED, FIRST_CONTACT, LOCKED
from tests.unit import gateway_world
from tests.unit.gateway_world import DAY, NOW, World, serial_of, with_usage

AT_THE_HANDSHAKE = grpc.StatusCode.UNAVAILABLE  # gRPC's clients are told no more: the server ends the connection
AT_THE_CALL = grpc.StatusCode.UNAUTHENTICATED

_USAGES = x509.oid.ExtendedKeyUsageOID


@pytest.fixture(scope="module")
def authority() -> pki.Identity:
    """Of an age that leaves room for certificates that have ended."""
    return pki.make_ca("operators", 60 * DAY, now=NOW - 30 * DAY)


@pytest.fixture(scope="module")
def server() -> pki.Identity:
    return pki.make_server_identity("node-1", NOW - DAY)


Make = Callable[[pki.Identity, pki.Identity, Role], pki.Identity | None]


def usage(*usages: x509.ObjectIdentifier) -> Make:
    return lambda authority, _, role: with_usage(authority, [*usages] or None, role=role)


# What is shown, where it is refused, and what the refusal says.
REFUSED: dict[str, tuple[Make, grpc.StatusCode, str]] = {
    "no certificate": (lambda *_: None, AT_THE_HANDSHAKE, ""),
    "of another authority of the same name": (
        lambda _, __, role: pki.issue_client(pki.make_ca("operators", 30 * DAY), "eve", [role], DAY),
        AT_THE_HANDSHAKE,
        "",
    ),
    "expired": (
        lambda authority, _, role: pki.issue_client(authority, "eve", [role], DAY, now=NOW - 10 * DAY),
        AT_THE_HANDSHAKE,
        "",
    ),
    "not yet valid": (
        lambda authority, _, role: pki.issue_client(authority, "eve", [role], DAY, now=NOW + 10 * DAY),
        AT_THE_HANDSHAKE,
        "",
    ),
    "revoked": (lambda authority, _, role: pki.issue_client(authority, "eve", [role], DAY), AT_THE_CALL, "is revoked"),
    "for servers, of the right authority": (usage(_USAGES.SERVER_AUTH), AT_THE_HANDSHAKE, ""),
    "for clients and servers": (usage(_USAGES.SERVER_AUTH, _USAGES.CLIENT_AUTH), AT_THE_CALL, "extended key usage"),
    "for clients and anything": (
        usage(_USAGES.ANY_EXTENDED_KEY_USAGE, _USAGES.CLIENT_AUTH),
        AT_THE_CALL,
        "extended key usage",
    ),
    "for nothing in particular": (usage(), AT_THE_CALL, "extended key usage"),
    "for nobody": (
        lambda authority, _, role: with_usage(authority, [_USAGES.CLIENT_AUTH], None, role),
        AT_THE_CALL,
        "names nobody",
    ),
    "the node's own": (lambda _, server, __: server, AT_THE_HANDSHAKE, ""),
    "the authority's own": (lambda authority, _, __: authority, AT_THE_HANDSHAKE, ""),
}


def expected(rule: Rule, role: Role, mode: str) -> grpc.StatusCode:
    """What the contract says about a good certificate with *role* alone."""
    if mode == LOCKED:
        return AT_THE_CALL
    if rule.role is None or not permitted([role], rule.role):
        return grpc.StatusCode.PERMISSION_DENIED
    if mode == FIRST_CONTACT and not rule.first_contact:
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.OK


async def answer(channel: grpc.aio.Channel, rule: Rule) -> tuple[grpc.StatusCode, str]:
    try:
        if rule.server_streaming:
            stream = channel.unary_stream(rule.method)(b"x")
            await stream.read()
            stream.cancel()
        else:
            await channel.unary_unary(rule.method)(b"x")
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("mode", [CONFIGURED, FIRST_CONTACT, LOCKED])
def test_good_certificates(tmp_path: Path, authority: pki.Identity, server: pki.Identity, mode: str) -> None:
    async def scenario(world: World) -> None:
        let_in, refused = 0, set()
        for role in Role:
            client = pki.issue_client(authority, "ada", [role], DAY)
            async with world.channel(client) as channel:
                for rule in contract().values():
                    assert rule.role is not None, f"{rule.method} names no role"
                    code, _ = await answer(channel, rule)
                    assert code is expected(rule, role, mode), (rule.method, role)
                    let_in += code is grpc.StatusCode.OK
                    if code is not grpc.StatusCode.OK:
                        refused.add((serial_of(client), rule.method))
        assert world.stand_in.calls == let_in, "machined sees the calls that are let in, and no other"
        while len(world.stand_in.refusals) < len(refused):
            await asyncio.sleep(0.01)
        assert {(each.serial, each.rpc) for each in world.stand_in.refusals} == refused, "each refusal is recorded"

    authorities = authority.certificate_pem.decode()
    gateway_world.run(tmp_path, scenario, server=server, authorities=authorities, mode=mode)


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_certificates(tmp_path: Path, authority: pki.Identity, server: pki.Identity, kind: str) -> None:
    make, status, words = REFUSED[kind]
    clients = {role: make(authority, server, role) for role in Role}
    revoked = tuple(serial_of(client) for client in clients.values() if client) if kind == "revoked" else ()

    async def scenario(world: World) -> None:
        for role, client in clients.items():
            for rule in contract().values():
                async with world.channel(client) as channel:  # its own connection for each: a handshake for each, too
                    code, details = await answer(channel, rule)
                    assert code is status, (rule.method, role)
                    assert words in details
        assert world.stand_in.calls == 0

    authorities = authority.certificate_pem.decode()
    gateway_world.run(tmp_path, scenario, server=server, authorities=authorities, revoked=revoked)
