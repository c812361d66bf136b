"""A running node: how much memory it uses while idle, and how fast its API answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from basalt.client import connect
from basalt.client.calls import Client
from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as api
from benchmarks.bench import Bench, BootedNode
from benchmarks.figures import Figure, Goal, median, percentile
from benchmarks.image import MB

_SETTLE_TIMEOUT_S = 300
_IDLE_S = 10  # caches of the boot are dropped, start-up threads end
_READINGS = 5
_WARM_UP = 20
_CALLS = 300
_CONNECTIONS = 20


def measure(bench: Bench) -> Iterator[Figure]:
    """On one node booted without firmware; which way it was booted makes no difference any more."""
    bench.note("booting a node for memory and calls")
    with bench.node("direct") as node:
        yield from _calls(node, bench)
        yield _memory(node, bench)


def _memory(node: BootedNode, bench: Bench) -> Figure:
    bench.note("waiting for containerd")
    with connect(node.target) as client:
        _wait_for(client, "containers")
        time.sleep(_IDLE_S)
        readings = []
        for _ in range(_READINGS):
            status = client.status()
            readings.append((status.memory_total_bytes - status.memory_available_bytes) / MB)
            time.sleep(1)
    how = f"MemTotal - MemAvailable of /proc/meminfo by the API, containerd up, no containers, median of {_READINGS}"
    return Figure("idle memory", median(readings), "MB", how, Goal(160))


def _wait_for(client: Client, concern: str) -> None:
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    while True:
        state = next((found for found in client.status().concerns if found.name == concern), None)
        if state is not None and state.state == api.CONCERN_STATE_CONVERGED:
            return
        if time.monotonic() > deadline:
            reason = state.reason if state else "the node does not mention it"
            raise BasaltError(f"the node's {concern} did not converge within {_SETTLE_TIMEOUT_S} s", why=reason)
        time.sleep(0.5)


def _calls(node: BootedNode, bench: Bench) -> Iterator[Figure]:
    with connect(node.target) as client:
        _wait_for(client, "containers")
        for _ in range(_WARM_UP):
            client.version()
        warm = [_milliseconds(client.version) for _ in range(_CALLS)]
    emulated = "; the goal is for a machine that is not emulated" if bench.accelerator != "kvm" else ""
    how = f"SystemService/Version, client on the host, one connection, {_CALLS} calls one after another"
    yield Figure("RPC, warm channel, p50", percentile(warm, 0.5), "ms", f"{how}{emulated}", Goal(2))
    yield Figure("RPC, warm channel, p99", percentile(warm, 0.99), "ms", "the same calls")

    def anew() -> None:
        with connect(node.target) as client:
            client.version()

    fresh = [_milliseconds(anew) for _ in range(_CONNECTIONS)]
    how = f"TCP, mutual TLS, HTTP/2 and one call, p50 of {_CONNECTIONS}"
    yield Figure("RPC, new connection", percentile(fresh, 0.5), "ms", how)


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began) / 1e6
