"""Containers: how fast one starts beside containerd's own client, how soon twelve run after a boot, how fast an image comes."""

from __future__ import annotations

import functools
import json
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from basalt import contexts
from basalt.client import Target, connect
from basalt.client.calls import Client
from basalt.errors import BasaltError
from basalt.machine.v1 import containers_pb2 as pb
from basalt.machine.v1 import machine_pb2 as api
from benchmarks.bench import Bench, BootedNode
from benchmarks.figures import Figure, Goal, median
from benchmarks.image import MB
from osbuild import paths
from osbuild.vm import machines
from tests.node import registry as registries
from tests.node.images import Images
from tests.node.registry_access import NAME
from tests.node.registry_tools import Tools, tree

_PATIENCE_S = 600.0
_IMAGE = "busybox:1"
_FULL = "docker.io/library/busybox:1"
_LARGE_BYTES = 64 * 2**20
_TWELVE = [f"w{number:02}" for number in range(12)]
_PROFILE = paths.PROJECT / "benchmarks" / "ctr.toml"
_MACHINE = paths.PROJECT / "tests" / "node" / "faulty-machine.toml"
# Run on the node: the seconds of each `ctr run`, which returns when the container runs.
_CTR = """
import subprocess, time
for number in range({count}):
    began = time.monotonic()
    subprocess.run(["/usr/bin/ctr", "-n", "k8s.io", "run", "-d", "{image}", f"bench-{{number}}", "/bin/sleep", "600"], check=True)
    print(time.monotonic() - began)
    subprocess.run(["/usr/bin/ctr", "-n", "k8s.io", "task", "kill", "-s", "9", f"bench-{{number}}"], check=True)
"""


def measure(bench: Bench) -> Iterator[Figure]:
    """On one node that has ctr besides."""
    bench.note("booting a node for containers")
    native = "" if bench.choose_accelerator() == "kvm" else "; emulated: the goal is for a machine that is not"
    with (
        tempfile.TemporaryDirectory(prefix="basalt-bench-") as scratch,
        bench.node(str(_MACHINE), profile=str(_PROFILE)) as node,
    ):
        tools = Tools(tree(), Path(scratch))
        images = Images(tools)
        with connect(node.target) as client:
            _configure(client, [])
            _until(lambda: _concern(client, "containers") == api.CONCERN_STATE_CONVERGED, "containerd")
            with images.busybox.oci_archive(_IMAGE).open("rb") as stream:
                client.import_image(_chunks(stream))
            yield from _start(bench, node, client)
            yield from _pull(bench, client, tools, images, native)
        yield _twelve(bench, node, native)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(2**20):
        yield chunk


def _start(bench: Bench, node: BootedNode, client: Client) -> Iterator[Figure]:
    bench.note("starting containers")
    count = 2 * bench.repeat + 1
    _configure(client, [_sleeper("one")])
    _until(lambda: _running(client, ["one"]), "a workload")
    ours = []
    for number in range(1, count + 1):
        client.restart_workload("one")
        _until(functools.partial(_has_started, client, "one", number + 1), "a restarted workload")
    ours = _starts(client, "one")[1:]
    told = _agent(node, run=["/usr/bin/python3.13", "-IS", "-c", _CTR.format(count=count, image=_FULL)])
    theirs = [float(line) for line in str(told["text"]).split()]
    how = f"made and started in the sandbox of its workload, image there, median of {count}, machined's own clock"
    yield Figure("container start", median(ours), "s", how)
    yield Figure("the same by ctr run -d", median(theirs), "s", "on the same node, one after another, the same image")
    yield Figure("container start against ctr", median(ours) / median(theirs), "x", "quotient of the two", Goal(1.1))


def _pull(bench: Bench, client: Client, tools: Tools, images: Images, native: str) -> Iterator[Figure]:
    bench.note("pulling an image")
    with registries.running(tools) as registry:
        large = images.large(_LARGE_BYTES)
        registry.push(large, "large:1")
        _configure(client, [{"kind": "RegistryConfig", **registry.document(NAME)}])
        _until(lambda: _concern(client, "registries") == api.CONCERN_STATE_CONVERGED, "the registries")
        began = time.monotonic()
        for _ in client.pull_image(f"{NAME}/large:1"):
            pass
        ours = _LARGE_BYTES / MB / (time.monotonic() - began)
        began = time.monotonic()
        registry.pull("large:1")
        theirs = _LARGE_BYTES / MB / (time.monotonic() - began)
    yield Figure(
        "pull", ours, "MB/s", f"one layer of {_LARGE_BYTES // 2**20} MiB from a registry on the host, unpacked{native}"
    )
    yield Figure("skopeo copy to a directory", theirs, "MB/s", "the same image, on the host")
    yield Figure("pull against skopeo", ours / theirs, "x", f"quotient of the two{native}", Goal(0.9, at_least=True))


def _twelve(bench: Bench, node: BootedNode, native: str) -> Figure:
    bench.note("rebooting with twelve workloads")
    with connect(node.target) as client:
        _configure(client, [_sleeper(name) for name in _TWELVE], mode=api.APPLY_MODE_STAGED)
    machines.power_off(machines.read(node.name))
    bench.osbuild("start", node.name)
    began = time.monotonic()
    with connect(Target.of_context(contexts.load().get(), node.name)) as client:
        _until(lambda: _running(client, _TWELVE), "twelve workloads")
    seconds = time.monotonic() - began
    how = f"from the API's first answer after a power cut until all run, one container each, the node's network{native}"
    return Figure("twelve workloads after API", seconds, "s", how, Goal(15))


def _sleeper(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": _IMAGE, "command": ["/bin/sleep", "100000"]}
    return {
        "kind": "WorkloadConfig",
        "name": name,
        "containers": [container],
        "network": {"mode": "host"},
        "stopGraceS": 0,
    }


def _configure(
    client: Client, documents: list[dict[str, Any]], mode: api.ApplyMode.ValueType = api.APPLY_MODE_AUTO
) -> None:
    everything = [{"kind": "MachineConfig", "hostname": "bench"}, *documents]
    text = "---\n".join(json.dumps({"apiVersion": "basalt.dev/v1alpha1", **document}) + "\n" for document in everything)
    client.apply_config(text.encode(), source="benchmark", mode=mode)


def _concern(client: Client, name: str) -> int:
    return next((int(found.state) for found in client.status().concerns if found.name == name), 0)


def _running(client: Client, names: list[str]) -> bool:
    states = {workload.name: workload.state for workload in client.workloads().workloads}
    return all(states.get(name) == pb.WORKLOAD_STATE_RUNNING for name in names)


def _starts(client: Client, workload: str) -> list[float]:
    """The seconds that each start of a workload's container took, as machined tells them."""
    events = [event for event in client.workload_events([workload]) if event.kind == "started"]
    return [float(match[1]) for event in events if (match := re.search(r"in ([0-9.]+) s$", event.text))]


def _has_started(client: Client, workload: str, times: int) -> bool:
    return len(_starts(client, workload)) >= times


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise BasaltError(f"{what} did not come within {_PATIENCE_S:.0f} s")
        time.sleep(0.2)


def _agent(node: BootedNode, **order: Any) -> dict[str, Any]:
    """Have the agent on the node's second serial port carry out an order."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_S)
        connection.connect(str(machines.directory_of(node.name) / "fault.sock"))
        connection.sendall(json.dumps(order).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
    if "error" in answer:
        raise BasaltError("the agent on the node failed", why=str(answer["error"]))
    return answer
