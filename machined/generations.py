"""The configuration's generations on STATE: each one file, written whole, two kept.

``<number>.json`` holds the canonical documents together with their SHA-256, when and by whom they were applied. One file is one
rename: a power cut leaves the old generation or the new one, never half. The current generation is the highest whose file is sound;
a damaged one is passed over (and stays for inspection until newer ones push it out), so a broken one is never the only one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from basalt.errors import BasaltError
from basalt.files import write_atomic
from machined import paths


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """The file's content."""

    number: int
    sha256: str
    applied_unix: int
    applied_by: str
    documents: str


class Generation(Struct, frozen=True):
    """A configuration as it was applied. *documents* is canonical YAML with its secrets."""

    number: int
    documents: bytes
    applied_unix: int
    applied_by: str


class Loaded(Struct, frozen=True):
    """What was found on STATE: the generation in force, and what is wrong with those that were passed over."""

    current: Generation | None
    problems: tuple[str, ...] = ()


class GenerationStore:
    """The generations in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def numbers(self) -> tuple[int, ...]:
        """The generations kept, the oldest first, damaged ones included."""
        try:
            return tuple(sorted(int(path.stem) for path in self._directory.glob("[0-9]*.json")))
        except FileNotFoundError:
            return ()

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.json"

    def read(self, number: int) -> Generation:
        """One generation.

        :raises BasaltError: there is no such generation, or its file is damaged.
        """
        path = self._path(number)
        try:
            record = msgspec.json.decode(path.read_bytes(), type=_Record)
            documents = record.documents.encode()
            if record.number != number or hashlib.sha256(documents).hexdigest() != record.sha256:
                raise ValueError("its content does not match its checksum")
        except FileNotFoundError as error:
            kept = ", ".join(map(str, self.numbers())) or "none"
            raise BasaltError(f"there is no generation {number}", why=f"kept are: {kept}") from error
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise BasaltError(f"generation {number} of the configuration is damaged", why=str(error)) from error
        return Generation(number, documents, record.applied_unix, record.applied_by)

    def load(self) -> Loaded:
        """The generation in force: the highest that is sound."""
        problems: list[str] = []
        for number in reversed(self.numbers()):
            try:
                return Loaded(self.read(number), tuple(problems))
            except BasaltError as error:
                problems.append(str(error))
        return Loaded(None, tuple(problems))

    def write(self, documents: bytes, *, applied_unix: int, applied_by: str) -> Generation:
        """Make *documents* the current generation; durable when this returns, and only then visible.

        :raises OSError: it could not be written (STATE full or read-only); what stood still stands.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        number = max(self.numbers(), default=0) + 1
        record = _Record(number, hashlib.sha256(documents).hexdigest(), applied_unix, applied_by, documents.decode())
        write_atomic(self._path(number), msgspec.json.encode(record), mode=0o600)
        self._forget()
        return Generation(number, documents, applied_unix, applied_by)

    def _forget(self) -> None:
        """Remove what is older than the generations kept. A damaged one does not count as kept."""
        sound = 0
        for number in reversed(self.numbers()):
            if sound >= paths.GENERATIONS_KEPT:
                self._path(number).unlink()
                continue
            try:
                self.read(number)
                sound += 1
            except BasaltError:
                continue
