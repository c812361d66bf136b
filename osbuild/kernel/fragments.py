"""Fragments of kernel configuration: one concern per file, one symbol per line, each with its reason.

A line is ``CONFIG_SYMBOL=value  # reason``. The value is ``y``, ``m``, ``n``, a number or a quoted string; ``n`` says "refused",
where Kconfig's own spelling (``# CONFIG_X is not set``) reads like a comment and is easily lost. Lines that begin with ``#``, and
empty ones, are for people.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from basalt.errors import UsageError

SUFFIX = ".config"
_LINE = re.compile(
    r'CONFIG_(?P<symbol>[A-Za-z0-9_]+)=(?P<value>[ymn]|-?\d+|0x[0-9a-fA-F]+|"[^"]*")(?:\s+#\s*(?P<reason>.*))?'
)


@dataclass(frozen=True)
class Setting:
    """One symbol as a fragment asks for it.

    :param value: ``y``, ``m``, ``n``, a number, or a string with its quotes: as Kconfig writes it, but for ``n``.
    :param place: ``file:line``.
    """

    symbol: str
    value: str
    reason: str
    place: str


def parse(text: str, name: str) -> list[Setting]:
    """The settings of one fragment; *name* is the file as errors should call it.

    :raises UsageError: for a line that is no setting or has no reason, and for a symbol that is set twice.
    """
    found: dict[str, Setting] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        place = f"{name}:{number}"
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise UsageError(
                f"{place}: not a kernel setting: {line.strip()}",
                remedy="Write it as 'CONFIG_SYMBOL=value  # reason', with y, m, n, a number or a quoted string",
            )
        if not match["reason"]:
            raise UsageError(
                f"{place}: CONFIG_{match['symbol']} has no reason",
                why="a setting that nobody can explain is never removed",
                remedy="Say at the end of the line, after '#', what needs it",
            )
        setting = Setting(match["symbol"], match["value"], match["reason"].strip(), place)
        if setting.symbol in found:
            raise UsageError(
                f"CONFIG_{setting.symbol} is set twice in one fragment",
                why=f"at {found[setting.symbol].place} and at {place}",
                remedy="Remove one of them",
            )
        found[setting.symbol] = setting
    return list(found.values())


def merge(fragments: Iterable[Sequence[Setting]]) -> dict[str, Setting]:
    """All settings by symbol. Two fragments may ask for the same thing; the first one's reason is kept.

    :raises UsageError: when two of them contradict each other.
    """
    merged: dict[str, Setting] = {}
    for setting in (setting for fragment in fragments for setting in fragment):
        other = merged.setdefault(setting.symbol, setting)
        if other.value != setting.value:
            raise UsageError(
                f"CONFIG_{setting.symbol} is asked for in two ways",
                why=f"{other.value} at {other.place} ({other.reason}); {setting.value} at {setting.place} ({setting.reason})",
                remedy="Choose fragments that agree, or move the setting out of the common one",
            )
    return merged


def available(directory: Path) -> list[str]:
    """Names of the fragments in *directory*, in their order."""
    return sorted(path.name.removesuffix(SUFFIX) for path in directory.glob(f"*{SUFFIX}"))


def load(directory: Path, names: Sequence[str]) -> dict[str, Setting]:
    """Read and merge the fragments called *names* (files of *directory* without ``.config``).

    :raises UsageError: for an unknown name, with the nearest one, and for what :func:`parse` and :func:`merge` refuse.
    """
    known = available(directory)
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            guess = f"Did you mean '{nearest[0]}'? " if nearest else ""
            raise UsageError(
                f"there is no kernel fragment '{name}'", remedy=f"{guess}Fragments: {', '.join(known) or 'none'}"
            )
    return merge(
        parse((directory / f"{name}{SUFFIX}").read_text(), f"{directory.name}/{name}{SUFFIX}") for name in names
    )


def values(settings: Mapping[str, Setting]) -> dict[str, str]:
    """Symbol → value, sorted: what a build depends on. Reasons and places do not belong to it."""
    return {symbol: settings[symbol].value for symbol in sorted(settings)}


def render(request: Mapping[str, str]) -> str:
    """*request* as Kconfig reads it (``KCONFIG_ALLCONFIG``)."""
    return "".join(
        f"# CONFIG_{symbol} is not set\n" if value == "n" else f"CONFIG_{symbol}={value}\n"
        for symbol, value in request.items()
    )
