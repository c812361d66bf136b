"""How far a destination's copy of the logs has got, and what comes next.

A place in a service's log is a file and an offset. The file is known by its inode, which s6-log's rotation keeps: it renames
``current`` and begins a new one. Where the file is gone, what was left of it is lost to this destination, and reading goes on with
the oldest that is there.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from machined.logs import files_of, whole_lines
from machined.network.names import put

CHUNK_BYTES = 32 * 1024


class Place(Struct, frozen=True, array_like=True):
    """A position in a service's log."""

    inode: int
    offset: int


class Cursor(Struct, frozen=True):
    """Everything before this has reached the destination. *kernel* is the last message's sequence number."""

    services: dict[str, Place] = {}
    kernel: int = -1


class Chunk(Struct, frozen=True):
    """Whole lines that follow a place, the place behind them, and whether something before them was lost."""

    lines: tuple[bytes, ...]
    end: Place
    lost: bool = False


def next_chunk(directory: Path, place: Place | None) -> Chunk | None:
    """What follows *place* in the log in *directory*; None when nothing does. Without a place: from the oldest kept line on."""
    files: list[tuple[Path, os.stat_result]] = []
    for path in files_of(directory):
        try:
            files.append((path, path.stat()))
        except FileNotFoundError:
            continue  # rotated under our eyes: it is back under its other name at the next look
    index = next((at for at, (_, found) in enumerate(files) if place and found.st_ino == place.inode), None)
    lost = place is not None and index is None and bool(files)
    for path, found in files[index or 0 :]:
        offset = place.offset if place and found.st_ino == place.inode else 0
        if found.st_size <= offset:
            continue
        try:
            with path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_ino != found.st_ino:
                    return None  # rotated between the two looks
                stream.seek(offset)
                data, _ = whole_lines(stream.read(CHUNK_BYTES))
        except FileNotFoundError:
            return None
        if not data:
            return None  # a line that is still being written
        return Chunk(tuple(data.splitlines()), Place(found.st_ino, offset + len(data)), lost)
    return None


def load(path: Path) -> Cursor:
    """The cursor that an earlier machined of this boot has left."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cursor)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Cursor()


def save(path: Path, cursor: Cursor) -> None:
    """Keep the cursor for the rest of the boot."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    put(path, msgspec.json.encode(cursor).decode())
