"""The key with which secrets are tagged where a configuration is shown. It never leaves the node."""

from __future__ import annotations

import os
from pathlib import Path

from basalt.files import write_atomic

KEY_BYTES = 32


class RedactionKey:
    """The key at *path*, made when it is needed first.

    One that cannot be kept serves until machined ends: copies that were read before are then refused, and nothing else is lost.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = b""

    def __call__(self) -> bytes:
        """The key."""
        if not self._key:
            self._key = self._load() or self._make()
        return self._key

    def _load(self) -> bytes:
        try:
            key = self._path.read_bytes()
        except OSError:
            return b""
        return key if len(key) == KEY_BYTES else b""

    def _make(self) -> bytes:
        key = os.urandom(KEY_BYTES)
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._path, key, mode=0o600)
        except OSError as error:
            print(f"configuration: the redaction key cannot be kept: {error}", flush=True)
        return key
