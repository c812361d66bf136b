"""Answers of nodes on standard output.

With one node a program gets that node's object (or its list, where the answer is one), with several a list of objects,
each with ``node`` and either the answer's fields or ``error``, ``why`` and ``remedy``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from basalt.commandline import report_error
from basalt.output import emit
from osctl.fleet import Outcome, exit_code

T = TypeVar("T")


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
