"""/init: what is fatal and what is not, the clock, the services laid out; and how a service is launched."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from machined import finish, init, launch, paths
from machined.services import render_service_directories


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(init, "say", lines.append)
    return lines


class TestMounts:
    @pytest.fixture
    def refused(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
        """Which types the kernel refuses, with which errno; nothing is really mounted."""
        refusals: dict[str, int] = {}

        def mount(_: str, target: str, fstype: str, flags: int, data: str) -> None:
            if fstype in refusals:
                raise OSError(refusals[fstype], os.strerror(refusals[fstype]), target)

        monkeypatch.setattr(init, "mount", mount)
        table = tuple(
            (fstype, f"{tmp_path}{target}", flags, data, fatal) for fstype, target, flags, data, fatal in init.MOUNTS
        )
        for _, target, _, _, _ in table:
            Path(target).mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(init, "MOUNTS", table)
        return refusals

    def test_all_well(self, refused: dict[str, int], said: list[str]) -> None:
        init.mount_all()
        assert said == []

    def test_one_that_the_node_can_live_without(self, refused: dict[str, int], said: list[str]) -> None:
        refused["mqueue"] = errno.ENODEV
        init.mount_all()
        assert len(said) == 1
        assert "/dev/mqueue" in said[0]

    def test_one_that_is_there_already(self, refused: dict[str, int], said: list[str]) -> None:
        refused["devtmpfs"] = errno.EBUSY
        init.mount_all()
        assert said == []

    def test_one_without_which_there_is_no_node(self, refused: dict[str, int], said: list[str]) -> None:
        refused["cgroup2"] = errno.ENODEV
        with pytest.raises(OSError, match="No such device"):
            init.mount_all()


def test_order_of_mounts_gives_each_its_parent() -> None:
    seen: list[str] = []
    for _, target, _, _, _ in init.MOUNTS:
        parents = [other for _, other, _, _, _ in init.MOUNTS if target.startswith(f"{other}/")]
        assert set(parents) <= set(seen), target
        seen.append(target)


@pytest.mark.parametrize(("now", "set_to"), [(1_000.0, [5_000]), (5_000.0, []), (9_000.0, [])])
def test_the_clock_is_never_before_the_image(
    monkeypatch: pytest.MonkeyPatch, said: list[str], now: float, set_to: list[int]
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "clock_settime", lambda _, value: asked.append(value))
    init.advance_clock(5_000)
    assert asked == set_to


def test_services_run_from_the_image_and_write_beside_it(tmp_path: Path) -> None:
    image, run = tmp_path / "image", tmp_path / "run"
    render_service_directories(image)
    run.mkdir()
    init.link_services(str(image), str(run))
    for path in image.rglob("*"):
        linked = run / path.relative_to(image)
        assert linked.is_symlink() is path.is_file()
    (run / "gateway/supervise").mkdir()  # what s6 does
    assert not (image / "gateway/supervise").exists()


def test_a_kernel_setting_that_is_refused_is_said(said: list[str], tmp_path: Path) -> None:
    init.attempt("sysctl", str(tmp_path / "no/such"), "1")
    assert "sysctl" in said[0]
    init.attempt("sysctl", str(tmp_path / "setting"), "2")
    assert (tmp_path / "setting").read_text() == "2"


def test_init_imports_next_to_nothing() -> None:
    """Each import of PID 1 is paid at every boot; these are all it has, and none of them is pathlib, json or typing."""
    code = "import sys; before = set(sys.modules); import machined.init; print(*sorted(set(sys.modules) - before))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pathlib", "json", "typing", "dataclasses", "re", "subprocess", "contextlib", "enum"} & set(modules)


def test_finish_is_for_pid_1_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(finish, "say", lines.append)
    monkeypatch.setattr(finish, "end_processes", lambda: pytest.fail("must not be reached"))
    finish.main()
    assert lines == ["shutdown: not PID 1, doing nothing"]


@pytest.mark.parametrize(("text", "action"), [("poweroff\n", "poweroff"), ("reboot\n", "reboot"), (None, "reboot")])
def test_a_node_that_was_told_nothing_reboots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, action: str
) -> None:
    request = tmp_path / "shutdown"
    if text:
        request.write_text(text)
    monkeypatch.setattr(paths, "SHUTDOWN_REQUEST", str(request))
    assert finish.requested() == action


def test_a_program_is_launched_with_its_limits_and_a_clean_environment(tmp_path: Path) -> None:
    parameters = {
        "name": "demo",
        "argv": [
            sys.executable,
            "-c",
            "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.environ))",
        ],
        "entry": "",
        "uid": 0,
        "oom_score_adj": 0,
        "memory_min_bytes": 0,
        "open_files_max": 77,
    }
    (tmp_path / "service.json").write_text(json.dumps(parameters))
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        f"from machined import launch, paths\n"
        f"paths.CGROUP_SYSTEM = {str(tmp_path / 'cgroups')!r}\n"
        f"launch.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    *complaints, result = done.stdout.splitlines()
    assert all(line.startswith("launch: ") for line in complaints)  # no cgroups here: said, and gone on without
    files, variables = result.split()
    assert files == "77"
    assert int(variables) <= len(launch.ENVIRONMENT) + 1  # Python itself may add LC_CTYPE
