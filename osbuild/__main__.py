"""``osbuild``: the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from basalt.commandline import Arguments, run
from basalt.errors import BasaltError, StaleLockError
from osbuild.cli import PROGRAM
from osbuild.lock.refresh import refresh_locks


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (:class:`basalt.errors.ExitCode`)."""
    return run(PROGRAM, argv, recover=_refresh_stale_lock)


def _refresh_stale_lock(error: BasaltError, arguments: Arguments) -> bool:
    """With ``OSBUILD_STALE_LOCK=refresh`` (CI) a stale lock is refreshed, loudly, and the command run again."""
    wanted = os.environ.get("OSBUILD_STALE_LOCK") == "refresh" and arguments.command.words != ("lock",)
    if not wanted or not isinstance(error, StaleLockError):
        return False
    print(f"osbuild: {error.what}, refreshing it:", *error.why.splitlines(), sep="\n    ", file=sys.stderr)
    refresh_locks(getattr(arguments, "mirror", None))
    return True


if __name__ == "__main__":
    sys.exit(main())
