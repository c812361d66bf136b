"""Enrolment and what an enrolled node is recognised by, as the operator sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from basalt import context_store, contexts, pki, pki_node
from basalt.client import Target, connect, recognition
from basalt.client.tls import Unverified
from basalt.endpoint import Endpoint
from basalt.errors import BasaltError, ExitCode, UnreachableError
from osctl import enrolment
from tests.unit.fake_node import DAY, Authority, FakeNode
from tests.unit.test_osctl import DOCUMENTS, Osctl, home, known_node, node, osctl

__all__ = ["home", "node", "osctl"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "SETTLING_S", 0.2)
    monkeypatch.setattr(enrolment, "POLL_INTERVAL_S", 0.02)


def entry(name: str = "n1") -> contexts.Node:
    return contexts.find_node(contexts.load().get(), name)


@contextlib.contextmanager
def enrolled(name: str, osctl: Osctl, home: Path) -> Iterator[FakeNode]:
    (home / "node.yaml").write_text(DOCUMENTS)
    with known_node(name) as node:
        osctl(f"apply-config -n {name} -f node.yaml")
        yield node


def test_first_configuration_enrols_the_node_against_fake_node(node: FakeNode, osctl: Osctl, home: Path) -> None:
    (home / "node.yaml").write_text(DOCUMENTS)
    answer = osctl.json("apply-config -f node.yaml")
    assert (answer["mode"], answer["generation"]) == ("no-reboot", 1)
    assert answer["enrolment"]["node_id"] == node.node_id == entry().id
    assert osctl.json("version")["node"] == "n1"
    shown = osctl("get identity")
    assert f"{node.node_id}.basalt" in shown
    assert "vouched for  CN=basalt nodes (default), to 20" in shown
    assert f"id {node.node_id}" in osctl("context show")


def test_enrolled_node_is_verified_by_its_id_and_not_by_its_pin_against_fake_node(
    node: FakeNode, osctl: Osctl, home: Path
) -> None:
    (home / "node.yaml").write_text(DOCUMENTS)
    osctl("apply-config -f node.yaml")
    node.stop()
    node.server = None  # it still has the certificate that was pinned
    node.start()
    osctl("version", code=ExitCode.UNREACHABLE)
    assert "is not enrolled any more" in osctl.err
    assert f"osctl enroll -n n1 --fingerprint {node.identity.fingerprint}" in osctl.err
    assert osctl.json(f"version -n n1 --fingerprint {node.identity.fingerprint}")["node_id"] == node.node_id
    osctl(f"enroll -n n1 --fingerprint {node.identity.fingerprint}")
    assert osctl.json("version")["node_id"] == node.node_id


def test_wiped_node_is_told_and_taken_back_by_its_new_pin_against_fake_node(
    node: FakeNode, osctl: Osctl, home: Path
) -> None:
    (home / "node.yaml").write_text(DOCUMENTS)
    osctl("apply-config -f node.yaml")
    node.stop()
    node.server, node.node_id, node.generation, node.generations = None, "ab" * 16, 0, {}
    node.identity = pki.make_server_identity("n1", pki.utc_now() - DAY)
    node.start()
    osctl("status", code=ExitCode.UNREACHABLE)
    assert "is not the node 'n1'" in osctl.err
    assert node.identity.fingerprint in osctl.err
    osctl(f"context add-node n1 --endpoint {node.endpoint} --fingerprint {node.identity.fingerprint}")
    assert entry().id is None, "another certificate: nothing that was known of the node holds any more"
    osctl("apply-config -f node.yaml")
    assert entry().id == "ab" * 16


def test_node_written_down_again_with_its_own_pin_stays_enrolled_against_fake_node(
    node: FakeNode, osctl: Osctl
) -> None:
    node.generation = 1
    osctl("enroll")
    contexts.add_node("n1", "192.0.2.9", node.identity.fingerprint)
    assert (entry().id, entry().endpoint) == (node.node_id, "192.0.2.9:50000")
    osctl(f"context add-node n1 --endpoint 192.0.2.8 --node-id {node.node_id}")
    assert (entry().fingerprint, entry().endpoint) == (node.identity.fingerprint, "192.0.2.8:50000")


def test_context_learns_the_id_only_after_the_node_has_proved_it_against_fake_node(
    node: FakeNode, osctl: Osctl
) -> None:
    node.generation = 1
    node.clock_ahead = 100 * DAY  # what it issues itself begins in the future
    osctl("enroll", code=ExitCode.UNREACHABLE)
    assert "the clocks differ" in osctl.err or "is not yet valid" in osctl.err
    assert entry().id is None
    assert osctl.json("version")["node_id"] == node.node_id, "it is reached by its pin as before"


def test_node_that_cannot_be_enrolled_has_its_configuration_all_the_same_against_fake_node(
    node: FakeNode, osctl: Osctl, home: Path
) -> None:
    node.clock_ahead = 100 * DAY
    (home / "node.yaml").write_text(DOCUMENTS)
    said = osctl("apply-config -f node.yaml")
    assert "generation 1 stands" in said
    assert "not enrolled: " in said


def test_operator_without_the_authority_enrols_nobody_against_fake_node(
    node: FakeNode, osctl: Osctl, home: Path
) -> None:
    osctl("gen client --name bob --role admin")
    osctl("context create bob --certificate bob.pem --key bob-key.pem --ca bob-ca.pem --node-ca bob-node-ca.pem")
    contexts.add_node("n1", str(node.endpoint), node.identity.fingerprint, context="bob")
    (home / "node.yaml").write_text(DOCUMENTS)
    assert "enrolled" not in osctl("--context bob apply-config -f node.yaml")
    osctl("--context bob enroll", code=ExitCode.USAGE)
    assert "no key of its node authority" in osctl.err
    osctl("enroll")
    osctl(f"context add-node n1 --endpoint {node.endpoint} --node-id {node.node_id} --context bob")
    assert osctl.json("--context bob version")["node_id"] == node.node_id


def test_node_id_needs_an_authority_to_verify_it_with(osctl: Osctl) -> None:
    osctl("context create a")
    osctl("gen client --name bob --role admin")
    osctl("context create bob --certificate bob.pem --key bob-key.pem --ca bob-ca.pem")
    osctl(f"context add-node n1 --endpoint 192.0.2.1 --node-id {'ab' * 16} --context bob", code=ExitCode.USAGE)
    assert "osctl context trust --node-ca FILE" in osctl.err
    osctl("context trust bob --node-ca bob-node-ca.pem")
    osctl(f"context add-node n1 --endpoint 192.0.2.1 --node-id {'AB' * 16} --context bob")
    assert contexts.load().get("bob").nodes["n1"].id == "ab" * 16
    osctl("context add-node n2 --endpoint 192.0.2.1 --context bob", code=ExitCode.USAGE)
    osctl("context trust a --node-ca bob-node-ca.pem", code=ExitCode.USAGE)
    assert "osctl ca rotate --authority node" in osctl.err


def test_context_of_an_earlier_version_gets_the_authority_that_it_lacks_against_fake_node(
    node: FakeNode, osctl: Osctl
) -> None:
    with context_store.changing() as change:
        old = change.get("default")
        change.contexts["default"] = msgspec.structs.replace(old, node_ca=None, node_ca_key=None)
    node.generation = 1
    osctl("enroll", code=ExitCode.USAGE)
    assert "`osctl gen secrets` makes the one that is missing" in osctl.err
    assert "has both authorities now" in osctl("gen secrets")
    assert "has both authorities already" in osctl("gen secrets")
    osctl("enroll")
    assert osctl.json("version")["node_id"] == node.node_id


def test_renewing_the_issuing_certificate_keeps_the_node_reachable_against_fake_node(
    node: FakeNode, osctl: Osctl
) -> None:
    node.generation = 1
    osctl("enroll --lifetime 30d")
    first = node.issuer_pem
    with connect(Target.of_context(contexts.load().get(), "n1")) as client:
        assert client.version().node_id == node.node_id
        osctl("enroll --lifetime 90d")
        assert client.version().node_id == node.node_id
    assert node.issuer_pem != first
    left = x509.load_pem_x509_certificate(node.issuer_pem).not_valid_after_utc - pki.utc_now()
    assert 89 <= left.days <= 90


def test_other_node_of_the_fleet_at_this_address_is_not_taken_for_the_one_that_was_meant(
    osctl: Osctl, home: Path
) -> None:
    with enrolled("n1", osctl, home) as first, enrolled("n2", osctl, home) as second:
        contexts.add_node("n1", str(second.endpoint), first.identity.fingerprint)
        assert entry().id == first.node_id
        osctl("version -n n1", code=ExitCode.UNREACHABLE)
        assert "is not the node 'n1'" in osctl.err
        assert second.identity.fingerprint in osctl.err


@pytest.fixture
def fleet() -> Iterator[tuple[FakeNode, pki.Identity]]:
    """A node that was enrolled by a node authority of which this test holds the key."""
    authority = pki_node.make_node_ca("nodes", 1000 * DAY, now=pki.utc_now() - 100 * DAY)
    with FakeNode(Authority()) as node:
        yield node, authority


def refusal(target: Target) -> BasaltError:
    with pytest.raises(BasaltError) as caught, connect(target, timeout_s=10) as client:
        client.version()
    return caught.value


def issuer_for(node: FakeNode, authority: pki.Identity, **times: datetime.datetime) -> bytes:
    request = pki_node.make_signing_request(node.issuing_key, node.node_id)
    return pki_node.issue_issuer(authority, request, 200 * DAY, **times)


def test_node_of_another_authority_is_told_with_both_names_against_fake_node(
    fleet: tuple[FakeNode, pki.Identity],
) -> None:
    node, authority = fleet
    node.enroll(issuer_for(node, pki_node.make_node_ca("strangers", 10 * DAY)))
    error = refusal(node.enrolled_target(authority.certificate_pem))
    assert isinstance(error, recognition.NotRecognisedError)
    assert "the context trusts CN=nodes" in error.why
    assert error.exit_code is ExitCode.UNREACHABLE
    both = node.enrolled_target(authority.certificate_pem)
    node.enroll(issuer_for(node, authority))
    with connect(both) as client:
        assert client.version().node_id == node.node_id


def test_several_node_authorities_are_trusted_at_once_against_fake_node(fleet: tuple[FakeNode, pki.Identity]) -> None:
    node, authority = fleet
    other = pki_node.make_node_ca("new nodes", 10 * DAY)
    target = node.enrolled_target(authority.certificate_pem + other.certificate_pem)
    for signer in (authority, other):
        node.enroll(issuer_for(node, signer))
        with connect(target) as client:
            assert client.version().node_id == node.node_id


def test_expired_server_certificate_is_told_apart_from_a_wrong_clock_against_fake_node(
    fleet: tuple[FakeNode, pki.Identity],
) -> None:
    node, authority = fleet
    node.clock_ahead = -50 * DAY
    node.enroll(issuer_for(node, authority, now=pki.utc_now() - 90 * DAY), lifetime=DAY)
    error = refusal(node.enrolled_target(authority.certificate_pem))
    assert "its certificate has expired" in error.what
    assert "this machine's clock says 20" in error.why
    assert "the node's 20" in error.why, "gRPC's TLS tells the node's clock"


def test_node_cannot_speak_for_another_one_against_fake_node(fleet: tuple[FakeNode, pki.Identity]) -> None:
    """The name constraint in the issuing certificate: a stolen node impersonates nobody but itself."""
    thief, authority = fleet
    victim = "cd" * 16
    thief.issuer_pem = issuer_for(thief, authority)
    issuer = pki.Identity(thief.issuer_pem, thief.issuing_key)
    thief.server = pki_node.issue_server(issuer, victim, DAY, pki.utc_now())
    target = dataclasses.replace(thief.enrolled_target(authority.certificate_pem), node_id=victim)
    error = refusal(target)
    assert isinstance(error, UnreachableError)
    assert "permitted subtree violation" in error.why


def unverified(code: int, node_id: str, start: datetime.datetime) -> Unverified:
    authority = pki_node.make_node_ca("nodes", 1000 * DAY, now=start)
    key = pki_node.make_issuing_key()
    issuer = pki_node.issue_issuer(authority, pki_node.make_signing_request(key, node_id), 900 * DAY, now=start)
    server = pki_node.issue_server(pki.Identity(issuer, key), node_id, DAY, start)
    return Unverified(code, "said OpenSSL", server.certificate_der)


@pytest.mark.parametrize(
    ("ours", "theirs", "what"),
    [
        (10, 10, "its certificate has expired"),
        (10, 0, "the clocks differ"),
        (-10, 0, "the clocks differ"),
        (-10, -10, "its certificate is not yet valid"),
        (10, None, "its certificate has expired"),
        (0, 0, "the certificate with which it issues its own is outside its dates"),
    ],
)
def test_clocks_decide_what_is_said(ours: float, theirs: float | None, what: str) -> None:
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    node_id = "ab" * 16
    identity = Authority().client()
    pem = pki_node.make_node_ca("nodes", DAY).certificate_pem
    target = Target("n1", Endpoint("192.0.2.1", 50000), "SHA256:" + "0" * 64, identity, node_id, pem)
    there = None if theirs is None else at + theirs * DAY
    error = recognition.explain(target, unverified(10, node_id, at), at + ours * DAY, there)
    assert what in error.what
    assert "this machine's clock says " in error.why
    assert ("is not known" if theirs is None else f"the node's {pki.clock(at + theirs * DAY)}") in error.why
