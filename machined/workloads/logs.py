"""What containers have written: files in the CRI's format, one per container that ran, bounded.

A line is ``<RFC 3339 time> <stdout|stderr> <F|P>[:tags] <text>``; P means that the text goes on in the next line (the format that
kubelets read). containerd writes; renaming a file that has grown and asking containerd to reopen it is left to whoever reads.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

FILE_BYTES_MAX = 8 * 1024 * 1024
PARTS_KEPT = 2  # full files of one run, beside the current one
RUNS_KEPT = 5  # of one container
READ_BYTES = 256 * 1024


class Line(Struct, frozen=True):
    """One line of a container's output. *partial*: it goes on in the next one."""

    time_unix: float
    error: bool
    text: bytes
    partial: bool = False


def parse_line(raw: bytes) -> Line | None:
    """A line of the file without its end; None for one that is torn."""
    stamp, _, rest = raw.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    tag, _, text = rest.partition(b" ")
    if stream not in (b"stdout", b"stderr") or tag[:1] not in (b"F", b"P"):
        return None
    try:
        moment = _seconds(stamp.decode("ascii"))
    except ValueError:
        return None
    return Line(moment, stream == b"stderr", text, tag[:1] == b"P")


def _seconds(stamp: str) -> float:
    """containerd writes nanoseconds and an offset; datetime takes six digits of a fraction."""
    body, fraction, offset = stamp, "", ""
    if "." in stamp:
        body, _, tail = stamp.partition(".")
        digits = len(tail) - len(tail.lstrip("0123456789"))
        fraction, offset = tail[:digits], tail[digits:]
        return datetime.datetime.fromisoformat(f"{body}{offset}").timestamp() + float(f"0.{fraction}")
    return datetime.datetime.fromisoformat(stamp).timestamp()


def runs_of(directory: Path) -> list[int]:
    """Numbers of the runs whose logs are kept, the latest last."""
    numbers = {
        int(path.name.partition(".")[0]) for path in directory.glob("*.log*") if path.name.partition(".")[0].isdecimal()
    }
    return sorted(numbers)


def next_run(directory: Path) -> int:
    """The number of the next run; old runs make room for it."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    runs = runs_of(directory)
    for number in runs[: max(0, len(runs) - RUNS_KEPT + 1)]:
        for path in files_of(directory, number):
            path.unlink(missing_ok=True)
    return runs[-1] + 1 if runs else 1


def files_of(directory: Path, run: int) -> list[Path]:
    """The files of one run, the oldest first."""
    full = sorted(directory.glob(f"{run}.log.*"), key=lambda path: int(path.suffix[1:]), reverse=True)
    current = directory / f"{run}.log"
    return [*full, *([current] if current.exists() else [])]


def read(path: Path, start: int = 0) -> Iterator[tuple[Line, int]]:
    """The whole lines of a file from an offset on, each with the offset behind it."""
    with path.open("rb") as stream:
        stream.seek(start)
        offset, rest = start, b""
        while block := stream.read(READ_BYTES):
            *whole, rest = (rest + block).split(b"\n")
            for raw in whole:
                offset += len(raw) + 1
                if line := parse_line(raw):
                    yield line, offset


def rotate(directory: Path, run: int) -> bool:
    """Rename a run's file that has grown too large; whether containerd now has to reopen it."""
    current = directory / f"{run}.log"
    try:
        if current.stat().st_size < FILE_BYTES_MAX:
            return False
    except FileNotFoundError:
        return False
    for number in range(PARTS_KEPT, 0, -1):
        older = directory / f"{run}.log.{number}"
        if number == PARTS_KEPT:
            older.unlink(missing_ok=True)
        elif older.exists():
            older.rename(directory / f"{run}.log.{number + 1}")
    current.rename(directory / f"{run}.log.1")
    return True
