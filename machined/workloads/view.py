"""How workloads stand, for whoever asks."""

from __future__ import annotations

import enum

from msgspec import Struct


class State(enum.Enum):
    """How a workload stands. The values are the contract's."""

    RUNNING = 1
    STARTING = 2
    BACK_OFF = 3
    FAILED = 4
    FINISHED = 5
    STOPPING = 6


# A workload in one of these has had its chance: those with a higher start order need not wait for it any longer.
SETTLED = frozenset({State.RUNNING, State.BACK_OFF, State.FAILED, State.FINISHED})
# Of several containers the one in the first of these says how the workload stands.
_WORST_FIRST = (State.FAILED, State.BACK_OFF, State.STARTING, State.RUNNING, State.FINISHED)


class ContainerView(Struct):
    """One container of a workload. Times are seconds since the epoch; 0 where there is none yet.

    *due*: when the next try is made (time.monotonic), 0 when none is. *percent*: of a pull, -1 while nothing is known.
    """

    name: str
    image: str
    state: str = "waiting"  # waiting, pulling, created, running, exited
    detail: str = ""
    stands: State = State.STARTING
    remedy: str = ""
    id: str = ""
    image_id: str = ""
    restarts: int = 0
    started_unix: int = 0
    finished_unix: int = 0
    exit_code: int = 0
    exit_reason: str = ""
    health: str = ""
    pid: int = 0
    run: int = 0
    due: float = 0.0
    percent: int = -1

    def words(self, now: float) -> str:
        """How it stands at this moment (time.monotonic): what runs down or up is in here and not in *detail*."""
        left = max(0.0, self.due - now)
        if self.state == "pulling" and self.percent >= 0:
            return f"{self.detail}, {self.percent} %"
        if self.stands is State.BACK_OFF and self.due:
            return f"back-off {left:.0f} s after {self.detail}"
        if self.stands is State.FAILED and self.due:
            return f"{self.detail}; next try in {left:.0f} s"
        return self.detail


class WorkloadView(Struct):
    """One workload."""

    name: str
    state: State = State.STARTING
    reason: str = ""
    remedy: str = ""
    since_unix: float = 0.0
    containers: tuple[ContainerView, ...] = ()
    address: str = ""


def stands(containers: tuple[ContainerView, ...]) -> tuple[State, str, str]:
    """State, reason and remedy of a workload with these containers."""
    for state in _WORST_FIRST:
        found = [container for container in containers if container.stands is state]
        if found:
            reasons = [f"{one.name}: {one.detail}" for one in found if one.detail and state is not State.RUNNING]
            return state, "; ".join(reasons), next((one.remedy for one in found if one.remedy), "")
    return State.STARTING, "", ""
