"""Answers on standard output: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

Row = Sequence[object]


def answer(form: str, value: Any, text: str) -> None:
    """Print *value* as json or yaml, or else *text*."""
    if form != "table":
        emit(value, form)
    elif text:
        print(text)


def emit(value: Any, form: str) -> None:
    """Print a plain value as one JSON or YAML document."""
    if form == "yaml":
        import yaml

        yaml.safe_dump(value, sys.stdout, sort_keys=False, allow_unicode=True)
    else:
        print(json.dumps(value, indent=1, ensure_ascii=False))


def emit_line(value: Any, form: str) -> None:
    """Print one value of a stream: a line of JSON, or a YAML document."""
    if form == "yaml":
        import yaml

        yaml.safe_dump(value, sys.stdout, sort_keys=False, allow_unicode=True, explicit_start=True)
    else:
        print(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def table(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Aligned columns; on a terminal with emphasis."""
    texts = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        return _rich_table(header, texts)
    widths = [max(len(cell) for cell in column) for column in zip(header, *texts, strict=True)]
    lines = [[name.upper() for name in header], *texts]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _rich_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    form = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        form.add_column(name.upper(), overflow="fold")
    for row in rows:
        form.add_row(*(Text(cell) for cell in row))
    console = Console()
    buffer = io.StringIO()
    Console(file=buffer, width=console.width, color_system="auto", force_terminal=True).print(form)
    return buffer.getvalue().rstrip("\n")


def pairs(values: Mapping[str, object]) -> str:
    """Names and values, a line each, aligned."""
    width = max(len(name) for name in values)
    return "\n".join(f"{name.ljust(width)}  {printable(value)}".rstrip() for name, value in values.items())


def printable(value: object) -> str:
    """A text from a node in a form that cannot steer the terminal."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def duration(seconds: float) -> str:
    """A length of time for people: its two largest units."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
