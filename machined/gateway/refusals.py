"""Tells machined which calls were refused, for the audit log: the gateway has no disk of its own to write on.

The first refusal of a kind (whose, from which host, of what, why) is told at once; those like it that follow are counted, and the
count is told when a window ends. What is remembered is bounded, and a machined that is away costs no caller anything.

:data:`REFUSED` is a method of the inner socket alone: the contract does not have it, so no client can reach it through the gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import structs

from machined.audit import Record

REFUSED = "/basalt.gateway.Refusals/Refused"

WINDOW_S = 60.0
KINDS_MAX = 512  # certificates times methods times hosts that are remembered at a time
QUEUE_MAX = 512

Kind = tuple[str, str, str, str]


def kind_of(record: Record) -> Kind:
    """What makes two refusals alike; the port of the address and the request id do not count."""
    return (record.serial, record.address.rpartition(":")[0], record.rpc, record.outcome)


class Repetitions:
    """Decides which refusals are worth a record: pure, with the clock passed in (monotonic seconds)."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, tuple[Record, float]] = {}  # the latest of the kind, when its window ends

    def first(self, record: Record, now: float) -> bool:
        """Note *record*; whether it is the first of its kind in this window. Too many kinds at once count as repeated."""
        kind = kind_of(record)
        known = self._kinds.get(kind)
        if known is not None:
            self._kinds[kind] = structs.replace(record, repeated=known[0].repeated + 1), known[1]
            return False
        if len(self._kinds) >= KINDS_MAX:
            return False
        self._kinds[kind] = record, now + WINDOW_S
        return True

    def ended(self, now: float) -> list[Record]:
        """Those that were repeated in a window that has ended by *now*: the latest of each kind, with the count of all."""
        over = [kind for kind, (_, ends) in self._kinds.items() if ends <= now]
        latest = [self._kinds.pop(kind)[0] for kind in over]
        return [record for record in latest if record.repeated]


class Refusals:
    """Hands refusals over in the background.

    :param send: gives one record, as bytes, to machined.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[object]]) -> None:
        self._send = send
        self._repetitions = Repetitions()
        self._queue: asyncio.Queue[Record] = asyncio.Queue(QUEUE_MAX)
        self._lost = 0

    def note(self, record: Record) -> None:
        """A call was refused just now."""
        stamped = structs.replace(record, time_unix=round(time.time(), 3))
        if self._repetitions.first(stamped, time.monotonic()):
            self._put(stamped)

    async def run(self, every_s: float = 1.0) -> None:
        """Hand over until cancelled."""
        while True:
            try:
                async with asyncio.timeout(every_s):
                    record = await self._queue.get()
            except TimeoutError:
                for repeated in self._repetitions.ended(time.monotonic()):
                    self._put(repeated)
                continue
            try:
                await self._send(msgspec.json.encode(record))
            except Exception as error:
                # Whatever is wrong with machined's side: the gateway goes on, and its log has what the audit log has not.
                print(f"gateway: not in the audit log ({error}): {record}", flush=True)

    def _put(self, record: Record) -> None:
        try:
            self._queue.put_nowait(record)
        except asyncio.QueueFull:
            self._lost += 1
            if self._lost & (self._lost - 1) == 0:  # 1, 2, 4, 8, ...: a line for each doubling
                print(f"gateway: {self._lost} refusals did not reach the audit log: machined is away", flush=True)
