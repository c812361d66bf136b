"""workload logs and events: streams, written as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from basalt import output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.machine.v1 import containers_pb2 as api
from osctl import times
from osctl.messages import plain
from osctl.selection import timeout_of
from osctl.streaming import stream, write, write_lines


def logs(arguments: Arguments) -> int:
    def read(target: Target) -> Iterator[api.WorkloadLogLine]:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            yield from client.workload_logs(
                arguments.workload.name,
                container=arguments.workload.container,
                follow=arguments.follow,
                tail_lines=arguments.tail,
                since_unix=arguments.since,
                previous=arguments.previous,
            )

    lines = Lines(timestamps=arguments.timestamps)

    def show(target: Target, line: api.WorkloadLogLine, label: bytes) -> None:
        if arguments.form == "table":
            lines.show(target.name, line, label)
        else:
            output.emit_line({"node": target.name, **plain(line)}, arguments.form)

    return stream(arguments, read, show)


class Lines:
    """Writes a container's lines where it wrote them: to standard output or error output, long ones piece by piece."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._unfinished: dict[bool, str] = {}  # error output or not → the node whose line is not at its end

    def show(self, node: str, line: api.WorkloadLogLine, label: bytes) -> None:
        """One line, or a piece of one."""
        unfinished = self._unfinished.pop(line.error, None)
        time_stamp = f"{times.moment(line.time_unix)}  ".encode() if self._timestamps else b""
        if unfinished == node:
            start = b""
        elif unfinished is None:
            start = label + time_stamp
        else:
            start = b"\n" + label + time_stamp
        end = b"" if line.partial else b"\n"
        if line.partial:
            self._unfinished[line.error] = node
        write(start + line.text + end, sys.stderr.buffer if line.error else sys.stdout.buffer)


def events(arguments: Arguments) -> int:
    def read(target: Target) -> Iterator[api.WorkloadEvent]:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            yield from client.workload_events(arguments.names, follow=arguments.follow, tail=arguments.tail)

    def show(target: Target, event: api.WorkloadEvent, label: bytes) -> None:
        if arguments.form == "table":
            write_lines(f"{_event(event)}\n".encode(), label)
        else:
            output.emit_line({"node": target.name, **plain(event)}, arguments.form)

    return stream(arguments, read, show)


def _event(event: api.WorkloadEvent) -> str:
    """One event: when, to what, what, and more about it. The columns are wide enough for most, and never cut."""
    whom = f"{event.workload}/{event.container}" if event.container else event.workload
    words = (times.instant(event.time_unix), whom.ljust(24), event.kind.ljust(9), event.text)
    return output.printable("  ".join(words).rstrip())
