"""The node's own issuing: when a server certificate is due, what is taken as an issuing certificate, what survives."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from basalt import pki, pki_node
from machined import issuing
from machined.issuing import Issuing, Server, due, standing
from machined.reconcile import CONVERGED, State

DAY = datetime.timedelta(days=1)
HOUR_S = 3600.0
NODE_ID = "0123456789abcdef" * 2
NOW = datetime.datetime(2030, 6, 1, 12, tzinfo=datetime.UTC)

SERVER = Server("key", "chain", "SHA256:1", 24, not_before=0.0, not_after=36 * HOUR_S, renew=24 * HOUR_S)


@pytest.mark.parametrize(
    ("issuer", "lifetime_h", "now", "expected"),
    [
        ("SHA256:1", 24, 13 * HOUR_S, False),
        ("SHA256:1", 24, 24 * HOUR_S, True),  # half of its life is over
        ("SHA256:1", 24, 1e9, True),  # long ended: the node was off, or its clock has jumped
        ("SHA256:1", 24, -1.0, True),  # the clock was set back
        ("SHA256:2", 24, 13 * HOUR_S, True),  # enrolled again
        ("SHA256:1", 48, 13 * HOUR_S, True),  # configured otherwise
    ],
)
def test_when_a_server_certificate_is_due(issuer: str, lifetime_h: int, now: float, expected: bool) -> None:
    assert due(SERVER, issuer, lifetime_h, now) is expected


def test_without_one_it_is_due() -> None:
    assert due(None, "SHA256:1", 24, 0.0)


@pytest.mark.parametrize(
    ("now", "state", "words"),
    [
        (NOW + 10 * DAY, State.CONVERGED, ""),
        (NOW + 85 * DAY, State.WAITING, "ends at 2030-09-09"),
        (NOW + 100 * DAY, State.FAILED, "this node's clock says 2030-09-09"),
        (NOW - DAY, State.WAITING, "valid from 2030-06-01 12:00:00 UTC; this node's clock says 2030-05-31"),
    ],
)
def test_what_the_issuing_certificates_dates_mean(now: datetime.datetime, state: State, words: str) -> None:
    status = standing(NOW, NOW + 100 * DAY, now)
    assert status.state is state
    assert words in status.reason
    assert bool(status.remedy) == (state is not State.CONVERGED)


class Shown:
    """Counts how often the gateway would be told."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def make(directory: Path, shown: Shown | None = None, lifetime_h: int = 24) -> Issuing:
    return Issuing(directory, NODE_ID, lambda: lifetime_h, shown or Shown())


@pytest.fixture(scope="module")
def nodes() -> pki.Identity:
    return pki_node.make_node_ca("nodes", 60 * DAY)


async def enrolled(node: Issuing, nodes: pki.Identity, lifetime: datetime.timedelta = 30 * DAY) -> bytes:
    issuer = pki_node.issue_issuer(nodes, await node.signing_request(), lifetime)
    await node.enrol(issuer)
    return issuer


def test_a_node_that_is_not_enrolled_is_whole(tmp_path: Path) -> None:
    node = make(tmp_path)
    assert asyncio.run(node.reconcile()) == CONVERGED
    assert node.shown == ()


def test_enrolment_survives_and_is_shown_without_signing_again(tmp_path: Path, nodes: pki.Identity) -> None:
    shown = Shown()
    node = make(tmp_path, shown)
    asyncio.run(enrolled(node, nodes))
    assert shown.times == 1
    again = make(tmp_path, shown)
    assert again.shown == node.shown
    assert [each.server_name for each in again.shown] == [f"{NODE_ID}.basalt"]
    assert asyncio.run(again.reconcile()) == CONVERGED
    assert shown.times == 1, "what is still good is not replaced"
    for name, mode in (("issuing-key.pem", 0o600), ("server.json", 0o600), ("issuer.pem", 0o644)):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_damaged_server_certificate_is_not_shown_and_made_again(tmp_path: Path, nodes: pki.Identity) -> None:
    asyncio.run(enrolled(make(tmp_path), nodes))
    kept = (tmp_path / "server.json").read_text()
    at = kept.index("BEGIN PRIVATE KEY") + 60
    for damage in (kept[:at] + ("A" if kept[at] != "A" else "B") + kept[at + 1 :], kept[:200], "", "\0" * 4096):
        (tmp_path / "server.json").write_text(damage)
        node = make(tmp_path)
        assert node.shown == ()
        assert asyncio.run(node.reconcile()) == CONVERGED
        assert node.shown and make(tmp_path).shown == node.shown


def test_the_issuing_key_stays_the_same(tmp_path: Path) -> None:
    requests = [asyncio.run(make(tmp_path).signing_request()) for _ in range(2)]
    first, second = (x509.load_pem_x509_csr(request).public_key() for request in requests)
    assert first == second


