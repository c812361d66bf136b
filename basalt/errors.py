"""Errors that a person can act on.

Every failure that can reach a user is a :class:`BasaltError`: *what* failed and on what, *why*, and the *remedy*. Libraries raise
it; only a command's ``main`` turns it into text, JSON and an exit code. The subclasses carry the exit code, so that a script can
tell bad input from a failing world.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of ``osbuild`` and ``osctl``, each with its meaning (docs/reference/exit-codes.md is made from here)."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "it was done"
    FAILED = 1, "the work was tried and failed"
    USAGE = 2, "the command line, a profile or a configuration is wrong; nothing was changed"
    UNREACHABLE = (
        3,
        "the node did not answer, is not the one that was pinned, or does not accept the client certificate",
    )
    REFUSED = 4, "the node answered and said no"
    STALE = 5, "a lock no longer matches the archive"
    INTERRUPTED = 130, "Ctrl-C, or SIGTERM"


class BasaltError(Exception):
    """Something failed that the user should know about.

    :param what: what failed, on what ("cannot read profile profiles/x.toml").
    :param why: the cause as far as it is known.
    :param remedy: what the user can do about it.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def as_dict(self) -> dict[str, object]:
        """The error as fields, for ``-o json``."""
        return {"error": self.what, "why": self.why, "remedy": self.remedy}


class UsageError(BasaltError):
    """The input is wrong; nothing was changed."""

    exit_code = ExitCode.USAGE


class UnreachableError(BasaltError):
    """A node could not be reached, or the connection to it was refused below the API."""

    exit_code = ExitCode.UNREACHABLE


class RefusedError(BasaltError):
    """A node answered and refused."""

    exit_code = ExitCode.REFUSED


class StaleLockError(BasaltError):
    """A lock names packages that the archive no longer carries."""

    exit_code = ExitCode.STALE
