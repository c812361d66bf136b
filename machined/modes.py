"""In which way a configuration comes into force. Pure; docs/decisions/apply-modes.md has the reasons."""

from __future__ import annotations

import enum

from msgspec import Struct

from basalt.errors import BasaltError, UsageError

TRIAL_DEFAULT_S = 300
TRIAL_MAX_S = 24 * 60 * 60  # a trial blocks every other apply: nobody means to wait longer than a day


class Mode(enum.Enum):
    """How to apply. The values are the contract's."""

    AUTO = 0
    NO_REBOOT = 1
    REBOOT = 2
    STAGED = 3
    TRY = 4


class RebootReason(Struct, frozen=True):
    """A field that cannot change while the node runs. *path*: ``MachineConfig: $.modules[0]``."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Decision(Struct, frozen=True):
    """How a configuration is applied. *mode* is never AUTO; *trial_timeout_s* is 0 where nothing is on trial."""

    mode: Mode
    trial_timeout_s: int = 0

    @property
    def waits_for_boot(self) -> bool:
        """Whether it comes into force with a boot, not now."""
        return self.mode in (Mode.STAGED, Mode.REBOOT)


def decide(
    asked: Mode, reboot_reasons: tuple[RebootReason, ...], trial_reasons: tuple[str, ...], try_timeout_s: int = 0
) -> Decision:
    """How to apply a change.

    :param reboot_reasons: what of the change needs a reboot.
    :param trial_reasons: what of it touches the way by which the caller came.
    :param try_timeout_s: of a trial; 0 is the default.
    :raises UsageError: the time of the trial is out of bounds.
    :raises BasaltError: the mode excludes the reboot that the change needs.
    """
    if not 0 <= try_timeout_s <= TRIAL_MAX_S:
        raise UsageError(f"a trial cannot last {try_timeout_s} s", why=f"at most {TRIAL_MAX_S} s (a day) are allowed")
    timeout_s = try_timeout_s or TRIAL_DEFAULT_S
    cautious_s = timeout_s if trial_reasons else 0
    if asked in (Mode.REBOOT, Mode.STAGED):
        return Decision(asked, cautious_s)
    if reboot_reasons and asked is Mode.AUTO:
        return Decision(Mode.REBOOT, cautious_s)
    if reboot_reasons:
        raise BasaltError(
            "this change needs a reboot",
            why="; ".join(map(str, reboot_reasons)),
            remedy="apply it with --mode reboot, or keep it for the next boot with --mode staged",
        )
    if asked is Mode.TRY or (asked is Mode.AUTO and trial_reasons):
        return Decision(Mode.TRY, timeout_s)
    return Decision(Mode.NO_REBOOT)
