"""A wrong profile is refused with file, line and the nearest valid name; a right one means what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from basalt.errors import UsageError
from osbuild import paths
from osbuild.lock.model import load_debian
from osbuild.pipeline import build_epoch, image_graph
from osbuild.profile import available, load

MINIMAL = """\
description = "small"

[kernel]
fragments = ["10-base"]

[disk]
root_slot_mib = 512
verity_slot_mib = 16

[root]
compression = "zstd,level=6"
cluster_bytes = 65536
cold = ["usr/bin/containerd"]
cold_compression = "lzma,level=6"
cold_cluster_bytes = 1048576

[boot]
cmdline = ["quiet"]

[packages]
s6 = ["usr/bin/s6-svscan"]
"python3.13-minimal" = ["usr/bin/python3.13"]

[python]
stdlib_exclude = ["test/**"]
wheels_exclude = []
"""


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the profiles minimal and metal."""
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    directory = tmp_path / "profiles"
    directory.mkdir()
    (directory / "minimal.toml").write_text(MINIMAL)
    (directory / "metal.toml").write_text(MINIMAL)
    return directory


def refusal(profiles: Path, text: str, *, name: str = "broken") -> UsageError:
    """What the user is told of a profile with content *text*."""
    (profiles / f"{name}.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load(name, profiles)
    return caught.value


def line_of(text: str, start: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith(start))


def test_profile_is_read_with_its_defaults(profiles: Path) -> None:
    named = load("minimal", profiles)
    assert (named.name, named.overlay) == ("minimal", None)
    assert named.settings.disk.root_slot_mib == 512
    assert named.settings.disk.esp_mib == 1024
    assert (named.settings.overlay, named.settings.extends) == ("", "")
    assert named.settings.packages["python3.13-minimal"] == ["usr/bin/python3.13"]


def test_profiles_of_the_project_are_valid() -> None:
    assert "minimal" in available()
    for name in available():
        assert load(name).settings.description


def test_unknown_profile_names_the_nearest_and_all(profiles: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load("minimall", profiles)
    assert caught.value.what == "there is no profile 'minimall'"
    assert caught.value.remedy == "Did you mean 'minimal'? Profiles: metal, minimal"


def test_profile_may_be_a_file_anywhere(profiles: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(MINIMAL)
    assert load(str(mine), profiles).name == "mine"
    with pytest.raises(UsageError) as caught:
        load(str(tmp_path / "other.toml"), profiles)
    assert "metal, minimal" in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "key", "nearest"),
    [
        ("description", "desciption", "desciption", "description"),
        ("[kernel]", "[kernal]", "kernal", "kernel"),
        ("root_slot_mib", "root_slot_mb", "disk.root_slot_mb", "root_slot_mib"),
        ("wheels_exclude", "wheel_exclude", "python.wheel_exclude", "wheels_exclude"),
        ("description", "extend", "extend", "extends"),
    ],
)
def test_unknown_key_is_named_with_line_and_nearest(profiles: Path, old: str, new: str, key: str, nearest: str) -> None:
    text = MINIMAL.replace(old, new, 1)
    error = refusal(profiles, text)
    assert error.what == f"profiles/broken.toml:{line_of(text, new)}: unknown key '{key}'"
    assert error.remedy.startswith(f"Did you mean '{nearest}'?")


def test_unknown_key_without_a_near_one_lists_what_is_valid(profiles: Path) -> None:
    error = refusal(profiles, MINIMAL.replace("compression", "zzz = 1\ncompression", 1))
    assert error.remedy == "Valid here: cluster_bytes, cold, cold_cluster_bytes, cold_compression, compression"


def test_any_name_is_allowed_below_packages(profiles: Path) -> None:
    (profiles / "more.toml").write_text(MINIMAL.replace("s6 =", "fragments = []\ns6 ="))
    assert load("more", profiles).settings.packages["fragments"] == []


@pytest.mark.parametrize(
    ("old", "new", "key", "why"),
    [
        ('"small"', "3", "description", "Expected `str`, got `int`"),
        ("512", '"512"', "disk.root_slot_mib", "Expected `int`, got `str`"),
        ('["quiet"]', '"quiet"', "boot.cmdline", "Expected `array`, got `str`"),
        ('["quiet"]', '["quiet", 3]', "boot.cmdline", "Expected `str`, got `int`"),
        ('["usr/bin/s6-svscan"]', "[7]", "packages", "Expected `str`, got `int`"),
    ],
)
def test_wrong_type_is_named_with_its_line(profiles: Path, old: str, new: str, key: str, why: str) -> None:
    text = MINIMAL.replace(old, new, 1)
    error = refusal(profiles, text)
    line = line_of(text, key.rpartition(".")[2]) if key != "packages" else line_of(text, "[packages]")
    assert error.what == f"profiles/broken.toml:{line}: wrong value for '{key}'"
    assert error.why == why
    assert "profiles.md" in error.remedy


def test_missing_keys_are_named(profiles: Path) -> None:
    error = refusal(profiles, MINIMAL.replace('description = "small"', ""))
    assert (error.what, error.why) == (
        "profiles/broken.toml: incomplete",
        "Object missing required field `description`",
    )
    text = MINIMAL.replace("root_slot_mib = 512", "")
    error = refusal(profiles, text)
    assert error.what == f"profiles/broken.toml:{line_of(text, '[disk]')}: wrong value for 'disk'"
    assert error.why == "Object missing required field `root_slot_mib`"


@pytest.mark.parametrize("text", ["description = ", MINIMAL + "[kernel]\n", "description = 'x"])
def test_what_is_no_toml_is_refused_with_its_place(profiles: Path, text: str) -> None:
    error = refusal(profiles, text)
    assert error.what == "profiles/broken.toml is not TOML"
    assert "line" in error.why or "end of document" in error.why


def test_file_that_is_no_text_is_refused(profiles: Path) -> None:
    (profiles / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not TOML"):
        load("binary", profiles)


# ---- extending


def test_extending_profile_replaces_values_and_keeps_the_rest(profiles: Path) -> None:
    (profiles / "big.toml").write_text(
        'extends = "minimal"\ndescription = "big"\n[disk]\nroot_slot_mib = 900\n[packages]\nrunc = ["usr/sbin/runc"]\n'
    )
    settings = load("big", profiles).settings
    assert settings.description == "big"
    assert (settings.disk.root_slot_mib, settings.disk.verity_slot_mib) == (900, 16)
    assert sorted(settings.packages) == ["python3.13-minimal", "runc", "s6"]


def test_wrong_value_is_looked_for_in_the_file_that_sets_it(profiles: Path) -> None:
    base = MINIMAL.replace("verity_slot_mib = 16", 'verity_slot_mib = "16"')
    (profiles / "base.toml").write_text(base)
    error = refusal(profiles, 'extends = "base"\n[disk]\nroot_slot_mib = 900\n')
    assert error.what.startswith(f"profiles/base.toml:{line_of(base, 'verity_slot_mib')}: ")
    error = refusal(profiles, 'extends = "minimal"\n[disk]\nroot_slot_mib = "900"\n')
    assert error.what.startswith("profiles/broken.toml:3: ")


def test_unknown_key_of_the_extended_profile_is_placed_there(profiles: Path) -> None:
    (profiles / "base.toml").write_text(MINIMAL + "zzz = 1\n")
    assert f"profiles/base.toml:{line_of(MINIMAL + 'zzz = 1', 'zzz')}" in refusal(profiles, 'extends = "base"\n').what


def test_profile_extends_one_that_stands_alone(profiles: Path) -> None:
    (profiles / "child.toml").write_text('extends = "minimal"\n')
    assert "which extends another" in refusal(profiles, 'extends = "child"\n').what
    assert "Did you mean 'minimal'?" in refusal(profiles, 'extends = "minimale"\n').remedy
    assert refusal(profiles, "extends = 3\n").what.startswith("profiles/broken.toml:1: ")


def test_overlay_is_found_beside_the_profile(profiles: Path) -> None:
    (profiles / "files").mkdir()
    (profiles / "with.toml").write_text('extends = "minimal"\noverlay = "files"\n')
    assert load("with", profiles).overlay == (profiles / "files").resolve()
    error = refusal(profiles, 'extends = "minimal"\noverlay = "missing"\n')
    assert error.what == "profiles/broken.toml:2: there is no directory missing"


# ---- what becomes of it


@pytest.mark.parametrize("version", ["1.0+2", "1_0", "v 1", "x" * 41, "ä"])
def test_version_that_would_break_boot_counting_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match="is no version"):
        image_graph("minimal", version=version)


def test_time_of_a_build_is_the_locks_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert build_epoch(load_debian()) == load_debian().epoch > 0
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    assert build_epoch(load_debian()) == 7
    for wrong in ("yesterday", "-1", "1e9", "99999999999"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
            build_epoch(load_debian())


def test_version_rebuilds_no_kernel_and_no_python() -> None:
    one, other = (image_graph("minimal", version=version) for version in ("1", "2"))
    assert one.kernel.key == other.kernel.key
    assert one.root.inputs["part-python"].key == other.root.inputs["part-python"].key
    assert one.uki.key != other.uki.key
    assert one.root.key != other.root.key


def test_client_ca_changes_the_root_and_nothing_before_it() -> None:
    one, other = (image_graph("minimal", client_ca=ca) for ca in (None, "-----BEGIN CERTIFICATE-----"))
    differing = {name for name, step in one.root.inputs.items() if step.key != other.root.inputs[name].key}
    assert differing == {"own"}


def test_configuration_changes_the_root_and_nothing_before_it() -> None:
    one, other = (image_graph("minimal", config=config) for config in (None, "kind: MachineConfig"))
    differing = {name for name, step in one.root.inputs.items() if step.key != other.root.inputs[name].key}
    assert differing == {"own"}
