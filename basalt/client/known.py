"""Certificates of nodes that were recognised before, kept beside the contexts under the hash that is their fingerprint.

A file is believed only when its content still has that hash, so it can be lost or tampered with without harm. Keeping them
saves each command a handshake, and each node a line in its log about a visitor without a certificate.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from basalt import pki
from basalt.context_store import config_path
from basalt.files import write_atomic

# No context can have this name: theirs begin with a letter or digit.
_DIRECTORY = ".known"


def _path(fingerprint: str) -> Path:
    file = config_path()
    return file.with_name(f"{file.stem}.d") / _DIRECTORY / f"{fingerprint.removeprefix('SHA256:')}.der"


def recall(fingerprint: str) -> bytes | None:
    """The certificate with *fingerprint* (DER), if it was seen before."""
    try:
        certificate = _path(fingerprint).read_bytes()
    except OSError:
        return None
    return certificate if pki.fingerprint(certificate) == fingerprint else None


def remember(certificate: bytes) -> None:
    """Keep *certificate* (DER). Where there is no place for it, it is fetched again next time."""
    path = _path(pki.fingerprint(certificate))
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, certificate)
