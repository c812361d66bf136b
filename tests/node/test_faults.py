"""What breaks is contained: killed daemons, a flipped bit, two nodes at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from osbuild.lock.model import load_debian
from osbuild.sandbox import Bind, Sandbox
from osbuild.steps.trees import tree_step
from osbuild.store import Store
from osbuild.vm import machines
from tests.conftest import answer, command
from tests.node.conftest import Boot, Node, until

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def node(boot_faulty: Callable[[], Node], tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A configured node with the fault agent."""
    booted = boot_faulty()
    booted.configure(tmp_path_factory.mktemp("faults"))
    booted.until_converged("data", "containers")
    return booted


def _pids(node: Node) -> dict[str, int]:
    return {service["name"]: service["pid"] for service in node.ask("services")}


def test_state_and_data_lie_on_the_disk_booted_from(node: Node) -> None:
    mounts = [line.split() for line in node.fault(read="/proc/mounts")["text"].splitlines()]
    where = {fields[1]: (fields[0], fields[2], fields[3].split(",")) for fields in mounts}
    assert where["/"][1] == "erofs" and "ro" in where["/"][2]
    for target in ("/state", "/var"):
        device, kind, options = where[target]
        assert device.startswith("/dev/vda") and kind == "ext4"
        assert {"nodev", "nosuid"} <= set(options)


def test_secrets_on_the_node_are_for_root_alone(node: Node) -> None:
    assert node.fault(stat="/state/identity")["mode"] & 0o077 == 0


def test_machined_killed_is_back_and_nothing_else_notices(node: Node) -> None:
    before = _pids(node)
    killed = node.fault(kill="machined", signal=9)["pid"]
    assert killed == before["machined"]
    until(node.answers)
    after = _pids(node)
    assert after["machined"] != before["machined"]
    assert {name: pid for name, pid in after.items() if name != "machined"} == {
        name: pid for name, pid in before.items() if name != "machined"
    }
    node.until_converged("network", "state", "data", "containers")


def test_gateway_killed_is_back(node: Node) -> None:
    before = _pids(node)
    node.fault(kill="gateway", signal=9)
    until(node.answers)
    after = _pids(node)
    assert after["gateway"] != before["gateway"] and after["machined"] == before["machined"]


def test_half_written_configuration_falls_back_to_the_generation_before(node: Node, tmp_path: Path) -> None:
    """The current generation is spoilt on disk: the node comes up with the previous one and says so."""
    document = tmp_path / "second.yaml"
    document.write_text("apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: second\n")
    node.osctl("apply-config", "-f", document)
    newest = max(name for name in node.fault(list="/state/config")["names"] if name[0].isdigit())
    node.fault(write=f"/state/config/{newest}", text="\x00")
    node.restart()
    status = node.ask("status")
    assert (status["mode"], status["hostname"]) == ("configured", "tested")
    said = node.concerns()["configuration"]
    assert said.state != "converged" and said.reason


def test_two_nodes_at_once_do_not_collide(node: Node, boot: Boot) -> None:
    other = boot()
    assert other.endpoint != node.endpoint
    assert other.ask("version")["node_id"] != node.ask("version")["node_id"]
    listed = {machine["name"]: machine for machine in answer("osbuild", "list")}
    assert {listed[node.name]["state"], listed[other.name]["state"]} == {"running"}


def test_flipped_bit_in_the_root_is_caught(boot: Boot) -> None:
    """One bit of slot A's first block, in bytes that the file system does not even use: the kernel must refuse the whole block."""
    node = boot()
    command("osbuild", "stop", node.name, "--keep")
    tools = Store().path(tree_step(load_debian(), "vm-tools").key)
    directory = machines.directory_of(node.name)
    offset = (1 + 1024) * 2**20  # behind the first table and the ESP
    sandbox = Sandbox(tools, (Bind(directory, "/vm", writable=True),))
    order = ["qemu-io", "-c", f"read -P 0 {offset} 1", "-c", f"write -P 1 {offset} 1", "/vm/disk.qcow2"]
    sandbox.run(order, log=directory / "qemu-io.log", cwd="/vm")
    console = Path(node.facts["console"])
    seen = console.stat().st_size
    failed = command("osbuild", "start", node.name, "--timeout", "60", expect=1)
    assert "did not come up" in failed.stderr
    said = console.read_bytes()[seen:].decode(errors="replace")
    assert "data block 0 is corrupted" in said
    assert "basalt: init" not in said
