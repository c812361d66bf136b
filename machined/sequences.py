"""Sequences: boot, reboot, shutdown as tables of phases, and the one runner that carries them out.

A sequence is phases in order; the tasks of a phase run side by side. Each task that begins or ends is an event. The tables
themselves are in :mod:`machined.lifecycle`.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from msgspec import Struct

from basalt.errors import BasaltError

Subject = TypeVar("Subject")


class Task(Struct, Generic[Subject], frozen=True):
    """One thing to do to the subject. *required*: when it fails, the phases after this one are not begun."""

    name: str
    action: Callable[[Subject], Awaitable[None]]
    required: bool = False


class Phase(Struct, Generic[Subject], frozen=True):
    """Tasks that do not depend on one another."""

    name: str
    tasks: tuple[Task[Subject], ...]


class Sequence(Struct, Generic[Subject], frozen=True):
    """Phases in order."""

    name: str
    phases: tuple[Phase[Subject], ...]


class StepEvent(Struct, frozen=True):
    """A task has ended. Times in microseconds of CLOCK_BOOTTIME; *error* is empty when it went well."""

    sequence: str
    phase: str
    task: str
    start_usec: int
    duration_usec: int
    error: str = ""


def boottime_usec() -> int:
    """Microseconds since the kernel took over."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


async def run(sequence: Sequence[Subject], subject: Subject, emit: Callable[[StepEvent], None]) -> bool:
    """Carry *sequence* out on *subject*; whether no required task failed."""
    for phase in sequence.phases:
        results = await asyncio.gather(*(_run_task(sequence, phase, task, subject, emit) for task in phase.tasks))
        if not all(results):
            return False
    return True


async def _run_task(
    sequence: Sequence[Subject],
    phase: Phase[Subject],
    task: Task[Subject],
    subject: Subject,
    emit: Callable[[StepEvent], None],
) -> bool:
    start = boottime_usec()
    error = ""
    try:
        await task.action(subject)
    except (BasaltError, OSError) as failure:
        error = str(failure)
    except Exception as defect:
        # A defect of ours in one task must not end the daemon, and the API with it; its trace goes to the log.
        traceback.print_exc()
        error = f"internal error: {defect!r}"
    emit(StepEvent(sequence.name, phase.name, task.name, start, boottime_usec() - start, error))
    return not (error and task.required)
