"""The kernel's configuration: fragments, differences, policy, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basalt.errors import UsageError
from osbuild import paths, profile
from osbuild.graph import Step
from osbuild.kernel import config, fragments, policy, report
from osbuild.steps.kernel import kernel_steps
from osbuild.steps.kernel_build import build_kernel


def setting(symbol: str, value: str, place: str = "f:1") -> fragments.Setting:
    return fragments.Setting(symbol, value, "because", place)


# Fragments


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("CONFIG_A=y  # because", "y"),
        ("CONFIG_A=m # because", "m"),
        ("CONFIG_A=n\t# because", "n"),
        ("CONFIG_A=65536  # because", "65536"),
        ("CONFIG_A=-1  # because", "-1"),
        ("CONFIG_A=0x0  # because", "0x0"),
        ('CONFIG_A="a # b"  # because', '"a # b"'),
        ('CONFIG_A=""  # because', '""'),
    ],
)
def test_a_line_is_a_symbol_a_value_and_a_reason(line: str, value: str) -> None:
    assert fragments.parse(f"# for people\n\n{line}\n", "f") == [fragments.Setting("A", value, "because", "f:3")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CONFIG_A=y", "f:1: CONFIG_A has no reason"),
        ("CONFIG_A=y  #", "f:1: CONFIG_A has no reason"),
        ("CONFIG_A=y  #   ", "f:1: CONFIG_A has no reason"),
        ("\nA=y  # because", "f:2: not a kernel setting: A=y  # because"),
        ("CONFIG_A=yes  # because", "f:1: not a kernel setting"),
        ("CONFIG_A = y  # because", "f:1: not a kernel setting"),
        ("CONFIG_A=y because", "f:1: not a kernel setting"),
        ("  # CONFIG_A is not set", "f:1: not a kernel setting"),
    ],
)
def test_a_wrong_line_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        fragments.parse(text, "f")
    assert caught.value.what.startswith(said)
    assert caught.value.remedy


def test_a_symbol_set_twice_in_one_fragment_names_both_places() -> None:
    with pytest.raises(UsageError) as caught:
        fragments.parse("CONFIG_A=y  # one\nCONFIG_A=y  # two", "f")
    assert "f:1" in caught.value.why
    assert "f:2" in caught.value.why


def test_two_fragments_may_agree_and_the_first_reason_stays() -> None:
    assert fragments.merge([[setting("A", "y", "a:1")], [setting("A", "y", "b:7")]]) == {"A": setting("A", "y", "a:1")}


def test_two_fragments_that_contradict_each_other_are_both_named() -> None:
    with pytest.raises(UsageError) as caught:
        fragments.merge([[setting("A", "y", "a:1")], [setting("A", "n", "b:7")]])
    assert "a:1" in caught.value.why
    assert "b:7" in caught.value.why


def test_an_unknown_fragment_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "10-base.config").write_text("CONFIG_A=y  # because\n")
    with pytest.raises(UsageError) as caught:
        fragments.load(tmp_path, ["10-bass"])
    assert "'10-base'" in caught.value.remedy


def test_the_request_is_written_as_kconfig_reads_it() -> None:
    assert fragments.render({"A": "y", "B": "n", "C": '"x"'}) == 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x"\n'


# The final configuration


FINAL = """\
# Automatically generated file; DO NOT EDIT.
CONFIG_A=y
CONFIG_M=m
# CONFIG_N is not set
CONFIG_NUMBER=42
CONFIG_TEXT="x=y"
"""


def test_a_configuration_holds_what_is_set() -> None:
    assert config.parse(FINAL) == {"A": "y", "M": "m", "NUMBER": "42", "TEXT": '"x=y"'}
    assert config.counts(config.parse(FINAL)) == config.Counts(builtin=1, modules=1)


@pytest.mark.parametrize(
    ("symbol", "asked", "got"),
    [
        ("ABSENT", "y", "n"),  # dropped: a dependency is missing
        ("N", "y", "n"),
        ("M", "y", "m"),
        ("A", "m", "y"),
        ("A", "n", "y"),  # something selects it
        ("NUMBER", "41", "42"),
        ("TEXT", '"x"', '"x=y"'),
    ],
)
def test_each_departure_from_the_request_is_found(symbol: str, asked: str, got: str) -> None:
    found = config.differences({symbol: asked}, config.parse(FINAL))
    assert found == [config.Difference(symbol, asked, got)]
    assert symbol in str(found[0])


@pytest.mark.parametrize(
    "request_", [{"A": "y"}, {"M": "m"}, {"N": "n"}, {"ABSENT": "n"}, {"NUMBER": "42"}, {"TEXT": '"x=y"'}]
)
def test_what_was_asked_is_no_difference(request_: dict[str, str]) -> None:
    assert config.differences(request_, config.parse(FINAL)) == []


def test_refusing_what_the_kernel_does_not_have_is_a_typing_error() -> None:
    (found,) = config.differences({"DEVMEN": "n", "N": "n"}, {}, known={"DEVMEM", "N"})
    assert str(found) == "CONFIG_DEVMEN=n: this kernel has no such symbol"


def test_symbols_are_found_in_kconfig_files() -> None:
    text = "menuconfig NET\n\tbool\nif NET\nconfig\tIP_VS_RR\n  config INNER\nendif\n# config NOT\nhelp\n  reconfig X\n"
    assert config.defined_symbols(text) == {"NET", "IP_VS_RR", "INNER"}


# Policy

POLICY = """
[require.memory]
A = "y"
B = "n"
NUMBER = "42"

