"""Says in words, and seldom, why handshakes fail.

gRPC tells nobody why it turned a client's certificate down: it writes a line of its own to stderr. This module reads the gateway's
stderr through a pipe, turns those lines into one that names this node's clock, repeats it at most once in a while, and lets everything
else through. Clients that show no certificate at all (port scans, health probes) leave no line.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable

from basalt.pki import clock, utc_now

QUIET_S = 60.0  # between two lines of the same kind

_FAILED = re.compile(r"ssl_transport_security\w*\.cc:\d+\] Handshake failed with error \S+ (?P<why>.*)")
_OTHER_NAME = re.compile(
    r"ssl_transport_security\w*\.cc:\d+\] No match found for server name"
)  # it gets the first identity

# What BoringSSL says, and what it means here; the first that fits. Empty: not worth a line.
_MEANINGS = (
    (
        "certificate has expired",
        "a client's certificate has expired by this node's clock, {clock}; either may be wrong",
    ),
    (
        "certificate is not yet valid",
        "a client's certificate is not yet valid by this node's clock, {clock}; either may be wrong",
    ),
    ("unable to get local issuer certificate", "a client's certificate is of no authority that this node accepts"),
    ("self signed certificate", "a client's certificate is of no authority that this node accepts"),
    ("self-signed certificate", "a client's certificate is of no authority that this node accepts"),
    ("CERTIFICATE_VERIFY_FAILED", "a client's certificate was refused: {why}"),
    ("", ""),
)


def meaning_of(line: str) -> str | None:
    """The template for a line about a failed handshake, empty for one that is dropped; None for any other line."""
    found = _FAILED.search(line)
    if found is None:
        return "" if _OTHER_NAME.search(line) else None
    template = next(template for sign, template in _MEANINGS if sign in found["why"])
    return template.replace("{why}", found["why"].rpartition("OPENSSL_internal:")[2])


class HandshakeLog:
    """Turns lines into what is to be written.

    :param now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._said: dict[str, tuple[float, int]] = {}  # when last, and how many were left out since

    def line(self, line: str) -> str:
        """What to write for *line*, without its end; empty for nothing."""
        template = meaning_of(line)
        if template is None:
            return line
        if not template:
            return ""
        now = self._now()
        said, left_out = self._said.get(template, (-QUIET_S, 0))
        if now - said < QUIET_S:
            self._said[template] = said, left_out + 1
            return ""
        self._said[template] = now, 0
        more = f" ({left_out} more like it since the last such line)" if left_out else ""
        return f"gateway: {template.replace('{clock}', clock(utc_now()))}{more}"


def watch_stderr() -> None:
    """Put the filter between this process and its stderr, for good."""
    reading, writing = os.pipe()
    outside = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    threading.Thread(target=_pass_on, args=(reading, outside), name="stderr", daemon=True).start()


def _pass_on(reading: int, outside: int) -> None:
    log = HandshakeLog()
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if text := log.line(line.rstrip("\n")):
                os.write(outside, text.encode() + b"\n")
