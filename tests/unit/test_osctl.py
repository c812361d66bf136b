"""osctl as its user sees it: what it prints where, and with which exit code."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from basalt import contexts, pki
from basalt.commandline import build_parser
from basalt.errors import ExitCode
from basalt.output import duration, printable, size
from osctl import following
from osctl.__main__ import main
from osctl.cli import COMMANDS, PROGRAM
from tests.unit.fake_node import Authority, FakeNode

DOCUMENTS = "apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: a\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OSCTL_CONFIG", str(tmp_path / "home" / "config.yaml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def known_node(name: str) -> Iterator[FakeNode]:
    """A running node of the current context."""
    authority = Authority(identity=contexts.authority_of(contexts.ensure_context()))
    with FakeNode(authority, name=name) as node:
        contexts.add_node(name, str(node.endpoint), node.identity.fingerprint)
        yield node


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with known_node("n1") as node:
        yield node


@pytest.fixture
def second() -> Iterator[FakeNode]:
    with known_node("n2") as node:
        yield node


class Osctl:
    """Runs osctl in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.err = ""

    def __call__(self, line: str, *, code: ExitCode = ExitCode.OK) -> str:
        try:
            result = main(shlex.split(line))
        except SystemExit as leaving:  # argparse
            result = int(leaving.code or 0)
        captured = self.capsys.readouterr()
        self.err = captured.err
        assert result == code, captured.err
        return captured.out

    def json(self, line: str, *, code: ExitCode = ExitCode.OK) -> Any:
        return json.loads(self(f"{line} -o json", code=code))


@pytest.fixture
def osctl(capsys: pytest.CaptureFixture[str]) -> Osctl:
    return Osctl(capsys)


def test_version_is_one_object_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    answer = osctl.json("version")
    assert answer["node"] == "n1"
    assert answer["version"] == "0.1.0"
    assert answer["boot_stages"] == [{"name": "kernel", "start_usec": 0, "duration_usec": 1250000}]
    assert "kernel 1.25 s" in osctl("version")
    assert yaml.safe_load(osctl("version -o yaml")) == answer


def test_version_of_the_client_needs_no_node(osctl: Osctl) -> None:
    assert list(osctl.json("version --client")) == ["client"]


def test_status_shows_what_is_wrong_and_what_next_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    text = osctl("status")
    assert "mode        first-contact\n" in text
    assert "memory      512.0 MiB of 1.0 GiB used\n" in text
    rows = [line.split("  ") for line in text.splitlines()[-3:]]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["CONCERN", "STATE", "SINCE", "REASON", "WHAT NEXT"],
        ["network", "converged", "-"],
        ["time", "waiting", "1 min 40 s", "no server answers", "asks again; failed 3 times; looks again in 8 s"],
    ]
    assert osctl("get status") == text
    assert osctl.json("status")["concerns"][0]["state"] == "converged"


def test_services_are_aligned_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl("services").splitlines() == [
        "SERVICE   STATE       READY  PID  SINCE      RESTARTS",
        "machined  up          yes    100  1 h 1 min  0",
        "chronyd   restarting  no     -    0 s        3",
    ]
    assert [service["name"] for service in osctl.json("services")] == ["machined", "chronyd"]


def test_configuration_goes_there_and_back_against_fake_node(node: FakeNode, osctl: Osctl, home: Path) -> None:
    (home / "node.yaml").write_text(DOCUMENTS)
    tried = osctl("apply-config -f node.yaml --dry-run")
    assert "+hostname: a\n" in tried
    assert tried.endswith("nothing was changed (--dry-run)\n")
    applied = osctl("apply-config -f node.yaml").splitlines()
    assert applied[-3:-1] == ["* sets the host name", "generation 1 stands"]
    assert applied[-1].startswith(f"enrolled as {node.node_id}.basalt: ")
    assert osctl("apply-config -f node.yaml") == "nothing differs; generation 1 stands\n"
    (home / "back.yaml").write_text(osctl("get config"))
    assert (
        (home / "back.yaml")
        .read_text()
        .startswith("# generation 1, applied 2030-03-17 17:46:40 UTC by alice; kept: 1\n")
    )
    assert osctl("apply-config -f back.yaml") == "nothing differs; generation 1 stands\n"
    assert osctl.json("get config")["documents"] == [yaml.safe_load(DOCUMENTS)]


