"""The pure parts of the benchmarks: goals, rendering, and reading what the measured things print. Nothing is timed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from basalt.errors import BasaltError
from basalt.machine.v1 import machine_pb2 as api
from benchmarks import bench, boot, figures, image, kernel, rebuild, start
from benchmarks.__main__ import take
from benchmarks.figures import Figure, Goal, Verdict
from osbuild.elf import Elf
from osbuild.vm.definition import Machine


@pytest.mark.parametrize(
    ("value", "goal", "verdict"),
    [
        (64.0, Goal(64), Verdict.MET),
        (64.001, Goal(64), Verdict.MISSED),  # prints as 64.0, and is missed all the same
        (197, Goal(197, at_least=True), Verdict.MET),
        (196, Goal(197, at_least=True), Verdict.MISSED),
        (3.0, None, Verdict.NO_GOAL),
        (None, Goal(1), Verdict.NOT_MEASURED),
        (None, None, Verdict.NOT_MEASURED),
    ],
)
def test_verdict_compares_what_was_measured_not_what_is_printed(
    value: float | None, goal: Goal | None, verdict: Verdict
) -> None:
    assert Figure("x", value, "", "", goal).verdict is verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (15, "15"),
        (1600, "1,600"),
        (162.44, "162"),
        (68.24, "68.2"),
        (0.6071, "0.607"),
        (0.0042, "0.00420"),
        (4812.6, "4,810"),
        (0, "0"),
    ],
)
def test_numbers_have_three_digits_and_counts_are_whole(value: float, text: str) -> None:
    assert figures.shown(value) == text


def test_table_has_a_line_for_each_figure_and_values_end_in_one_column() -> None:
    text = figures.table(
        [
            Figure("image size", 68.24, "MB", "root and UKI", Goal(64)),
            Figure("kernel start", 0.5, "x", "quotient", Goal(0.6)),
            Figure("hardening checks OK", None, "", "tool not available", Goal(197, at_least=True)),
        ]
    )
    assert text.splitlines() == [
        "FIGURE               VALUE  UNIT  GOAL    VERDICT       HOW",
        "image size            68.2  MB    <= 64   missed        root and UKI",
        "kernel start         0.500  x     <= 0.6  met           quotient",
        "hardening checks OK      -        >= 197  not measured  tool not available",
    ]


def test_answer_for_programs_keeps_every_digit() -> None:
    figure = Figure("image size", 68.2412, "MB", "root and UKI", Goal(64))
    assert json.loads(json.dumps(figure.as_dict())) == {
        "name": "image size", "value": 68.2412, "unit": "MB", "goal": "<= 64", "verdict": "missed", "how": "root and UKI",
    }  # fmt: skip


def test_percentiles_are_samples_by_nearest_rank() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert figures.percentile(samples, 0.5) == 50
    assert figures.percentile(samples, 0.99) == 99
    assert figures.percentile([7.0], 0.99) == 7
    assert figures.median([9.0, 1.0, 2.0]) == 2
    with pytest.raises(ValueError, match="no samples"):
        figures.percentile([], 0.5)


def test_machine_is_named_as_documents_name_it() -> None:
    assert figures.machine_kind(2, "tcg") == "2 cores, emulation"
    assert figures.machine_kind(1, "kvm") == "1 core, KVM"
    assert figures.machine_kind(2, "") == "2 cores"


@pytest.mark.parametrize(
    ("elf", "executable", "program"),
    [
        (Elf(("libc.so.6",), "", "/lib64/ld-linux-x86-64.so.2"), True, True),
        (Elf((), "", ""), True, True),  # statically linked
        (
            Elf(("libc.so.6",), "libc.so.6", "/lib64/ld-linux-x86-64.so.2"),
            True,
            False,
        ),  # a library that can introduce itself
        (Elf((), "ld-linux-x86-64.so.2", ""), True, False),
        (Elf(("libc.so.6",), "", ""), True, False),  # an extension module
        (Elf((), "", ""), False, False),
    ],
)
def test_programs_are_told_from_libraries(elf: Elf, executable: bool, program: bool) -> None:
    assert image.is_program(elf, executable=executable) is program


def test_checker_summary() -> None:
    printed = "[+] Config check is finished: 'OK' - 197 / 'FAIL' - 62\n"
    assert kernel.parse_checker(printed) == (197, 62)
    assert kernel.parse_checker("usage: ...") is None


def test_cloud_kernel_is_the_package_behind_the_meta_package() -> None:
    resolved = {
        "linux-image-cloud-amd64": "6.12.1-1",
        "linux-image-6.12.1+deb13-cloud-amd64": "6.12.1-1",
        "kmod": "34",
    }
    assert start.cloud_package(resolved) == {"linux-image-6.12.1+deb13-cloud-amd64": "6.12.1-1"}
    with pytest.raises(BasaltError, match="does not lead to one kernel"):
        start.cloud_package({"linux-image-cloud-amd64": "6.12.1-1"})


def test_both_kernels_get_one_command_line_that_ends_quiet() -> None:
    words = start.CMDLINE.split()
    assert words.index("debug") < words.index("quiet") < words.index("earlyprintk=ttyS0")
    machine = Machine(description="", firmware="none", machine="q35,sata=off", cpus=3, memory_mib=512, disk_gib=1)
    emulated, native = start.qemu_command(machine, "tcg"), start.qemu_command(machine, "kvm")
    assert emulated.count(start.CMDLINE) == native.count(start.CMDLINE) == 1
    for option, value in (("-machine", "q35,sata=off"), ("-smp", "3"), ("-m", "512"), ("-cpu", "max")):
        assert emulated[emulated.index(option) + 1] == value
    assert native[native.index("-cpu") + 1] == "host"


def test_start_is_timed_between_the_two_marks() -> None:
    says = "print('SeaBIOS\\nearly console in setup code\\nbench: first process', flush=True); import time; time.sleep(600)"
    assert start.time_start([sys.executable, "-c", says]) >= 0


def test_kernel_that_dies_is_an_error_with_its_last_words() -> None:
    says = "print('early console in setup code\\nKernel panic - not syncing: VFS')"
    with pytest.raises(BasaltError, match="never showed 'bench: first process'") as error:
        start.time_start([sys.executable, "-c", says])
    assert "Kernel panic" in error.value.why


def _stage(name: str, start_usec: int, duration_usec: int) -> api.BootStage:
    return api.BootStage(name=name, start_usec=start_usec, duration_usec=duration_usec)


def test_timeline_adds_up_to_the_whole_boot() -> None:
    stages = [
        _stage("loader", 0, 1),  # the node's word on what it cannot have seen is left out
        _stage("kernel", 0, 2_000_000),
        _stage("init", 2_000_000, 100_000),
        _stage("machined", 2_100_000, 3_000_000),
        _stage("api", 5_100_000, 400_000),
    ]
    line = boot.timeline(1.5, 2.0, stages, 8.0)
    assert list(line) == ["firmware", "loader", "kernel", "init", "machined", "api", "answer"]
    assert line["loader"] == pytest.approx(0.5)
    assert line["answer"] == pytest.approx(0.5)
    assert sum(line.values()) == pytest.approx(8.0)


def test_timeline_without_firmware_begins_with_the_loader() -> None:
    line = boot.timeline(None, 0.2, [_stage("kernel", 0, 2_000_000)], 3.0)
    assert list(line) == ["loader", "kernel", "answer"]
    assert sum(line.values()) == pytest.approx(3.0)


def test_stage_that_one_boot_lacks_has_no_median() -> None:
    boots = [{"kernel": 2.0, "init": 0.1}, {"kernel": 4.0}, {"kernel": 3.0, "init": 0.3}]
    assert boot.stage_medians(boots) == {"kernel": 3.0}
    assert boot.stage_medians([]) == {}


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"event": "detail", "step": "boot n", "text": "basalt: state ready"}', ("detail", "basalt: state ready")),
        ('{"event": "start", "step": "boot n"}', ("start", "")),
        ('{"event": "done", "step": "root", "text": ""}', None),
        ('{"event": "begin", "steps": []}', None),
        ('{"error": "x"}', None),
        ("[1]", None),
        ("a warning", None),
    ],
)
def test_progress_of_one_step_is_read(line: str, event: tuple[str, str] | None) -> None:
    assert bench.read_event(line, "boot n") == event


def test_error_of_a_command_comes_back_as_it_was() -> None:
    printed = 'noise\n{"error": "cannot boot", "why": "no disk", "remedy": "free some"}\n'
    error = bench.failure("boot", printed)
    assert (error.what, error.why, error.remedy) == ("cannot boot", "no disk", "free some")
    assert bench.failure("boot", "Killed\n").why == "Killed"
    assert bench.failure("boot", "").what == "osbuild boot failed"


def test_edit_changes_the_module_and_leaves_it_valid(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("def f() -> int:\n    return 1\n")
    rebuild.edit(source)
    rebuild.edit(source)
    code = source.read_text()
    compile(code, "module.py", "exec")
    assert len(set(code.splitlines()[-4:])) == 3  # two marks that differ, and blank lines


def test_measurement_that_fails_keeps_what_it_got_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(_: bench.Bench) -> Iterator[Figure]:
        yield Figure("first", 1, "s", "")
        raise BasaltError("cannot boot", why="no disk\nno more")

    monkeypatch.setenv("OSBUILD_CACHE", str(tmp_path))
    found: list[Figure] = []
    assert not take("boot", measure, bench.Bench(1, lambda _: None), found)
    assert [(figure.name, figure.verdict, figure.how) for figure in found] == [
        ("first", Verdict.NO_GOAL, ""),
        ("boot", Verdict.NOT_MEASURED, "cannot boot: no disk"),
    ]
    assert "cannot boot" in capsys.readouterr().err
