"""Which source a configuration is taken from, and what is said of the others. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from machined.sources.model import (
    API,
    ON_DRIVES,
    ON_MACHINE,
    STATE,
    Damaged,
    Documents,
    Material,
    Outcome,
    Remote,
    Report,
)

ORDER = (STATE, *ON_MACHINE, *ON_DRIVES, API)


class Choice(Struct, frozen=True):
    """The source that has something, and what."""

    source: str
    found: Documents | Remote | Damaged


def choose(found: Mapping[str, Material]) -> Choice | None:
    """The first of *found*, which is in order, that has something, usable or not; None when none has."""
    for source, material in found.items():
        if material.configuration is not None:
            return Choice(source, material.configuration)
    return None


def tell(found: Mapping[str, Material], winner: Report | None, state: str) -> tuple[Report, ...]:
    """What came of every source while the node has no configuration, or has just been given one.

    :param winner: what came of the source that ended the search; None when none did.
    :param state: what STATE looked like, in words.
    """
    reports = [Report(STATE, Outcome.NONE, state)]
    for source in ORDER[1:]:
        if winner is None:
            note = found[source].note if source in found else ""
            waits = source == API
            reports.append(Report(source, Outcome.NONE, "the node waits for osctl apply-config" if waits else note))
        elif source == winner.source:
            reports.append(winner)
        elif ORDER.index(source) < ORDER.index(winner.source):
            reports.append(Report(source, Outcome.NONE, found[source].note if source in found else ""))
        else:
            reports.append(Report(source, Outcome.NOT_ASKED, _why_not_asked(source, winner)))
    return tuple(reports)


def _why_not_asked(source: str, winner: Report) -> str:
    if winner.outcome is Outcome.USED:
        return f"{winner.source} came first"
    if source == API:
        return "open: osctl apply-config ends the search"
    return f"{winner.source} has a configuration, which comes first even while it cannot be used"


def not_asked(state: Report, reason: str, sources: Iterable[str] = ORDER[1:]) -> tuple[Report, ...]:
    """What is said where STATE alone decides."""
    return (state, *(Report(source, Outcome.NOT_ASKED, reason) for source in sources))


def replaced_by_api(reports: Iterable[Report], detail: str) -> tuple[Report, ...]:
    """*reports* once an operator has applied a configuration: what kept the others from winning stays to be read."""
    used = Report(API, Outcome.USED, detail)
    return tuple(used if report.source == API else report for report in reports)
