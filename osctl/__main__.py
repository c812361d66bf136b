"""``osctl``: the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from basalt.commandline import run
from osctl.cli import PROGRAM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (:class:`basalt.errors.ExitCode`)."""
    return run(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
