"""Progress as events; how they are shown is decided at the edge.

``auto`` draws live lines with rich on a terminal and prints plain lines otherwise; ``json`` writes one object a line
(``{"event": "start", "step": "kernel", "time": 1.23}``). All of it goes to standard error, so that standard output stays the answer.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

STYLES = ("auto", "plain", "json", "none")


class Progress:
    """Silent; the base of the others. Safe to call from any thread."""

    def begin(self, steps: Sequence[str]) -> None:
        """These steps are going to run."""

    def start(self, step: str) -> None:
        """*step* begins."""

    def detail(self, step: str, text: str) -> None:
        """How far *step* is, in words."""

    def done(self, step: str, text: str = "") -> None:
        """*step* has finished."""

    def failed(self, step: str) -> None:
        """*step* has failed; the error follows by another way."""

    def close(self) -> None:
        """Nothing more will be shown."""


class _Timed(Progress):
    """Keeps when each step began, in seconds since the first event."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.lock = threading.Lock()
        self.zero = time.monotonic()
        self.began: dict[str, float] = {}

    def seconds(self, step: str) -> float:
        """Since *step* began."""
        return time.monotonic() - self.began.get(step, self.zero)

    def start(self, step: str) -> None:
        self.began[step] = time.monotonic()


class PlainProgress(_Timed):
    """One line when a step ends, and one for each that takes a detail: what a log file wants."""

    def _print(self, text: str) -> None:
        with self.lock:
            print(text, file=self.stream, flush=True)

    def start(self, step: str) -> None:
        super().start(step)
        self._print(f"  {step} ...")

    def detail(self, step: str, text: str) -> None:
        self._print(f"  {step}: {text}")

    def done(self, step: str, text: str = "") -> None:
        self._print(f"  {step} done in {self.seconds(step):.1f} s" + (f" ({text})" if text else ""))

    def failed(self, step: str) -> None:
        self._print(f"  {step} FAILED after {self.seconds(step):.1f} s")


class JsonProgress(_Timed):
    """JSON lines."""

    def _event(self, event: str, **fields: Any) -> None:
        record = {"event": event, "time": round(time.monotonic() - self.zero, 3)} | fields
        with self.lock:
            print(json.dumps(record), file=self.stream, flush=True)

    def begin(self, steps: Sequence[str]) -> None:
        self._event("begin", steps=list(steps))

    def start(self, step: str) -> None:
        super().start(step)
        self._event("start", step=step)

    def detail(self, step: str, text: str) -> None:
        self._event("detail", step=step, text=text)

    def done(self, step: str, text: str = "") -> None:
        self._event("done", step=step, seconds=round(self.seconds(step), 3), text=text)

    def failed(self, step: str) -> None:
        self._event("failed", step=step, seconds=round(self.seconds(step), 3))


class RichProgress(_Timed):
    """Live lines on a terminal: one per running step, a tick for each finished one."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import Progress as Bars
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), TimeElapsedColumn())
        self.bars = Bars(*columns, TextColumn("[dim]{task.fields[text]}"), console=console)
        self.tasks: dict[str, Any] = {}
        self.bars.start()

    def start(self, step: str) -> None:
        super().start(step)
        with self.lock:
            self.tasks[step] = self.bars.add_task(step, total=1, text="")

    def detail(self, step: str, text: str) -> None:
        if step in self.tasks:
            self.bars.update(self.tasks[step], text=text)

    def done(self, step: str, text: str = "") -> None:
        if step in self.tasks:
            self.bars.update(self.tasks[step], completed=1, text=text)

    def failed(self, step: str) -> None:
        if step in self.tasks:
            self.bars.update(self.tasks[step], text="[red]failed")

    def close(self) -> None:
        self.bars.stop()


def make_progress(style: str | None) -> Progress:
    """*style* is one of :data:`STYLES`; None means auto."""
    if style is None or style == "auto":
        style = "rich" if sys.stderr.isatty() else "plain"
    kinds: dict[str, type[Progress]] = {
        "rich": RichProgress,
        "plain": PlainProgress,
        "json": JsonProgress,
        "none": Progress,
    }
    return kinds[style]()
