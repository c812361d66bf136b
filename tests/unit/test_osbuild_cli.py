"""The command line: every command explains itself, every failure is words and an exit code, never a traceback."""

from __future__ import annotations

import datetime
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import osbuild.__main__ as main_module
from basalt import docs as pages
from basalt import pki
from basalt.commandline import Command, build_parser
from basalt.errors import BasaltError, ExitCode, StaleLockError, UsageError
from osbuild import docs
from osbuild.__main__ import main
from osbuild.cli import COMMANDS, PROGRAM
from osbuild.commands import image, lock
from osbuild.graph import Step, build
from osbuild.lock.refresh import Moves
from osbuild.progress import JsonProgress, PlainProgress, Progress, make_progress
from osbuild.store import Store
from tests.unit.osbuild_steps import step

PROJECT = Path(__file__).resolve().parent.parent.parent
each_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
SHOWS_PROGRESS = {("image",), ("verify",), ("kernel",), ("lock",), ("boot",), ("start",)}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store and machines of the test's own; the handler of SIGTERM as it was."""
    monkeypatch.setenv("OSBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OSBUILD_STALE_LOCK", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# ---- the table of commands


@each_command
def test_example_of_each_command_is_understood(command: Command) -> None:
    program, *words = shlex.split(command.example)
    assert program == "osbuild"
    assert build_parser(PROGRAM).parse_args(words).command is command


@each_command
def test_each_command_leads_to_its_function(command: Command) -> None:
    module, _, function = command.entry.partition(":")
    assert callable(getattr(import_module(f"{PROGRAM.package}.{module}"), function))


@each_command
def test_commands_that_read_answer_in_three_forms_and_others_do_not(command: Command) -> None:
    words = shlex.split(command.example)[1:]
    if command.reads:
        for form in ("table", "json", "yaml"):
            assert build_parser(PROGRAM).parse_args([*words, "-o", form]).form == form
    else:
        assert command.words in {("stop",), ("console",)}, "what shows something has -o"
        with pytest.raises(SystemExit):
            build_parser(PROGRAM).parse_args([*words, "-o", "json"])


@each_command
def test_each_command_says_what_each_option_is_for(command: Command) -> None:
    assert command.summary and not command.summary.endswith(".")
    assert all(option.settings["help"] for option in command.options)


@each_command
def test_progress_can_be_chosen_before_and_after_a_command(command: Command) -> None:
    words = shlex.split(command.example)[1:]
    assert build_parser(PROGRAM).parse_args(["--progress", "none", *words]).progress == "none"
    assert build_parser(PROGRAM).parse_args(words).progress is None
    assert command.shared == (command.words in SHOWS_PROGRESS)
    if command.shared:
        assert build_parser(PROGRAM).parse_args([*words, "--progress", "json"]).progress == "json"


@pytest.mark.parametrize(
    "words",
    [
        "image",
        "image --profile minimal --format iso",
        "image --profile minimal --jobs 0",
        "image --profile minimal --jobs two",
        "boot --profile minimal --timeout -1",
        "boot --profile minimal --timeout nan",
        "image --prof minimal",
        "nonsense",
        "cache",
        "",
    ],
)
def test_wrong_command_line_ends_with_the_code_for_it(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("usage: osbuild")


def test_formats_may_be_listed() -> None:
    arguments = build_parser(PROGRAM).parse_args(["image", "--profile", "minimal", "--format", "qcow2,raw"])
    assert arguments.format == ("qcow2", "raw")


# ---- main


Fail = Callable[[BaseException], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let ``osbuild profiles`` raise."""

    def install(error: BaseException) -> None:
        def raising(_arguments: object) -> int:
            raise error

        monkeypatch.setattr(image, "profiles", raising)

    return install


@pytest.mark.parametrize(
    ("kind", "code"), [(BasaltError, ExitCode.FAILED), (UsageError, ExitCode.USAGE), (StaleLockError, ExitCode.STALE)]
)
def test_error_is_shown_with_reason_and_remedy_and_has_its_exit_code(
    fail: Fail, capsys: pytest.CaptureFixture[str], kind: type[BasaltError], code: ExitCode
) -> None:
    fail(kind("cannot do it", why="one\ntwo", remedy="Do this"))
    assert main(["profiles"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "osbuild: error: cannot do it\n    one\n    two\n  -> Do this\n"


def test_error_is_one_object_for_programs(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(BasaltError("cannot do it", why="one\ntwo", remedy="Do this"))
    assert main(["profiles", "-o", "json"]) == ExitCode.FAILED
    shown = json.loads(capsys.readouterr().err)
    assert shown == {"error": "cannot do it", "why": "one\ntwo", "remedy": "Do this"}


def test_ctrl_c_says_that_nothing_is_lost(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(KeyboardInterrupt())
    assert main(["profiles"]) == ExitCode.INTERRUPTED
    assert "finished steps are kept" in capsys.readouterr().err


def test_sigterm_unwinds_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    unwound: list[str] = []

    def terminated(_arguments: object) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
            return 0
        finally:
            unwound.append("workspaces discarded")

    monkeypatch.setattr(image, "profiles", terminated)
    assert main(["profiles"]) == ExitCode.INTERRUPTED
    assert unwound == ["workspaces discarded"]


def test_bug_is_one_line_and_its_traceback_lies_in_a_file(
    fail: Fail, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fail(ZeroDivisionError("division by zero"))
    assert main(["profiles"]) == ExitCode.FAILED
    first, second = capsys.readouterr().err.splitlines()
    assert first == "osbuild: internal error: ZeroDivisionError: division by zero"
    (log,) = tmp_path.glob("osbuild-*.log")
    assert str(log) in second
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_reader_that_went_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "osbuild", "profiles"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=PROJECT, env=buffered, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


# ---- a stale lock


@pytest.fixture
def refreshed(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The mirrors that locks were refreshed from."""
    mirrors: list[str | None] = []
    monkeypatch.setattr(main_module, "refresh_locks", mirrors.append)
    return mirrors


def stale_times(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let ``osbuild kernel`` find a stale lock *count* times, and then succeed."""
    left = [StaleLockError("the lock is stale", why="bash 1 -> 2", remedy="Run 'osbuild lock --update'")] * count

    def kernel(_arguments: object) -> int:
        if left:
            raise left.pop()
        return 0

    monkeypatch.setattr("osbuild.commands.kernel.kernel", kernel)


KERNEL = ["kernel", "--profile", "minimal", "--mirror", "http://mine/debian"]


def test_stale_lock_is_refreshed_once_where_ci_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, refreshed: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSBUILD_STALE_LOCK", "refresh")
    stale_times(monkeypatch, 1)
    assert main(KERNEL) == ExitCode.OK
    assert refreshed == ["http://mine/debian"]
    assert "bash 1 -> 2" in capsys.readouterr().err


def test_lock_that_is_stale_again_is_an_error(monkeypatch: pytest.MonkeyPatch, refreshed: list[str | None]) -> None:
    monkeypatch.setenv("OSBUILD_STALE_LOCK", "refresh")
    stale_times(monkeypatch, 2)
    assert main(KERNEL) == ExitCode.STALE
    assert len(refreshed) == 1


def test_stale_lock_is_left_alone_everywhere_else(
    monkeypatch: pytest.MonkeyPatch, refreshed: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    stale_times(monkeypatch, 1)
    assert main(KERNEL) == ExitCode.STALE
    assert refreshed == []
    assert "osbuild lock --update" in capsys.readouterr().err


def test_other_errors_refresh_nothing(monkeypatch: pytest.MonkeyPatch, refreshed: list[str | None], fail: Fail) -> None:
    monkeypatch.setenv("OSBUILD_STALE_LOCK", "refresh")
    fail(UsageError("no"))
    assert main(["profiles"]) == ExitCode.USAGE
    assert refreshed == []


def moves(monkeypatch: pytest.MonkeyPatch, *, debian: list[str], wheels: list[str]) -> None:
    monkeypatch.setattr(lock, "resolve_locks", lambda mirror, progress: None)
    monkeypatch.setattr(lock, "compare", lambda new, strict: Moves(debian, wheels))


def test_lock_check_names_what_moved_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, refreshed: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSBUILD_STALE_LOCK", "refresh")
    moves(monkeypatch, debian=["bash 1 -> 2"], wheels=[])
    assert main(["lock", "--check"]) == ExitCode.STALE
    assert refreshed == []
    assert "bash 1 -> 2" in capsys.readouterr().err


def test_newer_wheel_makes_no_lock_stale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    moves(monkeypatch, debian=[], wheels=["grpcio 1 -> 2"])
    assert main(["lock", "--check", "-o", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"stale": False, "newer_wheels": ["grpcio 1 -> 2"]}


def test_lock_is_checked_or_updated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lock", "--check", "--update"]) == ExitCode.USAGE


# ---- commands that need no build


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    assert main([*words, "-o", "json"]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def test_plan_of_an_empty_store_builds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answered(capsys, "plan", "--profile", "minimal")
    assert isinstance(rows, list)
    assert {row["state"] for row in rows} == {"build"}
    assert {"image-tools", "kernel", "python", "debian", "os", "root", "uki", "disk", "qcow2", "manifest"} <= {
        row["step"] for row in rows
    }


def test_profiles_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answered(capsys, "profiles")
    assert isinstance(rows, list)
    assert "minimal" in {row["name"] for row in rows}
    assert all(row["description"] for row in rows)


def test_cache_shows_what_it_holds_and_deletes_down_to_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    build(Store(), [step("a"), step("b")], Progress())
    shown = answered(capsys, "cache", "du")
    assert isinstance(shown, dict)
    assert {row["step"] for row in shown["objects"]} == {"a", "b"}
    assert shown["total_bytes"] == sum(row["size_bytes"] for row in shown["objects"])
    removed = answered(capsys, "cache", "gc", "--limit", "0")
    assert isinstance(removed, dict)
    assert removed["freed_bytes"] == shown["total_bytes"]
    assert main(["cache", "gc", "--limit", "much"]) == ExitCode.USAGE


@pytest.mark.parametrize("words", ["stop n1", "console n1", "start n1", "stop N1"])
def test_unknown_machine_is_a_usage_error(words: str) -> None:
    assert main(words.split()) == ExitCode.USAGE


@pytest.mark.parametrize(
    ("at", "said"), [("nonsense", "root"), ("manifest", "runs no programs"), ("image-tools", "Steps with a sandbox")]
)
def test_shell_is_opened_only_where_programs_run(at: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "--profile", "minimal", "--shell-at", at]) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_client_ca_is_checked_before_anything_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for name in ("ca.pem", "missing.pem"):
        assert main(["image", "--profile", "minimal", "--client-ca", str(tmp_path / name)]) == ExitCode.USAGE
        assert str(tmp_path / name) in capsys.readouterr().err


def test_client_ca_may_have_words_of_any_language_around_it(tmp_path: Path) -> None:
    authority = pki.make_ca("operators", datetime.timedelta(days=1)).certificate_pem
    (tmp_path / "ca.pem").write_bytes("Schlüssel der Betreiber\n".encode() + authority)
    assert authority.decode() in (image.read_client_ca(str(tmp_path / "ca.pem")) or "")
    assert image.read_client_ca(None) is None


def test_configuration_is_checked_before_anything_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "node.yaml").write_text("apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostnam: n1\n")
    for name, said in (("node.yaml", "node.yaml:3:1"), ("absent.yaml", "No such file")):
        assert main(["image", "--profile", "minimal", "--config", str(tmp_path / name)]) == ExitCode.USAGE
        assert said in capsys.readouterr().err


def test_configuration_lands_in_the_image_in_its_one_spelling(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("# a comment\nkind: MachineConfig\napiVersion: basalt.dev/v1alpha1\nhostname: N1\n")
    expected = "---\napiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: n1\n"
    assert image.read_config(str(path)) == expected
    assert image.read_config(None) is None


def test_no_secret_goes_into_an_image(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        "apiVersion: basalt.dev/v1alpha1\nkind: RegistryConfig\n"
        "auth: [{host: registry.example, username: u, password: hunter2}]\n"
    )
    with pytest.raises(UsageError, match="has secrets") as caught:
        image.read_config(str(path))
    assert "hunter2" not in str(caught.value)


# ---- before and after a build


def fetched(monkeypatch: pytest.MonkeyPatch, *targets: Step) -> list[str]:
    """The sets that would be downloaded to build *targets*."""
    names: list[str] = []
    monkeypatch.setattr(image, "ensure_downloaded", lambda cache, debian, name, note, mirror: names.append(name))
    debian = SimpleNamespace(sets=("image-tools", "image", "vm-tools"))
    image.fetch_missing(Store(), debian, list(targets), Progress(), None)
    return names


def test_only_what_a_build_will_unpack_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    tools, pool = step("image-tools"), step("image-pool")
    disk = step("disk", inputs=[tools, pool])
    assert fetched(monkeypatch, disk) == ["image-tools", "image"]
    build(Store(), [tools], Progress())
    assert fetched(monkeypatch, disk) == ["image"]
    build(Store(), [disk], Progress())
    Store().collect(0, keep=frozenset({disk.key}))
    assert fetched(monkeypatch, disk) == [], "nothing is going to run"


def test_store_is_kept_within_its_limit_but_never_below_the_image_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    store, old, new = Store(), step("disk", version=1), step("disk", version=2)
    build(store, [old], Progress())
    build(store, [new], Progress())
    image.keep_within_limit(store, [new])
    assert store.has(old.key)
    monkeypatch.setenv("OSBUILD_CACHE_LIMIT", "1")
    with Store().using():
        image.keep_within_limit(store, [new])
        assert store.has(old.key), "somebody else is building"
    image.keep_within_limit(store, [new])
    assert not store.has(old.key)
    assert store.has(new.key)


# ---- progress


def told(progress: Progress) -> None:
    progress.begin(["root"])
    progress.start("root")
    progress.detail("root", "mkfs.erofs")
    progress.done("root")
    progress.start("uki")
    progress.failed("uki")
    progress.close()


def test_progress_for_log_files_is_plain_lines() -> None:
    stream = io.StringIO()
    told(PlainProgress(stream))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["  root ...", "  root: mkfs.erofs"]
    assert lines[2].startswith("  root done in ")
    assert lines[4].startswith("  uki FAILED after ")


def test_progress_for_programs_is_an_object_a_line() -> None:
    stream = io.StringIO()
    told(JsonProgress(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["begin", "start", "detail", "done", "start", "failed"]
    assert events[0]["steps"] == ["root"]
    assert events[2]["text"] == "mkfs.erofs"


def test_progress_is_plain_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_progress(None), PlainProgress)
    assert isinstance(make_progress("auto"), PlainProgress)
    assert isinstance(make_progress("json"), JsonProgress)
    assert type(make_progress("none")) is Progress


# ---- the reference pages


def test_reference_pages_are_fresh() -> None:
    assert pages.stale(docs.pages()) == [], "run `python -m osbuild.docs`"


def test_every_key_of_a_profile_has_its_meaning_on_the_page() -> None:
    page = docs.profiles_page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) >= 15
    assert all(row.rstrip(" |").rpartition("| ")[2] for row in rows)
    assert "| `esp_mib` | whole number | `1024` | the EFI system partition" in page
