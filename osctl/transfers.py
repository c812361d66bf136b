"""How far transfers of much data are, one for each node: on standard error, so that standard output stays the answer.

``auto`` draws bars with rich on a terminal and prints a line now and then otherwise; ``json`` writes one object a line
(``{"event": "progress", "node": "n1", "time": 1.23, "done_bytes": 4096, "total_bytes": 8192}``).
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

from basalt.output import printable, size

STYLES = ("auto", "plain", "json", "none")

# Between two lines about one transfer: for people, and for programs.
PLAIN_INTERVAL_S = 5.0
JSON_INTERVAL_S = 0.25


class Transfer:
    """One transfer; *of* shows it."""

    def __init__(self, of: Transfers, node: str) -> None:
        self._of = of
        self.node = node
        self.began = time.monotonic()
        self.told = self.began  # when something was said about it last
        self.done_bytes = 0
        self.total_bytes = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def at(self, done_bytes: int, total_bytes: int = 0) -> None:
        """So much has gone; 0 *total_bytes* where nobody knows how much it will be."""
        self.done_bytes, self.total_bytes = done_bytes, total_bytes
        self._of.moved(self)

    def counted(self, chunks: Iterator[bytes], total_bytes: int = 0) -> Iterator[bytes]:
        """*chunks*, each noted as it goes."""
        for chunk in chunks:
            self.at(self.done_bytes + len(chunk), total_bytes)
            yield chunk


class Transfers:
    """Silent; the base of the others. Safe to call from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.zero = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def of(self, node: str) -> Iterator[Transfer]:
        """The transfer of a node, done when the body ends."""
        transfer = Transfer(self, node)
        self.began(transfer)
        try:
            yield transfer
        except BaseException:
            self.ended(transfer, failed=True)  # the error follows by another way
            raise
        self.ended(transfer, failed=False)

    def began(self, transfer: Transfer) -> None:
        """Nothing has gone yet."""

    def moved(self, transfer: Transfer) -> None:
        """More has gone."""

    def ended(self, transfer: Transfer, *, failed: bool) -> None:
        """No more will go."""

    def close(self) -> None:
        """Nothing more will be shown."""


class _Plain(Transfers):
    """A line every few seconds, and one at the end: what a log file wants."""

    def _say(self, transfer: Transfer, text: str) -> None:
        with self.lock:
            print(f"  {printable(transfer.node)}: {text}", file=sys.stderr, flush=True)

    def moved(self, transfer: Transfer) -> None:
        if time.monotonic() - transfer.told < PLAIN_INTERVAL_S:
            return
        transfer.told = time.monotonic()
        self._say(transfer, _so_far(transfer))

    def ended(self, transfer: Transfer, *, failed: bool) -> None:
        if failed:
            self._say(transfer, f"FAILED after {size(transfer.done_bytes)}")
        else:
            self._say(transfer, f"{size(transfer.done_bytes)} in {transfer.seconds:.1f} s")


class _Json(Transfers):
    """JSON lines."""

    def _event(self, transfer: Transfer, event: str, **fields: Any) -> None:
        record = {"event": event, "node": transfer.node, "time": round(time.monotonic() - self.zero, 3), **fields}
        with self.lock:
            print(json.dumps(record), file=sys.stderr, flush=True)

    def began(self, transfer: Transfer) -> None:
        self._event(transfer, "start")

    def moved(self, transfer: Transfer) -> None:
        if time.monotonic() - transfer.told < JSON_INTERVAL_S:
            return
        transfer.told = time.monotonic()
        self._event(transfer, "progress", done_bytes=transfer.done_bytes, total_bytes=transfer.total_bytes)

    def ended(self, transfer: Transfer, *, failed: bool) -> None:
        self._event(
            transfer,
            "failed" if failed else "done",
            seconds=round(transfer.seconds, 3),
            done_bytes=transfer.done_bytes,
        )


class _Bars(Transfers):
    """A live bar for each node."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )

        self._bars = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}
        self._bars.start()

    def began(self, transfer: Transfer) -> None:
        self._tasks[transfer.node] = self._bars.add_task(printable(transfer.node), total=None)

    def moved(self, transfer: Transfer) -> None:
        total = transfer.total_bytes or None
        self._bars.update(self._tasks[transfer.node], completed=transfer.done_bytes, total=total)

    def ended(self, transfer: Transfer, *, failed: bool) -> None:
        task = self._tasks[transfer.node]
        if failed:
            self._bars.update(task, description=f"{printable(transfer.node)} FAILED")
        else:
            self._bars.update(task, completed=transfer.done_bytes, total=transfer.done_bytes)
        self._bars.stop_task(task)

    def close(self) -> None:
        self._bars.stop()


def _so_far(transfer: Transfer) -> str:
    of = f" of {size(transfer.total_bytes)}" if transfer.total_bytes else ""
    return f"{size(transfer.done_bytes)}{of}"


def make(style: str, form: str) -> Transfers:
    """*style* is one of :data:`STYLES`.

    :param form: of the answer; with ``auto``, programs (json, yaml) get nothing but that, and errors.
    """
    if style == "auto":
        style = "none" if form != "table" else "bars" if sys.stderr.isatty() else "plain"
    kinds: dict[str, type[Transfers]] = {"bars": _Bars, "plain": _Plain, "json": _Json, "none": Transfers}
    return kinds[style]()
