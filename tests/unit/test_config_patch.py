"""Patches of a configuration, and the configuration to begin with."""

from __future__ import annotations

import re

import pytest

from basalt import config
from basalt.config.patch import patch
from basalt.config.starter import starter

HEAD = "apiVersion: basalt.dev/v1alpha1\nkind: "
BASE = (
    f"{HEAD}MachineConfig\nhostname: a\nlabels: {{x: one, y: two}}\n---\n"
    f"{HEAD}NetworkConfig\nlinks: [{{name: eth0, dhcp4: true}}, {{name: eth1}}]\n---\n"
    f"{HEAD}RegistryConfig\nauth: [{{host: h.example, username: u, password: correct horse}}]\n---\n"
    f"{HEAD}VolumeConfig\nname: fast\ndisk: {{serial: s1}}\n---\n"
    f"{HEAD}VolumeConfig\nname: slow\ndisk: {{serial: s2}}\n"
)
SHOWN = config.render(config.redact(config.parse(BASE.encode(), "base"), b"key"))
CERTIFICATE = f"-----BEGIN CERTIFICATE-----\n{'QUJD' * 16}\n-----END CERTIFICATE-----\n"


def patched(changes: str) -> str:
    return patch(SHOWN, changes.encode(), "patch.yaml").decode()


def test_patch_merges_mappings_and_takes_out_what_is_null() -> None:
    made = patched(f"{HEAD}MachineConfig\nlabels: {{x: null, z: three, missing: null}}\n")
    assert made == SHOWN.decode().replace("  x: one\n", "").replace("  y: two\n", "  y: two\n  z: three\n")


def test_patch_replaces_lists_whole() -> None:
    made = config.parse(
        patched(f"{HEAD}NetworkConfig\nlinks: [{{name: eth9}}]\n").encode(), "x", accept_placeholders=True
    )
    assert made.network is not None
    assert [link.name for link in made.network.links] == ["eth9"]


def test_patch_finds_a_document_by_its_name() -> None:
    made = patched(f"{HEAD}VolumeConfig\nname: slow\nreadOnly: true\n")
    assert made == f"{SHOWN.decode()}readOnly: true\n"


def test_patch_adds_a_document() -> None:
    made = patched(f"{HEAD}VolumeConfig\nname: tape\ndisk: {{model: T}}\n")
    assert made.count("kind: VolumeConfig") == 3


def test_patch_deletes_a_document() -> None:
    made = patched("kind: VolumeConfig\nname: slow\n$patch: delete\n---\nkind: NetworkConfig\n$patch: delete\n")
    assert "slow" not in made
    assert "NetworkConfig" not in made


def test_patched_documents_get_their_secrets_back() -> None:
    configuration = config.parse(BASE.encode(), "base")
    made = patched(f"{HEAD}MachineConfig\nhostname: b\n")
    assert "correct horse" not in made
    read = config.parse(made.encode(), "x", secrets=config.secrets_of(configuration, b"key"))
    assert read.registry == configuration.registry
    assert read.machine != configuration.machine


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (f"{HEAD}MachineConfig\nhostname:\n", ["1:1: MachineConfig: $.hostname: hostname is missing"]),
        (f"{HEAD}MachineConfig\n\nlabels: {{a: -}}\n", ["4:13: MachineConfig: $.labels.a: found -: it is no value"]),
        (
            f"{HEAD}VolumeConfig\nname: slow\ndisk: {{seral: x}}\n",
            ["4:8: VolumeConfig slow: $.disk.seral: unknown field"],
        ),
        (f"{HEAD}VolumeConfig\nname: new\n", ["1:1: VolumeConfig new: $.disk: disk is missing"]),
        (
            f"{HEAD}VolumeConfig\nname: new\ndisk: {{}}\n$patch: remove\n",
            [
                "1:1: VolumeConfig new: $: a document that is not there; allowed: VolumeConfig fast or VolumeConfig slow",
                "4:1: VolumeConfig new: $.disk: a field beside $patch",
                "5:9: VolumeConfig new: $['$patch']: found remove; allowed: delete",
            ],
        ),
        ("kind: TimeConfig\n$patch: delete\n", ["1:1: TimeConfig: $: a document that is not there; allowed: none"]),
        ("apiVersion: v1\nkind: NetworkConfig\n$patch: delete\n", ["1:13: NetworkConfig: $.apiVersion: found v1"]),
        (f"{HEAD}Machine\n", ["2:7: $.kind: found Machine; did you mean 'MachineConfig'?"]),
        ("a: [\n", ["2:1: $: YAML syntax error"]),
        (f"{HEAD}VolumeConfig\nname: new\ndisk: {{serial: s2}}\n", ["$.disk: the same disk as VolumeConfig new"]),
    ],
)
def test_patch_that_makes_nothing_valid_is_refused_at_its_place(changes: str, expected: list[str]) -> None:
    with pytest.raises(config.ConfigError) as caught:
        patched(changes)
    found = [str(problem).removeprefix("patch.yaml:") for problem in caught.value.problems]
    assert len(found) == len(expected)
    assert all(words in problem for words, problem in zip(expected, found, strict=True))


def test_everything_can_be_made_by_a_patch_of_nothing() -> None:
    assert patch(b"", BASE.encode(), "patch.yaml") == config.render(config.parse(BASE.encode(), "base"))


def test_starting_point_is_valid_and_so_are_its_comments() -> None:
    text = starter("Node-1", [CERTIFICATE]).decode()
    configuration = config.parse(text.encode(), "starter")
    assert configuration.machine is not None
    assert configuration.machine.hostname == "node-1"
    assert configuration.access is not None
    assert configuration.access.client_authorities == (CERTIFICATE,)
    uncommented = re.sub(r"(?m)^# (?=---| *(- )?[a-z][A-Za-z0-9/.]*:)", "", text)
    assert "\n# sysctls" not in uncommented
    assert len(config.parse(uncommented.encode(), "starter").documents) == 5


def test_starting_point_for_a_wrong_name_is_refused() -> None:
    with pytest.raises(config.ConfigError, match="a dot belongs to a domain"):
        starter("node.example.org", [CERTIFICATE])
