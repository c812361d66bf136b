"""Reads the logs that s6-log writes: a directory with ``current`` and its rotated predecessors ``@<TAI64N stamp>.s`` (or ``.u``).

Following polls: a log is read by a person or a collector, for whom a fifth of a second is nothing, and a poll cannot lose an event.
The reader holds the file that it reads open, so a rotation under its eyes loses nothing: it reads the rest of the old file, then
goes on with the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 64 * 1024  # a message of the stream: whole lines, about this much
POLL_S = 0.2
LINE_BYTES_MAX = 64 * 1024  # s6-log cuts longer lines itself; a line that never ends is passed on in pieces


def files_of(directory: Path) -> list[Path]:
    """The files, the oldest first. TAI64N stamps sort as text."""
    rotated = sorted(directory.glob("@*"))
    current = directory / "current"
    return [*rotated, current] if current.exists() else rotated


def tail_of(data: bytes, lines: int) -> bytes:
    """The last *lines* lines of *data*."""
    position = len(data) - (1 if data.endswith(b"\n") else 0)
    for _ in range(lines):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return data
    return data[position + 1 :]


def whole_lines(data: bytes) -> tuple[bytes, bytes]:
    """Split *data* behind its last line end; a rest that is too long to be a line goes along."""
    end = data.rfind(b"\n") + 1
    if len(data) - end > LINE_BYTES_MAX:
        end = len(data)
    return data[:end], data[end:]


async def read(directory: Path, *, follow: bool, tail_lines: int) -> AsyncIterator[bytes]:
    """Chunks of whole lines: what is kept (or its last *tail_lines*; 0 is all), then what comes for as long as *follow*."""
    if tail_lines:
        kept = b""
        stream: BinaryIO | None = None
        for path in reversed(files_of(directory)):  # bounded: s6-log keeps a few files of a megabyte
            opened = path.open("rb")
            kept = opened.read() + kept
            if stream is None:
                stream = opened
            else:
                opened.close()
            if kept.count(b"\n") > tail_lines:
                break
        kept = tail_of(kept, tail_lines)
        for start in range(0, len(kept), CHUNK_BYTES):
            yield kept[start : start + CHUNK_BYTES]
        if stream is None:
            stream = await _first_stream(directory, follow)
    else:
        stream = None
        for path in files_of(directory):
            if stream is not None:
                stream.close()
            stream = path.open("rb")
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
                await asyncio.sleep(0)
    if follow and stream is not None:
        async for chunk in _follow(directory, stream):
            yield chunk
    elif stream is not None:
        stream.close()


async def _first_stream(directory: Path, follow: bool) -> BinaryIO | None:
    """The current file, waited for when a log that has not begun yet is followed."""
    while follow:
        if (directory / "current").exists():
            return (directory / "current").open("rb")
        await asyncio.sleep(POLL_S)
    return None


async def _follow(directory: Path, stream: BinaryIO) -> AsyncIterator[bytes]:
    current = directory / "current"
    rest = b""
    try:
        while True:
            data = rest + stream.read(CHUNK_BYTES)
            chunk, rest = whole_lines(data)
            if chunk:
                yield chunk
                continue
            try:
                replaced = current.stat().st_ino != _inode(stream)
            except FileNotFoundError:
                replaced = False  # between s6-log's rename and its new file
            if replaced:
                if not (remainder := stream.read(CHUNK_BYTES)):
                    stream.close()
                    stream = current.open("rb")
                rest += remainder
                continue
            await asyncio.sleep(POLL_S)
    finally:
        stream.close()


def _inode(stream: BinaryIO) -> int:
    import os

    return os.fstat(stream.fileno()).st_ino
