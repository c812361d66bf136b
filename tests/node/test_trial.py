"""A wrong configuration cannot brick the node: trials and their ends, on a node whose machined is killed and whose plug is pulled."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from basalt import pki
from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as api
from tests.node.conftest import SOON_S, Node, until

pytestmark = pytest.mark.node

HEAD = "apiVersion: basalt.dev/v1alpha1\nkind: "
LONG = ("--mode", "try", "--try-timeout", "3600")  # longer than any test: it does not end by itself


def documents(hostname: str, network: str = "", more: str = "") -> str:
    """A configuration that knows a node by *hostname*, with *network* for its only card."""
    parts = [f"{HEAD}MachineConfig\nhostname: {hostname}\n"]
    if network:
        parts.append(f"{HEAD}NetworkConfig\nlinks:\n- {network}\n")
    return "---\n".join([*parts, *([more] if more else [])])


@pytest.fixture(scope="module")
def node(boot_faulty: Callable[[], Node], tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A configured node that has its address by DHCP."""
    booted = boot_faulty()
    apply(booted, tmp_path_factory.mktemp("trial"), documents("stands", "{name: eth0, dhcp4: true}"))
    booted.until_converged("network", "firewall")
    return booted


def apply(node: Node, directory: Path, text: str, *options: str, expect: int = 0) -> str:
    """What ``osctl apply-config`` says of *text*."""
    return node.osctl("apply-config", "-f", written(directory, text), *options, expect=expect)


def written(directory: Path, text: str) -> Path:
    """*text* as a file."""
    path = directory / "node.yaml"
    path.write_text(text)
    return path


def fates(node: Node) -> dict[int, dict[str, Any]]:
    """What became of each generation."""
    return {row["number"]: row for row in node.ask("config", "history")}


def on_disk(node: Node) -> dict[str, str]:
    """The files of the configuration on STATE."""
    directory = "/state/config"
    return {name: node.fault(read=f"{directory}/{name}")["text"] for name in node.fault(list=directory)["names"]}


def hostname(node: Node) -> str:
    with node.client() as client:
        return client.status().hostname


def is_back(node: Node, before: dict[str, Any]) -> bool:
    """Whether the node answers with what stood *before* the trial."""
    try:
        with node.client(SOON_S) as client:
            status = client.status()
    except BasaltError:
        return False
    return (status.hostname, status.generation, status.trial_left_s) == (before["hostname"], before["generation"], 0)


def test_trial_is_in_force_and_taken_back_when_nobody_confirms_it(node: Node, tmp_path: Path) -> None:
    before = node.ask("status")
    said = apply(
        node, tmp_path, documents("tried", "{name: eth0, dhcp4: true}"), "--mode", "try", "--try-timeout", "20"
    )
    assert "the node answers a new connection" in said
    number = before["generation"] + 1
    assert node.ask("status")["generation"] == number or is_back(node, before)
    until(lambda: is_back(node, before), node.concerns)
    fate = fates(node)[number]
    assert fate["state"] == "reverted" and "not confirmed within 20 s" in fate["reason"]
    assert fates(node)[before["generation"]]["state"] == "current"


def test_no_other_change_hides_whether_a_trial_works(node: Node, tmp_path: Path) -> None:
    before = node.ask("status")
    apply(node, tmp_path, documents("tried"), *LONG)
    files = on_disk(node)
    said = apply(node, tmp_path, documents("another"), expect=4)
    assert "is on trial in place of generation" in said and "osctl config confirm" in said
    assert on_disk(node) == files
    assert hostname(node) == "tried"
    assert "on trial" in node.concerns()["configuration"].reason
    node.osctl("config", "rollback")
    assert is_back(node, before)


def test_killed_machined_goes_on_with_the_same_trial(node: Node, tmp_path: Path) -> None:
    """The time that ran before the kill is not given again: the trial ends while the new machined runs."""
    before = node.ask("status")
    apply(node, tmp_path, documents("tried"), "--mode", "try", "--try-timeout", "30")
    node.fault(kill="machined")
    until(lambda: is_back(node, before), node.concerns)
    newest = max(fates(node))
    assert "not confirmed within 30 s" in fates(node)[newest]["reason"]


def test_power_cut_in_mid_trial_ends_it(node: Node, tmp_path: Path) -> None:
    before = node.ask("status")
    apply(node, tmp_path, documents("tried"), *LONG)
    assert hostname(node) == "tried"
    node.restart()
    assert is_back(node, before)
    newest = max(fates(node))
    assert fates(node)[newest]["state"] == "reverted"
    assert "restarted before it was confirmed" in fates(node)[newest]["reason"]


def test_confirmed_trial_stands_through_a_power_cut(node: Node, tmp_path: Path) -> None:
    said = apply(node, tmp_path, documents("kept", "{name: eth0, dhcp4: true}"), *LONG, "--confirm")
    assert "confirmed" in said
    node.restart()
    status = node.ask("status")
    assert (status["hostname"], status["trial_left_s"]) == ("kept", 0)
    assert "no configuration is on trial" in node.osctl("config", "confirm", expect=4)


