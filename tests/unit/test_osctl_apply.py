"""Configurations on their way to a node and back: modes, trials, patches, the editor, and what shows them."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from basalt import contexts
from basalt.client import connect
from basalt.errors import ExitCode, UnreachableError
from basalt.machine.v1 import machine_pb2 as api
from osctl import applying, enrolment, following
from osctl.commands import apply as commands
from osctl.commands import edit
from tests.unit.fake_node import FakeNode
from tests.unit.test_osctl import DOCUMENTS, Osctl, home, node, osctl, second

__all__ = ["home", "node", "osctl", "second"]

MODULES = DOCUMENTS + "modules:\n- name: zram\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(enrolment, "POLL_INTERVAL_S", 0.02)
    monkeypatch.setattr(following, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(applying, "LOOK_INTERVAL_S", 0.02)
    monkeypatch.setattr(applying, "LOOK_S", 0.3)


@pytest.fixture
def configured(node: FakeNode, osctl: Osctl, home: Path) -> FakeNode:
    """A node with its first configuration, whose host name is ``a``."""
    (home / "node.yaml").write_text(DOCUMENTS)
    osctl("apply-config -f node.yaml")
    (home / "b.yaml").write_text(DOCUMENTS.replace("hostname: a", "hostname: b"))
    (home / "modules.yaml").write_text(MODULES)
    return node


def test_trial_is_looked_at_over_a_new_connection_against_fake_node(configured: FakeNode, osctl: Osctl) -> None:
    said = osctl("apply-config -f b.yaml --mode try --try-timeout 60")
    assert "generation 2 is in force on trial\n" in said
    assert "the node answers a new connection\n" in said
    assert "`osctl config confirm 2` keeps it\n" in said
    assert osctl("status").startswith(
        "ON TRIAL: generation 2 is taken back in 4 min 10 s; `osctl config confirm` keeps it"
    )
    assert osctl("config confirm") == "confirmed: generation 2 stands\n"
    osctl("config confirm 2", code=ExitCode.REFUSED)
    assert configured.trial == 0


def test_trial_is_confirmed_at_once_where_that_is_wanted_against_fake_node(configured: FakeNode, osctl: Osctl) -> None:
    answer = osctl.json("apply-config -f b.yaml --mode try --confirm")
    assert answer["trial"] == {"answers": True, "why": "", "left_s": 0.0, "confirmed": True, "taken_back_to": None}
    assert (configured.trial, configured.generation) == (0, 2)


def test_trial_that_cuts_the_node_off_is_told_and_not_confirmed_against_fake_node(
    configured: FakeNode, osctl: Osctl
) -> None:
    first, opened = connect, list[int]()
    with pytest.MonkeyPatch.context() as patch:

        def once(*words: Any, **options: Any) -> Any:
            opened.append(1)
            if len(opened) > 1:
                raise UnreachableError("cannot reach a node", why="nothing listens there")
            return first(*words, **options)

        patch.setattr(applying, "connect", once)
        said = osctl("apply-config -f b.yaml --mode try --confirm", code=ExitCode.UNREACHABLE)
    assert "the node does NOT answer a new connection: cannot reach a node: nothing listens there" in said
    assert len(opened) > 2, "it was tried more than once, as long as the trial leaves time"
    assert configured.trial == 2, "nothing confirmed it"


def test_trial_that_ends_before_its_answer_comes_is_not_taken_for_one_that_works_against_fake_node(
    configured: FakeNode, osctl: Osctl
) -> None:
    """The change cut the connection, and the answer got through when the node had taken it back."""
    first, opened = connect, list[int]()
    with pytest.MonkeyPatch.context() as patch:

        def late(*words: Any, **options: Any) -> Any:
            opened.append(1)
            if len(opened) > 1:
                configured.generation, configured.trial = 1, 0
            return first(*words, **options)

        patch.setattr(applying, "connect", late)
        said = osctl("apply-config -f b.yaml --mode try --try-timeout 20 --confirm", code=ExitCode.UNREACHABLE)
    assert "the trial of 20 s was over before the node could be seen working with it: generation 1 stands again" in said
    assert "keeps it" not in said


def test_person_at_the_terminal_is_asked_against_fake_node(
    configured: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(commands, "input", lambda _: "n", raising=False)
    osctl("apply-config -f b.yaml --mode try")
    assert configured.trial == 2
    assert "generation 1 stands" in osctl("config rollback")
    monkeypatch.setattr(commands, "input", lambda _: "y", raising=False)
    osctl("apply-config -f b.yaml --mode try")
    assert configured.trial == 0
    assert configured.generation == 3


def test_change_of_the_caller_s_authority_says_why_it_is_on_trial_against_fake_node(
    configured: FakeNode, osctl: Osctl, home: Path
) -> None:
    authority = contexts.client_ca_pem(contexts.load().get()).decode()
    document = {"apiVersion": "basalt.dev/v1alpha1", "kind": "AccessConfig", "clientAuthorities": [authority]}
    (home / "access.yaml").write_text(yaml.safe_dump_all([*yaml.safe_load_all(DOCUMENTS), document]))
    said = osctl("config diff -f access.yaml")
    assert "on trial: AccessConfig: the authority of your certificate\n" in said
    assert "it would be in force at once, and taken back after 300 s unless confirmed\n" in said
    assert osctl.json("apply-config -f access.yaml")["mode"] == "try"


def test_reboot_says_which_field_asks_for_it_and_is_followed_against_fake_node(
    configured: FakeNode, osctl: Osctl
) -> None:
    def power_cycle() -> None:
        configured.stop()
        configured.boot += 1
        configured.start()

    configured.on_reboot = power_cycle
    shown = osctl("apply-config -f modules.yaml --dry-run")
    assert "needs a reboot: MachineConfig: $.modules: parameters are read when a module loads\n" in shown
    assert "it would be in force with a reboot\n" in shown
    assert "the node is back from its reboot" in osctl("apply-config -f modules.yaml --wait 60")
    assert osctl.json("version")["boot_id"] == "boot-2"


def test_staged_configuration_waits_for_the_next_boot_against_fake_node(configured: FakeNode, osctl: Osctl) -> None:
    assert "generation 2 is staged: it is in force from the next boot on\n" in osctl(
        "apply-config -f b.yaml --mode staged"
    )
    assert [one["state"] for one in osctl.json("config history")] == ["staged", "current"]


def test_history_and_rollback_against_fake_node(configured: FakeNode, osctl: Osctl) -> None:
    osctl("apply-config -f b.yaml")
    assert "-hostname: b" in osctl("config rollback 1 --dry-run")
    assert "generation 3 stands" in osctl("config rollback 1")
    rows = osctl("config history").splitlines()
    assert rows[0].split() == ["GENERATION", "STATE", "APPLIED", "BY", "SOURCE", "REASON"]
    assert [row.split()[:2] for row in rows[1:]] == [["3", "current"], ["2", "previous"], ["1", "previous"]]
    assert osctl("get generations").splitlines() == rows
    osctl("config rollback 9", code=ExitCode.USAGE)
    assert "there is no generation 9" in osctl.err


def test_diff_is_silent_when_nothing_differs_against_fake_node(configured: FakeNode, osctl: Osctl) -> None:
    assert osctl("config diff -f node.yaml") == ""
    assert "+hostname: b\n" in osctl("config diff -f b.yaml")
    assert configured.generation == 1


def test_patch_changes_its_fields_alone_against_fake_node(configured: FakeNode, osctl: Osctl, home: Path) -> None:
    (home / "patch.yaml").write_text(
        "apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nlabels: {example.org/role: worker}\n"
    )
    osctl("config patch -f patch.yaml")
    (document,) = osctl.json("get config")["documents"]
    assert (document["hostname"], document["labels"]) == ("a", {"example.org/role": "worker"})
    (home / "patch.yaml").write_text("apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostnam: b\n")
    osctl("config patch -f patch.yaml", code=ExitCode.USAGE)
    assert "patch.yaml:3:1: MachineConfig: $.hostnam: unknown field 'hostnam'" in osctl.err


def test_answer_that_is_lost_says_where_to_look_against_fake_node(configured: FakeNode, osctl: Osctl) -> None:
    configured.before_apply = lambda: time.sleep(2)
    osctl("apply-config -f b.yaml --timeout 0.5", code=ExitCode.UNREACHABLE)
    assert "`osctl -n n1 get generations` says so" in osctl.err


def test_confirming_a_generation_is_for_one_node_against_fake_node(
    node: FakeNode, second: FakeNode, osctl: Osctl
) -> None:
    osctl("config confirm 3 -n all", code=ExitCode.USAGE)
    assert "nodes count their generations each for itself" in osctl.err


@pytest.mark.parametrize(
    ("mode", "fields", "dry_run", "expected"),
    [
        (api.APPLY_MODE_STAGED, {}, False, "is staged: it is in force from the next boot on"),
        (api.APPLY_MODE_STAGED, {"trial_timeout_s": 60}, False, "from the next boot on, on trial for 60 s then"),
        (api.APPLY_MODE_REBOOT, {"rebooting": True, "trial_timeout_s": 60}, False, "has begun, on trial for 60 s then"),
        (
            api.APPLY_MODE_REBOOT,
            {"trial_timeout_s": 60},
            True,
            "with a reboot, and taken back after 60 s unless confirmed",
        ),
        (api.APPLY_MODE_NO_REBOOT, {}, True, "it would be in force at once\n"),
    ],
)
def test_how_it_comes_into_force_is_said(
    mode: api.ApplyMode.ValueType, fields: dict[str, Any], dry_run: bool, expected: str
) -> None:
    answer = api.ApplyConfigResponse(generation=2, diff="+x\n", mode=mode, **fields)
    assert expected in str(applying.Applied(answer, dry_run))


# --- the editor


def editor_that(monkeypatch: pytest.MonkeyPatch, *replacements: tuple[str, str]) -> list[str]:
    """An editor that makes one replacement each time it is run; returns what it was shown."""
    shown: list[str] = []

    def run(path: Path) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        shown.append(text)
        path.write_text(text.replace(*replacements[min(len(shown), len(replacements)) - 1]))

    monkeypatch.setattr(edit, "run_editor", run)
    return shown


def test_edit_applies_what_was_written_against_fake_node(
    configured: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor_that(monkeypatch, ("hostname: a", "hostname: b"))
    assert "generation 2 stands" in osctl("config edit")
    assert "hostname: b" in osctl("get config")


def test_edit_that_changes_nothing_changes_nothing_against_fake_node(
    configured: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor_that(monkeypatch, ("x", "x"))
    assert osctl("config edit") == "nothing was changed\n"
    assert configured.generation == 1


def test_mistake_brings_the_editor_back_with_a_comment_at_it_against_fake_node(
    configured: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = editor_that(monkeypatch, ("hostname: a", "hostnam: b"), ("hostnam: b", "hostname: b"))
    osctl("config edit")
    lines = shown[1].splitlines()
    at = lines.index("hostnam: b")
    assert any(line.startswith(edit.MARK) and "did you mean 'hostname'?" in line for line in lines[:at])
    assert lines[at - 1].startswith(edit.MARK)
    assert "hostname: b" in osctl("get config")


def test_edit_ends_when_mistakes_are_left_and_keeps_the_file_against_fake_node(
    configured: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = editor_that(monkeypatch, ("hostname: a", "hostnam: b"), ("", ""))
    osctl("config edit", code=ExitCode.USAGE)
    assert len(shown) == 2
    kept = Path(osctl.err.rpartition("what you wrote is kept in ")[2].strip())
    assert "hostnam: b" in kept.read_text()
    assert configured.generation == 1


def test_edit_of_what_somebody_else_changed_meanwhile_is_refused_and_kept_against_fake_node(
    configured: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor_that(monkeypatch, ("hostname: a", "hostname: b"))
    configured.before_apply = lambda: setattr(configured, "generation", 7)
    osctl("config edit", code=ExitCode.REFUSED)
    assert "generation 7 stands now, not 1" in osctl.err
    kept = Path(osctl.err.rpartition("what you wrote is kept in ")[2].strip())
    assert "hostname: b" in kept.read_text()


def test_editor_is_the_operator_s_own(configured: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sed -i 's/hostname: a/hostname: from-sed/'")
    assert "generation 2 stands" in osctl("config edit")
    monkeypatch.setenv("VISUAL", "/nowhere/editor")
    osctl("config edit", code=ExitCode.USAGE)
    assert "cannot run the editor /nowhere/editor" in osctl.err
    monkeypatch.setenv("VISUAL", "false")
    osctl("config edit", code=ExitCode.FAILED)
    assert "the editor ended with 1" in osctl.err


# --- what shows


def test_provenance_says_which_source_won_and_why_the_others_lost_against_fake_node(
    node: FakeNode, osctl: Osctl
) -> None:
    assert [line.split("  ")[0] for line in osctl("get provenance").splitlines()[1:]] == [
        "configuration",
        "configuration",
        "authority    ".rstrip(),
    ]
    assert osctl.json("get provenance")["configuration"][1]["outcome"] == "used"


def test_links_are_shown_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    text = osctl("get links")
    assert "192.0.2.10/24 (dhcp4)" in text
    assert "default via 192.0.2.1 (dhcp4)" in text
    assert "public key PUB=" in text
    assert [link["name"] for link in osctl.json("get links")] == ["eth0", "wg0"]


def test_audit_log_says_who_did_what_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    lines = osctl("audit").splitlines()
    assert lines[0].startswith("2030-03-17 17:46:40 UTC  alice ")
    assert lines[1].split()[3:] == [
        "mallory",
        "192.0.2.7:4711",
        "ConfigService/ApplyConfig",
        "r-1",
        "PERMISSION_DENIED",
        "(generation",
        "1)",
    ]
    records = [json.loads(line) for line in osctl("audit --tail 1 -o json").splitlines()]
    assert [record["identity"] for record in records] == ["mallory"]


# --- authorities and contexts


def test_secrets_in_a_directory_make_the_same_context_again(osctl: Osctl, home: Path) -> None:
    written = osctl.json("gen secrets --output safe")
    assert {name: stat.S_IMODE((home / path).stat().st_mode) for name, path in written.items()} == {
        "client-ca.pem": 0o644,
        "client-ca-key.pem": 0o600,
        "node-ca.pem": 0o644,
        "node-ca-key.pem": 0o600,
    }
    osctl("gen secrets --output safe", code=ExitCode.USAGE)
    osctl("context create lab --secrets safe")
    assert osctl("context ca lab") == (home / "safe" / "client-ca.pem").read_text()
    assert osctl("context ca lab --authority node") == (home / "safe" / "node-ca.pem").read_text()
    shown = osctl.json("context show lab")
    assert (shown["can_sign"], shown["can_enrol"]) == (True, True)
    (home / "safe" / "node-ca-key.pem").write_bytes((home / "safe" / "client-ca-key.pem").read_bytes())
    osctl("context create other --secrets safe", code=ExitCode.USAGE)
    assert "does not belong to the certificate" in osctl.err


def test_context_is_renamed_with_its_files_and_deleted_with_its_keys(osctl: Osctl, home: Path) -> None:
    osctl("context create lab")
    before = osctl("context ca lab")
    osctl("context rename lab work")
    assert osctl("context ca work") == before
    assert osctl("context list").splitlines()[1].split() == ["*", "work", "none"]
    osctl("context create lab")
    assert osctl("context ca lab") != before == osctl("context ca work")
    osctl("context rename lab work", code=ExitCode.USAGE)
    osctl("context delete work", code=ExitCode.USAGE)
    assert "holds the key of an authority" in osctl.err
    osctl("context delete work --with-authority")
    assert not contexts.directory_of("work").exists()
    assert contexts.load().current == "lab"


def test_starter_documents_are_valid_and_trust_the_context(osctl: Osctl, home: Path) -> None:
    (home / "n1.yaml").write_text(osctl("gen config n1"))
    assert "AccessConfig" in osctl("config validate n1.yaml")
    document = next(one for one in yaml.safe_load_all((home / "n1.yaml").read_text()) if one["kind"] == "AccessConfig")
    assert document["clientAuthorities"] == [osctl("context ca")]
