"""Both authorities of three nodes are replaced while calls run all the time, once with osctl killed in the middle."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from basalt import contexts, pki
from basalt.client import Target, connect
from basalt.errors import BasaltError
from tests.conftest import BIN, PROJECT, answer, command
from tests.node.conftest import Boot, Node

pytestmark = pytest.mark.node

COUNT = 3


@pytest.fixture(scope="module")
def nodes(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> list[Node]:
    """Three nodes with a configuration, which enrols them."""
    booted = [boot() for _ in range(COUNT)]
    for node in booted:
        node.configure(tmp_path_factory.mktemp(node.name))
    return booted


class Calls:
    """Calls to every node, all the time: each over a new connection from the context as it stands, as a command makes it."""

    def __init__(self, nodes: list[Node]) -> None:
        self.failures: list[str] = []
        self.made = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(node.name,)) for node in nodes]

    def _call(self, name: str) -> None:
        while not self._over.wait(0.2):
            try:
                with connect(Target.of_context(contexts.load().get(), name), timeout_s=60) as client:
                    client.status()
            except BasaltError as error:
                self.failures.append(f"{name}: {error}")
            self.made += 1

    def __enter__(self) -> Calls:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def rotate(authority: str) -> Any:
    return answer("osctl", "ca", "rotate", "--authority", authority)


def kill_once_it_says(words: str, authority: str) -> None:
    """Begin a rotation and kill it, as the kernel would, as soon as it has said *words*."""
    argv = [str(BIN / "osctl"), "ca", "rotate", "--authority", authority]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=PROJECT) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if words in line:
                break
        process.send_signal(signal.SIGKILL)
    assert words in said, said
    assert process.returncode == -signal.SIGKILL


def authorities_of(node: Node) -> list[str]:
    """The client authorities in the node's AccessConfig."""
    for document in node.ask("get", "config")["documents"]:
        if document["kind"] == "AccessConfig":
            return list(document["clientAuthorities"])
    return []


@contextlib.contextmanager
def warm(nodes: list[Node]) -> Iterator[list[Any]]:
    """A connection to every node that was there before, for the test that it lives on."""
    with contextlib.ExitStack() as stack:
        context = contexts.load().get()
        yield [stack.enter_context(connect(Target.of_context(context, node.name), timeout_s=60)) for node in nodes]


def test_first_configuration_has_enrolled_every_node(nodes: list[Node]) -> None:
    known = contexts.load().get().nodes
    for node in nodes:
        identity = node.ask("get", "identity")
        assert known[node.name].id == identity["node_id"]
        names = [certificate["server_name"] for certificate in identity["certificates"]]
        assert names == ["basalt-node", pki.server_name(identity["node_id"])]


def test_dry_run_names_every_step_and_changes_nothing(nodes: list[Node]) -> None:
    shown = answer("osctl", "ca", "rotate", "--authority", "client", "--dry-run")
    assert all(one["ready"] for one in shown["nodes"])
    assert [step["where"] for step in shown["steps"] if step["phase"] == "remove"] == [node.name for node in nodes] * 2
    assert [authorities_of(node) for node in nodes] == [[]] * COUNT


def test_client_authority_is_replaced_under_load_though_osctl_is_killed(nodes: list[Node], tmp_path: Path) -> None:
    before = contexts.load().get()
    stranger = contexts.client_of(before)
    with Calls(nodes) as calls:
        kill_once_it_says(f"add: {nodes[0].name}: accepts both", "client")
        resumed = command("osctl", "ca", "rotate", "--authority", "client", "--dry-run", "-o", "json")
        assert json.loads(resumed.stdout)["phase"] == "add"
        done = rotate("client")
    assert calls.failures == []
    assert calls.made > 10 * COUNT
    assert done["nodes"] == [node.name for node in nodes]
    new = contexts.client_ca_pem(contexts.load().get()).decode()
    for node in nodes:
        assert [pki.pem_to_der(pem.encode()) for pem in authorities_of(node)] == [pki.pem_to_der(new.encode())]
        assert node.ask("status")["trial_left_s"] == 0
        target = Target.of_context(contexts.load().get(), node.name)
        old = Target(
            target.name, target.endpoint, target.fingerprint, stranger, target.node_id, target.node_authorities
        )
        with pytest.raises(BasaltError), connect(old, timeout_s=60) as client:
            client.version()


def test_node_authority_is_replaced_under_load_and_connections_stay(nodes: list[Node]) -> None:
    issuers = {node.name: node.ask("get", "identity")["issuer_authority"] for node in nodes}
    with warm(nodes) as clients:
        boots = [client.version().boot_id for client in clients]
        with Calls(nodes) as calls:
            kill_once_it_says(f"switch: {nodes[0].name}: is vouched for", "node")
            rotate("node")
        assert [client.version().boot_id for client in clients] == boots
    assert calls.failures == []
    assert contexts.node_ca_pem(contexts.load().get()).count(b"BEGIN") == 1
    for node in nodes:
        assert node.ask("get", "identity")["issuer_authority"] != issuers[node.name]
        assert node.ask("version")["node_id"] == contexts.load().get().nodes[node.name].id


def test_rotated_nodes_come_back_from_a_reboot_with_what_they_were_told(nodes: list[Node]) -> None:
    nodes[0].osctl("reboot", "--wait")
    assert len(authorities_of(nodes[0])) == 1


def test_who_rotated_is_in_the_audit_log(nodes: list[Node]) -> None:
    records = [json.loads(line) for line in nodes[1].osctl("audit", "-o", "json").splitlines()]
    rpcs = [record["rpc"].rpartition("/")[2] for record in records if record["outcome"] == "OK"]
    assert rpcs.count("Enroll") == 2
    assert rpcs.count("ConfirmConfig") >= 2
