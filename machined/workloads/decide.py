"""What follows from how a container of a workload stands. Pure."""

from __future__ import annotations

from msgspec import Struct

from basalt.config.documents.workload import Container
from machined.wire import cri_pb2 as cri

BACK_OFF_FIRST_S = 1.0
BACK_OFF_LONGEST_S = 300.0
LONG_RUN_S = 600.0  # a container that ran for so long begins anew with the shortest pause
OUT_OF_MEMORY = "OOMKilled"  # containerd's reason (pkg/cri)

_SIGNALS = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
            11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 31: "SIGSYS"}  # fmt: skip


class Ended(Struct, frozen=True):
    """How a container ended. *ran_s*: how long it had run; *failures*: of how many short runs in a row it is the last."""

    exit_code: int
    reason: str
    ran_s: float
    failures: int
    unhealthy: str = ""

    @property
    def failed(self) -> bool:
        """Whether the end was no success."""
        return self.exit_code != 0 or bool(self.unhealthy)


def back_off_s(failures: int) -> float:
    """The pause before the next start, after so many short runs in a row: 1, 2, 4, ... 300 seconds."""
    return float(min(BACK_OFF_FIRST_S * 2 ** min(max(failures - 1, 0), 16), BACK_OFF_LONGEST_S))


def is_started_again(policy: str, ended: Ended) -> bool:
    """Whether a container that ended so is started again under this restart policy."""
    return policy == "always" or (policy == "on-failure" and ended.failed)


def ended_of(status: cri.ContainerStatus, failures_before: int, container: Container, unhealthy: str = "") -> Ended:
    """How the container of *status*, which has exited, ended.

    :param failures_before: the number its annotation has.
    :param unhealthy: why it was stopped, when its health check failed.
    """
    began = status.started_at or status.created_at
    ran_s = max(0.0, (status.finished_at - began) / 1e9)
    failures = 1 if ran_s >= LONG_RUN_S else failures_before + 1
    return Ended(status.exit_code, words_of_end(status, container, unhealthy), ran_s, failures, unhealthy)


def words_of_end(status: cri.ContainerStatus, container: Container, unhealthy: str = "") -> str:
    """How it ended, for people: "exit 137: out of memory at 512MiB"."""
    code = status.exit_code
    if not status.started_at:
        return f"could not be started: {' '.join(status.message.split()) or f'exit {code}'}"
    if unhealthy:
        return f"stopped: {unhealthy}"
    if status.reason == OUT_OF_MEMORY:
        limit = container.resources.memory
        return f"exit {code}: out of memory at {limit}" if limit else f"exit {code}: the node was out of memory"
    if code > 128 and (signal := _SIGNALS.get(code - 128)):
        return f"exit {code}: {signal}"
    return f"exit {code}"


def wait_left_s(pause_s: float, finished_ns: int, now_s: float) -> float:
    """What is left of a pause that began when a container ended. A clock that was stepped makes it no longer."""
    passed = now_s - finished_ns / 1e9
    return pause_s if passed < 0 else max(0.0, pause_s - passed)
