"""Several nodes at once: ask all of them at the same time, and let no failure hide another's answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from basalt.client import Target
from basalt.errors import BasaltError, ExitCode

T = TypeVar("T")

# How often the main thread looks up from waiting. A signal that comes just before it waits does not wake it (CPython only notes
# it), so without this Ctrl-C could pass unheard for as long as nodes are silent.
WAKE_S = 0.5


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one node: an answer or an error."""

    target: Target
    answer: T | None = None
    error: BasaltError | None = None


@dataclass(frozen=True)
class _Crash:
    error: BaseException


def on_all(targets: Sequence[Target], action: Callable[[Target], T]) -> list[Outcome[T]]:
    """Do *action* on every target at the same time; outcomes come in the order of *targets*."""

    def once(target: Target) -> Iterator[T]:
        yield action(target)

    outcomes: dict[str, Outcome[T]] = {}
    for outcome in stream_all(targets, once):
        if outcome.answer is not None or outcome.error is not None:
            outcomes[outcome.target.name] = outcome
    return [outcomes[target.name] for target in targets]


def stream_all(targets: Sequence[Target], action: Callable[[Target], Iterator[T]]) -> Iterator[Outcome[T]]:
    """Everything that *action* yields for any target, as it comes; an error ends its own target's part only.

    The threads are daemons: after Ctrl-C nothing waits for a node that does not answer.
    """
    arrived: queue.Queue[Outcome[T] | _Crash | None] = queue.Queue(maxsize=256)

    def work(target: Target) -> None:
        try:
            for answer in action(target):
                arrived.put(Outcome(target, answer=answer))
        except BasaltError as error:
            arrived.put(Outcome(target, error=error))
        except BaseException as error:  # carried to the main thread, which raises it
            arrived.put(_Crash(error))
        finally:
            arrived.put(None)

    for target in targets:
        threading.Thread(target=work, args=(target,), daemon=True, name=target.name).start()
    running = len(targets)
    while running:
        try:
            item = arrived.get(timeout=WAKE_S)
        except queue.Empty:
            continue
        if item is None:
            running -= 1
        elif isinstance(item, _Crash):
            raise item.error
        else:
            yield item


def exit_code(outcomes: Sequence[Outcome[T]]) -> ExitCode:
    """0 when every node did it; the errors' exit code where they agree on one; else 1."""
    codes = {outcome.error.exit_code for outcome in outcomes if outcome.error is not None}
    if not codes:
        return ExitCode.OK
    return codes.pop() if len(codes) == 1 else ExitCode.FAILED
