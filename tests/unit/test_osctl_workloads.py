"""osctl workload and containers: what runs, what it says, and commands in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from basalt.errors import ExitCode
from basalt.machine.v1 import containers_pb2 as api
from osctl.__main__ import main
from osctl.cli_options import since
from osctl.commands import workloads
from tests.unit.fake_containers import STARTED
from tests.unit.fake_node import FakeNode
from tests.unit.test_osctl import Osctl, home, node, osctl, second

__all__ = ["home", "node", "osctl", "second"]


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = types.SimpleNamespace(time=lambda: STARTED + 90.0)
    monkeypatch.setattr("osctl.times.time", clock)
    monkeypatch.setattr("osctl.cli_options.time", clock)


def test_workloads_are_aligned_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl("workload list").splitlines() == [
        "WORKLOAD  STATE     SINCE       RUNNING  RESTARTS  REASON",
        "web       running   1 min 30 s  2/2      1",
        "batch     back-off  1 min 30 s  0/1      4         main ended with 1",
    ]
    answer = osctl.json("workload list")
    assert [one["state"] for one in answer] == ["running", "back-off"]
    assert yaml.safe_load(osctl("workload list -o yaml")) == answer


def test_workload_is_shown_in_words_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    web = osctl("workload get web")
    assert web.startswith(
        "workload     web\n"
        "state        running for 1 min 30 s\n"
        "network      bridge, 10.88.0.4\n"
        "published    0.0.0.0:8080->80/tcp\n"
        "runtime      runc\n"
        "start order  0\n"
        "\n"
        "container   nginx\n"
        "state       running for 1 min 30 s, healthy\n"
    )
    assert "restarts    1 since the node booted\n" in web
    assert "last ended  2023-11-14 22:13:10 UTC with 137: out of memory at 512 MiB\n" in web
    batch = osctl("workload get batch")
    assert "reason       main ended with 1\nwhat next    see `osctl workload logs batch`\n" in batch
    answer = osctl.json("workload get web")
    assert (answer["node"], answer["name"], answer["containers"][0]["exit_code"]) == ("n1", "web", 137)


def test_unknown_workload_is_told_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    for command in ("get", "logs", "restart", "exec"):
        osctl(f"workload {command} nothing{' -- ls' if command == 'exec' else ''}", code=ExitCode.USAGE)
        assert "there is no workload 'nothing'" in osctl.err
    node.containers._workload = lambda *_: None  # type: ignore[method-assign, assignment]
    osctl("workload get nothing", code=ExitCode.USAGE)
    assert "`osctl workload list` names them" in osctl.err


@pytest.mark.parametrize("name", ["", "/a", "a/", "a/b/c"])
def test_wrong_name_of_a_container_is_told(osctl: Osctl, name: str) -> None:
    osctl(f"workload logs '{name}'", code=ExitCode.USAGE)
    assert "write NAME or NAME/CONTAINER" in osctl.err


def test_logs_go_where_the_container_wrote_them_against_fake_node(
    node: FakeNode, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    node.containers.log_lines[0].text = b"to out\xff"
    assert main(["workload", "logs", "batch"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out == b"to out\xff\na long line\n"
    assert captured.err.endswith(b"to error\n")  # after what gRPC's server, in this process, says of itself
    assert main(["workload", "logs", "batch", "--timestamps"]) == 0
    assert capfdbinary.readouterr().out == (
        b"2023-11-14 22:13:20.250 UTC  to out\xff\n2023-11-14 22:13:20.750 UTC  a long line\n"
    )


def test_logs_of_several_nodes_are_labelled_against_fake_node(
    node: FakeNode, second: FakeNode, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["workload", "logs", "batch", "-n", "all"]) == 0
    captured = capfdbinary.readouterr()
    lines = captured.out.splitlines()
    for name in (b"n1", b"n2"):
        assert name + b" | to out" in lines
    # Pieces of a line that another node's came between stay apart.
    assert b"".join(line.partition(b" | ")[2] for line in lines).count(b"a long ") == 2
    errors = [line for line in captured.err.splitlines() if b" | " in line]
    assert sorted(errors) == [b"n1 | to error", b"n2 | to error"]


def test_logs_are_asked_for_as_the_command_line_says_against_fake_node(
    node: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    osctl("workload logs web/nginx -f --tail 5 --since 2023-11-14T22:13:20Z --previous")
    assert node.containers.asked == api.WorkloadLogsRequest(
        workload="web", container="nginx", follow=True, tail_lines=5, since_unix=STARTED, previous=True
    )
    osctl("workload logs web", code=ExitCode.USAGE)
    assert "it has several containers: nginx, sidecar" in osctl.err
    osctl("workload logs web --since yesterday", code=ExitCode.USAGE)
    assert "'yesterday' is neither a length of time" in osctl.err


@pytest.mark.parametrize(
    ("text", "unix"),
    [
        ("90s", STARTED),
        ("1m30s", STARTED),
        ("0s", STARTED + 90),
        ("1min", STARTED + 30),
        ("1h", STARTED + 90 - 3600),
        ("99999d", 0),
        ("2023-11-14T22:13:20", STARTED),
        ("2023-11-14 22:13:20.000 UTC", STARTED),
        ("2023-11-15T00:13:20+02:00", STARTED),
    ],
)
def test_since_is_an_instant(text: str, unix: float) -> None:
    assert since(text) == unix


def test_logs_for_a_program_are_one_object_a_line_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    node.containers.log_lines[0].text = b"to out\xff"
    lines = [json.loads(line) for line in osctl("workload logs batch -o json").splitlines()]
    assert [line["text"] for line in lines] == ["to out\N{REPLACEMENT CHARACTER}", "to error", "a long ", "line"]
    assert [line["error"] for line in lines] == [False, True, False, False]
    assert osctl.err == ""


def test_events_are_lines_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl("workload events").splitlines() == [
        "2023-11-14 22:13:20 UTC  web/nginx                 started    pid 812",
        "2023-11-14 22:13:20 UTC  batch                     back-off   20 s",
    ]
    assert [json.loads(line)["kind"] for line in osctl("workload events batch -f --tail 3 -o json").splitlines()] == [
        "back-off"
    ]
    assert node.containers.asked == api.WorkloadEventsRequest(follow=True, workloads=["batch"], tail_events=3)


def test_restart_is_asked_for_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl("workload restart web") == "restarting web\n"
    assert osctl.json("workload restart web/nginx")["container"] == "nginx"
    assert node.containers.restarted == [("web", ""), ("web", "nginx")]


def test_top_is_a_rate_between_two_looks_against_fake_node(
    node: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "SAMPLE_S", 0.0)
    assert osctl("workload top web").splitlines() == [
        "WORKLOAD  CONTAINER  CPU     MEMORY    LIMIT      PIDS  WRITTEN",
        "web       nginx      50.0 %  45.0 MiB  512.0 MiB  3     4.0 KiB",
        "web       sidecar    -       0 B       -          1     0 B",
    ]
    answer = osctl.json("workload top")
    assert answer["processors"] == 2
    assert [one["cpu_percent"] for one in answer["containers"]] == [50.0, None]
    node.containers.usage_s = [10.0, 0.1]  # another container has taken its place
    assert osctl.json("workload top")["containers"][0]["cpu_percent"] is None


def test_containers_of_everybody_are_listed_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl("containers").splitlines() == [
        "ID            CONTAINER  STATE    AGE         OF                   IMAGE",
        "c0c0c0c0c0c0  nginx      running  1 min 30 s  workload web         registry.example.org/nginx:1",
        "c1c1c1c1c1c1  dns        exited   -           pod kube-system/dns  dns@d1d1d1d1d1d1",
        "made-by-hand             unknown  -           -",
    ]
    assert [one["pod"] for one in osctl.json("containers")] == ["basalt/web", "kube-system/dns", ""]


def test_roles_are_those_of_the_contract_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    osctl("gen client --name bob --role reader --lifetime 12h")
    osctl("context create bob --certificate bob.pem --key bob-key.pem --ca bob-ca.pem")
    osctl(f"context add-node n1 --endpoint {node.endpoint} --fingerprint {node.identity.fingerprint} --context bob")
    assert osctl.json("--context bob workload list")
    for line, role in (("image prune", "operator"), ("workload exec web -- ls", "debug")):
        osctl(f"--context bob {line}", code=ExitCode.REFUSED)
        assert f"role os:{role}" in osctl.err


@pytest.mark.parametrize("code", [0, 7, 137])
def test_exec_ends_with_the_code_of_its_command_against_fake_node(node: FakeNode, code: int) -> None:
    assert main(["workload", "exec", "web/nginx", "--", "exit", str(code)]) == code


def test_exec_ends_with_255_for_a_code_that_no_process_has_against_fake_node(node: FakeNode) -> None:
    assert main(["workload", "exec", "web", "--", "exit", "-1"]) == 255
    assert main(["workload", "exec", "web", "--", "exit", "256"]) == 255


def test_exec_keeps_output_and_error_output_apart_against_fake_node(
    node: FakeNode, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["workload", "exec", "web/nginx", "--", "both"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out == b"out\n"
    assert captured.err.endswith(b"error\n")
    first = node.containers.first_exec
    assert first == api.WorkloadExecRequest(workload="web", container="nginx", command=["both"])


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("web -- git log -- -n x", ["git", "log", "--", "-n", "x"]),
        ("web -n n1 -- ls -la", ["ls", "-la"]),
        ("web ls -la", ["ls", "-la"]),
    ],
)
def test_exec_leaves_the_words_of_the_command_alone_against_fake_node(
    node: FakeNode, osctl: Osctl, line: str, command: list[str]
) -> None:
    osctl(f"workload exec {line}")
    assert node.containers.first_exec is not None
    assert list(node.containers.first_exec.command) == command


def test_exec_that_ends_without_a_code_is_no_success_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl("workload exec web -- cut", code=ExitCode.FAILED) == "some\n"
    assert "without saying how it ended" in osctl.err
    assert osctl("workload exec web -- fail", code=ExitCode.REFUSED) == "some\n"
    assert "the container ended" in osctl.err


def test_exec_is_on_one_node(node: FakeNode, second: FakeNode, osctl: Osctl) -> None:
    osctl("workload exec web -n all -- ls", code=ExitCode.USAGE)
    assert "one node at a time" in osctl.err


def _osctl(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "osctl", *arguments]


PROJECT = Path(__file__).parents[2]


def test_exec_sends_standard_input_only_when_asked_against_fake_node(node: FakeNode) -> None:
    sent = os.urandom(300_000)

    def run(*options: str) -> bytes:
        done = subprocess.run(
            _osctl("workload", "exec", *options, "web", "--", "cat"),
            input=sent,
            capture_output=True,
            cwd=PROJECT,
            check=True,
            timeout=60,
        )
        assert done.stderr == b""
        return done.stdout

    assert run("-i") == sent
    assert run() == b""


def test_exec_ends_with_its_command_though_its_input_is_silent_against_fake_node(node: FakeNode) -> None:
    with subprocess.Popen(
        _osctl("workload", "exec", "-i", "web", "--", "exit", "7"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
    ) as process:
        assert process.wait(30) == 7
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_exec_with_a_terminal_needs_one_against_fake_node(node: FakeNode) -> None:
    done = subprocess.run(
        _osctl("workload", "exec", "-t", "-i", "web", "--", "sh"),
        input=b"",
        capture_output=True,
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert b"cannot give the command a terminal\n    standard input is none\n  -> leave out -t" in done.stderr
    assert node.containers.first_exec is None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_command_against_fake_node(node: FakeNode, how: signal.Signals) -> None:
    with subprocess.Popen(
        _osctl("workload", "exec", "web", "--", "wait"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (ExitCode.INTERRUPTED, b"")
    assert node.containers.exec_ended.wait(30)


class Terminal:
    """A terminal with an osctl in it, seen from the person's side."""

    def __init__(self, arguments: list[str]) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.slave)
        self.said = b""

        def session() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            _osctl(*arguments),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=PROJECT,
            preexec_fn=session,
            env={**os.environ, "TERM": "vt220"},
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, expected: bytes) -> None:
        while expected not in self.said:
            self.said += os.read(self.master, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def ended(self) -> int:
        """The exit code, once it has ended; the terminal is as it was before then."""
        code = self.process.wait(30)
        assert termios.tcgetattr(self.slave) == self.before
        return code


@contextlib.contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    opened = Terminal(list(arguments))
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened.master)
        os.close(opened.slave)


