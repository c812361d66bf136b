"""How far a rotation is: one file beside the context's keys, there only while one is under way."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from basalt import contexts
from basalt.context_store import config_path
from basalt.errors import BasaltError, UsageError
from basalt.files import write_atomic


class Rotation(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A rotation under way. File names are relative to the directory of the contexts file, as in that file."""

    authority: str  # client, node
    began_unix: int
    old: str  # certificate of the authority that goes
    new: str  # and of the one that comes, with its key
    new_key: str
    old_certificate: str = ""  # the client certificate by which the end of the old client authority is seen
    old_key: str = ""
    new_certificate: str = ""  # the operator's, signed by the new client authority
    new_certificate_key: str = ""
    phase: str = ""  # the one that is being worked on
    node: str = ""  # where, of those that are done node by node


def path_of(context: str) -> Path:
    """Where the rotation of a context is written down."""
    return contexts.directory_of(context) / contexts.ROTATION_FILE


def load(context: str) -> Rotation | None:
    """The rotation that is under way; None when there is none.

    :raises BasaltError: when its file cannot be read.
    """
    path = path_of(context)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Rotation)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise BasaltError(f"cannot read {path}", why=str(error)) from error


def save(context: str, rotation: Rotation) -> None:
    """Write down how far it is, durably.

    :raises BasaltError: when it cannot be written; nothing is to be done then.
    """
    path = path_of(context)
    try:
        write_atomic(path, msgspec.json.format(msgspec.json.encode(rotation), indent=1) + b"\n", mode=0o600)
    except OSError as error:
        raise BasaltError(f"cannot write {path}", why=error.strerror or str(error)) from error


def finish(context: str) -> None:
    """The rotation is over."""
    path_of(context).unlink(missing_ok=True)


@contextlib.contextmanager
def alone(context: str) -> Iterator[None]:
    """Keep every other rotation of the context out. The kernel lets go of it with the process, however that ends.

    :raises UsageError: when another process is at it.
    """
    directory = contexts.directory_of(context)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / ".rotation.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another osctl rotates an authority of the context {context!r}",
                why=f"it holds {config_path().parent / directory.name}",
                remedy="wait for it to end",
            ) from error
        yield
    finally:
        os.close(lock)
