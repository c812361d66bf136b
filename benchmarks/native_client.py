"""The client's side of :mod:`benchmarks.native`: runs inside of the namespace, starts the node's two processes, prints JSON.

``python -m benchmarks.native_client DIRECTORY``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from basalt import pki
from basalt.client import Target, connect
from basalt.client.calls import Client
from basalt.endpoint import DEFAULT_PORT, Endpoint
from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as api
from basalt.roles import Role
from benchmarks import native_node

_START_TIMEOUT_S = 60.0
_WARM_UP = 200
_CALLS = 2000
_CONNECTIONS = 50
_CLIENTS = 4
_THROUGHPUT_S = 3.0
_THROUGHPUT_RUNS = 3
_APPLIES = 10
_DAY = timedelta(days=1)


def main() -> None:
    """Measure, and print what was found."""
    root = Path(sys.argv[1])
    os.environ["XDG_CONFIG_HOME"] = str(root / "config")
    if len(sys.argv) > 2:
        _load(root, float(sys.argv[2]))
        return
    authority = pki.make_ca("operators", _DAY)
    client = pki.issue_client(authority, "bench", [Role.ADMIN], _DAY)
    (root / "client.pem").write_bytes(client.certificate_pem)
    (root / "client-key.pem").write_bytes(client.key_pem)
    native_node.prepare(root, authority.certificate_pem)
    _make_links()
    with _processes(root) as processes:
        target = _wait(root, client)
        print(json.dumps(_measure(root, target, processes)))


def _make_links() -> None:
    """A pair of virtual cards: bench0 is the node's."""
    from pyroute2 import IPRoute

    with IPRoute() as links:
        links.link("set", index=1, state="up")
        links.link("add", ifname="bench0", kind="veth", peer={"ifname": "bench1"})
        links.link("set", index=links.link_lookup(ifname="bench1")[0], state="up")


@contextmanager
def _processes(root: Path) -> Iterator[dict[str, int]]:
    started = {}
    try:
        for name in ("machined", "gateway"):
            with (root / f"{name}.log").open("wb") as log:
                started[name] = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.native_node", str(root), name], stdout=log, stderr=log
                )
        yield {name: process.pid for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def _wait(root: Path, client: pki.Identity) -> Target:
    """The node, once it answers."""
    endpoint = Endpoint("127.0.0.1", DEFAULT_PORT)
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        try:
            socket.create_connection(endpoint, 1).close()
            target = _target(root, client)
            with connect(target) as node:
                node.version()
            return target
        except (OSError, BasaltError):
            time.sleep(0.1)
    logs = "".join((root / f"{name}.log").read_text(errors="replace")[-300:] for name in ("machined", "gateway"))
    sys.exit(f"the node did not come up: {logs.strip()}".replace("\n", " | "))


def _target(root: Path, client: pki.Identity) -> Target:
    certificate = (root / "state/identity/certificate.pem").read_bytes()
    fingerprint = pki.fingerprint(pki.pem_to_der(certificate))
    return Target("bench", Endpoint("127.0.0.1", DEFAULT_PORT), fingerprint, client)


def _measure(root: Path, target: Target, processes: dict[str, int]) -> dict[str, Any]:
    applies = list(_applies(target))
    with connect(target) as node:
        for _ in range(_WARM_UP):
            node.version()
        calls = [_milliseconds(node.version) for _ in range(_CALLS)]

    def anew() -> None:
        with connect(target) as node:
            node.version()

    return {
        "applies_ms": applies,
        "calls_ms": calls,
        "connections_ms": [_milliseconds(anew) for _ in range(_CONNECTIONS)],
        "clients": _CLIENTS,
        "calls_per_s": [_throughput(root) for _ in range(_THROUGHPUT_RUNS)],
        "resident_bytes": {name: _resident(pid) for name, pid in processes.items()},
    }


def _applies(target: Target) -> Iterator[float]:
    """Each with another address on bench0, timed until the node says that its network is as it should be, with that address."""
    with connect(target) as node:
        node.apply_config(_documents(1))
    for number in range(2, _APPLIES + 2):
        with connect(target) as node:
            node.version()
            yield _milliseconds(partial(_apply, node, number))


def _apply(node: Client, number: int) -> None:
    node.apply_config(_documents(number), mode=api.APPLY_MODE_NO_REBOOT)
    while True:
        status = node.status()
        states = {concern.name: concern.state for concern in status.concerns}
        there = any(address.address == f"192.0.2.{number}/24" for address in status.addresses)
        if there and states["network"] == api.CONCERN_STATE_CONVERGED:
            return
        time.sleep(0.002)


def _documents(number: int) -> bytes:
    return f"""\
apiVersion: basalt.dev/v1alpha1
kind: MachineConfig
hostname: bench
---
apiVersion: basalt.dev/v1alpha1
kind: NetworkConfig
links:
  - name: bench0
    addresses: [192.0.2.{number}/24]
""".encode()


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began) / 1e6


def _throughput(root: Path) -> float:
    """Calls answered per second, all clients together."""
    words = [sys.executable, "-m", "benchmarks.native_client", str(root), str(_THROUGHPUT_S)]
    clients = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(_CLIENTS)]
    return sum(float(client.communicate()[0]) for client in clients)


def _load(root: Path, seconds: float) -> None:
    """One of the clients: call for *seconds*, print the calls per second."""
    client = pki.Identity((root / "client.pem").read_bytes(), (root / "client-key.pem").read_bytes())
    with connect(_target(root, client)) as node:
        node.version()
        began, calls = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            node.version()
            calls += 1
    print(calls / passed)


def _resident(pid: int) -> int:
    """Proportional set size in bytes (proc_pid_smaps_rollup(5)): pages that both processes share count half in each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    raise BasaltError(f"the kernel does not say how much memory process {pid} has")


if __name__ == "__main__":
    main()
