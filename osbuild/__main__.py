"""``osbuild``: the command line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from basalt.errors import BasaltError, ExitCode, StaleLockError
from osbuild.cli import Arguments, build_parser, report_error, report_unexpected
from osbuild.lock.refresh import refresh_locks


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    # SIGTERM unwinds like Ctrl-C, so that workspaces and children go the same way.
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (:class:`basalt.errors.ExitCode`)."""
    signal.signal(signal.SIGTERM, _terminated)
    arguments = build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except BasaltError as error:
        report_error(error, as_json=getattr(arguments, "output_format", "") == "json")
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; finished steps are kept and the next run goes on from them", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (head, less); the interpreter must not trip over it again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        report_unexpected(error)
        return ExitCode.FAILED


def _run(arguments: Arguments) -> int:
    """Run the command; with ``OSBUILD_STALE_LOCK=refresh`` (CI) a stale lock is refreshed and the command run again, once."""
    command: Callable[[Arguments], int] = arguments.command
    try:
        return command(arguments)
    except StaleLockError as error:
        if os.environ.get("OSBUILD_STALE_LOCK") != "refresh" or arguments.words == ("lock",):
            raise
        print(f"osbuild: {error.what}, refreshing it:", *error.why.splitlines(), sep="\n    ", file=sys.stderr)
    refresh_locks(None)
    return command(arguments)


if __name__ == "__main__":
    sys.exit(main())
