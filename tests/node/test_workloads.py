"""Workloads: kept running across whatever ends, held in their bounds, reachable where they publish, and told about in words."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basalt.errors import BasaltError
from osbuild.vm import machines, qmp
from tests.node.conftest import Node, until
from tests.node.images import Images

pytestmark = pytest.mark.node

API = {"apiVersion": "basalt.dev/v1alpha1"}
MACHINE = API | {"kind": "MachineConfig", "hostname": "tested"}
IMAGE = "busybox:1"
QUICK: dict[str, Any] = {"network": {"mode": "host"}}  # starts in half the time of one that needs a network of its own
WEB = "echo from $(hostname) > /tmp/index.html; exec httpd -f -p 80 -h /tmp"


def workload(name: str, script: str, /, *, container: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A document with one container that runs *script*."""
    one = {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script], **(container or {})}
    return API | {"kind": "WorkloadConfig", "name": name, "containers": [one], **fields}


def sleeper(name: str, **fields: Any) -> dict[str, Any]:
    """A workload that does nothing, for ever, and ends at once when it is told to."""
    return workload(name, "trap 'exit 0' TERM; while :; do sleep 1; done", **{**QUICK, **fields})


class Machine:
    """A node and what a test has it run."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node = node
        self.directory = directory

    def runs(self, *documents: dict[str, Any], mode: str = "auto") -> None:
        """Have it run exactly these workloads."""
        path = self.directory / "node.yaml"
        path.write_text("---\n".join(json.dumps(document) + "\n" for document in (MACHINE, *documents)))
        self.node.osctl("apply-config", "-f", path, "--mode", mode)

    def all(self) -> dict[str, dict[str, Any]]:
        """How every workload stands."""
        return {one["name"]: one for one in self.node.ask("workload", "list")}

    def container(self, workload: str, name: str = "main") -> dict[str, Any]:
        """How one container stands; nothing known of one that is not there yet."""
        found = [one for one in self.all().get(workload, {}).get("containers", ()) if one["name"] == name]
        return found[0] if found else {"state": "", "detail": "", "id": "", "restarts": 0, "exit_reason": ""}

    def until_all(self, state: str, *names: str) -> None:
        """Wait until these workloads are in *state*."""
        until(lambda: all(self.all().get(name, {}).get("state") == state for name in names), self.all)

    def until_none_is_left(self) -> None:
        """Wait until what is no longer configured has gone."""
        until(lambda: not self.all() and not self.node.ask("containers"), self.all)

    def shell(self, workload: str, script: str, expect: int = 0) -> str:
        """What *script* prints in a workload's container."""
        return self.node.osctl("workload", "exec", workload, "--", "/bin/sh", "-c", script, expect=expect)

    def shell_soon(self, workload: str, script: str) -> str:
        """What *script* prints; empty while the node cannot run it."""
        try:
            with self.node.client() as client:
                answers = client.workload_exec(workload, ["/bin/sh", "-c", script], container="main")
                return b"".join(answer.output for answer in answers).decode()
        except BasaltError:
            return ""

    def events(self, workload: str) -> list[tuple[str, str]]:
        """Kind and text of what happened to it."""
        lines = self.node.osctl("workload", "events", workload, "-o", "json").splitlines()
        return [(event["kind"], event["text"]) for event in map(json.loads, lines)]

    def port(self, guest: int) -> int:
        """A port of the host's loopback that leads to the node's *guest*."""
        control = machines.directory_of(self.node.name) / "qmp.sock"
        qmp.execute(control, "human-monitor-command", {"command-line": f"hostfwd_add net0 tcp:127.0.0.1:0-:{guest}"})
        return qmp.forwarded_port(control, guest)


