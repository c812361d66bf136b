"""One reconciler per concern: desired state in, status out, again and again.

A reconciler's step looks at what is and what should be, does what is needed, and says how it stands. It runs when something has
changed (:meth:`Reconciler.trigger`), after a failure with growing pauses, and now and then for nothing, so that drift that sent no
event heals too. The :class:`Board` keeps what each concern last said and since when; the API reads it there, and nothing else
writes it.
"""

from __future__ import annotations

import asyncio
import enum
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable

from msgspec import Struct

from basalt.errors import BasaltError

RETRY_FIRST_S = 1.0
RETRY_LONGEST_S = 60.0
SETTLE_S = 0.01  # events come in bursts: one look at the end of the burst is enough


class State(enum.Enum):
    """How a concern stands."""

    CONVERGED = "converged"
    WAITING = "waiting"
    FAILED = "failed"


class Status(Struct, frozen=True):
    """How a concern stands, why, and what to do about it or what the node tries next."""

    state: State
    reason: str = ""
    remedy: str = ""


CONVERGED = Status(State.CONVERGED)


def waiting(reason: str, remedy: str = "") -> Status:
    """Nothing is wrong, but something that is needed is not there yet."""
    return Status(State.WAITING, reason, remedy)


def failed(reason: str, remedy: str = "") -> Status:
    """Something is wrong."""
    return Status(State.FAILED, reason, remedy)


def failed_by(error: BasaltError | OSError, remedy: str = "") -> Status:
    """The status that an error means."""
    if isinstance(error, BasaltError):
        return failed(str(error), error.remedy or remedy)
    return failed(str(error), remedy)


def together(parts: Iterable[tuple[str, Status]]) -> Status:
    """The status of a concern that has several parts, each with its name: the worst state, and what each part in it says.

    Parts that are worse than converged come first; what converged ones have to say is said when all of them are.
    """
    known = list(parts)
    for state in (State.FAILED, State.WAITING, State.CONVERGED):
        found = [(name, status) for name, status in known if status.state is state]
        if found:
            unwell = [(name, status) for name, status in known if status.state is not State.CONVERGED] or found
            ordered = sorted(unwell, key=lambda part: part[1].state is not State.FAILED)
            reasons = [
                f"{name}: {status.reason}" if name else status.reason for name, status in ordered if status.reason
            ]
            remedies = dict.fromkeys(status.remedy for _, status in ordered if status.remedy)
            return Status(state, "; ".join(reasons), "; ".join(remedies))
    return CONVERGED


class Entry(Struct, frozen=True):
    """A concern's status and since when it has been so (seconds since the epoch).

    *failures*: looks in a row that failed. *due*: when it looks again by itself (time.monotonic); None when it does not.
    """

    status: Status
    since: float
    failures: int = 0
    due: float | None = None

    @property
    def next_look_s(self) -> float:
        """Seconds until the next look, events aside; 0 when there is none to come."""
        return max(0.0, self.due - time.monotonic()) if self.due is not None else 0.0


class Board:
    """What each concern last said."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}

    def post(
        self, concern: str, status: Status, *, failures: int = 0, due: float | None = None, same: bool = False
    ) -> None:
        """Record *status*; *since* moves only when the state or its reason changes. Changes are logged.

        :param same: the reason says what it said before, in words that change by themselves (a time that runs down).
        """
        entry = self._entries.get(concern)
        unchanged = entry is not None and entry.status.state is status.state
        unchanged = unchanged and entry is not None and (same or entry.status.reason == status.reason)
        since = entry.since if entry is not None and unchanged else self._clock()
        self._entries[concern] = Entry(status, since, failures, due)
        if not unchanged:
            print(f"{concern}: {status.state.value}{f': {status.reason}' if status.reason else ''}", flush=True)

    def entries(self) -> dict[str, Entry]:
        """All concerns, by name."""
        return dict(sorted(self._entries.items()))

    def state_of(self, concern: str) -> State | None:
        """The state of one concern; None when it has said nothing yet."""
        entry = self._entries.get(concern)
        return entry.status.state if entry else None


class Reconciler:
    """Runs one concern's step and posts what it says.

    :param step: one look and what follows from it. A :class:`BasaltError` or :class:`OSError` from it means "failed".
    :param every_s: how often to look without an event.
    """

    def __init__(self, concern: str, step: Callable[[], Awaitable[Status]], board: Board, *, every_s: float) -> None:
        self.concern = concern
        self._step = step
        self._board = board
        self._every_s = every_s
        self._wanted = asyncio.Event()
        self._passed = asyncio.Condition()
        self._begun = 0
        self._done = 0

    def trigger(self) -> None:
        """Look again soon."""
        self._wanted.set()

    async def settle(self, timeout_s: float) -> bool:
        """Trigger, and wait until a look that began after this call has ended; whether it did within the time."""
        target = self._begun + 1
        self.trigger()
        try:
            async with asyncio.timeout(timeout_s), self._passed:
                await self._passed.wait_for(lambda: self._done >= target)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Look for ever."""
        failures = 0
        while True:
            self._wanted.clear()
            self._begun += 1
            status = await self._look()
            failures = failures + 1 if status.state is State.FAILED else 0
            pause = min(RETRY_FIRST_S * 2 ** (failures - 1), RETRY_LONGEST_S) if failures else self._every_s
            self._board.post(self.concern, status, failures=failures, due=time.monotonic() + pause)
            async with self._passed:
                self._done = self._begun
                self._passed.notify_all()
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                continue

    async def _look(self) -> Status:
        try:
            return await self._step()
        except (BasaltError, OSError) as error:
            return failed_by(error)
        except Exception as error:
            # A defect of ours in one concern must not take the others along, nor stay silent.
            traceback.print_exc()
            return failed(f"internal error: {error!r}", "this is a defect of machined; its log has the details")
