"""Who the node is, who may call it, and who did what: on a booted node, through revocation and a power cut."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from basalt import contexts, pki
from basalt.client import Target, connect
from basalt.endpoint import Endpoint
from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as api
from basalt.machine.v1 import machine_pb2_grpc as stubs
from basalt.roles import Role
from tests.node.conftest import ANSWER_S, Node, until

pytestmark = pytest.mark.node

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def node(boot_faulty: Callable[[], Node], tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node with its first configuration, enrolled; the tests of this module take it through its life in order."""
    node = boot_faulty()
    node.configure(tmp_path_factory.mktemp("first"))
    node.osctl("enroll")
    return node


def authority() -> pki.Identity:
    return contexts.authority_of(contexts.ensure_context())


def issued(
    name: str, *roles: Role, lifetime: datetime.timedelta = DAY, now: datetime.datetime | None = None
) -> pki.Identity:
    return pki.issue_client(authority(), name, roles, lifetime, now=now)


def target(node: Node, client: pki.Identity) -> Target:
    """The node for a client other than the context's own."""
    known = Target.of_context(contexts.ensure_context(), node.name)
    return Target(node.name, Endpoint(*node.address), known.fingerprint, client, known.node_id, known.node_authorities)


def serial_of(identity: pki.Identity) -> str:
    return f"{x509.load_pem_x509_certificate(identity.certificate_pem).serial_number:x}"


def revoke(node: Node, directory: Path, *serials: str) -> None:
    """Apply an AccessConfig with the context's authority and these serial numbers revoked."""
    lines = [f"      {line}" for line in authority().certificate_pem.decode().splitlines()]
    document = directory / "access.yaml"
    document.write_text(
        "\n".join(
            [
                "apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: tested\n---",
                "apiVersion: basalt.dev/v1alpha1\nkind: AccessConfig\nclientAuthorities:\n  - |",
                *lines,
                f"revokedSerials: [{', '.join(repr(serial) for serial in serials)}]\n",
            ]
        )
    )
    node.osctl("apply-config", "-f", document)


def shown_certificate(node: Node, name: str) -> x509.Certificate:
    """What the node shows to a client that asks for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(node.address) as raw, context.wrap_socket(raw, server_hostname=name) as stream:
        certificate = stream.getpeercert(binary_form=True)
    assert certificate
    return x509.load_der_x509_certificate(certificate)


def test_the_node_is_recognised_by_its_authority_alone(node: Node) -> None:
    """gRPC's own verification, with the node authority as the only root and no pin at all."""
    known = Target.of_context(contexts.ensure_context(), node.name)
    client = known.identity
    credentials = grpc.ssl_channel_credentials(known.node_authorities, client.key_pem, client.certificate_pem)
    options = [("grpc.ssl_target_name_override", pki.server_name(known.node_id))]
    with grpc.secure_channel(node.endpoint, credentials, options=options) as channel:
        version = stubs.SystemServiceStub(channel).Version(api.VersionRequest(), timeout=60)
    assert version.node_id == known.node_id


def test_what_it_shows_is_short_lived_and_its_own_is_still_there(node: Node) -> None:
    known = Target.of_context(contexts.ensure_context(), node.name)
    leaf = shown_certificate(node, pki.server_name(known.node_id))
    assert leaf.not_valid_after_utc - pki.utc_now() < 2 * DAY
    own = shown_certificate(node, pki.SERVER_NAME)
    assert pki.fingerprint(own.public_bytes(Encoding.DER)) == node.facts["fingerprint"]
    answer = node.ask("get", "identity")
    assert answer["node_id"] == known.node_id


def audit(node: Node) -> list[dict[str, Any]]:
    """The audit log, the oldest record first."""
    return [json.loads(line) for line in node.osctl("audit", "-o", "json").splitlines()]


class Follower(threading.Thread):
    """Follows the gateway's log until the stream ends; keeps why it did."""

    def __init__(self, target: Target) -> None:
        super().__init__(daemon=True)
        self.client = connect(target, timeout_s=ANSWER_S)
        self.began = threading.Event()
        self.why: BasaltError | None = None

    def run(self) -> None:
        try:
            for _ in self.client.logs("machined", follow=True):
                self.began.set()
        except BasaltError as error:
            self.why = error


@pytest.fixture
def followers(node: Node) -> Iterator[tuple[Follower, Follower, pki.Identity]]:
    """Alice and Bob, each with a stream open, and Alice's certificate."""
    alice, bob = issued("alice", Role.OPERATOR), issued("bob", Role.READER)
    both = Follower(target(node, alice)), Follower(target(node, bob))
    for follower in both:
        follower.start()
        assert follower.began.wait(120)
    yield *both, alice
    for follower in both:
        follower.client.close()


def test_revocation_ends_the_streams_of_one_and_of_nobody_else(
    node: Node, tmp_path: Path, followers: tuple[Follower, Follower, pki.Identity]
) -> None:
    hers, his, alice = followers
    revoke(node, tmp_path, serial_of(alice))
    hers.join(120)
    assert not hers.is_alive()
    assert f"serial number {serial_of(alice)} is revoked" in str(hers.why)
    assert his.is_alive(), his.why
    his.began.clear()
    node.osctl("enroll")
    assert his.began.wait(240), "the other stream goes on through another enrolment: it sees the line that this leaves"
    with connect(target(node, alice), timeout_s=ANSWER_S) as client, pytest.raises(BasaltError, match="is revoked"):
        client.version()