def test_configuration_changed_by_somebody_else_is_not_replaced_against_fake_node(
    node: FakeNode, osctl: Osctl, home: Path
) -> None:
    (home / "node.yaml").write_text(DOCUMENTS)
    osctl("apply-config -f node.yaml --expected-generation 5", code=ExitCode.REFUSED)
    assert "generation 0 stands now" in osctl.err
    assert node.generation == 0


def test_wrong_document_is_told_before_any_node_is_asked(osctl: Osctl, home: Path) -> None:
    contexts.ensure_context()
    (home / "node.yaml").write_text(DOCUMENTS.replace("hostname", "host-name"))
    osctl("apply-config -f node.yaml", code=ExitCode.USAGE)
    assert (
        "node.yaml:3:1: MachineConfig: $['host-name']: unknown field 'host-name'; did you mean 'hostname'?" in osctl.err
    )
    osctl("config validate node.yaml -o json", code=ExitCode.USAGE)
    assert [problem["nearest"] for problem in json.loads(osctl.err)["problems"]] == ["", "hostname"]


def test_validate_and_schema_need_neither_node_nor_context(osctl: Osctl, home: Path) -> None:
    (home / "node.yaml").write_text(DOCUMENTS)
    assert osctl("config validate node.yaml") == "node.yaml is valid: MachineConfig\n"
    assert "$defs" in json.loads(osctl("config schema"))
    osctl("config validate missing.yaml", code=ExitCode.USAGE)
    assert "No such file or directory" in osctl.err


def test_several_nodes_answer_side_by_side_against_fake_node(node: FakeNode, second: FakeNode, osctl: Osctl) -> None:
    answers = osctl.json("version -n all")
    assert [answer["node"] for answer in answers] == ["n1", "n2"]
    assert osctl("shutdown -n n2,n1") == "n2:\n  switching off\nn1:\n  switching off\n"
    assert (node.asked_to, second.asked_to) == (["shutdown"], ["shutdown"])


def test_failure_of_one_node_hides_no_other_against_fake_node(node: FakeNode, second: FakeNode, osctl: Osctl) -> None:
    second.stop()
    answers = osctl.json("-n n2,n1 version", code=ExitCode.UNREACHABLE)
    assert answers[0]["why"] == "nothing listens there (connection refused)"
    assert answers[1]["version"] == "0.1.0"
    assert "version      0.1.0" in osctl("-n n2,n1 version", code=ExitCode.UNREACHABLE)
    assert "connection refused" in osctl.err


def test_node_is_chosen_by_address_and_fingerprint_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    contexts.remove_node("n1")
    osctl(f"version -e {node.endpoint}", code=ExitCode.USAGE)
    assert "nothing says how to recognise the node" in osctl.err
    answer = osctl.json(f"version -e {node.endpoint} --fingerprint {node.identity.fingerprint.upper()}")
    assert answer["node"] == str(node.endpoint)
    assert osctl.json(f"version -n {node.endpoint} --fingerprint {node.identity.fingerprint}") == answer


def test_node_of_the_context_is_found_by_its_address_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl.json(f"version -n {node.endpoint}")["node"] == "n1"
    assert osctl.json(f"version -n n1 --fingerprint {node.identity.fingerprint}")["node"] == "n1"
    osctl(f"version -n n1,n2 --fingerprint {node.identity.fingerprint}", code=ExitCode.USAGE)
    assert "--fingerprint goes with one node" in osctl.err


def test_wrong_fingerprint_ends_with_unreachable_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    osctl(f"version -e {node.endpoint} --fingerprint {'00' * 32}", code=ExitCode.UNREACHABLE)
    assert node.identity.fingerprint in osctl.err
    assert "Traceback" not in osctl.err


