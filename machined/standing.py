"""What stands on STATE: which generation is in force, what became of the others, and what a start of machined makes of it.

Nothing here decides about a change (:mod:`machined.configuration` does); what has been decided is written and taken up.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable

from msgspec import Struct, structs

from basalt.config import Configuration, parse, redact, render
from basalt.errors import BasaltError
from machined import trial
from machined.generations import Generation, GenerationStore, Index
from machined.reconcile import CONVERGED, Status, failed, waiting

EMPTY = Configuration()


class Shown(Struct, frozen=True):
    """A generation for reading: canonical, without secrets."""

    documents: bytes
    generation: Generation


class Fate(enum.Enum):
    """What became of a generation. The values are the contract's."""

    CURRENT = 1
    TRIAL = 2
    STAGED = 3
    PREVIOUS = 4
    REVERTED = 5
    DAMAGED = 6


class Entry(Struct, frozen=True):
    """A generation in the history."""

    number: int
    fate: Fate
    applied_unix: int = 0
    applied_by: str = ""
    source: str = ""
    reason: str = ""
    trial_left_s: float = 0.0


class Standing:
    """The generations of *store* and which of them counts.

    :param boot_id: which boot this is.
    :param clock: CLOCK_BOOTTIME in seconds.
    """

    def __init__(self, store: GenerationStore, *, boot_id: Callable[[], str], clock: Callable[[], float]) -> None:
        self.store = store
        self._boot_id = boot_id
        self._clock = clock
        self.index = Index()
        self.generation: Generation | None = None
        self.current = EMPTY
        self.problems: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """The generation in force; 0 when there is none."""
        return self.generation.number if self.generation else 0

    @property
    def trial_left_s(self) -> float:
        """Seconds until what is on trial is taken back; 0 when nothing is."""
        return max(0.0, self.index.trial.deadline_s - self._clock()) if self.index.trial else 0.0

    @property
    def status(self) -> Status:
        """How the configuration stands."""
        if self.problems:
            now = f"generation {self.number} is in force" if self.generation else "the node waits for a configuration"
            return failed(f"{'; '.join(self.problems)}; {now}", "apply the configuration again")
        if self.index.trial:
            return waiting(
                f"generation {self.index.trial.generation} is on trial, taken back in {self.trial_left_s:.0f} s "
                "unless confirmed",
                "osctl config confirm keeps it, osctl config rollback ends it",
            )
        if self.index.staged:
            number = self.index.staged.generation
            return waiting(f"generation {number} is staged: in force from the next boot on", "osctl reboot")
        return CONVERGED

    def history(self) -> tuple[Entry, ...]:
        """The generations kept, the newest first, with what became of each."""
        reasons = {entry.number: entry.reason for entry in self.index.reverted}
        entries = []
        for number in reversed(self.store.numbers()):
            try:
                generation = self.store.read(number)
            except BasaltError as error:
                entries.append(Entry(number, Fate.DAMAGED, reason=str(error)))
                continue
            fate = self._fate(number)
            entries.append(
                Entry(
                    number,
                    fate,
                    generation.applied_unix,
                    generation.applied_by,
                    generation.source,
                    reasons.get(number, "") if fate is Fate.REVERTED else "",
                    self.trial_left_s if fate is Fate.TRIAL else 0.0,
                )
            )
        return tuple(entries)

    def _fate(self, number: int) -> Fate:
        if self.index.trial and number == self.index.trial.generation:
            return Fate.TRIAL
        if number in (self.number, self.index.current):
            return Fate.CURRENT
        if self.index.staged and number == self.index.staged.generation:
            return Fate.STAGED
        return Fate.REVERTED if self.index.was_reverted(number) else Fate.PREVIOUS

    def show(self, number: int, redaction_key: bytes) -> Shown:
        """One of the generations kept; 0 is the one in force.

        :raises BasaltError: there is none.
        """
        generation = self.store.read(number) if number else self.generation
        if generation is None:
            raise BasaltError("this node has no configuration", remedy="apply one: osctl apply-config -f node.yaml")
        return Shown(render(redact(read_configuration(generation), redaction_key)), generation)

    def load(self) -> Status:
        """Take up what STATE holds. A generation that is damaged, or that this version cannot read, is passed over."""
        problems = []
        try:
            index = self.store.read_index()
        except BasaltError as error:
            problems.append(str(error))
            index = None
        if index is None:
            index = self._index_of_files()
            if not problems and index.current and self.store.read(index.current).layout > 1:
                problems.append("the index of the configuration's generations is missing")
        else:
            index = self._move_on(index, problems)
        self.take_up(index, problems)
        self.problems = tuple(problems)
        return self.status

    def _index_of_files(self) -> Index:
        """What the files say alone: the highest sound generation that is not provisional stands."""
        numbers = self.store.numbers()
        return Index(self.highest_sound(Index(), numbers), max(numbers, default=0))

    def highest_sound(self, index: Index, numbers: tuple[int, ...]) -> int:
        for number in reversed(numbers):
            try:
                generation = self.store.read(number)
                read_configuration(generation)
            except BasaltError:
                continue
            if not generation.provisional and not index.was_reverted(number):
                return number
        return 0

    def _move_on(self, index: Index, problems: list[str]) -> Index:
        """What this boot makes of *index*. What cannot be written is still over when a trial is; a staged one waits."""
        moved = trial.at_load(index, self._boot_id(), self._clock(), int(time.time()))
        try:
            self.store.sweep(index.last)
            if moved is not index:
                self.store.write_index(moved)
        except OSError as error:
            problems.append(f"STATE cannot be written: {error}")
            return moved if index.trial else index
        return moved

    def take_up(self, index: Index, problems: list[str]) -> None:
        """Make what *index* says the configuration in force, or the best that is left of it."""
        self.index, self.generation, self.current = index, None, EMPTY
        number = index.in_force
        if not number:
            return
        try:
            generation = self.store.read(number)
            self.current = read_configuration(generation)
        except BasaltError as error:
            problems.append(str(error))
        else:
            self.generation = generation
            self.settle(generation)
            return
        if index.trial:
            self.take_up(trial.take_back(index, "its file is damaged", int(time.time())), problems)
            return
        number = self.highest_sound(index, tuple(at for at in self.store.numbers() if at < number))
        if number:
            self.generation = self.store.read(number)
            self.current = read_configuration(self.generation)

    def settle(self, generation: Generation) -> None:
        """A generation that stands is not provisional, also after a power cut between its confirmation and this."""
        if generation.provisional and self.index.trial is None:
            self.generation = structs.replace(generation, provisional=False)
            try:
                self.store.write(self.generation)
            except OSError as error:
                print(f"configuration: generation {generation.number} stays marked as provisional: {error}", flush=True)

    def write_index(self, index: Index) -> None:
        self.store.write_index(index)
        self.index, self.problems = index, ()
        try:
            self.store.forget(index)
        except OSError as error:  # they are in nobody's way
            print(f"configuration: old generations stay: {error}", flush=True)


def read_configuration(generation: Generation) -> Configuration:
    """The configuration that a generation is.

    :raises BasaltError: this version cannot read it.
    """
    return parse(generation.documents, f"generation {generation.number}")
