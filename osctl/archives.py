"""Archives of images on the operator's side: a file, standard input, or a directory with an OCI image layout.

What is clearly no archive is told before a node is asked; whether an archive is whole and its images are sound, the node finds out.
A directory becomes a tar on its way: each header, then the file behind it, so that nothing is written and little is held.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from basalt.errors import BasaltError, UsageError
from basalt.files import sync_directory

# Read at a time; small enough for the progress to move on a slow link.
PIECE_BYTES = 256 * 1024

# The beginning that is looked at: a tar's first header, or a gzip header of any size with that inside.
_HEAD_BYTES = 64 * 1024

_GZIP = b"\x1f\x8b"
_LAYOUT = "oci-layout"  # https://github.com/opencontainers/image-spec/blob/main/image-layout.md
_INDEX = "index.json"

_REMEDY = "`docker save -o FILE IMAGE` and `skopeo copy docker://IMAGE oci-archive:FILE` write one"


@dataclass(frozen=True)
class Archive:
    """An archive that is to be sent.

    *chunks* reads it, once for each call; where *once* is set, one time only. *size_bytes* is 0 where nothing tells it.
    """

    size_bytes: int
    chunks: Callable[[], Iterator[bytes]]
    once: bool = False


def find_archive(name: str) -> Archive:
    """The archive *name*: a file, a directory, or ``-`` for standard input.

    :raises UsageError: when it cannot be read, or is no archive of images.
    """
    if name == "-":
        # Not sys.stdin's buffer: a thread that waits in it would end the whole process badly when that leaves.
        return _flowing(0, "standard input")
    path = Path(name)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _layout(path)
        if not stat.S_ISREG(mode):
            return _flowing(os.open(path, os.O_RDONLY | os.O_CLOEXEC), name)
        with path.open("rb") as stream:
            _check_head(stream.read(_HEAD_BYTES), name)
        return Archive(path.stat().st_size, lambda: _pieces(path))
    except OSError as error:
        raise UsageError(f"cannot read {name}", why=error.strerror or str(error)) from error


def _flowing(fd: int, name: str) -> Archive:
    """What comes once and has no length: standard input, a pipe."""
    head = b""
    while len(head) < _HEAD_BYTES and (piece := _read(fd, name)):
        head += piece
    _check_head(head, name)

    def chunks() -> Iterator[bytes]:
        yield head
        while piece := _read(fd, name):
            yield piece

    return Archive(0, chunks, once=True)


def _read(fd: int, name: str) -> bytes:
    try:
        return os.read(fd, PIECE_BYTES)
    except OSError as error:
        raise BasaltError(f"cannot read {name}", why=error.strerror or str(error)) from error


def _pieces(path: Path, most: int | None = None) -> Iterator[bytes]:
    """A file's content, or its first *most* bytes."""
    left = most
    try:
        with path.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
                if left is not None:
                    left -= len(piece)
                yield piece
    except OSError as error:
        raise BasaltError(f"cannot read {path}", why=error.strerror or str(error)) from error
    if left:
        raise BasaltError(f"{path} became shorter while it was sent", remedy="try again")


def _check_head(head: bytes, name: str) -> None:
    """Refuse what does not begin like a tar, or a tar in gzip."""
    block = head
    if head.startswith(_GZIP):
        try:
            block = zlib.decompressobj(wbits=31).decompress(head, tarfile.BLOCKSIZE)
        except zlib.error as error:
            raise UsageError(f"{name} is no archive of images", why=f"its gzip is broken: {error}") from error
    try:
        tarfile.TarInfo.frombuf(block[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        why = "it is empty" if not head else "it does not begin like a tar, or a tar that gzip has compressed"
        raise UsageError(f"{name} is no archive of images", why=why, remedy=_REMEDY) from error


def _layout(directory: Path) -> Archive:
    """A directory with an OCI image layout, as a tar."""
    files = _layout_files(directory)
    size = sum(tarfile.BLOCKSIZE + _padded(length) for _, length in files) + 2 * tarfile.BLOCKSIZE

    def chunks() -> Iterator[bytes]:
        for path, length in files:
            yield _header(path.relative_to(directory), length)
            yield from _pieces(path, length)
            yield bytes(_padded(length) - length)
        yield bytes(2 * tarfile.BLOCKSIZE)  # the end of a tar

    return Archive(size, chunks)


def _layout_files(directory: Path) -> list[tuple[Path, int]]:
    """The files that make up an image layout, with their sizes, the small ones that name the others first.

    :raises UsageError: when it is none.
    """
    layout = directory / _LAYOUT
    what = f"{directory} is no OCI image layout"
    try:
        json.loads(layout.read_bytes())["imageLayoutVersion"]
    except FileNotFoundError as error:
        raise UsageError(
            what, why=f"it has no file {_LAYOUT}", remedy="name its top directory, or an archive (a tar)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(what, why=f"its {_LAYOUT} names no imageLayoutVersion") from error
    if not (directory / _INDEX).is_file():
        raise UsageError(what, why=f"it has no file {_INDEX}")
    # What else lies there is not the layout's: a runtime would take each file of an archive for content.
    blobs = sorted(path for path in directory.glob("blobs/*/*") if path.is_file())
    return [(path, path.stat().st_size) for path in (layout, directory / _INDEX, *blobs)]


def _header(name: Path, size_bytes: int) -> bytes:
    """A tar's header for a regular file. Nothing in it depends on this machine."""
    member = tarfile.TarInfo(name.as_posix())
    member.size = size_bytes
    return member.tobuf(tarfile.GNU_FORMAT)


def _padded(length: int) -> int:
    return -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write *path* anew: it is there, whole, when the body has ended without an error, and as before otherwise.

    :raises UsageError: when nothing can be written there; the body has not begun then.
    :raises BasaltError: when writing fails.
    """
    try:
        if path.exists() and not path.is_file():  # a device would be replaced by a file
            raise UsageError(
                f"cannot write {path}", why="it is no regular file", remedy="-O - writes to standard output"
            )
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}", why=error.strerror or str(error)) from error
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        raise BasaltError(f"cannot write {path}", why=error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
