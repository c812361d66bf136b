"""The download cache: files by the hash they were locked with."""

from __future__ import annotations

import hashlib
from pathlib import Path


def blob(cache: Path, sha256: str) -> Path:
    """Where a download of that hash is kept."""
    return cache / "downloads" / "sha256" / sha256


def verified(path: Path, sha256: str) -> bool:
    """True when *path* exists and has that hash."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
