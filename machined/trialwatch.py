"""Looks after a configuration on trial: counts its time down where people look, and takes it back when that is up."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable

from machined.configuration import ConfigurationOwner
from machined.console import Console
from machined.reconcile import Board

LOOK_EVERY_S = 0.5  # while a trial runs; the time that people see goes down by it
CONCERN = "configuration"


class TrialWatch:
    """The loop. It sleeps while nothing is on trial.

    :param api_answers: whether the API answers: the time of a trial that began with the boot runs from then on.
    """

    def __init__(
        self, owner: ConfigurationOwner, board: Board, console: Console, *, api_answers: Callable[[], bool]
    ) -> None:
        self._owner = owner
        self._board = board
        self._console = console
        self._api_answers = api_answers
        self._changed = asyncio.Event()
        self._announced = 0

    def post(self) -> None:
        """Say how the configuration stands, and have the loop look."""
        trial = self._owner.trial
        due = time.monotonic() + self._owner.trial_left_s if trial else None
        number = trial.generation if trial else 0
        self._board.post(CONCERN, self._owner.status, due=due, same=bool(number) and number == self._announced)
        if trial and number != self._announced:
            self._console.trial_began(number, self._owner.trial_left_s)
        self._announced = number
        self._changed.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            trial = self._owner.trial
            if trial is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                reason = await self._owner.look_at_trial(api_answers=self._api_answers())
            except (
                OSError
            ) as error:  # STATE did not take it: the word is tried again, and the trial does not get longer
                print(f"{CONCERN}: {error}", flush=True)
            except Exception:
                traceback.print_exc()  # a defect of ours must not end the only thing that takes a trial back
            else:
                if reason:
                    self._console.trial_ended(trial.generation, reason)
                elif self._owner.trial:
                    self.post()
            await asyncio.sleep(LOOK_EVERY_S)
