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
from tests.node.conftest import Boot, Node

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def node(boot_faulty: Callable[[], Node]) -> Node:
    return boot_faulty()


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
    # The gateway keeps its connection and answers as soon as machined is back; osctl retries nothing by itself.
    while True:
        done = command_any("osctl", "-n", node.name, "services", "-o", "json")
        if done:
            break
    after = _pids(node)
    assert after["machined"] != before["machined"]
    others = {name: pid for name, pid in before.items() if name != "machined"}
    assert {name: after[name] for name in others} == others


def test_gateway_killed_is_back(node: Node) -> None:
    before = _pids(node)
    node.fault(kill="gateway", signal=9)
    while not command_any("osctl", "-n", node.name, "version"):
        pass
    after = _pids(node)
    assert after["gateway"] != before["gateway"] and after["machined"] == before["machined"]


def command_any(*argv: str) -> str:
    """What a command prints, or nothing when it fails."""
    try:
        return command(*argv).stdout
    except AssertionError:
        return ""


def test_damaged_state_leaves_a_node_that_answers(node: Node) -> None:
    """A broken current configuration falls back to what can be read; it never takes the API away."""
    status = node.ask("status")
    assert status["mode"] == "first-contact"


def test_two_nodes_at_once_do_not_collide(node: Node, boot: Boot) -> None:
    other = boot()
    assert other.endpoint != node.endpoint
    assert other.ask("version")["node_id"] != node.ask("version")["node_id"]
    listed = {machine["name"]: machine for machine in answer("osbuild", "list")}
    assert {listed[node.name]["state"], listed[other.name]["state"]} == {"running"}


def test_flipped_bit_in_the_root_is_caught(boot: Boot) -> None:
    """Every block of slot A's root is spoilt a little; the kernel must refuse to run from it."""
    node = boot()
    command("osbuild", "stop", node.name, "--keep")
    tools = Store().path(tree_step(load_debian(), "vm-tools").key)
    directory = machines.directory_of(node.name)
    # The root begins behind the 1 GiB ESP; block 1 holds the first inodes, and every boot reads it.
    offset = (1 + 1024) * 2**20 + 4096
    sandbox = Sandbox(tools, (Bind(directory, "/vm", writable=True),))
    sandbox.run(
        ["qemu-io", "-c", f"write -P 0xa5 {offset} 512", "/vm/disk.qcow2"], log=directory / "qemu-io.log", cwd="/vm"
    )
    console = Path(node.facts["console"])
    seen = console.stat().st_size
    failed = command("osbuild", "start", node.name, "--timeout", "60", expect=1)
    assert "did not come up" in failed.stderr
    said = console.read_bytes()[seen:].decode(errors="replace")
    assert "is corrupted" in said or "metadata block 0 is corrupted" in said or "data block" in said
    assert "api ready" not in said
