"""Nodes for tests: booted by ``osbuild boot``, spoken to by ``osctl``, and broken through the fault agent where a test asks for it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra

from osbuild.vm import machines
from tests.conftest import answer, command

ANSWER_S = 180.0  # for one call: several emulated nodes share the host's cores with the tests

HERE = Path(__file__).resolve().parent


@dataclass
class Node:
    """A booted virtual machine."""

    name: str
    facts: dict[str, Any]

    def osctl(self, *argv: str | Path, expect: int = 0) -> str:
        """What ``osctl -n NAME ...`` prints."""
        done = command("osctl", "-n", self.name, "--timeout", f"{ANSWER_S:.0f}", *argv, expect=expect)
        return done.stdout if expect == 0 else done.stdout + done.stderr

    def ask(self, *argv: str | Path) -> Any:
        """The JSON answer of ``osctl -n NAME ... -o json``."""
        return json.loads(self.osctl(*argv, "-o", "json"))

    @property
    def endpoint(self) -> str:
        """127.0.0.1 and the port that leads to the node's API."""
        return str(self.facts["endpoint"])

    @property
    def address(self) -> tuple[str, int]:
        """The endpoint for a socket."""
        host, _, port = self.endpoint.rpartition(":")
        return host, int(port)

    def console(self) -> str:
        """All that the console has shown."""
        return Path(self.facts["console"]).read_text(errors="replace")

    def fault(self, **order: Any) -> dict[str, Any]:
        """Have the fault agent of a faulty node carry out *order*."""
        path = machines.directory_of(self.name) / "fault.sock"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(120)
            connection.connect(str(path))
            connection.sendall(json.dumps(order).encode() + b"\n")
            line = b""
            while not line.endswith(b"\n"):
                line += connection.recv(65536)
        reply: dict[str, Any] = json.loads(line)
        assert "error" not in reply, reply
        return reply

    def until_converged(self, *concerns: str) -> None:
        """Wait until the node says that *concerns* are as they should be; the test's own time limit is the only clock."""
        while True:
            states = {row["name"]: row["state"] for row in self.ask("status")["concerns"]}
            if all(states[name] == "converged" for name in concerns):
                return
            assert not any(states[name] == "failed" for name in concerns), states

    def configure(self, directory: Path) -> None:
        """Give the node its first configuration."""
        document = directory / "first.yaml"
        document.write_text("apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: tested\n")
        self.osctl("apply-config", "-f", document)

    def restart(self) -> None:
        """Pull the plug and switch on again; returns when the API answers."""
        command("osbuild", "stop", self.name, "--keep")
        self.facts = answer("osbuild", "start", self.name)


Boot = Callable[..., Node]


@pytest.fixture(scope="module")
def boot(request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Boot nodes; they are stopped and forgotten at the end of the module."""
    started: list[str] = []
    stem = re.sub(r"[^a-z0-9]+", "-", request.module.__name__.rpartition(".")[2].removeprefix("test_"))[:24].strip("-")

    def start(*options: str | Path, profile: str | Path = "minimal", machine: str | Path = "direct") -> Node:
        name = f"{stem}-{len(started)}"
        command("osbuild", "stop", name, expect=0) if (machines.directory_of(name) / "vm.json").exists() else None
        started.append(name)
        words = ["osbuild", "boot", "--profile", profile, "--machine", machine, "--name", name, "--detach", *options]
        return Node(name, answer(*words))

    yield start
    for name in started:
        if (machines.directory_of(name) / "vm.json").exists():
            command("osbuild", "stop", name)


@pytest.fixture(scope="module")
def boot_faulty(boot: Boot) -> Callable[[], Node]:
    """Boot a node with the fault agent."""
    return lambda: boot(profile=HERE / "faulty.toml", machine=HERE / "faulty-machine.toml")


@pytest.fixture(scope="session")
def host() -> Any:
    """The machine that the tests run on, by testinfra: what the commands leave on it is part of their promise."""
    return testinfra.get_host("local://")
