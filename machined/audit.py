"""The audit log: one JSON line for each call that changes something, written before the caller is answered.

Bounded: the file is rotated at a size, and a fixed number of old ones is kept. It lies beside the services' logs, but no RPC for
readers shows it: whom somebody else's certificate names is not a reader's business.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from msgspec import Struct, structs

from machined import paths


class Record(Struct, frozen=True):
    """Who did what, and how it ended. Times in seconds since the epoch."""

    identity: str
    serial: str
    address: str
    rpc: str
    request_id: str
    outcome: str  # OK, or the gRPC status and its words
    detail: str = ""  # what was changed, without secrets
    time_unix: float = 0.0


class AuditLog:
    """Appends to ``current`` below *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, record: Record) -> None:
        """Append *record*, stamped with the present time.

        :raises OSError: it could not be written; the caller's change must then not go unanswered for either.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        current = self._directory / "current"
        values = structs.asdict(record) | {"time_unix": round(time.time(), 3)}
        line = (json.dumps(values, ensure_ascii=False) + "\n").encode()
        fd = os.open(current, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
            full = os.fstat(fd).st_size >= paths.AUDIT_FILE_BYTES
        finally:
            os.close(fd)
        if full:
            self._rotate(current)

    def _rotate(self, current: Path) -> None:
        current.rename(self._directory / f"@{time.time_ns():020d}")
        old = sorted(self._directory.glob("@*"))
        for path in old[: -paths.AUDIT_FILES]:
            path.unlink()
