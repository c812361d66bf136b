"""How far long work is: on standard error, so that standard output stays the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from basalt.output import printable

if TYPE_CHECKING:
    from rich.status import Status


def teller(name: str, form: str) -> Callable[[str], None]:
    """Says how far the node *name* is, a line each; for several nodes at once.

    :param form: of the answer; programs (json, yaml) get nothing but that, and errors.
    """

    def tell(text: str) -> None:
        if form == "table":
            print(f"  {printable(name)}: {printable(text)}", file=sys.stderr, flush=True)

    return tell


class Progress:
    """One line for each step that has ended; on a terminal also the one that is running.

    :param form: of the answer; programs (json, yaml) get nothing but that, and errors.
    """

    def __init__(self, form: str) -> None:
        self._step = ""
        self._quiet = form != "table"
        self._live: Status | None = None
        if sys.stderr.isatty() and not self._quiet:
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
        if not self._quiet:
            print(f"  {self._step}: {printable(text)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing more will be shown."""
        if self._live is not None:
            self._live.stop()
