"""What the gateway says of those that it turned away: seldom enough that nobody can flood a log, and with both clocks to compare."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from machined.audit import Record
from machined.gateway.handshakes import QUIET_S, HandshakeLog, meaning_of
from machined.gateway.refusals import KINDS_MAX, WINDOW_S, Repetitions

FAILED = "I1124 04:20:38.949625   12270 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
VERIFY = FAILED + "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: "


def refusal(serial: str = "1f", *, port: int = 1, rpc: str = "/x/Reboot", request_id: str = "a") -> Record:
    return Record("ada", serial, f"192.0.2.1:{port}", rpc, request_id, "PERMISSION_DENIED: needs another role")


def test_the_first_refusal_is_told_and_the_rest_are_counted() -> None:
    seen = Repetitions()
    assert seen.first(refusal(port=1), 0)
    assert not any(seen.first(refusal(port=port, request_id=f"{port}"), 1) for port in range(2, 12))
    assert seen.first(refusal("2f"), 1), "another caller's is another kind"
    assert seen.first(refusal(rpc="/x/Shutdown"), 1), "and so is another call"
    assert seen.ended(WINDOW_S - 1) == []
    (told,) = seen.ended(WINDOW_S + 2)
    assert (told.repeated, told.request_id) == (10, "11"), "the latest, with how many there were"
    assert seen.first(refusal(), WINDOW_S + 3), "a new window begins"


def test_what_is_remembered_is_bounded() -> None:
    seen = Repetitions()
    told = sum(seen.first(refusal(f"{serial:x}"), 0) for serial in range(KINDS_MAX * 3))
    assert told == KINDS_MAX


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (VERIFY + "certificate has expired", "has expired by this node's clock, {clock}; either may be wrong"),
        (
            VERIFY + "certificate is not yet valid",
            "is not yet valid by this node's clock, {clock}; either may be wrong",
        ),
        (VERIFY + "unable to get local issuer certificate", "of no authority that this node accepts"),
        (VERIFY + "unsupported certificate purpose", "was refused: CERTIFICATE_VERIFY_FAILED: unsupported"),
        (FAILED + "error:100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid", ""),
        (FAILED + "error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST: Invalid", ""),
        ("E1124 04:42:02.764937      87 ssl_transport_security.cc:3238] No match found for server name: x", ""),
    ],
)
def test_failed_handshakes_are_said_in_words(line: str, expected: str) -> None:
    meaning = meaning_of(line)
    assert meaning is not None
    assert (expected in meaning) if expected else meaning == ""


def test_lines_about_anything_else_pass() -> None:
    assert meaning_of("Traceback (most recent call last):") is None
    assert HandshakeLog().line("  File 'x'") == "  File 'x'"


def test_the_same_words_come_once_in_a_while_with_a_count() -> None:
    now = 0.0
    log = HandshakeLog(lambda: now)
    assert "this node's clock, 20" in log.line(VERIFY + "certificate has expired")
    assert [log.line(VERIFY + "certificate has expired") for _ in range(50)] == [""] * 50
    assert "no authority" in log.line(VERIFY + "unable to get local issuer certificate"), (
        "another kind has its own time"
    )
    now = QUIET_S
    assert "(50 more like it" in log.line(VERIFY + "certificate has expired")


def test_stderr_of_a_process_goes_through_the_filter() -> None:
    program = (
        "import os, time; from machined.gateway.handshakes import watch_stderr; watch_stderr();"
        f"os.write(2, {(VERIFY + 'certificate has expired').encode()!r} + b'\\n');"
        "os.write(2, b'something else\\n'); time.sleep(1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    first, second = done.stderr.splitlines()
    assert first.startswith("gateway: a client's certificate has expired by this node's clock, ")
    assert second == "something else"
