"""Sysctls and modules, on a directory that looks like /proc/sys and /sys/module; the watchdog's verdicts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from basalt.config import ConfigError, parse
from basalt.config.documents import MachineConfig, Module
from machined import paths
from machined.kernel import (
    KernelReconciler,
    Settings,
    Written,
    builtin_modules,
    equal_parameters,
    is_right,
    setting_path,
)
from machined.reconcile import CONVERGED, State
from machined.survey import loaded_modules
from machined.watchdog import judge


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vm.swappiness", "vm/swappiness"),
        ("net.ipv4.conf.eth0/5.rp_filter", "net/ipv4/conf/eth0.5/rp_filter"),
    ],
)
def test_names_become_paths_as_sysctl_makes_them(name: str, path: str) -> None:
    assert setting_path(name) == path


@pytest.mark.parametrize(
    ("now", "known", "right"),
    [
        ("1", None, True),
        ("4096\t87380", None, False),
        ("0", None, False),
        (None, None, False),  # it can only be written, and was not yet
        (None, Written(None, "1", None), True),
        ("7", Written("0", "1", "7"), True),  # the kernel shows it in its own way
        ("1", Written("0", "1", "7"), False),
        ("1", Written("0", "", None), True),
    ],
)
def test_drift_is_measured_against_what_the_kernel_showed(now: str | None, known: Written | None, right: bool) -> None:
    assert is_right(now, "1", known) is right


def settings(root: Path) -> Settings:
    return Settings(root / "proc", root / "sysctls.json")


@pytest.fixture
def swappiness(tmp_path: Path) -> Path:
    path = tmp_path / "proc/sys/vm/swappiness"
    path.parent.mkdir(parents=True)
    path.write_text("60\n")
    return path


def test_a_setting_is_made_healed_changed_and_put_back(tmp_path: Path, swappiness: Path) -> None:
    ours = settings(tmp_path)
    assert ours.apply({"vm.swappiness": "10"}) == []
    assert swappiness.read_text() == "10\n"
    swappiness.write_text("99\n")
    assert ours.apply({"vm.swappiness": "10"}) == []
    assert swappiness.read_text() == "10\n"
    assert settings(tmp_path).apply({"vm.swappiness": "20"}) == []  # another machined in the same boot
    assert settings(tmp_path).apply({}) == []
    assert swappiness.read_text() == "60\n"
    swappiness.write_text("99\n")
    assert settings(tmp_path).apply({}) == []
    assert swappiness.read_text() == "99\n"  # no longer ours


def test_one_bad_setting_does_not_keep_the_others_back(tmp_path: Path, swappiness: Path) -> None:
    problems = settings(tmp_path).apply({"kernel.nonsense": "1", "vm.swappiness": "10"})
    assert [(name, status.state) for name, status in problems] == [("kernel.nonsense", State.FAILED)]
    assert "no such setting" in problems[0][1].reason
    assert swappiness.read_text() == "10\n"


def test_a_setting_of_a_link_waits_for_the_link(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/net/ipv4/conf/lo").mkdir(parents=True)
    ((_, status),) = settings(tmp_path).apply({"net.ipv4.conf.eth7.rp_filter": "1"})
    assert status.state is State.WAITING and "eth7" in status.reason


@pytest.mark.skipif(not Path("/proc/sys/kernel/panic").exists() or os.geteuid() != 0, reason="needs root")
def test_a_refusal_stays_a_refusal_at_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/sys").mkdir(parents=True)
    (tmp_path / "proc/sys/vm").mkdir()
    (tmp_path / "proc/sys/vm/full").symlink_to("/dev/full")
    ours = settings(tmp_path)
    for _ in range(2):
        ((_, status),) = ours.apply({"vm.full": "1"})
        assert status.state is State.FAILED and "No space left" in status.reason


def node(root: Path) -> paths.Paths:
    where = paths.Paths(str(root))
    where.run.mkdir(parents=True)
    where.sys.mkdir()
    return where


def look(where: paths.Paths, *modules: Module) -> tuple[State, str]:
    config = MachineConfig(hostname="a", modules=modules)
    status = asyncio.run(KernelReconciler(where, config=lambda: config).reconcile())
    return status.state, status.reason


def test_modules_that_are_loaded_or_built_in_are_there(tmp_path: Path) -> None:
    where = node(tmp_path)
    (where.sys / "module/br_netfilter").mkdir(parents=True)
    directory = tmp_path / "lib/modules" / os.uname().release
    directory.mkdir(parents=True)
    (directory / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/drivers/nvme/host/nvme-core.ko\n")
    assert look(where, Module(name="br-netfilter"), Module(name="ext4"), Module(name="nvme_core")) == (
        State.CONVERGED,
        "",
    )


def test_a_module_that_the_image_lacks_is_told(tmp_path: Path) -> None:
    state, reason = look(node(tmp_path), Module(name="zfs"))
    assert state is State.FAILED and "this image has no module zfs" in reason


def test_parameters_of_a_loaded_module_change_where_the_kernel_lets_them(tmp_path: Path) -> None:
    where = node(tmp_path)
    directory = where.sys / "module/m/parameters"
    directory.mkdir(parents=True)
    (directory / "free").write_text("1\n")
    (directory / "free").chmod(0o644)
    (directory / "fixed").write_text("1\n")
    (directory / "fixed").chmod(0o444)
    (directory / "flag").write_text("Y\n")
    (directory / "flag").chmod(0o444)
    state, reason = look(where, Module(name="m", parameters={"free": "2", "fixed": "2", "flag": "on", "hidden": "9"}))
    assert (directory / "free").read_text() == "2"
    assert state is State.WAITING and "fixed" in reason and "flag" not in reason


def test_what_is_built_in_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "virtio_blk").mkdir()
    (tmp_path / "br_netfilter").mkdir()
    (tmp_path / "br_netfilter/initstate").write_text("live\n")
    assert loaded_modules(tmp_path) == {"br_netfilter"}


def test_builtin_listing_and_spellings() -> None:
    assert builtin_modules("kernel/a/b-c.ko\nkernel/d.ko\n") == {"b_c", "d"}
    assert equal_parameters("Y", "1") and equal_parameters("4", "4") and not equal_parameters("N", "1")


@pytest.mark.parametrize(
    ("actual", "refusal", "state", "words"),
    [
        (120, "", State.CONVERGED, "dog resets the machine after 120 s"),
        (0, "", State.CONVERGED, "dog resets the machine after 120 s"),
        (128, "", State.CONVERGED, "after 128 s"),
        (60, "Invalid argument", State.FAILED, "does not take 120 s: Invalid argument; it stays at 60 s"),
    ],
)
def test_watchdog_says_what_it_really_does(actual: int, refusal: str, state: State, words: str) -> None:
    status = judge("dog", 120, actual, refusal, "it takes 1 to 60 s")
    assert status.state is state and words in status.reason
    assert status is not CONVERGED


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("net.ipv4.conf.eth0/5.rp_filter", "net.ipv4.conf.eth0/5.rp_filter"),
        ("net/ipv4/conf/eth0.5/rp_filter", "net.ipv4.conf.eth0/5.rp_filter"),
    ],
)
def test_both_spellings_of_sysctl_are_one_setting(written: str, canonical: str) -> None:
    text = f"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: a\nsysctls: {{{written}: '1'}}\n"
    machine = parse(text.encode(), "documents").machine
    assert machine is not None and machine.sysctls == {canonical: "1"}


@pytest.mark.parametrize("name", ["net..x", "vm/../x", "/vm/x", "vm", "vm.", "../x.y", "net/ipv4/.x"])
def test_names_that_lead_elsewhere_are_none(name: str) -> None:
    text = f"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: a\nsysctls: {{'{name}': '1'}}\n"
    with pytest.raises(ConfigError):
        parse(text.encode(), "documents")
