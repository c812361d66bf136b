"""Carrying a configuration to a node, and what comes after: a trial to look at, a reboot to follow, a node to enrol."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basalt import contexts, output
from basalt.client import Target, connect
from basalt.errors import BasaltError, UnreachableError
from basalt.machine.v1 import machine_pb2 as api
from osctl import progress
from osctl.enrolment import Enrolment, enrol
from osctl.following import wait_for_next_boot
from osctl.messages import plain

if TYPE_CHECKING:
    from basalt.client.calls import Client

# How a trial is looked at: for how long a new connection is tried, and how often. A third of the trial is left at least.
LOOK_S = 30.0
LOOK_INTERVAL_S = 0.5

MODES = {
    "auto": api.APPLY_MODE_AUTO,
    "no-reboot": api.APPLY_MODE_NO_REBOOT,
    "reboot": api.APPLY_MODE_REBOOT,
    "staged": api.APPLY_MODE_STAGED,
    "try": api.APPLY_MODE_TRY,
}


@dataclass(frozen=True)
class Trial:
    """A configuration on trial, as a new connection found the node.

    *back_at*: the generation that stands again, where the trial is over already: the node's answer may need as long as the trial
    to get through, when that is what cut it off.
    """

    answers: bool
    why: str = ""  # when it does not
    left_s: float = 0.0
    confirmed: bool = False
    back_at: int | None = None

    @property
    def works(self) -> bool:
        """Whether the node answers with what is on trial."""
        return self.answers and self.back_at is None

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return {
            "answers": self.answers,
            "why": self.why,
            "left_s": self.left_s,
            "confirmed": self.confirmed,
            "taken_back_to": self.back_at,
        }


@dataclass(frozen=True)
class Applied:
    """What came of it on one node."""

    answer: api.ApplyConfigResponse
    dry_run: bool
    trial: Trial | None = None
    back: api.VersionResponse | None = None  # after a reboot that was waited for
    enrolment: Enrolment | None = None
    enrolment_error: BasaltError | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        fields = {**plain(self.answer), "dry_run": self.dry_run}
        if self.trial is not None:
            fields["trial"] = self.trial.as_dict()
        if self.back is not None:
            fields["back"] = {"boot_id": self.back.boot_id, "version": self.back.version}
        if self.enrolment is not None:
            fields["enrolment"] = self.enrolment.as_dict()
        if self.enrolment_error is not None:
            fields["enrolment"] = self.enrolment_error.as_dict()
        return fields

    def __str__(self) -> str:
        return "\n".join(map(output.printable, _lines(self)))


@dataclass(frozen=True)
class Following:
    """What to do after the node has taken the configuration."""

    confirm: bool = False  # keep it once a new connection works
    ask: Callable[[Target, Trial], bool] | None = None  # whether to keep it, where a person sits there
    wait_s: float | None = None  # follow a reboot for so long
    form: str = "table"  # of the answer


def carry_out(
    target: Target,
    call: Callable[[Client], api.ApplyConfigResponse],
    following: Following,
    *,
    dry_run: bool,
    context: str | None,
    timeout_s: float,
) -> Applied:
    """Make *call* on the node and do what follows from its answer.

    :param context: the name of the context in which an enrolled node is noted.
    :raises BasaltError: when the call fails, or the node is not back from its reboot in time. A trial that is not confirmed is
        no error here, and neither is a node that could not be enrolled: the configuration stands either way.
    """
    with connect(target, timeout_s=timeout_s) as client:
        before = client.version().boot_id if following.wait_s is not None and not dry_run else ""
        try:
            answer = call(client)
        except UnreachableError as error:
            if dry_run:
                raise
            raise UnreachableError(
                error.what,
                why=error.why,
                remedy=f"the node may have taken the configuration: `osctl -n {target.name} get generations` says so. "
                "One that cut it off from you is taken back when its trial ends",
            ) from error
    if dry_run:
        return Applied(answer, dry_run)
    if answer.mode == api.APPLY_MODE_STAGED:
        return Applied(answer, dry_run)
    back = None
    if answer.rebooting:
        if following.wait_s is None:
            return Applied(answer, dry_run)
        tell = progress.teller(target.name, following.form)
        back = wait_for_next_boot(target, before, timeout_s=timeout_s, wait_s=following.wait_s, tell=tell)
    trial = None
    if answer.trial_timeout_s:
        trial = watch_trial(target, answer.generation, answer.trial_timeout_s, following, timeout_s=timeout_s)
    applied = Applied(answer, dry_run, trial=trial, back=back)
    if trial is not None and not trial.confirmed:
        return applied
    return _enrolled(applied, target, context, timeout_s)


def watch_trial(target: Target, generation: int, trial_s: float, following: Following, *, timeout_s: float) -> Trial:
    """Look at a node whose configuration is on trial over a new connection, and confirm it where that is wanted."""
    trial = _look(target, generation, min(LOOK_S, trial_s * 2 / 3), timeout_s)
    wanted = following.confirm or (following.ask is not None and following.ask(target, trial))
    if not (trial.works and wanted):
        return trial
    # Not over the connection that was there before: it may outlive the way by which it came.
    with connect(target, timeout_s=timeout_s) as client:
        client.confirm_config(generation)
    return Trial(answers=True, confirmed=True)


def _look(target: Target, generation: int, within_s: float, timeout_s: float) -> Trial:
    end = time.monotonic() + within_s
    while True:
        left_s = end - time.monotonic()
        try:
            with connect(target, timeout_s=max(min(timeout_s, left_s), LOOK_INTERVAL_S)) as client:
                status = client.status()
            if status.generation != generation:
                return Trial(answers=True, back_at=status.generation)
            return Trial(answers=True, left_s=status.trial_left_s)
        except BasaltError as error:
            if left_s <= 0:
                return Trial(answers=False, why=str(error))
        time.sleep(LOOK_INTERVAL_S)


def _enrolled(applied: Applied, target: Target, context_name: str | None, timeout_s: float) -> Applied:
    """Enrol a node that the context knows by its fingerprint alone, where this operator can."""
    context = contexts.load().get(context_name)
    if target.node_id or target.name not in context.nodes or context.node_ca_key is None:
        return applied
    try:
        enrolment = enrol(target, context_name, timeout_s=timeout_s)
    except BasaltError as error:
        return _with(applied, error=error)
    return _with(applied, enrolment=enrolment)


def _with(applied: Applied, *, enrolment: Enrolment | None = None, error: BasaltError | None = None) -> Applied:
    return Applied(applied.answer, applied.dry_run, applied.trial, applied.back, enrolment, error)


def _lines(applied: Applied) -> list[str]:
    answer = applied.answer
    lines = [*answer.diff.splitlines(), *(f"* {action}" for action in answer.actions)]
    if not answer.diff:
        lines.append(f"nothing differs; generation {answer.generation} stands")
    else:
        lines += [*_reasons(answer), *_standing(applied)]
    if applied.trial is not None:
        lines += _trial(applied.trial, answer)
    if applied.enrolment is not None:
        lines.append(str(applied.enrolment))
    if applied.enrolment_error is not None:
        error = applied.enrolment_error
        lines.append(f"not enrolled: {error}")
        lines += [f"  -> {line}" for line in error.remedy.splitlines()]
    return lines


def _reasons(answer: api.ApplyConfigResponse) -> list[str]:
    return [
        *(f"needs a reboot: {one.path}: {one.reason}" for one in answer.reboot_reasons),
        *(f"on trial: {reason}" for reason in answer.trial_reasons),
    ]


def _standing(applied: Applied) -> list[str]:
    answer = applied.answer
    if applied.dry_run:
        how = {
            api.APPLY_MODE_NO_REBOOT: "at once",
            api.APPLY_MODE_REBOOT: "with a reboot",
            api.APPLY_MODE_STAGED: "from the next boot on",
            api.APPLY_MODE_TRY: "at once",
        }.get(answer.mode, "")
        later = f", and taken back after {answer.trial_timeout_s} s unless confirmed" if answer.trial_timeout_s else ""
        return [f"it would be in force {how}{later}", "nothing was changed (--dry-run)"]
    later = f", on trial for {answer.trial_timeout_s} s then" if answer.trial_timeout_s else ""
    if answer.mode == api.APPLY_MODE_STAGED:
        return [f"generation {answer.generation} is staged: it is in force from the next boot on{later}"]
    if answer.rebooting and applied.back is None:
        return [f"generation {answer.generation} is in force after the reboot that has begun{later}"]
    back = "; the node is back from its reboot" if applied.back is not None else ""
    if applied.trial is not None and applied.trial.back_at is not None:
        return [f"generation {answer.generation} was in force on trial, and is not any more{back}"]
    if applied.trial is not None and not applied.trial.confirmed:
        return [f"generation {answer.generation} is in force on trial{back}"]
    return [f"generation {answer.generation} stands{back}"]


def _trial(trial: Trial, answer: api.ApplyConfigResponse) -> list[str]:
    if trial.confirmed:
        return ["confirmed: a new connection to the node works"]
    if trial.back_at is not None:
        stands = f"generation {trial.back_at} stands" if trial.back_at else "it has no configuration"
        return [
            f"the trial of {answer.trial_timeout_s} s was over before the node could be seen working with it: {stands} again"
        ]
    if not trial.answers:
        return [
            f"the node does NOT answer a new connection: {trial.why}",
            f"it returns to the generation before {answer.trial_timeout_s} s after the change, unless somebody confirms it",
        ]
    return [
        "the node answers a new connection",
        f"it is taken back in {output.duration(trial.left_s)}; `osctl config confirm {answer.generation}` keeps it",
    ]
