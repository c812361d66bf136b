"""The audit log: a JSON line for each call that may change something and each that was refused, written before its caller is answered.

It lies on STATE in numbered files, ``<number>.jsonl``; the highest number is written to, and at a size the next one begins. A fixed
number of files is kept, so the log is bounded in bytes, and no step of that needs a rename: a power cut leaves either file complete
but for the last line of the newest. Such a torn line is ended when the log is next written to, and shown as a record that says so.

A record that STATE does not take is kept in memory and written as soon as STATE takes it: an operator must be able to reboot a node
whose disk is full. Changes of the configuration are refused then anyway, since they need the disk themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from machined import paths

UNREADABLE = "UNREADABLE"  # outcome of a line that is no record
FOLLOWER_RECORDS_MAX = 1000  # a follower that is this far behind is told so instead of being waited for


class Record(Struct, frozen=True, omit_defaults=True):
    """Who did what, and how it ended."""

    identity: str
    serial: str  # of the certificate, lower-case hex
    address: str
    rpc: str  # /basalt.machine.v1.ConfigService/ApplyConfig
    request_id: str
    outcome: str  # OK, or the gRPC status and its words
    detail: str = ""  # what was changed, without secrets
    time_unix: float = 0.0
    roles: tuple[str, ...] = ()
    repeated: int = 0  # how many like it followed and were left out


class FellBehindError(Exception):
    """A follower did not take records as fast as they came."""


class AuditLog:
    """Appends to the newest file below *directory*.

    :param report: told the error when a record cannot be written, and None when writing works again.
    """

    def __init__(self, directory: Path, report: Callable[[OSError | None], None] = lambda _: None) -> None:
        self._directory = directory
        self._report = report
        self._waiting: deque[Record] = deque(maxlen=paths.AUDIT_MEMORY_RECORDS)
        self._checked = False  # the newest file's end, once per process
        self._troubled = False
        self._followers: set[asyncio.Queue[Record]] = set()

    def write(self, record: Record) -> None:
        """Append *record*, stamped with the present time unless it has one; durable when this returns, or kept in memory."""
        stamped = structs.replace(record, time_unix=record.time_unix or round(time.time(), 3))
        self._waiting.append(stamped)
        for follower in self._followers:
            with contextlib.suppress(asyncio.QueueFull):  # see follow()
                follower.put_nowait(stamped)
        self.flush()

    def flush(self) -> None:
        """Write what could not be written when it came."""
        try:
            while self._waiting:
                self._append(msgspec.json.encode(self._waiting[0]) + b"\n")
                self._waiting.popleft()
        except OSError as error:
            self._troubled = True
            print(f"audit: {self._directory}: {error}; kept in memory: {self._waiting[-1]}", flush=True)
            self._report(error)
            return
        if self._troubled:
            self._troubled = False
            self._report(None)

    def read(self, tail: int = 0) -> list[Record]:
        """The last *tail* records, the oldest first; 0 is everything kept."""
        found: deque[Record] = deque(maxlen=tail or None)
        try:
            for path in files_of(self._directory):
                found.extend(parse(path.read_bytes()))
        except OSError as error:
            found.append(_unreadable(f"the log cannot be read: {error}"))
        found.extend(self._waiting)
        return list(found)

    async def follow(self, tail: int = 0) -> AsyncIterator[list[Record]]:
        """What :meth:`read` gives, then what is written from now on.

        :raises FellBehindError: records came faster than they were taken.
        """
        queue: asyncio.Queue[Record] = asyncio.Queue(FOLLOWER_RECORDS_MAX)
        self._followers.add(queue)
        try:
            yield self.read(tail)  # no await since the line before: nothing is missed and nothing comes twice
            while True:
                record = await queue.get()
                if queue.qsize() >= FOLLOWER_RECORDS_MAX - 1:
                    raise FellBehindError
                yield [record]
        finally:
            self._followers.discard(queue)

    def _append(self, line: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = files_of(self._directory)
        newest = files[-1] if files else self._directory / _name(1)
        if files and newest.stat().st_size >= paths.AUDIT_FILE_BYTES:
            newest = self._directory / _name(int(newest.stem) + 1)
            for path in files[: max(0, len(files) - paths.AUDIT_FILES)]:
                path.unlink()
        fd = os.open(newest, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(fd).st_size
            if not self._checked and before and os.pread(fd, 1, before - 1) != b"\n":
                line = b"\n" + line
            written = os.write(fd, line)
            if written != len(line):  # a disk with room for a part of it
                os.ftruncate(fd, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._checked = True


def files_of(directory: Path) -> list[Path]:
    """The log's files, the oldest first."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".jsonl" and path.stem.isdecimal())
    except FileNotFoundError:
        return []


def parse(data: bytes) -> list[Record]:
    """The records of a file. A line that is none becomes a record that says so: it may be the trace of a power cut."""
    records = []
    for line in data.splitlines():
        try:
            records.append(msgspec.json.decode(line, type=Record))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            records.append(
                _unreadable(f"{len(line)} bytes that are no whole record: the power went while it was written?")
            )
    return records


def _name(number: int) -> str:
    return f"{number:012d}.jsonl"


def _unreadable(detail: str) -> Record:
    return Record(identity="", serial="", address="", rpc="", request_id="", outcome=UNREADABLE, detail=detail)