@pytest.fixture(scope="module")
def machine(boot_faulty: Callable[[], Node], images: Images, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A configured node that has busybox."""
    booted = boot_faulty()
    directory = tmp_path_factory.mktemp("workloads")
    booted.configure(directory)
    booted.until_converged("containers", "network", "workloads")
    booted.osctl("image", "import", images.busybox.oci_archive(IMAGE))
    return Machine(booted, directory)


def answer(port: int, path: str = "/", timeout_s: float = 60) -> tuple[int, str]:
    """Status and body of what answers on a port of the host's loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_workload_is_reached_where_it_publishes_and_nowhere_else(machine: Machine) -> None:
    """From outside: a published port answers, another of the same container does not, nor does the container by its own address."""
    ports = [{"container": 80, "host": 8080}]
    also = {"name": "also", "image": IMAGE, "command": ["/bin/sh", "-c", "exec httpd -f -p 81 -h /"]}
    web = workload("web", WEB, network={"ports": ports})
    web["containers"].append(also)
    machine.runs(web)
    machine.until_all("running", "web")
    assert answer(machine.port(8080), "/index.html") == (200, "from web\n")
    shown = machine.node.ask("workload", "get", "web")
    assert shown["published"] == ["*:8080->80/tcp"]
    assert shown["address"].startswith("10.213.")
    # the containers of one workload share its network: what the one listens on, the other reaches on its loopback
    assert "200" in machine.shell("web/main", "wget -S -O - http://127.0.0.1:81/etc/passwd 2>&1 || true")
    for guest in (81, 80):  # QEMU takes the connection; the node never answers it
        with pytest.raises((TimeoutError, ConnectionError, http.client.RemoteDisconnected)):
            answer(machine.port(guest), timeout_s=3)
    machine.runs()
    machine.until_none_is_left()


def test_volumes_secrets_and_bounds(machine: Machine) -> None:
    """What a container sees and may not do; the sizes hold, and the secret is where it belongs and nowhere else."""
    document = workload(
        "bound",
        "trap 'exit 0' TERM; while :; do sleep 1; done",
        container={
            "mounts": [{"volume": "data", "path": "/data"}, {"volume": "fast", "path": "/fast"}],
            "secrets": [{"secret": "token", "path": "/run/secrets/token"}],
            "security": {"user": "1000:1000", "readOnlyRoot": True},
            "resources": {"memory": "32MiB", "pids": 20},
        },
        volumes=[
            {"name": "data", "size": "8MiB", "owner": "1000:1000"},
            {"name": "fast", "medium": "memory", "size": "1MiB", "owner": "1000"},
        ],
        **QUICK,
        secrets=[{"name": "token", "value": "canary-s3cr3t"}],
    )
    machine.runs(document)
    machine.until_all("running", "bound")
    assert machine.shell("bound", "id -u; id -g; cat /run/secrets/token") == "1000\n1000\ncanary-s3cr3t"
    assert "No space" in machine.shell("bound", "dd if=/dev/zero of=/fast/f bs=1M count=2", expect=1)
    assert "quota exceeded" in machine.shell("bound", "dd if=/dev/zero of=/data/f bs=1M count=16", expect=1)
    assert "Read-only" in machine.shell("bound", "echo x > /new", expect=1)
    assert "Read-only" in machine.shell("bound", "echo x > /run/secrets/token", expect=1)
    assert "NoNewPrivs:\t1" in machine.shell("bound", "cat /proc/self/status")
    assert "CapEff:\t0000000000000000" in machine.shell("bound", "cat /proc/self/status")
    assert "Seccomp:\t2" in machine.shell("bound", "cat /proc/self/status")
    for said in (
        machine.node.osctl("workload", "get", "bound", "-o", "json"),
        machine.node.osctl("get", "config"),
        machine.node.osctl("logs", "machined"),
        machine.node.osctl("logs", "containerd"),
        machine.node.osctl("audit"),
    ):
        assert "canary-s3cr3t" not in said
    machine.shell("bound", "rm /data/f; echo kept > /data/kept")
    machine.runs()
    machine.until_none_is_left()
    machine.runs(document)
    machine.until_all("running", "bound")
    assert machine.shell("bound", "cat /data/kept; ls /fast") == "kept\n"


def test_change_of_one_container_leaves_the_others_alone(machine: Machine) -> None:
    pair = sleeper("pair")
    pair["containers"].append({**pair["containers"][0], "name": "second"})
    machine.runs(pair)
    machine.until_all("running", "pair")
    first, second = (machine.container("pair", name)["id"] for name in ("main", "second"))
    changed = json.loads(json.dumps(pair))
    changed["containers"][1]["env"] = {"NEW": "1"}
    machine.runs(changed)
    until(lambda: machine.container("pair", "second")["id"] not in ("", second))
    machine.until_all("running", "pair")
    assert machine.container("pair")["id"] == first
    assert machine.shell("pair/second", "echo $NEW") == "1\n"
    machine.node.osctl("workload", "restart", "pair/main")
    until(lambda: machine.container("pair")["id"] not in ("", first))
    assert ("restarted", "restarted on request") in machine.events("pair")


def test_ends_are_told_in_words_and_followed_by_what_the_policy_says(machine: Machine) -> None:
    """One that keeps failing waits longer and longer, and disturbs nobody."""
    machine.runs(
        sleeper("calm"),
        workload("loops", "echo going; exit 3", **QUICK),
        workload(
            "hungry", "exec dd if=/dev/zero of=/dev/null bs=200M", container={"resources": {"memory": "24MiB"}}, **QUICK
        ),
        workload("done", "exit 0", restart="on-failure", **QUICK),
        workload("never", "exit 7", restart="never", **QUICK),
        workload("missing", "true", container={"command": ["/no/such/program"]}, **QUICK),
    )
    machine.until_all("running", "calm")
    calm = machine.container("calm")
    machine.until_all("finished", "done")
    machine.until_all("failed", "never")
    assert machine.container("never")["exit_reason"] == "exit 7"
    until(lambda: machine.container("loops")["restarts"] >= 3, machine.all)
    until(lambda: re.fullmatch(r"back-off \d+ s after exit 3", machine.container("loops")["detail"]), machine.all)
    until(lambda: "exit 137: out of memory at 24MiB" in machine.container("hungry")["exit_reason"], machine.all)
    until(lambda: "/no/such/program" in machine.container("missing")["detail"], machine.all)
    assert machine.container("done")["restarts"] == machine.container("never")["restarts"] == 0
    assert machine.container("calm") == calm
    concern = machine.node.concerns()["workloads"]
    assert concern.state == "failed" and "loops" in concern.reason and "calm" not in concern.reason
    assert "going" in machine.node.osctl("workload", "logs", "loops")
    assert "going" in machine.node.osctl("workload", "logs", "loops", "--previous")


def test_unhealthy_container_is_restarted(machine: Machine) -> None:
    check = {"exec": ["/bin/cat", "/tmp/well"], "intervalS": 1, "failures": 2, "graceS": 20}
    machine.runs(
        workload(
            "checked",
            "touch /tmp/well; trap 'exit 0' TERM; while :; do sleep 1; done",
            container={"health": check},
            **QUICK,
        )
    )
    machine.until_all("running", "checked")
    assert machine.container("checked")["health"] == "healthy"
    machine.shell("checked", "rm /tmp/well")
    until(lambda: machine.container("checked")["restarts"] == 1, machine.all)
    machine.until_all("running", "checked")
    assert any(kind == "unhealthy" and "No such file" in text for kind, text in machine.events("checked"))


def test_fork_bomb_memory_hog_and_disk_filler_leave_the_api_responsive(machine: Machine) -> None:
    """Without any bound of their own but the one of all workloads together."""
    machine.runs(
        workload("bomb", ":(){ :|:& };:; while :; do :; done", container={"resources": {"pids": 200000}}, **QUICK),
        workload("hog", "dd if=/dev/zero of=/dev/shm/f bs=1M; dd if=/dev/zero of=/dev/null bs=2G", **QUICK),
        workload(
            "filler",
            "while :; do dd if=/dev/zero of=/data/$RANDOM bs=1M; sleep 1; done",
            container={"mounts": [{"volume": "all", "path": "/data"}]},
            volumes=[{"name": "all"}],
            **QUICK,
        ),
    )
    until(
        lambda: machine.container("filler")["state"] == "running" or machine.container("filler")["restarts"],
        machine.all,
    )
    before = machine.node.fault(pid="machined")["pid"]
    for _ in range(10):
        assert machine.node.concerns()["api"].state == "converged"
    machine.runs()
    machine.until_none_is_left()
    assert machine.node.fault(pid="machined")["pid"] == before
    machine.node.osctl("status")


@pytest.mark.parametrize("victim", ["containerd", "machined"])
def test_running_containers_survive_the_death_of_what_made_them(machine: Machine, victim: str) -> None:
    machine.runs(sleeper("stays"))
    machine.until_all("running", "stays")
    before = machine.container("stays")
    pid = machine.node.fault(kill=victim)["pid"]
    until(lambda: machine.node.fault(pid=victim)["pid"] not in (0, pid))
    until(lambda: "another" in machine.shell_soon("stays", "echo another"))
    machine.node.until_converged("api", "containers", "workloads")
    machine.until_all("running", "stays")
    after = machine.container("stays")
    assert (after["id"], after["pid"], after["restarts"]) == (before["id"], before["pid"], before["restarts"])


def test_workload_whose_shim_dies_is_made_anew(machine: Machine) -> None:
    machine.runs(sleeper("stays"))
    machine.until_all("running", "stays")
    before = machine.container("stays")
    shims = machine.node.fault(run=["/usr/bin/python3.13", "-IS", "-c", _KILL_SHIMS])["text"]
    assert int(shims) >= 1
    until(lambda: machine.container("stays")["id"] not in ("", before["id"]), machine.all)
    machine.until_all("running", "stays")
    machine.shell("stays", "true")


_KILL_SHIMS = """
import os
killed = 0
for pid in filter(str.isdecimal, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        if stream.read().startswith(b"/usr/bin/containerd-shim"):
            os.kill(int(pid), 9)
            killed += 1
print(killed)
"""


def test_image_is_removed_while_it_runs(machine: Machine, images: Images) -> None:
    machine.runs(sleeper("stays"))
    machine.until_all("running", "stays")
    before = machine.container("stays")["id"]
    said = machine.node.osctl("image", "remove", IMAGE, expect=4)
    assert "stays/main" in said and "--force" in said
    machine.node.osctl("image", "remove", IMAGE, "--force")
    machine.shell("stays", "true")
    machine.node.osctl("workload", "restart", "stays")
    until(lambda: "cannot pull" in machine.container("stays")["detail"], machine.all)
    machine.node.osctl("image", "import", images.busybox.oci_archive(IMAGE))
    until(lambda: machine.container("stays")["id"] not in ("", before), machine.all)
    machine.until_all("running", "stays")


def test_twelve_workloads_come_with_the_boot_in_their_order_and_back_after_the_power_went(machine: Machine) -> None:
    """By both runtimes and in both kinds of network. What they had written is there, and no container is an old one."""
    names = [f"w{number:02}" for number in range(12)]
    documents = [
        sleeper(
            name,
            startOrder=10 if name == "w11" else 100,
            runtime="crun" if name in ("w00", "w11") else "runc",
            network={"mode": "bridge" if name in ("w00", "w01") else "host"},
            volumes=[{"name": "data"}],
            container={"mounts": [{"volume": "data", "path": "/data"}]},
        )
        for name in names
    ]
    machine.runs(*documents, mode="staged")
    machine.node.restart()
    machine.until_all("running", *names)
    lines = machine.node.osctl("workload", "events", "-o", "json").splitlines()
    started = [event["workload"] for event in map(json.loads, lines) if event["kind"] == "started"]
    assert started[0] == "w11" and sorted(started) == names
    stay = [names[0], names[11]]
    machine.runs(*(document for document in documents if document["name"] in stay))
    until(lambda: machine.all().keys() == set(stay), machine.all)
    before = {name: machine.container(name)["id"] for name in stay}
    for name in stay:
        machine.shell(name, f"echo {name} > /data/mark; sync")
    for again in (machine.node.restart, lambda: machine.node.osctl("reboot", "--wait")):
        again()
        machine.until_all("running", *stay)
        after = {name: machine.container(name) for name in stay}
        assert not {one["id"] for one in after.values()} & set(before.values())
        assert {one["restarts"] for one in after.values()} == {0}
        assert [machine.shell(name, "cat /data/mark").strip() for name in stay] == stay
    machine.runs()
    machine.until_none_is_left()
