"""How far long work is: on standard error, so that standard output stays the answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from basalt.output import printable

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """One line for each step that has ended; on a terminal also the one that is running."""

    def __init__(self) -> None:
        self._step = ""
        self._live: Status | None = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._live = Console(stderr=True).status("")

    def start(self, step: str) -> None:
        """*step* begins."""
        self._step = printable(step)
        if self._live is not None:
            from rich.markup import escape

            self._live.update(escape(self._step))
            self._live.start()

    def done(self, text: str) -> None:
        """The step has ended, and came to *text*."""
        self._end(text)

    def failed(self, text: str) -> None:
        """The step has failed; the error also follows by another way."""
        self._end(f"FAILED: {text}")

    def _end(self, text: str) -> None:
        if self._live is not None:
            self._live.stop()
        print(f"  {self._step}: {printable(text)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing more will be shown."""
        if self._live is not None:
            self._live.stop()
