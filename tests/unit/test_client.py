"""The client against real TLS: what is refused, why, and in which words."""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from basalt import pki
from basalt.client import Target, connect, diagnosis, tls
from basalt.endpoint import Endpoint
from basalt.errors import BasaltError, ExitCode, RefusedError, UnreachableError, UsageError
from basalt.roles import Role
from tests.unit import fake_node
from tests.unit.fake_node import DAY, Authority, FakeNode

HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def node(authority: Authority) -> Iterator[FakeNode]:
    with FakeNode(authority) as node:
        yield node


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for contexts, as `ensure_context` would have made it."""
    directory = tmp_path / "osctl"
    (directory / "config.d").mkdir(parents=True)
    monkeypatch.setenv("OSCTL_CONFIG", str(directory / "config.yaml"))
    return directory


def refusal(target: Target) -> BasaltError:
    """How a first call to *target* fails."""
    with pytest.raises(BasaltError) as caught, connect(target, timeout_s=10) as client:
        client.version()
    assert "Traceback" not in str(caught.value)
    return caught.value


def at(endpoint: Endpoint, identity: pki.Identity) -> Target:
    return Target("node-1", endpoint, "SHA256:" + "0" * 64, identity)


def test_pinned_node_answers_against_fake_node(node: FakeNode) -> None:
    with connect(node.target()) as client:
        assert client.version().boot_id == "boot-1"
        assert client.status().hostname == "node-1"
        assert [service.name for service in client.services().services] == ["machined", "chronyd"]


def test_node_seen_before_is_not_asked_for_its_certificate_again_against_fake_node(
    node: FakeNode, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(node.target()) as client:
        client.version()
    (kept,) = (home / "config.d" / ".known").iterdir()
    with monkeypatch.context() as patch:
        patch.delattr(tls, "fetch_certificate")
        with connect(node.target()) as client:
            assert client.version().version == "0.1.0"
    kept.write_bytes(pki.pem_to_der(pki.make_server_identity("impostor", pki.utc_now()).certificate_pem))
    with connect(node.target()) as client:
        assert client.version().version == "0.1.0", "a kept certificate that was tampered with is fetched anew"


def test_wiped_node_is_told_though_its_old_certificate_is_kept_against_fake_node(node: FakeNode) -> None:
    target = node.target()
    with connect(target) as client:
        client.version()
    node.stop()
    node.identity = pki.make_server_identity("node-1", pki.utc_now() - DAY)
    node.start()
    error = refusal(target)
    assert isinstance(error, diagnosis.FingerprintMismatchError)
    assert node.identity.fingerprint in error.why


def test_other_fingerprint_is_refused_with_both_printed_against_fake_node(node: FakeNode) -> None:
    error = refusal(node.target(fingerprint="SHA256:" + "0" * 64))
    assert isinstance(error, diagnosis.FingerprintMismatchError)
    assert node.identity.fingerprint in error.why
    assert "SHA256:" + "0" * 64 in error.why
    assert "osctl context add-node node-1" in error.remedy
    assert error.exit_code is ExitCode.UNREACHABLE


def test_impostor_that_appears_after_the_check_is_refused_by_grpc_against_fake_node(node: FakeNode) -> None:
    """No gap between checking the pin and using the connection: gRPC itself verifies the pinned certificate."""
    with connect(node.target(), timeout_s=10) as client:
        node.stop()
        node.identity = pki.make_server_identity("node-1", pki.utc_now() - DAY)
        node.start()
        with pytest.raises(diagnosis.FingerprintMismatchError):
            client.version()


def test_certificate_of_another_authority_is_told_as_such_against_fake_node(node: FakeNode) -> None:
    error = refusal(node.target(Authority("strangers").client("mallory")))
    assert isinstance(error, diagnosis.CertificateRefusedError)
    assert error.what == f"node-1 ({node.endpoint}) refuses the certificate of 'mallory'"
    assert "signed by CN=strangers" in error.why
    assert "osctl context ca" in error.remedy


def test_expired_certificate_is_told_with_both_clocks_against_fake_node(node: FakeNode) -> None:
    error = refusal(node.target(node.authority.client(starts_in=-2 * DAY, lifetime=HOUR)))
    assert isinstance(error, diagnosis.CertificateRefusedError)
    assert error.why.startswith("the certificate has expired: it is valid from ")
    assert "this machine's clock says " in error.why
    assert "the node's 20" in error.why, "gRPC's TLS tells the node's clock"
    assert "osctl context renew" in error.remedy


def test_certificate_of_the_future_is_told_with_both_clocks_against_fake_node(node: FakeNode) -> None:
    error = refusal(node.target(node.authority.client(starts_in=2 * DAY)))
    assert isinstance(error, diagnosis.CertificateRefusedError)
    assert error.why.startswith("the certificate is not yet valid: ")
    assert "the node's 20" in error.why


def test_clock_of_the_node_is_told_apart_from_a_bad_certificate(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.client().certificate_pem)
    target = at(Endpoint("192.0.2.1", 50000), authority.client())
    now = pki.utc_now()
    hung_up = tls.Refusal("", "the node hung up")
    skewed = diagnosis.refused_certificate(target, certificate, hung_up, now, now - 5000 * DAY)
    assert skewed.why.startswith("the clocks differ: it is valid from ")
    assert f"the node's {pki.clock(now - 5000 * DAY)}" in skewed.why
    fits = diagnosis.refused_certificate(target, certificate, hung_up, now, now)
    assert "most likely trusts another authority" in fits.why
    assert "clock" not in fits.why
    unknown = diagnosis.refused_certificate(target, certificate, hung_up, now, None)
    assert "the node's is not known" in unknown.why


def test_missing_role_is_named_against_fake_node(node: FakeNode) -> None:
    with (
        connect(node.target(node.authority.client("bob", Role.READER, Role.DEBUG))) as client,
        pytest.raises(RefusedError) as caught,
    ):
        client.reboot()
    assert "refused Reboot" in caught.value.what
    assert "needs the role os:operator" in caught.value.why
    assert "osctl gen client --name NAME --role operator" in caught.value.remedy
    assert node.asked_to == []


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, RefusedError, ExitCode.REFUSED),
        (grpc.StatusCode.FAILED_PRECONDITION, RefusedError, ExitCode.REFUSED),
        (grpc.StatusCode.ABORTED, RefusedError, ExitCode.REFUSED),
        (grpc.StatusCode.UNIMPLEMENTED, RefusedError, ExitCode.REFUSED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RefusedError, ExitCode.REFUSED),
        (grpc.StatusCode.INVALID_ARGUMENT, UsageError, ExitCode.USAGE),
        (grpc.StatusCode.NOT_FOUND, UsageError, ExitCode.USAGE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, UnreachableError, ExitCode.UNREACHABLE),
        (grpc.StatusCode.UNAVAILABLE, UnreachableError, ExitCode.UNREACHABLE),
        (grpc.StatusCode.INTERNAL, BasaltError, ExitCode.FAILED),
    ],
)
def test_status_of_the_node_becomes_an_error_against_fake_node(
    node: FakeNode, code: grpc.StatusCode, kind: type[BasaltError], exit_code: ExitCode
) -> None:
    node.status = (code, "because")
    error = refusal(node.target())
    assert type(error) is kind
    assert error.exit_code is exit_code
    assert "node-1" in error.what
    assert error.why == "because" or code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    ("said", "why", "remedy"),
    [
        (
            "expired at X; this node's clock says Y",
            "this node's clock says Y, this machine's 20",
            "osctl context renew",
        ),
        ("the certificate with the serial number 1f is revoked", "serial number 1f", "osctl gen client"),
        ("the authority that signed it is not one that this node accepts", "authority", "osctl context list"),
        ("the node is locked", "locked", "console"),
    ],
)
def test_certificate_that_is_refused_at_the_call_says_what_helps_against_fake_node(
    node: FakeNode, said: str, why: str, remedy: str
) -> None:
    node.status = (grpc.StatusCode.UNAUTHENTICATED, said)
    error = refusal(node.target())
    assert why in error.why
    assert remedy in error.remedy


def test_call_that_hangs_ends_at_its_deadline_against_fake_node(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_refuse", lambda _: node.hold.wait())
    with connect(node.target(), timeout_s=0.5) as client, pytest.raises(UnreachableError, match="Version in time"):
        client.version()


def test_streams_arrive_piece_by_piece_against_fake_node(node: FakeNode) -> None:
    with connect(node.target()) as client:
        stream = client.logs("machined", follow=True)
        assert next(stream) == b"one\ntwo\xff\n"
        assert next(stream) == b"three\n"
        node.hold.set()
        assert list(stream) == []
        assert [message.text for message in client.dmesg()] == ["Linux version 6.12"]


def test_stream_of_a_node_that_goes_away_is_an_error_against_fake_node(node: FakeNode) -> None:
    with connect(node.target(), timeout_s=5) as client:
        stream = client.logs("machined", follow=True)
        assert [next(stream), next(stream)] == [b"one\ntwo\xff\n", b"three\n"]
        node.stop()
        with pytest.raises(UnreachableError, match=r"nothing listens there|ended Logs"):
            next(stream)


def test_nothing_listening_is_told(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = Endpoint("127.0.0.1", closed.getsockname()[1])
    error = refusal(at(endpoint, authority.client()))
    assert str(error) == f"cannot reach a node at {endpoint}: nothing listens there (connection refused)"


def test_unknown_host_is_told(authority: Authority) -> None:
    assert "the name 'node.invalid' has no address" in refusal(at(Endpoint("node.invalid", 1), authority.client())).why


def test_peer_that_speaks_no_tls_is_told_against_fake_peer(authority: Authority) -> None:
    def http(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with fake_node.listening(http) as endpoint:
        assert refusal(at(endpoint, authority.client())).why == "what answers there does not speak TLS"


def test_peer_that_hangs_up_is_told_against_fake_peer(authority: Authority) -> None:
    with fake_node.listening(lambda connection: None) as endpoint:
        error = refusal(at(endpoint, authority.client()))
    assert "in the middle of the TLS handshake" in error.why or "connection reset" in error.why


def test_peer_that_says_nothing_is_told_at_the_deadline_against_fake_peer(authority: Authority) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    with (
        fake_node.listening(silent) as endpoint,
        pytest.raises(UnreachableError, match="did not answer in time"),
    ):
        connect(at(endpoint, authority.client()), timeout_s=0.5)


def test_peer_with_tls_1_1_only_is_refused_against_fake_peer(authority: Authority, tmp_path: Path) -> None:
    def old(context: ssl.SSLContext) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1

    peer = fake_node.tls_peer(pki.make_server_identity("old", pki.utc_now()), tmp_path, configure=old)
    with fake_node.listening(peer) as endpoint:
        error = refusal(at(endpoint, authority.client()))
    assert error.why == "it speaks only versions of TLS that are broken; 1.2 is the oldest that is accepted"


@pytest.mark.parametrize(
    ("other", "starts_in", "alert"),
    [(True, -DAY, "UNKNOWN_CA"), (False, -5 * DAY, "CERTIFICATE_EXPIRED"), (False, -DAY, "")],
)
def test_alert_of_the_peer_is_understood_against_fake_peer(
    authority: Authority, tmp_path: Path, other: bool, starts_in: datetime.timedelta, alert: str
) -> None:
    signer = Authority("strangers") if other else authority
    server = pki.make_server_identity("node-1", pki.utc_now() - DAY)
    with fake_node.listening(fake_node.tls_peer(server, tmp_path, authority=authority.identity)) as endpoint:
        client = signer.client(starts_in=starts_in, lifetime=2 * DAY)
        if not alert:
            with pytest.raises(UnreachableError, match="did not answer in time"):
                tls.ask_admission(endpoint, client, timeout_s=0.5)
            return
        refused = tls.ask_admission(endpoint, client, timeout_s=5)
    assert refused is not None
    assert refused.alert == alert


def test_clock_of_the_node_is_read_from_grpc_and_not_from_openssl(node: FakeNode, tmp_path: Path) -> None:
    theirs = tls.node_clock(node.endpoint, timeout_s=5)
    assert theirs is not None
    assert abs(theirs - pki.utc_now()) < datetime.timedelta(minutes=5)
    peer = fake_node.tls_peer(pki.make_server_identity("openssl", pki.utc_now()), tmp_path)
    with fake_node.listening(peer) as endpoint:
        assert tls.node_clock(endpoint, timeout_s=5) is None


def test_configuration_is_applied_and_read_back_against_fake_node(node: FakeNode) -> None:
    documents = b"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: a\n"
    with connect(node.target()) as client:
        tried = client.apply_config(documents, source="a.yaml", dry_run=True)
        assert (tried.generation, "+hostname: a" in tried.diff) == (0, True)
        assert client.apply_config(documents, source="a.yaml").generation == 1
        assert client.get_config().documents == b"---\n" + documents
        with pytest.raises(RefusedError, match="generation 1 stands now"):
            client.apply_config(documents, expected_generation=7)


def test_importing_the_package_imports_neither_grpc_nor_cryptography() -> None:
    code = "import sys, basalt.client; sys.exit('grpc' in sys.modules or 'cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
