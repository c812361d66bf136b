"""A figure: what was measured, how, and where it stands against its goal. Pure: no clock and no file is touched here."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """*limit* in the figure's unit. The value should be at most that, or at least that with *at_least*."""

    limit: float
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        """True when *value*, as measured and not as rounded for print, reaches the goal."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


class Verdict(enum.StrEnum):
    """Where a figure stands."""

    MET = "met"
    MISSED = "missed"
    NO_GOAL = "no goal"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Figure:
    """One figure.

    :param value: in *unit*; None where it could not be measured, and *how* then says why not.
    :param unit: as printed behind the value; empty for plain counts.
    :param how: one line on how it was measured.
    """

    name: str
    value: float | None
    unit: str
    how: str
    goal: Goal | None = None

    @property
    def verdict(self) -> Verdict:
        """The figure against its goal."""
        if self.value is None:
            return Verdict.NOT_MEASURED
        if self.goal is None:
            return Verdict.NO_GOAL
        return Verdict.MET if self.goal.met_by(self.value) else Verdict.MISSED

    def as_dict(self) -> dict[str, Any]:
        """The figure as JSON values; the value is not rounded."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "goal": str(self.goal) if self.goal else None,
            "verdict": str(self.verdict),
            "how": self.how,
        }


def shown(value: float) -> str:
    """Three significant digits for people; whole numbers stay whole."""
    if float(value).is_integer():
        return f"{int(value):,}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def table(figures: Sequence[Figure]) -> str:
    """Aligned lines: name, value with unit, goal, verdict, and how it was measured; values end in one column."""
    header = ("FIGURE", "VALUE", "UNIT", "GOAL", "VERDICT", "HOW")
    rows = [
        (
            figure.name,
            "-" if figure.value is None else shown(figure.value),
            figure.unit,
            str(figure.goal) if figure.goal else "-",
            str(figure.verdict),
            figure.how,
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[1] = row[1].rjust(widths[1])
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least *share* (0 to 1) of all samples do not exceed (nearest rank).

    :raises ValueError: without samples.
    """
    if not samples:
        raise ValueError("no samples")
    rank = max(1, math.ceil(share * len(samples)))
    return sorted(samples)[rank - 1]


def median(samples: Sequence[float]) -> float:
    """The middle sample, which one interrupted run does not move; the lower of two middles."""
    return percentile(samples, 0.5)


def machine_kind(cpus: int, accelerator: str) -> str:
    """The machine in the words that documents use: "2 cores, emulation".

    :param accelerator: kvm, tcg, or empty where nothing was booted.
    """
    how = {"kvm": ", KVM", "tcg": ", emulation"}.get(accelerator, "")
    return f"{cpus} core{'s' if cpus != 1 else ''}{how}"
