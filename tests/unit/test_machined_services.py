"""The service table, its rendering, and the end of a boot."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from machined import paths
from machined.finish import durable_mounts
from machined.launch import resolve
from machined.s6 import parse_status
from machined.services import SERVICES, find, render_service_directories


def digest(directory: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        total.update(
            f"{path.relative_to(directory)} {mode:o} ".encode() + (path.read_bytes() if path.is_file() else b"")
        )
    return total.hexdigest()


def test_rendering_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    render_service_directories(tmp_path / "a")
    render_service_directories(tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    with pytest.raises(FileExistsError):
        render_service_directories(tmp_path / "a")


def test_what_s6_needs_is_there_and_runs_without_a_shell(tmp_path: Path) -> None:
    target = tmp_path / "services"
    render_service_directories(target)
    for service in SERVICES:
        directory = target / service.name
        for script in (directory / "run", directory / "log/run"):
            assert script.read_text().startswith(f"#!{paths.PYTHON} -I")
            assert stat.S_IMODE(script.stat().st_mode) == 0o755
            compile(script.read_text(), str(script), "exec")
        assert json.loads((directory / "service.json").read_text())["name"] == service.name
        assert (directory / "down").exists() is not service.autostart
        assert (directory / "log/down").exists() is not service.autostart
        assert (directory / "notification-fd").exists() is service.notifies
    for name in ("finish", "crash"):
        assert stat.S_IMODE((target / ".s6-svscan" / name).stat().st_mode) == 0o755


def test_each_service_has_one_thing_to_run() -> None:
    for service in SERVICES:
        assert bool(service.argv) != bool(service.entry), service.name
        if service.entry:
            assert callable(resolve(service.entry))
    assert find("gateway") is not None
    assert find("../etc") is None


def test_the_gateway_is_not_root_and_what_the_node_needs_outlives_workloads() -> None:
    gateway = find("gateway")
    assert gateway is not None
    assert gateway.uid == paths.UID_GATEWAY
    assert all(service.oom_score_adj < 0 for service in SERVICES)
    assert sum(service.memory_min_bytes for service in SERVICES) <= paths.SYSTEM_MEMORY_MIN_BYTES


def test_mounts_that_hold_data_are_unmounted_the_latest_first() -> None:
    table = "\n".join(
        (
            "/dev/root / erofs ro 0 0",
            "/dev/dm-0 / ext4 rw 0 0",
            "proc /proc proc rw 0 0",
            "/dev/vda6 /state ext4 rw 0 0",
            "tmpfs /run tmpfs rw 0 0",
            "/dev/vda7 /var ext4 rw 0 0",
            "overlay /var/lib/a\\040b overlay rw 0 0",
            "gvfs /run/fuse fuse.gvfs rw 0 0",
        )
    )
    assert durable_mounts(table) == ["/run/fuse", "/var/lib/a b", "/var", "/state"]


@pytest.mark.parametrize(
    ("output", "state", "pid"),
    [
        ("true true true 12 7", "up", 12),
        ("false true false -1 0", "restarting", 0),
        ("false false false -1 99", "down", 0),
    ],
)
def test_what_s6_says(output: str, state: str, pid: int) -> None:
    status = parse_status("x", output, 3)
    assert (status.state, status.pid, status.restarts) == (state, pid, 3)
