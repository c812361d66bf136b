"""Log lines as collectors take them: one JSON object per line, or syslog (RFC 5424; framed by RFC 6587 over TCP). Pure."""

from __future__ import annotations

import json
import re
from typing import Literal

from msgspec import Struct

from machined.kmsg import KernelMessage

Format = Literal["json-lines", "syslog"]
Transport = Literal["udp", "tcp"]

KERNEL = "kernel"
DAEMON = 3  # syslog facilities and severities, RFC 5424, section 6.2.1
INFORMATIONAL = 6
TEXT_BYTES_MAX = 16 * 1024  # s6-log's lines are shorter; with all that goes around it a datagram holds one

# s6-log(8), T: ISO 8601 in the zone of the node, which is UTC, with nanoseconds and two spaces behind.
_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d{6})\d{3}  ?(.*)", re.DOTALL)
_TOO_LONG_FOR_NAME = 48  # APP-NAME, RFC 5424, section 6


class Line(Struct, frozen=True):
    """One line. *time* is RFC 3339 in UTC with microseconds, empty where the line bore none."""

    service: str
    time: str
    text: str
    severity: int = INFORMATIONAL
    facility: int = DAEMON


def service_line(service: str, raw: bytes) -> Line:
    """A line of a service's log, without its line end."""
    found = _STAMPED.fullmatch(raw)
    stamp, body = (f"{found[1].decode()}T{found[2].decode()}Z", found[3]) if found else ("", raw)
    return Line(service, stamp, body[:TEXT_BYTES_MAX].decode("utf-8", "replace"))


def rfc3339(unix: float) -> str:
    """A time in UTC with microseconds."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def kernel_line(message: KernelMessage, booted_unix: float) -> Line:
    """A kernel message; *booted_unix* is when its clock began."""
    moment = rfc3339(booted_unix + message.timestamp_usec / 1e6)
    return Line(KERNEL, moment, message.text[:TEXT_BYTES_MAX], message.priority, message.facility)


def encode(line: Line, kind: Format, transport: Transport, hostname: str) -> bytes:
    """One line as it travels."""
    if kind == "json-lines":
        fields: dict[str, object] = {"time": line.time, "host": hostname, "service": line.service}
        fields |= {"severity": line.severity, "message": line.text}
        return json.dumps({key: value for key, value in fields.items() if value != ""}).encode() + b"\n"
    header = f"<{line.facility * 8 + line.severity}>1 {line.time or '-'} {hostname} {line.service[:_TOO_LONG_FOR_NAME]} - - -"
    record = f"{header} {line.text}".encode()
    return record if transport == "udp" else b"%d %s" % (len(record), record)
