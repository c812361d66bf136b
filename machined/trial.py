"""Configurations on trial: how the index moves on when one begins, is confirmed, or is taken back. Pure.

A trial's marker is in the index before anything takes effect, and it goes only with the word that ends the trial. So whatever
happens in between, the node knows at the next load that a trial was running: in the same boot (machined was killed) it goes on with
the same deadline, in another (the power was cut, the watchdog bit) it is over and the configuration before it stands. A trial that
is meant to begin with a boot, because its change needs one, is allowed that one boot and no second.
"""

from __future__ import annotations

from msgspec import structs

from machined.generations import Index, Reverted, Staged, Trial

BOOT_GRACE_S = 600  # for the API to answer in the boot that a trial begins with; firmware and slow disks included
REVERTED_KEPT = 32  # words about generations taken back; more than files are kept


def begin(index: Index, trial: Trial) -> Index:
    """*trial*'s generation is in force; the one that stood stands."""
    return structs.replace(index, trial=trial, last=max(index.last, trial.generation))


def confirm(index: Index) -> Index:
    """What was on trial stands."""
    return structs.replace(index, current=index.in_force, trial=None)


def take_back(index: Index, reason: str, unix: int) -> Index:
    """What was on trial is not in force any more."""
    if index.trial is None:
        return index
    return reverted(structs.replace(index, trial=None), index.trial.generation, reason, unix)


def reverted(index: Index, number: int, reason: str, unix: int) -> Index:
    """Keep in mind why *number* is not in force."""
    entries = (*index.reverted, Reverted(number, reason, unix))
    return structs.replace(index, reverted=entries[-REVERTED_KEPT:])


def unstage(index: Index, successor: str, unix: int) -> Index:
    """What is staged will not come into force, because *successor* came first."""
    if index.staged is None:
        return index
    reason = f"{successor} before the boot that it waited for"
    return reverted(structs.replace(index, staged=None), index.staged.generation, reason, unix)


def arm(index: Index, now_s: float) -> Index:
    """The API answers in the boot that the trial began with: from now on its time runs."""
    if index.trial is None or index.trial.armed:
        return index
    return structs.replace(
        index, trial=structs.replace(index.trial, armed=True, deadline_s=now_s + index.trial.timeout_s)
    )


def at_load(index: Index, boot_id: str, now_s: float, unix: int) -> Index:
    """What a machined that starts makes of *index*.

    :param now_s: CLOCK_BOOTTIME.
    """
    trial = index.trial
    if trial is not None:
        if trial.boot_id != boot_id:
            return take_back(index, "the node restarted before it was confirmed", unix)
        if now_s >= trial.deadline_s and not trial.by_reboot:
            return take_back(index, late(trial), unix)
        return index
    if index.staged is not None and index.staged.boot_id != boot_id:
        return _unfold(index, index.staged, boot_id, now_s)
    return index


def _unfold(index: Index, staged: Staged, boot_id: str, now_s: float) -> Index:
    taken = structs.replace(index, staged=None)
    if not staged.trial_timeout_s:
        return structs.replace(taken, current=staged.generation)
    trial = Trial(
        staged.generation,
        index.current,
        staged.trial_timeout_s,
        boot_id,
        now_s + staged.trial_timeout_s + BOOT_GRACE_S,
        on_boot=True,
        armed=False,
        by_reboot=staged.by_reboot,
    )
    return begin(taken, trial)


def late(trial: Trial) -> str:
    """Why a trial ended by itself."""
    return f"not confirmed within {trial.timeout_s} s"
