"""The kernel's log (Documentation/ABI/testing/dev-kmsg): one record per read, from the oldest that is still in the buffer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec import Struct

_RECORD_BYTES = 8192  # the kernel's own limit for one record
BATCH = 256  # messages handed on at once


class KernelMessage(Struct, frozen=True):
    """One record. *timestamp_usec* counts from boot."""

    priority: int  # syslog severity, 0 to 7
    facility: int
    sequence: int
    timestamp_usec: int
    text: str


def parse_record(data: bytes) -> KernelMessage:
    """Read ``<prefix>,<sequence>,<timestamp>,<flags>[,…];<text>`` and drop the lines of device properties behind it.

    :raises ValueError: it is not a record.
    """
    head, _, rest = data.decode("utf-8", "replace").partition(";")
    prefix, sequence, timestamp, *_ = head.split(",")
    level = int(prefix)
    return KernelMessage(level & 7, level >> 3, int(sequence), int(timestamp), rest.split("\n", 1)[0])


def _read_some(fd: int, limit: int) -> list[KernelMessage]:
    """What can be read without waiting, at most *limit*."""
    messages: list[KernelMessage] = []
    while len(messages) < limit:
        try:
            messages.append(parse_record(os.read(fd, _RECORD_BYTES)))
        except BlockingIOError:
            break
        except BrokenPipeError:
            continue  # EPIPE: records were overwritten before they were read; the next read is the oldest left
    return messages


class Reader:
    """The log from the oldest record on, read now and then.

    :raises OSError: the log cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def some(self) -> list[KernelMessage]:
        """What has come since, at most :data:`BATCH`."""
        return _read_some(self._fd, BATCH)

    def close(self) -> None:
        """No more."""
        os.close(self._fd)


async def read(path: Path, *, follow: bool, tail: int) -> AsyncIterator[list[KernelMessage]]:
    """Batches of messages: what is in the buffer (the last *tail* of it; 0 is all), then new ones for as long as *follow*.

    :raises OSError: the log cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kept: list[KernelMessage] = []
        while batch := _read_some(fd, BATCH):
            kept += batch
            if tail:
                kept = kept[-tail:]
            await asyncio.sleep(0)  # a full buffer is thousands of reads: let others in between
        for start in range(0, len(kept), BATCH):
            yield kept[start : start + BATCH]
        while follow:
            await _readable(fd)
            if batch := _read_some(fd, BATCH):
                yield batch
    finally:
        os.close(fd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