def test_role_that_is_missing_ends_with_refused_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    osctl("gen client --name bob --role reader --lifetime 12h")
    osctl("context create bob --certificate bob.pem --key bob-key.pem --ca bob-ca.pem")
    contexts.add_node("n1", str(node.endpoint), node.identity.fingerprint, context="bob")
    assert osctl.json("--context bob version")["version"] == "0.1.0"
    osctl("--context bob reboot", code=ExitCode.REFUSED)
    assert "role os:operator" in osctl.err
    assert node.asked_to == []


def test_reboot_is_followed_to_the_next_boot_against_fake_node(
    node: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cycle() -> None:
        node.stop()
        node.boot += 1
        node.start()

    monkeypatch.setattr(following, "POLL_INTERVAL_S", 0.01)
    node.on_reboot = power_cycle
    assert osctl("reboot --wait") == "back with version 0.1.0, slot A\n"
    assert osctl.err.endswith("  n1: is back\n")
    node.loses_answers = True
    assert osctl.json("reboot --wait 60")["boot_id"] == "boot-3"


def test_node_that_stays_away_is_told_against_fake_node(
    node: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_INTERVAL_S", 0.01)
    osctl("reboot --wait 0.2", code=ExitCode.UNREACHABLE)
    assert "it answers, but has not gone down" in osctl.err


def test_node_that_comes_back_as_somebody_else_is_told_at_once_against_fake_node(
    node: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wiped() -> None:
        node.stop()
        node.identity = pki.make_server_identity("n1", pki.utc_now())
        node.start()

    monkeypatch.setattr(following, "POLL_INTERVAL_S", 0.01)
    node.on_reboot = wiped
    osctl("reboot --wait", code=ExitCode.UNREACHABLE)
    assert "is not the node 'n1'" in osctl.err


def test_shutdown_is_followed_until_nothing_listens_against_fake_node(
    node: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_INTERVAL_S", 0.01)
    osctl("shutdown --wait 0.2", code=ExitCode.FAILED)
    assert "still listens 0 s after it was switched off" in osctl.err
    node.on_shutdown = node.stop
    assert osctl("shutdown --wait") == "gone\n"


def test_logs_are_the_bytes_that_the_node_sent_against_fake_node(
    node: FakeNode, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["logs", "machined"]) == 0
    assert capfdbinary.readouterr().out == b"one\ntwo\xff\nthree\n"
    assert main(["dmesg"]) == 0
    assert capfdbinary.readouterr().out == b"[    1.500000] Linux version 6.12\n"


def test_logs_of_several_nodes_are_labelled_against_fake_node(
    node: FakeNode, second: FakeNode, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["logs", "machined", "-n", "all"]) == 0
    assert sorted(capfdbinary.readouterr().out.splitlines()) == [
        b"n1 | one",
        b"n1 | three",
        b"n1 | two\xff",
        b"n2 | one",
        b"n2 | three",
        b"n2 | two\xff",
    ]


def test_logs_for_a_program_are_one_object_a_line_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    lines = [json.loads(line) for line in osctl("logs machined -o json").splitlines()]
    assert [line["line"] for line in lines] == ["one", "two\N{REPLACEMENT CHARACTER}", "three"]
    assert json.loads(osctl("dmesg -o json"))["priority"] == 3


def test_unknown_service_is_told_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    osctl("logs machind", code=ExitCode.USAGE)
    assert "there is no service 'machind'" in osctl.err


def _spawn(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "osctl", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ,
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_a_followed_log_cleanly_against_fake_node(node: FakeNode, how: signal.Signals) -> None:
    with _spawn("logs", "machined", "-f") as process:
        assert process.stdout is not None
        assert process.stdout.read(14) == b"one\ntwo\xff\nthree"
        assert node.followed.wait(30)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (ExitCode.INTERRUPTED, b"")


def test_reader_that_goes_away_is_no_error_against_fake_node(node: FakeNode) -> None:
    read, write = os.pipe()
    os.close(read)
    with _spawn("version", stdout=write) as process:
        os.close(write)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (ExitCode.OK, b"")


def test_bug_is_one_line_and_a_file(osctl: Osctl, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(home))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("basalt.config.json_schema", lambda: 1 / 0)
    osctl("config schema", code=ExitCode.FAILED)
    first, second = osctl.err.splitlines()
    assert first == "osctl: internal error: ZeroDivisionError: division by zero"
    details = Path(second.rpartition(" ")[2])
    assert "Traceback" in details.read_text()
    assert details.stat().st_mode & 0o077 == 0


def test_contexts_from_the_command_line(osctl: Osctl) -> None:
    osctl("version", code=ExitCode.USAGE)
    assert "`osctl context create default` makes it" in osctl.err
    osctl("context create lab")
    assert osctl("context list").splitlines()[1] == "*        lab      none"
    osctl(f"context add-node n1 --endpoint 192.0.2.1 --fingerprint {'AB' * 32}")
    shown = osctl.json("context show")
    assert shown["nodes"] == {"n1": {"endpoint": "192.0.2.1:50000", "fingerprint": "SHA256:" + "ab" * 32, "id": None}}
    assert osctl("context ca").startswith("-----BEGIN CERTIFICATE-----\n")
    assert "you are now" in osctl("context renew")
    osctl("context add-node all --endpoint a --fingerprint " + "0" * 64, code=ExitCode.USAGE)
    osctl("context remove-node n1")
    osctl("context create other")
    osctl("context use other")
    assert contexts.load().current == "other"
    assert osctl.json("--context lab context show") == osctl.json("context show lab")
    assert osctl("--context lab context ca") == osctl("context ca lab") != osctl("context ca")
    osctl("--context lab context show other", code=ExitCode.USAGE)
    identity = osctl.json("context show lab")["identity"]
    assert (identity["roles"], set(identity["serial"]) <= set("0123456789abcdef")) == (["admin"], True)
    assert identity["not_before_unix"] < identity["not_after_unix"]
    osctl("--context lab gen client --name al --role reader")
    authority = contexts.client_ca_pem(contexts.load().get("lab"))
    assert Path("al-ca.pem").read_bytes() == authority, "--context before the command counts"


def test_generated_key_is_private_and_never_overwritten(osctl: Osctl) -> None:
    contexts.ensure_context()
    osctl("gen client --name al --role reader --role debug --lifetime 2d")
    assert Path("al-key.pem").stat().st_mode & 0o777 == 0o600
    before = Path("al-key.pem").read_bytes()
    osctl("gen client --name al --role reader", code=ExitCode.USAGE)
    assert Path("al-key.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gen client --name a --role king", "'king' is no role (choose from reader, operator, admin, debug, metrics)"),
        ("gen client --name a --role reader --lifetime 5", "write hours or days"),
        ("version --timeout 0", "is no number of seconds"),
        ("version --insecure", "unrecognized arguments: --insecure"),
        ("logs", "the following arguments are required: SERVICE"),
        ("vers", "invalid choice"),
    ],
)
def test_wrong_command_line_is_told(osctl: Osctl, line: str, expected: str) -> None:
    osctl(line, code=ExitCode.USAGE)
    assert expected in osctl.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_every_command_has_help_with_a_working_example(osctl: Osctl, command: Any) -> None:
    assert command.example in " ".join(osctl(f"{' '.join(command.words)} --help").split())
    words = shlex.split(command.example.partition(">")[0])
    assert words[0] == "osctl"
    assert build_parser(PROGRAM).parse_args(words[1:]).command == command


def test_texts_of_a_node_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}c"


def test_numbers_for_people() -> None:
    assert [size(count) for count in (0, 1023, 1536, 1 << 30)] == ["0 B", "1023 B", "1.5 KiB", "1.0 GiB"]
    assert [duration(seconds) for seconds in (0, 59.9, 3700, 90000)] == ["0 s", "59 s", "1 h 1 min", "1 d 1 h"]
