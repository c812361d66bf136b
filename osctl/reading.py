"""Files that the command line names."""

from __future__ import annotations

import sys
from pathlib import Path

from basalt.errors import UsageError


def read_documents(name: str) -> tuple[bytes, str]:
    """The bytes of a file (or of standard input, ``-``) and its name for error messages.

    :raises UsageError: when it cannot be read.
    """
    if name == "-":
        return sys.stdin.buffer.read(), "standard input"
    return read_file(name), name


def read_file(name: str) -> bytes:
    """The bytes of a file.

    :raises UsageError: when it cannot be read.
    """
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {name}", why=error.strerror or str(error)) from error
