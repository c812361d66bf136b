"""Programs of a build see nothing of the host: run here in the host's own tree, by the host's bubblewrap."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from basalt.errors import BasaltError
from osbuild import sandbox as module
from osbuild.sandbox import ENVIRONMENT, Bind, CommandError, Running, Sandbox

HOST = Path("/")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def work(tmp_path: Path) -> Bind:
    (tmp_path / "work").mkdir()
    return Bind(tmp_path / "work", "/work", writable=True)


def test_there_is_no_network(work: Bind, log: Path) -> None:
    interfaces = Sandbox(HOST, [work]).run(["cat", "/proc/net/dev"], log=log)
    assert [line.split(":")[0].strip() for line in interfaces.splitlines()[2:]] == ["lo"]


def test_network_is_there_when_asked_for(work: Bind, log: Path) -> None:
    def namespace(sandbox: Sandbox) -> str:
        return sandbox.run(["readlink", "/proc/self/ns/net"], log=log).strip()

    ours = os.readlink("/proc/self/ns/net")  # noqa: PTH115 - it names a namespace, not a path
    assert namespace(Sandbox(HOST, [work], network=True)) == ours
    assert namespace(Sandbox(HOST, [work])) != ours


def test_environment_is_the_same_everywhere(work: Bind, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("SECRET", "x")
    printed = Sandbox(HOST, [work]).run(["env"], env={"SOURCE_DATE_EPOCH": "1"}, log=log)
    seen = dict(line.split("=", 1) for line in printed.splitlines())
    assert seen.pop("PWD", "/work") == "/work"
    assert seen == ENVIRONMENT | {"SOURCE_DATE_EPOCH": "1"}


def test_user_and_host_have_fixed_names_and_files_of_the_host_are_hidden(work: Bind, log: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    sandbox = Sandbox(HOST, [work])
    assert sandbox.run(["id", "-u"], log=log) == "1000\n"
    assert sandbox.run(["uname", "-n"], log=log) == "osbuild\n"
    assert sandbox.run(["ls", "/"], log=log).split() == sorted(
        ["bin", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "tmp", "usr", "work"]
    )
    with pytest.raises(CommandError):
        sandbox.run(["cat", str(tmp_path / "secret")], log=log)


def test_tree_cannot_be_written_and_writable_binds_can(work: Bind, log: Path, tmp_path: Path) -> None:
    read_only = Bind(tmp_path, "/in/tree")
    sandbox = Sandbox(HOST, [work, read_only])
    sandbox.run(["touch", "made"], log=log)
    assert (work.source / "made").exists()
    for target in ("/usr/made", "/etc/made", "/in/tree/made"):
        with pytest.raises(CommandError, match="Read-only"):
            sandbox.run(["touch", target], log=log)


def test_failure_carries_what_is_needed_to_look_into_it(work: Bind, log: Path) -> None:
    log.write_text("")
    script = 'for i in $(seq 1 100); do echo "line $i"; done; exit 3'
    with pytest.raises(CommandError) as caught:
        Sandbox(HOST, [work]).run(["bash", "-c", script], log=log)
    error = caught.value
    assert (error.argv, error.returncode, error.log) == (("bash", "-c", script), 3, log)
    assert error.why.splitlines() == ["exit status 3", *(f"line {number}" for number in range(71, 101))]
    assert "line 1\n" in log.read_text()
    assert f"Whole log: {log}" in error.remedy
    assert shlex.join(error.outer) in error.remedy
    assert "--shell-at" not in error.remedy
    assert "--shell-at root" in error.at_step("root").remedy
    assert error.at_step("root").what == "step root: bash failed"


def test_signal_is_named(work: Bind, log: Path) -> None:
    error = CommandError(["mkfs.erofs"], ["bwrap"], -signal.SIGSEGV, "", log)
    assert error.why == "signal SIGSEGV"


def test_output_that_is_no_text_is_shown_as_far_as_it_goes(work: Bind, log: Path) -> None:
    assert Sandbox(HOST, [work]).run(["printf", r"a\377b"], log=log) == "a\ufffdb"


def test_cancelling_ends_running_programs_and_those_that_start_later(work: Bind, log: Path) -> None:
    running = Running()
    failures: list[BaseException] = []

    def long() -> None:
        try:
            Sandbox(HOST, [work]).run(["bash", "-c", "echo > started; exec sleep 30"], log=log, running=running)
        except CommandError as error:
            failures.append(error)

    os.mkfifo(work.source / "started")
    thread = threading.Thread(target=long)
    thread.start()
    (work.source / "started").read_text()  # returns once the program runs
    running.cancel()
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(CommandError):
        Sandbox(HOST, [work]).run(["sleep", "30"], log=log, running=running)
    assert len(failures) == 1


def test_nothing_that_a_program_started_outlives_it(work: Bind, log: Path) -> None:
    os.mkfifo(work.source / "held")
    reader = os.open(work.source / "held", os.O_RDONLY | os.O_NONBLOCK)
    Sandbox(HOST, [work]).run(["bash", "-c", "exec 3>held; sleep 30 >/dev/null 2>&1 &"], log=log)
    hung_up = select.poll()
    hung_up.register(reader, 0)
    assert hung_up.poll(20_000) == [(reader, select.POLLHUP)], "a process still holds the pipe"
    os.close(reader)


def test_detached_program_may_outlive_us_and_keeps_the_pid_of_the_host(work: Bind) -> None:
    attached = Sandbox(HOST, [work]).command(["qemu"])
    detached = Sandbox(HOST, [work], detached=True).command(["qemu"])
    assert {"--die-with-parent", "--unshare-pid"} <= set(attached)
    assert not {"--die-with-parent", "--unshare-pid"} & set(detached)
    shown = subprocess.run(
        Sandbox(HOST, [work], detached=True).command(["readlink", "/proc/self/ns/pid"]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == os.readlink("/proc/self/ns/pid")  # noqa: PTH115


def test_binds_are_read_only_unless_said_otherwise() -> None:
    binds = [
        Bind(Path("/a"), "/in/a"),
        Bind(Path("/b"), "/out", writable=True),
        Bind(Path("/dev/kvm"), "/dev/kvm", device=True),
    ]
    command = Sandbox(HOST, binds).command(["true"])
    assert [command[command.index(str(bind.source)) - 1] for bind in binds] == ["--ro-bind", "--bind", "--dev-bind"]


@pytest.mark.parametrize(
    "said",
    [
        "bwrap: setting up uid map: Permission denied",
        "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces.",
        "bwrap: Creating new namespace failed: Operation not permitted",
        "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
        "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
    ],
)
def test_host_that_forbids_namespaces_is_told_as_such(said: str, log: Path) -> None:
    error = module._explain(["true"], ["bwrap"], 1, said, log)
    assert error.what == "cannot enter the build sandbox"
    assert error.why == said
    assert "apparmor_restrict_unprivileged_userns" in error.remedy


@pytest.mark.parametrize(
    "said",
    [
        "bwrap: execvp mkfs.erofs: Permission denied",
        "mkfs: Operation not permitted",
        "bwrap: Can't find source path /x",
    ],
)
def test_other_failures_are_not_blamed_on_namespaces(said: str, log: Path) -> None:
    assert isinstance(module._explain(["true"], ["bwrap"], 1, said, log), CommandError)


def test_missing_bubblewrap_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BasaltError) as caught:
        Sandbox(HOST).command(["true"])
    assert caught.value.remedy == "apt-get install bubblewrap"
