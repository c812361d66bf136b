"""What happened to workloads: the last events, in memory, for whoever asks or follows."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection

from msgspec import Struct

EVENTS_KEPT = 2000


class Event(Struct, frozen=True):
    """One thing that happened. *container* is empty when it is about the whole workload."""

    sequence: int
    time_unix: float
    workload: str
    container: str
    kind: str
    text: str


class History:
    """The last :data:`EVENTS_KEPT` events. Each is a line of machined's log as well."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._sequence = 0
        self._more = asyncio.Condition()

    def add(self, workload: str, kind: str, text: str, container: str = "") -> None:
        """Note an event; followers see it."""
        self._sequence += 1
        self._events.append(Event(self._sequence, self._clock(), workload, container, kind, text))
        print(f"workload {workload}{f'/{container}' if container else ''}: {text}", flush=True)
        asyncio.get_running_loop().create_task(self._announce())

    async def _announce(self) -> None:
        async with self._more:
            self._more.notify_all()

    def events(self, workloads: Collection[str] = (), after: int = 0) -> list[Event]:
        """The events kept, the oldest first: of *workloads*, or of all when there are none, and with a sequence above *after*."""
        return [
            event for event in self._events if event.sequence > after and (not workloads or event.workload in workloads)
        ]

    async def follow(self, workloads: Collection[str], after: int) -> AsyncIterator[list[Event]]:
        """Batches of events to come. A follower that is too slow loses the oldest, and sees it in the numbers."""
        while True:
            if batch := self.events(workloads, after):
                after = batch[-1].sequence
                yield batch
                continue
            async with self._more:
                await self._more.wait_for(functools.partial(self.events, workloads, after))

    @property
    def last(self) -> int:
        """The number of the last event; 0 when there was none."""
        return self._sequence