def _eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_exec_gives_every_key_to_the_command_against_fake_node(node: FakeNode) -> None:
    with terminal("workload", "exec", "-t", "-i", "web", "--", "keys") as seen:
        seen.read_until(b"ready\r\n")
        _eventually(lambda: seen.raw)
        seen.type(b"a\x03\x1a\r")
        seen.type(b"q")
        seen.read_until(b"q'")
        assert b"b'a\\x03\\x1a\\rq'" in seen.said, "Ctrl-C and Ctrl-Z are the command's, and nothing is echoed here"
        assert seen.ended() == 0
    first = node.containers.first_exec
    assert first is not None
    assert (first.terminal, first.size, list(first.env)) == (
        True,
        api.TerminalSize(rows=24, columns=80),
        ["TERM=vt220"],
    )


def test_exec_passes_the_size_of_the_terminal_on_against_fake_node(node: FakeNode) -> None:
    with terminal("workload", "exec", "-t", "-i", "web", "--", "sizes", "1") as seen:
        seen.read_until(b"80x24\r\n")
        seen.resize(50, 132)
        seen.read_until(b"132x50\r\n")
        assert seen.ended() == 0


def test_terminal_is_restored_when_the_command_fails_against_fake_node(node: FakeNode) -> None:
    with terminal("workload", "exec", "-t", "-i", "web", "--", "fail") as seen:
        seen.read_until(b"the container ended\r\n")
        assert seen.ended() == ExitCode.REFUSED


@pytest.mark.parametrize("goes_away", [True, False])
def test_terminal_is_restored_when_the_node_goes_away_or_osctl_is_ended_against_fake_node(
    node: FakeNode, goes_away: bool
) -> None:
    with terminal("workload", "exec", "-t", "-i", "web", "--", "wait") as seen:
        seen.read_until(b"waiting\n")
        _eventually(lambda: seen.raw)
        if goes_away:
            node.stop()
            seen.read_until(b"osctl: error: ")
            assert seen.ended() == ExitCode.UNREACHABLE
        else:
            seen.process.terminate()
            assert seen.ended() == ExitCode.INTERRUPTED


def test_ctrl_c_ends_a_command_with_a_terminal_and_no_input_against_fake_node(node: FakeNode) -> None:
    with terminal("workload", "exec", "-t", "web", "--", "wait") as seen:
        seen.read_until(b"waiting\n")
        _eventually(lambda: seen.raw)
        seen.type(b"\x03")
        assert seen.ended() == ExitCode.INTERRUPTED
