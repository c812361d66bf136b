"""logs, dmesg and audit: streams, written as they come."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from basalt import output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.machine.v1 import machine_pb2 as api
from basalt.pki import clock
from osctl.messages import plain
from osctl.selection import timeout_of
from osctl.streaming import stream, write_lines


def logs(arguments: Arguments) -> int:
    def read(target: Target) -> Iterator[bytes]:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            yield from client.logs(arguments.service, follow=arguments.follow, tail_lines=arguments.tail)

    def write(target: Target, chunk: bytes, label: bytes) -> None:
        if arguments.form == "table":
            write_lines(chunk, label)
            return
        for line in chunk.decode("utf-8", "replace").splitlines():
            output.emit_line({"node": target.name, "line": line}, arguments.form)

    return stream(arguments, read, write)


def dmesg(arguments: Arguments) -> int:
    def read(target: Target) -> Iterator[api.KernelMessage]:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            yield from client.dmesg(follow=arguments.follow, tail_lines=arguments.tail)

    def write(target: Target, message: api.KernelMessage, label: bytes) -> None:
        if arguments.form == "table":
            write_lines(f"[{message.timestamp_usec / 1e6:12.6f}] {message.text}\n".encode(), label)
        else:
            output.emit_line({"node": target.name, **plain(message)}, arguments.form)

    return stream(arguments, read, write)


def audit(arguments: Arguments) -> int:
    def read(target: Target) -> Iterator[api.AuditRecord]:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            yield from client.audit(follow=arguments.follow, tail=arguments.tail)

    def write(target: Target, record: api.AuditRecord, label: bytes) -> None:
        if arguments.form == "table":
            write_lines(f"{_audit_line(record)}\n".encode(), label)
        else:
            output.emit_line({"node": target.name, **plain(record)}, arguments.form)

    return stream(arguments, read, write)


def _audit_line(record: api.AuditRecord) -> str:
    """One record: when, who, from where, what, how it ended. The columns are wide enough for most, and never cut."""
    when = clock(datetime.datetime.fromtimestamp(record.time_unix, datetime.UTC))
    words = (
        when,
        (record.identity or "nobody").ljust(20),
        (record.address or "-").ljust(21),
        record.rpc.removeprefix("/basalt.machine.v1.").ljust(28),
        record.request_id,
        record.outcome,
        f"({record.detail})" if record.detail else "",
        f"and {record.repeated} more like it" if record.repeated else "",
    )
    return output.printable("  ".join(word for word in words if word))