def test_a_stepped_clock_gets_another_certificate(
    tmp_path: Path, nodes: pki.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make(tmp_path)
    asyncio.run(enrolled(node, nodes))
    first = node.server
    monkeypatch.setattr(issuing, "utc_now", lambda: pki.utc_now() + 5 * DAY)  # as if the clock had been wrong until now
    assert asyncio.run(node.reconcile()) == CONVERGED
    assert node.server and first and node.server.not_before > first.not_after
    monkeypatch.undo()
    assert asyncio.run(node.reconcile()) == CONVERGED
    assert node.server.not_before <= pki.utc_now().timestamp() < node.server.not_after


def test_a_clock_before_the_issuers_beginning_is_said_and_issues_once(
    tmp_path: Path, nodes: pki.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown()
    node = make(tmp_path, shown)
    asyncio.run(enrolled(node, nodes))
    monkeypatch.setattr(issuing, "utc_now", lambda: datetime.datetime(2010, 1, 1, tzinfo=datetime.UTC))
    for _ in range(3):
        status = asyncio.run(node.reconcile())
        assert (status.state, "clock says 2010-01-01" in status.reason) == (State.WAITING, True)
    assert shown.times <= 2, "not again at each look"


def test_the_configured_lifetime_is_followed(tmp_path: Path, nodes: pki.Identity) -> None:
    asyncio.run(enrolled(make(tmp_path), nodes))
    longer = make(tmp_path, lifetime_h=240)
    asyncio.run(longer.reconcile())
    assert longer.server
    assert longer.server.not_after - pki.utc_now().timestamp() > 9 * 24 * HOUR_S


def test_a_lost_key_asks_for_another_enrolment(tmp_path: Path, nodes: pki.Identity) -> None:
    asyncio.run(enrolled(make(tmp_path), nodes))
    (tmp_path / "issuing-key.pem").unlink()
    with pytest.raises(Exception, match="does not belong") as raised:
        asyncio.run(make(tmp_path).reconcile())
    assert "osctl enroll" in raised.value.remedy  # type: ignore[attr-defined]


def test_what_is_no_issuing_certificate_of_this_node_is_refused(tmp_path: Path, nodes: pki.Identity) -> None:
    node = make(tmp_path)
    request = asyncio.run(node.signing_request())
    other = Issuing(tmp_path / "other", "f" * 32, lambda: 24, Shown())
    others = pki_node.issue_issuer(nodes, asyncio.run(other.signing_request()), DAY)
    right = pki_node.issue_issuer(nodes, request, DAY)
    cases: list[tuple[bytes, str]] = [
        (b"", "it is empty"),
        (others, r"name constraints are not exactly 0123456789abcdef0123456789abcdef\.basalt"),
        (nodes.certificate_pem, "path length is not 0"),
        (pki.make_ca("clients", DAY).certificate_pem, "is it the client authority"),
        (right + right, "it is 2 certificates"),
    ]
    for pem, words in cases:
        with pytest.raises(pki.CertificateError, match=words):
            asyncio.run(node.enrol(pem))
    assert (node.issuer_pem, node.server) == (b"", None)
    assert not (tmp_path / "issuer.pem").exists()


def test_an_issuing_certificate_of_another_key_is_refused(tmp_path: Path, nodes: pki.Identity) -> None:
    stranger = pki_node.make_signing_request(pki_node.make_issuing_key(), NODE_ID)
    with pytest.raises(pki.CertificateError, match="does not belong"):
        asyncio.run(make(tmp_path).enrol(pki_node.issue_issuer(nodes, stranger, DAY)))


def test_an_issuing_certificate_that_has_ended_is_refused_with_both_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pki_node.make_node_ca("nodes", 60 * DAY, now=NOW)
    node = make(tmp_path)
    issuer = pki_node.issue_issuer(old, asyncio.run(node.signing_request()), DAY, now=NOW)
    monkeypatch.setattr(issuing, "utc_now", lambda: NOW + 5 * DAY)
    with pytest.raises(pki.CertificateError, match=r"expired at 2030-06-02 .* clock says 2030-06-06"):
        asyncio.run(node.enrol(issuer))


def test_issued_certificates_are_for_servers_and_end(tmp_path: Path, nodes: pki.Identity) -> None:
    node = make(tmp_path)
    asyncio.run(enrolled(node, nodes))
    assert node.server
    leaf, issuer = x509.load_pem_x509_certificates(node.server.certificate_chain.encode())
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    leaf.verify_directly_issued_by(issuer)
    remaining = leaf.not_valid_after_utc - pki.utc_now()
    assert datetime.timedelta(hours=23) < remaining <= DAY
    assert "PRIVATE" not in repr(node.server)
