"""``osbuild cache du | gc``."""

from __future__ import annotations

import datetime

from basalt import output
from basalt.commandline import Arguments
from osbuild.store import Store, parse_size


def usage(arguments: Arguments) -> int:
    """Show every object of the store, the largest first, and the sum."""
    store = Store()
    entries = sorted(store.entries(), key=lambda entry: -entry.size_bytes)
    total = sum(entry.size_bytes for entry in entries)
    value = {
        "path": str(store.cache),
        "total_bytes": total,
        "limit_bytes": store.limit_bytes,
        "objects": [{"step": e.name, "key": e.key, "size_bytes": e.size_bytes, "used": e.used} for e in entries],
    }
    rows = [(e.name, output.size(e.size_bytes), _day(e.used), e.key[:16]) for e in entries]
    text = output.table(("step", "size", "last used", "key"), rows)
    text += f"\n{output.size(total)} of {output.size(store.limit_bytes)} in {store.cache}"
    output.answer(arguments.form, value, text)
    return 0


def _day(used: float) -> str:
    return datetime.datetime.fromtimestamp(used, datetime.UTC).strftime("%Y-%m-%d %H:%M") if used else "unknown"


def collect(arguments: Arguments) -> int:
    """Delete least recently used objects down to the limit."""
    store = Store()
    limit = parse_size(arguments.limit) if arguments.limit else store.limit_bytes
    removed = store.collect(limit)
    freed = sum(entry.size_bytes for entry in removed)
    value = {
        "removed": [{"step": e.name, "key": e.key, "size_bytes": e.size_bytes} for e in removed],
        "freed_bytes": freed,
    }
    output.answer(arguments.form, value, f"deleted {len(removed)} objects, {output.size(freed)}")
    return 0