def test_the_audit_log_tells_who_did_what_and_who_was_refused(node: Node) -> None:
    with (
        connect(target(node, issued("bob", Role.READER)), timeout_s=ANSWER_S) as client,
        pytest.raises(BasaltError, match="operator"),
    ):
        client.reboot()
    records = audit(node)
    assert {"ApplyConfig", "Enroll"} <= {each["rpc"].rpartition("/")[2] for each in records if each["outcome"] == "OK"}
    refused = {(each["identity"], each["outcome"].partition(":")[0]) for each in records if each["outcome"] != "OK"}
    assert {("alice", "UNAUTHENTICATED"), ("bob", "PERMISSION_DENIED")} <= refused
    applied = next(each for each in records if each["rpc"].endswith("ApplyConfig"))
    assert applied["roles"] == ["os:admin"]
    assert applied["address"] and len(applied["request_id"]) == 16


def test_a_power_cut_loses_neither_identity_nor_records(node: Node) -> None:
    before = audit(node)
    known = Target.of_context(contexts.ensure_context(), node.name)
    leaf = shown_certificate(node, pki.server_name(known.node_id))
    node.restart()
    assert shown_certificate(node, pki.server_name(known.node_id)) == leaf, "kept, not issued anew at each boot"
    after = audit(node)
    assert [each["request_id"] for each in after[: len(before)]] == [each["request_id"] for each in before]


def test_the_nodes_log_tells_clocks_from_certificates(node: Node) -> None:
    now = pki.utc_now()
    # The authority is as old as this test, and an hour: the allowance for clocks that are behind.
    late = issued("late", Role.READER, lifetime=datetime.timedelta(minutes=1), now=now - datetime.timedelta(minutes=30))
    early = issued("early", Role.READER, now=now + 30 * DAY)
    for client in (late, early):
        with connect(target(node, client), timeout_s=ANSWER_S) as refused, pytest.raises(BasaltError) as raised:
            refused.version()
        assert pki.clock(now)[:10] in str(raised.value), "both clocks are shown to the client"
    stranger = pki.issue_client(pki.make_ca("somebody else", DAY), "mallory", [Role.ADMIN], DAY)
    with connect(target(node, stranger), timeout_s=ANSWER_S) as refused, pytest.raises(BasaltError, match="authority"):
        refused.version()
    for _ in range(20):  # a scanner
        shown_certificate(node, "x")
    said = node.osctl("logs", "gateway")
    assert f"has expired by this node's clock, {pki.clock(now)[:10]}" in said
    assert f"is not yet valid by this node's clock, {pki.clock(now)[:10]}" in said
    assert "of no authority that this node accepts" in said
    assert "ssl_transport_security" not in said, "gRPC's own lines are not passed on"
    assert len(said.splitlines()) < 20


def test_a_stepped_clock_gets_another_certificate_without_a_word_from_anybody(node: Node) -> None:
    name = pki.server_name(Target.of_context(contexts.ensure_context(), node.name).node_id)
    try:
        node.fault(clock=10 * DAY.total_seconds())
        until(lambda: shown_certificate(node, name).not_valid_after_utc >= pki.utc_now() + 9 * DAY)
        said = node.osctl("version", expect=3)
        assert (
            "clock" in said
            and pki.clock(pki.utc_now())[:10] in said
            and pki.clock(pki.utc_now() + 10 * DAY)[:10] in said
        )
    finally:
        node.fault(clock=-10 * DAY.total_seconds())
    until(lambda: shown_certificate(node, name).not_valid_before_utc <= pki.utc_now())
    node.osctl("version")


def test_a_full_disk_refuses_changes_of_the_configuration_and_keeps_the_records(node: Node, tmp_path: Path) -> None:
    """A node whose disk is full can still be rebooted, and says that its records are in memory."""
    document = tmp_path / "full.yaml"
    document.write_text("apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: full\n")
    node.fault(fill="/state/filler")
    try:

        def noticed() -> bool:
            assert "space" in node.osctl("apply-config", "-f", document, expect=4).lower()
            return "audit" in node.concerns() and node.concerns()["audit"].state == "failed"

        until(noticed)  # the log's last block has room for a few records
        refused = [each for each in audit(node) if each["outcome"].startswith("RESOURCE_EXHAUSTED")]
    finally:
        node.fault(unlink="/state/filler")
    node.osctl("apply-config", "-f", document)
    assert node.concerns()["audit"].state == "converged"
    (file,) = node.fault(list="/state/audit")["names"]
    kept = node.fault(read=f"/state/audit/{file}")["text"]
    assert refused and all(each["request_id"] in kept for each in refused), "on the disk, those from memory too"


def test_damage_on_state_is_said_and_leaves_the_node_who_it_is(node: Node) -> None:
    """Its own key is garbage and the last record torn: the node authority still vouches for it, and the log goes on."""
    node_id = Target.of_context(contexts.ensure_context(), node.name).node_id
    node.fault(write="/state/identity/key.pem", text="-----BEGIN PRIVATE KEY-----\nAAAA\n")
    last = node.fault(list="/state/audit")["names"][-1]
    node.fault(append=f"/state/audit/{last}", text='{"identity": "to')
    node.restart()
    assert node.ask("version")["node_id"] == node_id
    trouble = node.concerns()["identity"]
    assert trouble.state == "failed" and "damaged" in trouble.reason
    assert "UNREADABLE" in {record["outcome"] for record in audit(node)}
    assert audit(node)[-1]["rpc"].endswith("Audit")