@pytest.mark.parametrize(
    ("network", "more", "why"),
    [
        ("{name: eth0, addresses: [192.0.2.77/24]}", "", "would no longer ask for an address by DHCP"),
        ("{name: eth0, dhcp4: true, up: false}", "", "would be switched off"),
        (
            "{name: eth0, dhcp4: true}",
            f"{HEAD}FirewallConfig\napiSources: [198.51.100.0/24]\n",
            "the firewall would no longer let",
        ),
    ],
    ids=["address", "link", "firewall"],
)
def test_configuration_that_cuts_the_node_off_is_on_trial_unasked_and_goes(
    node: Node, tmp_path: Path, network: str, more: str, why: str
) -> None:
    """The classic brick. Nobody is there to end it: the node does."""
    before = node.ask("status")
    said = apply(node, tmp_path, documents("cut-off", network, more), "--dry-run")
    assert why in said and "unless confirmed" in said
    said = apply(node, tmp_path, documents("cut-off", network, more), "--try-timeout", "20", expect=3)
    assert why in said
    until(lambda: is_back(node, before))
    node.until_converged("network", "firewall")
    assert fates(node)[max(fates(node))]["state"] == "reverted"


def test_change_of_the_authority_that_lets_the_caller_in_is_on_trial_and_goes(node: Node, tmp_path: Path) -> None:
    before = node.ask("status")
    stranger = pki.make_ca("somebody else", datetime.timedelta(days=1)).certificate_pem.decode()
    block = "".join(f"    {line}\n" for line in stranger.splitlines())
    access = f"{HEAD}AccessConfig\nclientAuthorities:\n- |\n{block}"
    said = apply(
        node, tmp_path, documents("kept", "{name: eth0, dhcp4: true}", access), "--try-timeout", "20", expect=3
    )
    assert "the caller would no longer be let in" in said
    until(lambda: is_back(node, before))


def test_staged_configuration_comes_with_the_next_boot_and_not_before(node: Node, tmp_path: Path) -> None:
    apply(node, tmp_path, documents("staged", "{name: eth0, dhcp4: true}"), "--mode", "staged")
    assert hostname(node) == "kept"
    assert "is staged" in node.concerns()["configuration"].reason
    node.osctl("reboot", "--wait")
    assert hostname(node) == "staged"
    assert node.concerns()["configuration"].state == "converged"


def test_ten_applies_in_a_row_under_load_all_stand_in_their_order(node: Node, tmp_path: Path) -> None:
    """While three callers ask all the time. Each change is there when its apply has answered, and no call fails."""
    over = threading.Event()

    def ask() -> int:
        made = 0
        with node.client() as client:
            while not over.is_set():
                client.version()
                client.status()
                made += 1
        return made

    first = node.ask("status")["generation"]
    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(ask) for _ in range(3)]
        try:
            for number in range(1, 11):
                link = f"{{name: eth0, dhcp4: true, addresses: [192.0.2.{number}/24]}}"
                answered = node.ask("apply-config", "-f", written(tmp_path, documents(f"loaded-{number}", link)))
                assert answered["generation"] == first + number
                node.until_converged("network")
                status = node.ask("status")
                assert status["hostname"] == f"loaded-{number}"
                static = {each["address"] for each in status["addresses"] if each["source"] == "static"}
                assert static == {f"192.0.2.{number}/24"}
        finally:
            over.set()
        assert all(caller.result() for caller in callers)
    assert node.ask("status")["generation"] == first + 10


def test_of_two_at_once_one_stands_and_the_other_is_told(node: Node) -> None:
    """Both have looked at the same generation; the second would undo what the first did without having seen it."""
    now = node.ask("status")["generation"]

    def change(name: str) -> str:
        text = documents(name, "{name: eth0, dhcp4: true}").encode()
        with node.client() as client:
            try:
                client.apply_config(text, expected_generation=now, mode=api.APPLY_MODE_NO_REBOOT)
            except BasaltError as error:
                return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        refusals = [said for said in pool.map(change, ("one", "other")) if said]
    assert len(refusals) == 1
    assert str(now) in refusals[0] and str(now + 1) in refusals[0]
    assert node.ask("status")["generation"] == now + 1


def test_invalid_documents_change_no_byte_on_the_disk(node: Node, tmp_path: Path) -> None:
    before, files = node.ask("status")["generation"], on_disk(node)
    for text in (
        documents("a b"),
        documents("x", "{name: eth0, dhcp4: maybe}"),
        documents("x", "{name: eth0, dhcp: true}"),
        "\x00",
    ):
        apply(node, tmp_path, text, expect=2)
        with node.client() as client, pytest.raises(BasaltError):  # past osctl, which reads them first
            client.apply_config(text.encode(), source="node.yaml")
    assert node.ask("status")["generation"] == before
    assert on_disk(node) == files