[[exception]]
symbol = "B"
reason = "somebody needs it"
"""


@pytest.mark.parametrize(
    ("final", "met", "failed", "excepted", "stale"),
    [
        ({"A": "y", "NUMBER": "42"}, 3, [], [], ("B",)),
        ({"A": "y", "NUMBER": "42", "B": "y"}, 2, [], ["B"], ()),
        ({"NUMBER": "42", "B": "m"}, 1, ["A"], ["B"], ()),
        ({"A": "m", "NUMBER": "43"}, 1, ["A", "NUMBER"], [], ("B",)),
    ],
)
def test_each_requirement_is_met_excepted_or_failed(
    final: dict[str, str], met: int, failed: list[str], excepted: list[str], stale: tuple[str, ...]
) -> None:
    verdict = policy.evaluate(policy.parse(POLICY, "p"), final)
    assert verdict.met == met
    assert [found.symbol for found in verdict.failed] == failed
    assert [found.symbol for found in verdict.excepted] == excepted
    assert verdict.stale == stale
    assert verdict.ok == (not failed)
    assert all(found.reason for found in verdict.excepted)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[require.a]\nX = 1", "is not a policy"),
        ("[require.a", "is not a policy"),
        ("[required.a]\nX = 'y'", "is not a policy"),
        ("[require.a]\nX = 'y'\n[require.b]\nX = 'y'", "X is named twice"),
        ("[require.a]\nX = 'y'\n[[exception]]\nsymbol = 'Y'\nreason = 'r'", "an exception for Y"),
        ("[require.a]\nX = 'y'\n[[exception]]\nsymbol = 'X'\nreason = ' '", "has no reason"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        policy.parse(text, "p")


# What the project ships


def test_every_fragment_of_the_project_is_well_formed() -> None:
    names = fragments.available(paths.KERNEL_CONFIG)
    assert names
    for name in names:
        assert fragments.load(paths.KERNEL_CONFIG, [name])


@pytest.mark.parametrize("name", profile.available())
def test_the_fragments_of_every_profile_agree(name: str) -> None:
    request = fragments.load(paths.KERNEL_CONFIG, profile.load(name).settings.kernel.fragments)
    # Traps of docs/decisions: each was once dropped silently, or cost a boot.
    for symbol in ("EROFS_FS", "MISC_FILESYSTEMS", "DM_INIT", "DM_VERITY", "FILE_LOCKING", "BINFMT_SCRIPT"):
        assert request[symbol].value == "y"


def test_the_policy_fits_the_fragments() -> None:
    """No fragment asks for the opposite of a requirement unless the policy excepts it: fails here, not after a configuration run."""
    text = (paths.KERNEL_CONFIG / report.POLICY).read_text()
    names = profile.load("minimal").settings.kernel.fragments
    asked = fragments.values(fragments.load(paths.KERNEL_CONFIG, names))
    rules = policy.parse(text, "policy.toml")
    contradicted = {
        symbol
        for table in rules.require.values()
        for symbol, required in table.items()
        if asked.get(symbol, required) != required
    }
    assert contradicted <= {exception.symbol for exception in rules.exception}


def test_a_report_holds_counts_sizes_and_the_verdict(tmp_path: Path) -> None:
    directory, kernel = tmp_path / "kernel-config", tmp_path / "kernel"
    directory.mkdir()
    kernel.mkdir()
    (directory / "10-base.config").write_text("CONFIG_A=y  # because\n")
    (directory / "policy.toml").write_text('[require.memory]\nA = "y"\nB = "y"\n')
    (kernel / "config").write_text("CONFIG_A=y\nCONFIG_M=m\n")
    (kernel / "kernel.json").write_text('{"release": "6.12.1-basalt", "size_bytes": {"bzImage": 7}}')
    fields = json.loads(json.dumps(report.report(kernel, directory, ["10-base"]).as_dict()))
    assert fields["release"] == "6.12.1-basalt"
    assert (fields["requested"], fields["builtin"], fields["modules"]) == (1, 1, 1)
    assert fields["sizes_bytes"] == {"bzImage": 7}
    assert fields["verdict"]["ok"] is False
    assert [found["symbol"] for found in fields["verdict"]["failed"]] == ["B"]


# What a change costs


def keys(directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(paths, "KERNEL_CONFIG", directory)
    # Any run function will do: nothing is built.
    tools, archive = Step("tools", build_kernel), Step("archive", build_kernel)
    last = kernel_steps(tools, archive, ["10-base"])
    return {"kernel": last.key} | {name: step.key for name, step in last.inputs.items()}


def test_a_reworded_reason_builds_nothing_and_a_changed_value_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragment = tmp_path / "10-base.config"
    fragment.write_text("CONFIG_A=y  # because\nCONFIG_B=n  # because\n")
    before = keys(tmp_path, monkeypatch)
    fragment.write_text("# In other words and order.\nCONFIG_B=n  # it is so\n\nCONFIG_A=y  # it is so\n")
    assert keys(tmp_path, monkeypatch) == before
    fragment.write_text("CONFIG_A=y  # because\nCONFIG_B=y  # because\n")
    after = keys(tmp_path, monkeypatch)
    assert {name for name in before if after[name] != before[name]} == {"kernel", "config", "policy", "build"}
