"""Answers on standard output: tables for people, JSON and YAML for programs.

With one node a program gets that node's object (or its list, where the answer is one), with several a list of objects,
each with ``node`` and either the answer's fields or ``error``, ``why`` and ``remedy``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from basalt.commandline import report_error
from osctl.fleet import Outcome, exit_code

T = TypeVar("T")
Row = Sequence[object]


def show(
    outcomes: Sequence[Outcome[T]],
    form: str,
    fields: Callable[[T], dict[str, Any]],
    text: Callable[[T], str],
    *,
    listing: str = "",
) -> int:
    """Print what came of every node.

    :param fields: an answer for a program.
    :param text: an answer for people.
    :param listing: the field that is the whole answer of one node.
    :returns: the exit code.
    """
    several = len(outcomes) > 1
    if form != "table":
        objects = [_as_object(outcome, fields) for outcome in outcomes if outcome.error is None or several]
        if objects:
            single = objects[0][listing] if listing and not several else objects[0]
            emit(objects if several else single, form)
    for outcome in outcomes:
        if outcome.error is not None:
            if form == "table" or not several:
                report_error("osctl", outcome.error, as_json=form == "json")
        elif outcome.answer is not None and form == "table":
            if several:
                print(f"{outcome.target.name}:")
            for line in text(outcome.answer).splitlines():
                print(f"  {line}".rstrip() if several else line)
    return exit_code(outcomes)


def _as_object(outcome: Outcome[T], fields: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    if outcome.error is not None:
        return {"node": outcome.target.name, **outcome.error.as_dict()}
    assert outcome.answer is not None
    return {"node": outcome.target.name, **fields(outcome.answer)}


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
