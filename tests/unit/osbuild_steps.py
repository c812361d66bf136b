"""Build steps made of plain functions, for tests of what runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from osbuild.graph import Context, Step
from osbuild.progress import Progress

Action = Callable[[Context], None]
_ACTIONS: dict[str, Action] = {}


def step(name: str, action: Action | None = None, inputs: Sequence[Step] = (), **params: Any) -> Step:
    """A step that runs *action*; without one it writes its name to the file ``made``."""
    _ACTIONS[name] = action or write_name
    return Step(name, act, inputs={needed.name: needed for needed in inputs}, params=params)


def act(ctx: Context) -> None:
    """The run function of all of them: a key needs a function of the project's."""
    _ACTIONS[ctx.step.name](ctx)


def write_name(ctx: Context) -> None:
    (ctx.out / "made").write_text(ctx.step.name)


class Recorded(Progress):
    """Progress as a list of (event, step)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def begin(self, steps: Sequence[str]) -> None:
        self.events.append(("begin", ",".join(steps)))

    def start(self, step: str) -> None:
        self.events.append(("start", step))

    def done(self, step: str, text: str = "") -> None:
        self.events.append(("done", step))

    def failed(self, step: str) -> None:
        self.events.append(("failed", step))

    def of(self, event: str) -> list[str]:
        """The steps that *event* was told of, in order."""
        return [step for told, step in self.events if told == event]
