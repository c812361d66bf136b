"""Owns the node's configuration: what is in force, and how another takes its place.

Applying is one transaction: everything is parsed, checked and compared, then written to STATE, and only then handed to the
reconcilers. Whatever fails before the write leaves the node as it was; after it, the new generation stands, or is on trial or
staged, also after a power cut (:mod:`machined.generations` has the table). Between the write and the change in memory nothing is
awaited: a caller that hangs up in the middle leaves no half.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from msgspec import Struct, structs

from basalt.config import Configuration, diff, parse, render, secrets_of
from basalt.config.documents import AccessConfig
from basalt.errors import BasaltError, UsageError
from machined import access, trial
from machined.effects import Circumstances, Effects, effects_of
from machined.generations import Generation, GenerationStore, Staged, Trial
from machined.modes import Decision, Mode, RebootReason, decide
from machined.reconcile import Status
from machined.standing import EMPTY, Entry, Shown, Standing, read_configuration


class ConflictError(BasaltError):
    """Another generation stands than the one that was to be replaced, or one is on trial."""


class Requester(Struct, frozen=True):
    """Whoever asks for a change. *address*: ``192.0.2.1:4711``, empty for the node itself."""

    name: str
    address: str = ""
    certificate_pem: bytes = b""


class Wish(Struct, frozen=True):
    """How a change is to be made; see the contract's ApplyConfigRequest.

    *first*: the node's own wish for its first configuration: only where there is none yet, and with no caller to be cut off.
    """

    mode: Mode = Mode.AUTO
    try_timeout_s: int = 0
    expected: int = 0
    dry_run: bool = False
    first: bool = False


class Applied(Struct, frozen=True):
    """What an apply did, or would do. *changed*: another configuration is in force now."""

    generation: int
    mode: Mode
    diff: str = ""
    actions: tuple[str, ...] = ()
    reboot_reasons: tuple[RebootReason, ...] = ()
    trial_reasons: tuple[str, ...] = ()
    trial_timeout_s: int = 0
    changed: bool = False
    rebooting: bool = False
    concerns: frozenset[str] = frozenset()


async def _nothing_known(_: Requester) -> Circumstances:
    return Circumstances()


class ConfigurationOwner:
    """The configuration in force and its generations.

    :param before_first: called before the first generation is written: what must be on STATE before a node counts as configured.
    :param on_change: called with the configuration in force once that is durable, also when nothing but its standing changed.
    :param survey: what a change meets on the node.
    :param reboot: begins a reboot, after the answer.
    :param redaction_key: with which secrets are tagged in what is shown.
    :param boot_id: which boot this is.
    :param clock: CLOCK_BOOTTIME in seconds.
    """

    def __init__(
        self,
        store: GenerationStore,
        *,
        before_first: Callable[[], None] = lambda: None,
        on_change: Callable[[Configuration], None] = lambda _: None,
        survey: Callable[[Requester], Awaitable[Circumstances]] = _nothing_known,
        reboot: Callable[[], None] = lambda: None,
        redaction_key: Callable[[], bytes] = lambda: b"",
        boot_id: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._before_first = before_first
        self._on_change = on_change
        self._survey = survey
        self._reboot = reboot
        self._redaction_key = redaction_key
        self._boot_id = boot_id
        self._clock = clock
        self._lock = asyncio.Lock()
        self._standing = Standing(store, boot_id=boot_id, clock=clock)

    # --- what stands

    @property
    def number(self) -> int:
        """The generation in force; 0 when there is none."""
        return self._standing.number

    @property
    def configured(self) -> bool:
        """Whether the node has a configuration."""
        return self._standing.generation is not None

    @property
    def current(self) -> Configuration:
        """The configuration in force."""
        return self._standing.current

    @property
    def trial(self) -> Trial | None:
        """The trial that runs."""
        return self._standing.index.trial

    @property
    def trial_left_s(self) -> float:
        """Seconds until what is on trial is taken back; 0 when nothing is."""
        return self._standing.trial_left_s

    @property
    def status(self) -> Status:
        """How the configuration stands."""
        return self._standing.status

    @property
    def kept(self) -> tuple[int, ...]:
        """The generations on STATE, the oldest first."""
        return self._standing.store.numbers()

    def history(self) -> tuple[Entry, ...]:
        """The generations kept, the newest first, with what became of each."""
        return self._standing.history()

    def show(self, number: int = 0) -> Shown:
        """One of the generations kept; 0 is the one in force.

        :raises BasaltError: there is none.
        """
        return self._standing.show(number, self._redaction_key())

    def load(self) -> Status:
        """Take up what STATE holds. A generation that is damaged, or that this version cannot read, is passed over."""
        self._standing.load()
        return self._standing.status

    # --- changes

    async def apply(self, documents: bytes, source: str, requester: Requester, wish: Wish | None = None) -> Applied:
        """Put *documents* into force, in the way that *wish* says.

        :param source: the operator's name for the documents, for the positions in errors and the history.
        :raises ConfigError: with every problem of the documents; nothing was changed.
        :raises ConflictError: another generation stands than was expected, or one is on trial; nothing was changed.
        :raises BasaltError: the change needs a reboot that the mode excludes; nothing was changed.
        :raises OSError: STATE did not take it; nothing was changed.
        """
        async with self._lock:
            wanted = await asyncio.to_thread(self._parse, documents, source)
            return await self._change(wanted, source, requester, wish or Wish())

    def _parse(self, documents: bytes, source: str) -> Configuration:
        return parse(documents, source, secrets=secrets_of(self.current, self._redaction_key()))

    async def rollback(self, number: int, requester: Requester, wish: Wish | None = None) -> Applied:
        """Apply an earlier generation again as a new one, or end the trial that runs.

        :param number: which; 0 is the one before the current one.
        :raises: as :meth:`apply` does; a BasaltError when there is no such generation.
        """
        wish = wish or Wish()
        async with self._lock:
            running = self._standing.index.trial
            if running is None:
                target = self._standing.store.read(number or self._previous())
                return await self._change(read_configuration(target), f"generation {target.number}", requester, wish)
            if number not in (0, running.base):
                raise ConflictError(
                    f"generation {running.generation} is on trial",
                    why=f"its trial can be ended, which leads to generation {running.base}, not to {number}",
                    remedy="end the trial first: osctl config rollback",
                )
            base = read_configuration(self._standing.store.read(running.base)) if running.base else EMPTY
            effects = effects_of(self.current, base, Circumstances())
            difference = diff(self.current, base)
            if not wish.dry_run:
                self._take_back(f"ended by {requester.name}")
            return Applied(
                running.base,
                Mode.REBOOT if running.by_reboot else Mode.NO_REBOOT,
                difference,
                effects.actions,
                changed=not wish.dry_run,
                rebooting=running.by_reboot and not wish.dry_run,
                concerns=effects.concerns,
            )

    def _previous(self) -> int:
        number = self._standing.highest_sound(
            self._standing.index, tuple(at for at in self._standing.store.numbers() if at < self.number)
        )
        if not number:
            raise BasaltError(
                "there is no earlier generation", why=f"generation {self.number} is the first that this node keeps"
            )
        return number

    async def _change(self, wanted: Configuration, source: str, requester: Requester, wish: Wish) -> Applied:
        if not wish.dry_run:
            self._refuse_during_trial()
        if wish.expected and wish.expected != self.number:
            raise ConflictError(
                f"generation {self.number} stands, {wish.expected} was expected",
                why="somebody else has applied a configuration in the meantime",
                remedy="look at it (osctl get config), then apply yours again",
            )
        if wish.first and self.configured:
            raise ConflictError(f"generation {self.number} stands already")
        if wanted == self.current and self.configured:
            return self._leave(wish)
        if wanted.access and wanted.access != self.current.access:
            await asyncio.to_thread(_refuse_bad_access, wanted.access)
        circumstances = await self._survey(requester)
        effects = await asyncio.to_thread(effects_of, self.current, wanted, circumstances)
        trial_reasons = () if wish.first else effects.trial_reasons
        decision = decide(wish.mode, effects.reboot_reasons, trial_reasons, wish.try_timeout_s)
        applied = Applied(
            self.number,
            decision.mode,
            diff(self.current, wanted),
            effects.actions,
            effects.reboot_reasons,
            trial_reasons if decision.trial_timeout_s else (),
            decision.trial_timeout_s,
        )
        if wish.dry_run:
            return applied
        number = self._put(wanted, decision, effects, source, requester.name)
        if decision.mode is Mode.REBOOT:
            self._reboot()
        return structs.replace(
            applied,
            generation=number,
            changed=not decision.waits_for_boot,
            rebooting=decision.mode is Mode.REBOOT,
            concerns=effects.concerns,
        )

    def _refuse_during_trial(self) -> None:
        if self._standing.index.trial:
            raise ConflictError(
                f"generation {self._standing.index.trial.generation} is on trial in place of generation {self._standing.index.trial.base}",
                why=f"another change would hide whether it works; it is taken back in {self.trial_left_s:.0f} s",
                remedy="keep it (osctl config confirm) or end it (osctl config rollback), then apply yours",
            )

    def _leave(self, wish: Wish) -> Applied:
        """Nothing differs from what is in force; what was staged instead will not come, and a reboot that is asked for does."""
        standing = self._standing
        rebooting = wish.mode is Mode.REBOOT and not wish.dry_run
        staged = standing.index.staged
        if not wish.dry_run and (staged or standing.problems):
            index = trial.unstage(standing.index, f"generation {self.number} was applied again", _unix())
            standing.write_index(structs.replace(index, current=self.number))
            self._on_change(self.current)
        if rebooting:
            self._reboot()
        mode = wish.mode if wish.mode in (Mode.REBOOT, Mode.STAGED) else Mode.NO_REBOOT
        actions = (f"no longer stage generation {staged.generation}",) if staged else ()
        return Applied(self.number, mode, actions=actions, rebooting=rebooting)

    def _put(self, wanted: Configuration, decision: Decision, effects: Effects, source: str, applied_by: str) -> int:
        """Make *wanted* a generation and have the index say what it is; its number."""
        number = self._standing.index.last + 1
        timeout_s = decision.trial_timeout_s
        generation = Generation(number, render(wanted), _unix(), applied_by, source, provisional=bool(timeout_s))
        index = trial.unstage(self._standing.index, f"generation {number} was applied", _unix())
        if decision.waits_for_boot:
            by_reboot = bool(effects.reboot_reasons)
            index = structs.replace(index, staged=Staged(number, self._boot_id(), timeout_s, by_reboot), last=number)
        elif timeout_s:
            deadline_s = self._clock() + timeout_s
            index = trial.begin(index, Trial(number, self.number, timeout_s, self._boot_id(), deadline_s))
        else:
            index = structs.replace(index, current=number, last=number)
        if not self.configured:
            self._before_first()
        self._standing.store.write(generation)
        self._standing.write_index(index)
        if not decision.waits_for_boot:
            self._standing.generation, self._standing.current = generation, wanted
        self._on_change(self.current)
        return number

    # --- trials

    async def confirm(self, number: int = 0) -> int:
        """Keep what is on trial; the generation that now stands.

        :param number: the generation on trial; 0 is whichever it is. Confirming what stands already is no error.
        :raises ConflictError: another one is on trial.
        :raises BasaltError: none is.
        :raises OSError: STATE did not take it; the trial goes on.
        """
        async with self._lock:
            running = self._standing.index.trial
            if running is None:
                if number and number == self.number:
                    return number
                self._nothing_to_confirm(number)
            if number not in (0, running.generation):
                raise ConflictError(
                    f"generation {running.generation} is on trial, not {number}", remedy="osctl config history"
                )
            self._standing.write_index(trial.confirm(self._standing.index))
            if self._standing.generation:
                self._standing.settle(self._standing.generation)
            self._on_change(self.current)
            return self.number

    def _nothing_to_confirm(self, number: int) -> NoReturn:
        why = f"generation {self.number} stands" if self.configured else "the node has no configuration"
        for entry in self._standing.index.reverted:
            if entry.number == number:
                why = f"generation {number} was taken back: {entry.reason}"
        if self._standing.index.staged:
            why = (
                f"generation {self._standing.index.staged.generation} is staged, and not in force before the next boot"
            )
        raise BasaltError("no configuration is on trial", why=why)

    async def look_at_trial(self, *, api_answers: bool) -> str:
        """Take back what is on trial if its time is up. For the loop that looks after trials.

        :param api_answers: whether the API does; the time of a trial that began with the boot runs from then on.
        :return: why the trial ended; empty while it goes on.
        """
        async with self._lock:
            running = self._standing.index.trial
            if running is None:
                return ""
            if api_answers and not running.armed:
                armed = trial.arm(self._standing.index, self._clock())
                self._standing.index = armed
                self._standing.store.write_index(armed)
                return ""
            if self._clock() < running.deadline_s:
                return ""
            reason = trial.late(running)
            self._take_back(reason)
            return reason

    def _take_back(self, reason: str) -> None:
        """End the trial; what stood before it is in force again. STATE not taking the word changes nothing about that: the
        marker that stays there is one of a trial whose time is up.
        """
        running = self._standing.index.trial
        if running is None:
            return
        index = trial.take_back(self._standing.index, reason, _unix())
        problems: list[str] = []
        try:
            self._standing.write_index(index)
        except OSError as error:
            problems.append(f"STATE cannot be written: {error}")
        self._standing.take_up(index, problems)
        self._standing.problems = tuple(problems)
        self._on_change(self.current)
        if running.by_reboot:
            self._reboot()


def _refuse_bad_access(wanted: AccessConfig) -> None:
    if problems := access.problems(wanted):
        raise UsageError("the client authorities cannot be used", why="\n".join(problems))


def _unix() -> int:
    return int(time.time())
