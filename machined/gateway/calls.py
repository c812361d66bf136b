"""The calls that are open, so that those of a caller who is no longer admitted can be ended at once.

A call is ended by cancelling its inner half; the relay then finds the reason here and tells the caller. A caller that does not read
is told when it reads again: until then nothing more of the node's reaches it than what was on its way.

One call is not ended at once: one that changes something and has a single answer. It is under way, ending it would undo nothing, and
it may be the very change that its caller is no longer admitted by: they are told what they did, and that it is on trial.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol


class Cancellable(Protocol):
    """The inner half of a call."""

    def cancel(self) -> bool: ...


ANSWER_S = 10.0  # an apply waits for half of that until the node has looked at the change


class OpenCall:
    """One call from its admission to its end.

    :param grace_s: how long it may still take to answer once its caller is no longer admitted.
    """

    def __init__(self, certificate_pem: bytes, inner: Cancellable, grace_s: float) -> None:
        self.certificate_pem = certificate_pem
        self.refusal = ""  # why it was ended, where it was
        self.ending = False
        self._inner = inner
        self._grace_s = grace_s

    def end(self, refusal: str) -> None:
        """End it for this reason."""
        self.ending = True
        if self._grace_s:
            asyncio.get_running_loop().call_later(self._grace_s, self._cut, refusal)
        else:
            self._cut(refusal)

    def _cut(self, refusal: str) -> None:
        self.refusal = refusal
        self._inner.cancel()


class OpenCalls:
    """All of them."""

    def __init__(self) -> None:
        self._calls: set[OpenCall] = set()

    def __len__(self) -> int:
        return len(self._calls)

    @contextlib.contextmanager
    def open(self, certificate_pem: bytes, inner: Cancellable, *, grace_s: float = 0.0) -> Iterator[OpenCall]:
        """Keep a call among the open ones for as long as the context lasts."""
        call = OpenCall(certificate_pem, inner, grace_s)
        self._calls.add(call)
        try:
            yield call
        finally:
            self._calls.discard(call)

    def end_refused(self, refusal_of: Callable[[bytes], str]) -> int:
        """End each call whose certificate *refusal_of* gives a reason for; how many were."""
        ended = 0
        for call in tuple(self._calls):
            if not call.ending and (refusal := refusal_of(call.certificate_pem)):
                call.end(refusal)
                ended += 1
        return ended


async def patrol(calls: OpenCalls, refusal_of: Callable[[bytes], str], changed: asyncio.Event, every_s: float) -> None:
    """Look at the open calls whenever *changed* is set, and each *every_s* for the dates that pass. Never returns."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await changed.wait()
        changed.clear()
        if ended := calls.end_refused(refusal_of):
            print(f"gateway: ended {ended} open calls of callers who are no longer admitted", flush=True)
