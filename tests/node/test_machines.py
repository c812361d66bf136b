"""What ``osbuild boot`` leaves on the host, and how it says that a machine cannot be had."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from basalt import contexts
from osbuild.vm import machines
from tests.conftest import command
from tests.node.conftest import Boot

pytestmark = pytest.mark.node


def test_operators_keys_are_readable_by_their_owner_only(boot: Boot, host: Any) -> None:
    boot()
    directory = contexts.config_path().parent
    keys = list(directory.rglob("*-key.pem"))
    assert keys
    for path in [contexts.config_path(), *keys]:
        assert host.file(str(path)).mode == 0o600, path
    assert stat.S_IMODE(machines.directory_of("x").parent.stat().st_mode) == 0o700


def test_stopped_machine_leaves_no_process_no_port_no_disk(boot: Boot, host: Any) -> None:
    node = boot()
    assert host.socket(f"tcp://{node.endpoint}").is_listening
    assert [process for process in host.process.filter(comm="qemu-system-x86") if f"basalt-{node.name}" in process.args]
    command("osbuild", "stop", node.name)
    assert not host.socket(f"tcp://{node.endpoint}").is_listening
    assert not [
        process for process in host.process.filter(comm="qemu-system-x86") if f"basalt-{node.name}" in process.args
    ]
    assert not host.file(str(machines.directory_of(node.name))).exists
    assert node.name not in contexts.ensure_context().nodes


def test_qemu_that_ends_at_its_start_is_quoted(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    direct = (Path(__file__).parents[2] / "qemu/direct.toml").read_text()
    broken.write_text(direct.replace('"virtio-rng-pci"', '"no-such-device"'))
    failed = command(
        "osbuild", "boot", "--profile", "minimal", "--machine", broken, "--name", "broken", "-o", "json", expect=1
    )
    error = json.loads(failed.stderr.strip().splitlines()[-1])
    assert "no-such-device" in error["why"]
    listed = json.loads(command("osbuild", "list", "-o", "json").stdout)
    assert "broken" not in {machine["name"] for machine in listed}


def test_name_in_use_is_refused_with_the_way_out(boot: Boot) -> None:
    node = boot()
    refused = command("osbuild", "boot", "--profile", "minimal", "--machine", "direct", "--name", node.name, expect=2)
    assert "runs already" in refused.stderr and f"osbuild stop {node.name}" in refused.stderr
