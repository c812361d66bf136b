"""The configuration's generations on STATE, and the index that says what became of each.

::

    /state/config/<number>.json   one configuration: canonical documents, their SHA-256, when, by whom, from which file
    /state/config/index.json      which one stands, which is on trial or staged, which were taken back

Each file is replaced by one rename (:func:`basalt.files.write_atomic`); which generation counts is in the index alone. What is on
disk after each step of a change, and what a power cut there means:

=============================  ==================================  =============================================================
step                           on disk                             power cut after it
=============================  ==================================  =============================================================
*apply*: write the generation  a file with a number that the       never answered, never in force: removed at the next load
                               index does not know
write the index                ``current`` names it                it stands
*try*: write the generation,   as above; marked provisional        as above
marked provisional
write the index                ``trial`` names it, ``current``     it was on trial: taken back at the next boot
                               still the one before
(now it takes effect)          the same                            the same
*confirm*: write the index     ``current`` names it, no ``trial``  it stands
write the generation           no longer provisional               it stands (the load after a cut before this does it)
*take back*: write the index   no ``trial``, it is in              the one before stands
                               ``reverted``
*stage*: write the generation  as with apply or try                as with apply
write the index                ``staged`` names it                 it is staged
*next boot*: write the index   ``current`` or ``trial`` names it   as with apply or try
*forget*: remove old files     fewer files                         the next change removes the rest
=============================  ==================================  =============================================================

Without an index that can be read, the highest sound generation that is not provisional stands: one that was on trial and never
confirmed is not taken up by way of damage. Files without an index as older versions left them are read the same way, silently.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from basalt.errors import BasaltError
from basalt.files import write_atomic
from machined import paths

LAYOUT = 2  # of a generation's file: 1 is from before there was an index
INDEX_NAME = "index.json"


class _Record(Struct, frozen=True):
    """A generation's file."""

    number: int
    sha256: str
    applied_unix: int
    applied_by: str
    documents: str
    source: str = ""
    provisional: bool = False
    layout: int = 1


class Generation(Struct, frozen=True):
    """A configuration as it was applied. *documents* is canonical YAML with its secrets.

    *provisional*: it was to be confirmed, and is not yet known to be.
    """

    number: int
    documents: bytes
    applied_unix: int
    applied_by: str
    source: str = ""
    provisional: bool = False
    layout: int = LAYOUT


class Trial(Struct, frozen=True):
    """A generation in force that is taken back unless it is confirmed. Times in seconds of CLOCK_BOOTTIME.

    *base*: the generation that stands, and to which the node returns; 0 is first contact.
    *boot_id*: the boot that it runs in. Another boot without a confirmation takes it back.
    *on_boot*: it began with that boot; its time begins when the API answers, and *deadline_s* is until then a bound of the whole.
    *by_reboot*: what it changed is undone by a reboot alone.
    """

    generation: int
    base: int
    timeout_s: int
    boot_id: str
    deadline_s: float
    on_boot: bool = False
    armed: bool = True
    by_reboot: bool = False


class Staged(Struct, frozen=True):
    """A generation that comes into force with the next boot; for good, or for *trial_timeout_s* on trial when that is not 0."""

    generation: int
    boot_id: str  # the boot in which it was staged
    trial_timeout_s: int = 0
    by_reboot: bool = False


class Reverted(Struct, frozen=True):
    """A generation that was taken back, why, and when (seconds since the epoch)."""

    number: int
    reason: str
    unix: int


class Index(Struct, frozen=True):
    """What became of each generation. *last* is the highest number ever given: none is given twice."""

    current: int = 0
    last: int = 0
    trial: Trial | None = None
    staged: Staged | None = None
    reverted: tuple[Reverted, ...] = ()

    @property
    def in_force(self) -> int:
        """The generation that the node follows; 0 when it has none."""
        return self.trial.generation if self.trial else self.current

    @property
    def pinned(self) -> frozenset[int]:
        """Generations that are never forgotten."""
        trial = {self.trial.generation, self.trial.base} if self.trial else set()
        return frozenset({self.current} | trial | ({self.staged.generation} if self.staged else set()))

    def was_reverted(self, number: int) -> bool:
        """Whether *number* was taken back."""
        return any(entry.number == number for entry in self.reverted)


class _IndexFile(Struct, frozen=True):
    sha256: str
    index: msgspec.Raw


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
        return Generation(
            number,
            documents,
            record.applied_unix,
            record.applied_by,
            record.source,
            record.provisional,
            record.layout,
        )

    def read_index(self) -> Index | None:
        """What the index says; None where there is none.

        :raises BasaltError: it is damaged.
        """
        try:
            file = msgspec.json.decode((self._directory / INDEX_NAME).read_bytes(), type=_IndexFile)
            if hashlib.sha256(bytes(file.index)).hexdigest() != file.sha256:
                raise ValueError("its content does not match its checksum")
            return msgspec.json.decode(file.index, type=Index)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise BasaltError("the index of the configuration's generations is damaged", why=str(error)) from error

    def write(self, generation: Generation) -> None:
        """Keep *generation*; durable when this returns. What counts is decided by :meth:`write_index`.

        :raises OSError: it could not be written (STATE full or read-only); what stood still stands.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        documents = generation.documents
        record = _Record(
            generation.number,
            hashlib.sha256(documents).hexdigest(),
            generation.applied_unix,
            generation.applied_by,
            documents.decode(),
            generation.source,
            generation.provisional,
            LAYOUT,
        )
        write_atomic(self._path(generation.number), msgspec.json.encode(record), mode=0o600)

    def write_index(self, index: Index) -> None:
        """Say which generation counts, from now on and for every later boot; durable when this returns.

        :raises OSError: it could not be written; what counted still counts.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        body = msgspec.json.encode(index)
        file = _IndexFile(hashlib.sha256(body).hexdigest(), msgspec.Raw(body))
        write_atomic(self._directory / INDEX_NAME, msgspec.json.encode(file), mode=0o600)

    def sweep(self, last: int) -> None:
        """Remove what a power cut left: halves of files, and generations above *last*, which no index ever named.

        :raises OSError: a file cannot be removed.
        """
        for path in self._directory.glob(".*.json.*"):
            path.unlink()
        for number in self.numbers():
            if number > last:
                self.remove(number)

    def remove(self, number: int) -> None:
        """Remove a generation's file, if it is there.

        :raises OSError: it cannot be removed.
        """
        self._path(number).unlink(missing_ok=True)

    def forget(self, index: Index) -> None:
        """Remove what is older than the generations kept. Those that *index* still needs stay, and a damaged one does not count.

        :raises OSError: a file cannot be removed.
        """
        sound = 0
        for number in reversed(self.numbers()):
            if sound >= paths.GENERATIONS_KEPT and number not in index.pinned:
                self.remove(number)
                continue
            try:
                self.read(number)
                sound += 1
            except BasaltError:
                continue
