"""Streams of nodes on standard output, written as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

from basalt.client import Target
from basalt.commandline import Arguments, report_error
from osctl.fleet import Outcome, exit_code, stream_all
from osctl.selection import targets_of

T = TypeVar("T")


def stream(
    arguments: Arguments, read: Callable[[Target], Iterator[T]], write: Callable[[Target, T, bytes], None]
) -> int:
    """Give everything that *read* yields for any node to *write*, with a label where there are several nodes.

    :returns: the exit code.
    """
    targets = targets_of(arguments)
    width = max(len(target.name) for target in targets)
    failed: list[Outcome[T]] = []
    for outcome in stream_all(targets, read):
        if outcome.error is not None:
            report_error("osctl", outcome.error, as_json=arguments.form == "json")
            failed.append(outcome)
        elif outcome.answer is not None:
            label = f"{outcome.target.name.ljust(width)} | ".encode() if len(targets) > 1 else b""
            write(outcome.target, outcome.answer, label)
    return exit_code(failed)


def write_lines(chunk: bytes, label: bytes, to: BinaryIO | None = None) -> None:
    """Write whole lines as they came, each behind *label*; to standard output unless *to* says otherwise."""
    if label:
        chunk = b"".join(label + line for line in chunk.splitlines(keepends=True))
    write(chunk, to)


def write(data: bytes, to: BinaryIO | None = None) -> None:
    """Write bytes, and let nothing of them wait."""
    stream = to or sys.stdout.buffer
    stream.write(data)
    stream.flush()
