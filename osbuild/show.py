"""Answers on standard output: aligned columns for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def size(count: int) -> str:
    """Bytes for people, in binary units, as ``ls -h`` rounds them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, two spaces apart; numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(header, *texts, strict=True)]
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line([name.upper() for name in header]), *(line(row) for row in texts)])


def answer(form: str, value: Any, text: str) -> None:
    """Print *value* as json or yaml, or else *text*."""
    if form == "json":
        print(json.dumps(value, indent=1))
    elif form == "yaml":
        import yaml

        yaml.safe_dump(value, sys.stdout, sort_keys=False)
    elif text:
        print(text)


def pairs(values: Mapping[str, object]) -> str:
    """Names and values, a line each, aligned."""
    width = max(len(name) for name in values)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in values.items())
