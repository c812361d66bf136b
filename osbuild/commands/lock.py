"""``osbuild lock``."""

from __future__ import annotations

from basalt import output
from basalt.commandline import Arguments
from basalt.errors import StaleLockError, UsageError
from osbuild.lock.refresh import compare, refresh_locks, resolve_locks
from osbuild.progress import make_progress


def lock(arguments: Arguments) -> int:
    """Refresh the locks, or with ``--check`` say what moved.

    :raises StaleLockError: with ``--check``, when the archive differs.
    """
    if arguments.check and arguments.update:
        raise UsageError("--check and --update exclude each other")
    progress = make_progress(arguments.progress)
    try:
        if arguments.check:
            moves = compare(resolve_locks(arguments.mirror, progress), strict=True)
        else:
            moves = refresh_locks(arguments.mirror, progress)
    finally:
        progress.close()
    if arguments.check:
        # A newer wheel makes nothing stale: the index keeps the locked one.
        if moves.debian:
            raise StaleLockError("the lock is stale", why="\n".join(moves.debian), remedy="Run 'osbuild lock --update'")
        output.answer(arguments.form, {"stale": False, "newer_wheels": moves.wheels}, "the lock is up to date")
        return 0
    changes = moves.debian + moves.wheels
    output.answer(arguments.form, {"changes": changes}, "\n".join(changes) or "nothing moved")
    return 0
