"""From power-on through UEFI to a configured node, as its operator sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import answer
from tests.node.conftest import Boot, Node

pytestmark = pytest.mark.node

CONFIG = """\
apiVersion: basalt.dev/v1alpha1
kind: MachineConfig
hostname: edge-7
---
apiVersion: basalt.dev/v1alpha1
kind: NetworkConfig
links:
  - name: eth0
    dhcp4: true
    addresses: [192.0.2.10/24]
dns:
  servers: [10.0.2.3]
---
apiVersion: basalt.dev/v1alpha1
kind: TimeConfig
servers:
  - address: 192.0.2.1
"""


@pytest.fixture(scope="module")
def node(boot: Boot) -> Node:
    """One node, booted through firmware, that the tests of this module take through its life in order."""
    return boot(machine="uefi")


def test_console_tells_version_address_and_fingerprint(node: Node) -> None:
    console = node.console()
    assert node.facts["mode"] == "first-contact"
    assert f"basalt: fingerprint {node.facts['fingerprint']}" in console
    assert "basalt: version " in console
    assert "basalt: address eth0 10.0.2.15/24" in console


def test_node_answers_its_operator_before_it_has_a_configuration(node: Node, minimal: dict[str, Any]) -> None:
    version = node.ask("version")
    assert version["version"] == minimal["version"]
    assert version["root_hash"] == minimal["root_hash"], "the node runs the very root that was built"
    assert version["slot"] == "A"
    assert version["kernel_release"] == minimal["kernel"]["release"]


def test_first_contact_mode_allows_nothing_but_the_first_configuration(node: Node) -> None:
    assert "no configuration" in node.osctl("get", "config", expect=4)
    node.osctl("reboot", expect=4)


def test_wrong_documents_change_nothing(node: Node, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CONFIG.replace("hostname: edge-7", "hostnam: edge-7").replace("192.0.2.10/24", "192.0.2.300/24"))
    said = node.osctl("apply-config", "-f", wrong, expect=2)
    assert "wrong.yaml:3" in said and "hostname" in said, "file, line and the nearest valid name"
    assert "wrong.yaml:10" in said, "every problem, not the first"
    assert node.ask("status")["mode"] == "first-contact"


def test_dry_run_changes_nothing(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(CONFIG)
    assert "edge-7" in node.osctl("apply-config", "-f", path, "--dry-run")
    assert node.ask("status")["mode"] == "first-contact"


def test_applied_configuration_takes_effect_without_a_reboot(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(CONFIG)
    node.osctl("apply-config", "-f", path)
    status = node.ask("status")
    assert status["mode"] == "configured"
    assert status["hostname"] == "edge-7"
    assert {a["address"]: a["source"] for a in status["addresses"]}.items() >= {
        "10.0.2.15/24": "dhcp4",
        "192.0.2.10/24": "static",
    }.items()
    assert "hostname: edge-7" in node.osctl("get", "config")


def test_time_is_kept_by_chrony_once_it_is_configured(node: Node) -> None:
    node.until_converged("containers")
    services = {service["name"]: service for service in node.ask("services")}
    assert services["chronyd"]["state"] == "up"
    assert services["containerd"]["state"] == "up"


def test_configuration_survives_a_reboot(node: Node, tmp_path: Path) -> None:
    before = node.ask("version")
    node.osctl("reboot", "--wait")
    after = node.ask("version")
    assert after["boot_id"] != before["boot_id"]
    assert (after["node_id"], after["fingerprint"]) == (before["node_id"], before["fingerprint"])
    status = node.ask("status")
    assert (status["mode"], status["hostname"]) == ("configured", "edge-7")
    assert "192.0.2.10/24" in {address["address"] for address in status["addresses"]}


def test_a_second_generation_is_kept_beside_the_first(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(CONFIG.replace("edge-7", "edge-8"))
    first = node.ask("status")["generation"]
    node.osctl("apply-config", "-f", path, "--expected-generation", str(first))
    assert node.ask("status")["hostname"] == "edge-8"
    assert "hostname: edge-7" in node.osctl("get", "config", "--generation", str(first))


def test_conflicting_apply_is_refused_with_both_generations(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(CONFIG.replace("edge-7", "edge-9"))
    now = node.ask("status")["generation"]
    said = node.osctl("apply-config", "-f", path, "--expected-generation", str(now - 1), expect=4)
    assert str(now) in said and str(now - 1) in said
    assert node.ask("status")["hostname"] == "edge-8"


def test_logs_and_kernel_messages_can_be_read(node: Node) -> None:
    assert node.osctl("logs", "machined", "--tail", "5").strip()
    assert "Linux version" in node.osctl("dmesg")


def test_power_cut_loses_nothing(node: Node) -> None:
    node.restart()
    status = node.ask("status")
    assert (status["mode"], status["hostname"]) == ("configured", "edge-8")


def test_boot_counter_is_armed_again_by_success(node: Node) -> None:
    """Each boot counts down; a good one counts up again, or the fourth boot would find no tries left."""
    for _ in range(3):
        node.osctl("reboot", "--wait")
    assert node.ask("version")["slot"] == "A"
    node.until_converged("boot entry")


def test_console_is_free_of_kernel_trouble(node: Node) -> None:
    console = node.console()
    for trouble in ("Kernel panic", "Oops", "BUG:", "I/O error", "Call Trace"):
        assert trouble not in console


def test_shutdown_switches_the_machine_off(node: Node) -> None:
    node.osctl("shutdown", "--wait")
    states = {machine["name"]: machine["state"] for machine in answer("osbuild", "list")}
    assert states[node.name] == "stopped"
