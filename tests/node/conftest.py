"""Nodes for tests: booted by ``osbuild boot``, spoken to by ``osctl``, and broken through the fault agent where a test asks for it.

A node that pulls images finds a registry on the host; see :mod:`tests.node.registry`.

What a test waits for, it waits for with :func:`until`, which gives up after a patience that no working node ever needs. What the nodes
of a failed test have to say for themselves is in its report.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import testinfra

from basalt import contexts
from basalt.client import Target, connect
from basalt.client.calls import Client
from basalt.errors import BasaltError
from osbuild.vm import machines
from osctl.messages import plain
from tests.conftest import answer, command
from tests.node import registry as registries
from tests.node import registry_proxy
from tests.node.images import Images
from tests.node.registry import Registry
from tests.node.registry_proxy import FaultyRegistry
from tests.node.registry_tools import Tools, tree

ANSWER_S = 180.0  # for one call: several emulated nodes share the host's cores with the tests
SOON_S = 10.0  # for a call to a node that may not be there: what was sent to it is lost, and it is asked again
PATIENCE_S = 240.0  # for one event: what an emulated node has not done by then on a loaded host, it does not do
LOOK_EVERY_S = 0.2  # a look costs the host time that the node then lacks
CONSOLE_LINES = 30

HERE = Path(__file__).resolve().parent

Answer = TypeVar("Answer")


def until(look: Callable[[], Answer], shown: Callable[[], object] = lambda: "") -> Answer:
    """Look again and again until what is seen is true; that.

    :param shown: what the report says where it never is.
    """
    end = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < end, f"still {seen!r} after {PATIENCE_S:.0f} s; {shown()}"
        time.sleep(LOOK_EVERY_S)
    return seen


@dataclass(frozen=True)
class Concern:
    """How a concern of a node stands; *state* as osctl writes it."""

    state: str
    reason: str
    remedy: str


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
            with connection.makefile("rb") as lines:
                line = lines.readline()
        assert line, f"the fault agent hung up on {order}"
        reply: dict[str, Any] = json.loads(line)
        assert "error" not in reply, reply
        return reply

    def client(self, timeout_s: float = ANSWER_S) -> Client:
        """A new connection, as osctl makes it. For what is looked at again and again: a program that starts for each look takes
        the host's time away from the node.
        """
        return connect(Target.of_context(contexts.load().get(), self.name), timeout_s=timeout_s)

    def links(self) -> dict[str, dict[str, Any]]:
        """What ``osctl get links`` shows, by name."""
        with self.client() as client:
            return {link.name: plain(link) for link in client.links().links}

    def concerns(self, timeout_s: float = ANSWER_S) -> dict[str, Concern]:
        """How each concern stands."""
        with self.client(timeout_s) as client:
            rows = [plain(each) for each in client.status().concerns]
        return {row["name"]: Concern(row["state"], row["reason"], row["remedy"]) for row in rows}

    def answers(self) -> bool:
        """Whether its API does, soon."""
        try:
            self.concerns(SOON_S)
        except BasaltError:
            return False
        return True

    def until(self, concern: str, state: str, words: str = "") -> Concern:
        """Wait until a concern is in *state* and says *words*."""

        def found() -> Concern | None:
            seen = self.concerns().get(concern)
            return seen if seen and seen.state == state and words in seen.reason else None

        seen = until(found, self.concerns)
        assert seen is not None
        return seen

    def until_converged(self, *concerns: str) -> None:
        """Wait until the node says that *concerns* are as they should be."""

        def so() -> bool:
            states = {name: concern.state for name, concern in self.concerns().items()}
            assert not any(states.get(name) == "failed" for name in concerns), self.concerns()
            return all(states.get(name) == "converged" for name in concerns)

        until(so, self.concerns)

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
_running: dict[str, Node] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the nodes say when a test fails: nobody can ask them afterwards."""
    report = yield
    if report.failed:
        report.sections += [(f"node {name}", _story(node)) for name, node in _running.items()]
        report.sections += [(f"registry {name}", story) for name, story in registries.stories()]
        report.sections += [(f"faulty registry {name}", story) for name, story in registry_proxy.stories()]
    return report


def _story(node: Node) -> str:
    try:
        said = [f"{name}: {concern.state} {concern.reason}" for name, concern in node.concerns(SOON_S).items()]
    except BasaltError as error:
        said = [f"it does not answer: {error}"]
    return "\n".join([*said, "console:", *node.console().splitlines()[-CONSOLE_LINES:]])


@pytest.fixture(scope="module")
def boot(request: pytest.FixtureRequest, own_home: None) -> Iterator[Boot]:
    """Boot nodes; they are stopped and forgotten at the end of the module."""
    started: list[str] = []
    stem = re.sub(r"[^a-z0-9]+", "-", request.module.__name__.rpartition(".")[2].removeprefix("test_"))[:24].strip("-")

    def start(*options: str | Path, profile: str | Path = "minimal", machine: str | Path = "direct") -> Node:
        name = f"{stem}-{len(started)}"
        command("osbuild", "stop", name, expect=0) if (machines.directory_of(name) / "vm.json").exists() else None
        started.append(name)
        words = ["osbuild", "boot", "--profile", profile, "--machine", machine, "--name", name, "--detach", *options]
        _running[name] = Node(name, answer(*words))
        return _running[name]

    yield start
    for name in started:
        _running.pop(name, None)
        if (machines.directory_of(name) / "vm.json").exists():
            command("osbuild", "stop", name)


@pytest.fixture(scope="module")
def boot_faulty(boot: Boot) -> Callable[[], Node]:
    """Boot a node with the fault agent."""
    return lambda: boot(profile=HERE / "faulty.toml", machine=HERE / "faulty-machine.toml")


@pytest.fixture(scope="session")
def registry_tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """What makes, signs and moves container images."""
    return Tools(tree(), tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def images(registry_tools: Tools) -> Images:
    """Container images, each made when it is first asked for."""
    return Images(registry_tools)


@pytest.fixture(scope="module")
def registry(registry_tools: Tools) -> Iterator[Registry]:
    """A registry that lets everybody in, empty at the beginning of the module."""
    with registries.running(registry_tools) as running:
        yield running


@pytest.fixture(scope="module")
def faulty_registry(registry: Registry) -> Iterator[FaultyRegistry]:
    """The same registry, by way of a proxy that can do harm."""
    with registry_proxy.faulty(registry) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def host() -> Any:
    """The machine that the tests run on, by testinfra: what the commands leave on it is part of their promise."""
    return testinfra.get_host("local://")
