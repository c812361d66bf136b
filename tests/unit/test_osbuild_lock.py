"""The locks: never believed when somebody edited them, and precise about what moved."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from basalt.errors import UsageError
from osbuild.lock import debian, refresh, wheels
from osbuild.lock.model import DebianLock, Wheel, load_debian, load_wheels, save_lock
from tests.unit.osbuild_locks import WHEELS, debian_lock, package

SETS = """
[debian.tools]
packages = ["bash", "tar"]

[debian.source]
packages = ["linux-source-6.12"]
depends = false

[wheels]
python = "3.13"
packages = ["msgspec"]
"""


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    (tmp_path / "sets.toml").write_text(SETS)
    save_lock(debian_lock(), tmp_path / "debian.json")
    save_lock(WHEELS, tmp_path / "wheels.json")
    return tmp_path


# ---- reading and writing


def test_locks_come_back_as_they_were_saved(locks: Path) -> None:
    assert load_debian(locks) == debian_lock()
    assert load_wheels(locks) == WHEELS
    assert sorted(load_debian(locks).members("tools")) == ["bash", "libc6", "tar"]


def test_equal_locks_are_equal_files(locks: Path) -> None:
    before = (locks / "debian.json").read_bytes()
    backwards = msgspec.structs.replace(
        debian_lock(),
        packages=dict(reversed(debian_lock().packages.items())),
        requested=dict(reversed(debian_lock().requested.items())),
    )
    save_lock(backwards, locks / "debian.json")
    assert (locks / "debian.json").read_bytes() == before
    assert before.endswith(b"}\n")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("debian.json", "1.0-1", "1.0-2"), ("debian.json", "trixie", "sid"), ("wheels.json", "0.19.0", "0.19.1")],
)
def test_lock_edited_by_hand_is_refused(locks: Path, file: str, old: str, new: str) -> None:
    text = (locks / file).read_text()
    (locks / file).write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        load_debian(locks) if file == "debian.json" else load_wheels(locks)
    assert "edited by hand" in caught.value.what
    assert "version control" in caught.value.remedy
    assert "osbuild lock --update" in caught.value.remedy


def test_lock_that_only_an_editor_reformatted_is_accepted(locks: Path) -> None:
    text = (locks / "debian.json").read_text()
    (locks / "debian.json").write_text(json.dumps(json.loads(text)))
    assert load_debian(locks) == debian_lock()


@pytest.mark.parametrize("content", ["", "[]", "[1]", "7", "{", '{"schema": 1}', "null"])
def test_what_is_no_lock_is_refused_with_the_command_that_makes_one(locks: Path, content: str) -> None:
    (locks / "debian.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        load_debian(locks)
    assert "debian.json" in caught.value.what
    assert "osbuild lock --update" in caught.value.remedy


def test_lock_with_its_digest_but_other_fields_is_refused(locks: Path) -> None:
    save_lock(WHEELS, locks / "debian.json")
    with pytest.raises(UsageError, match="cannot read the lock"):
        load_debian(locks)


def test_missing_lock_is_named(locks: Path) -> None:
    (locks / "wheels.json").unlink()
    with pytest.raises(UsageError, match=r"there is no lock wheels\.json"):
        load_wheels(locks)


def test_changed_request_names_the_set(locks: Path) -> None:
    (locks / "sets.toml").write_text(SETS.replace('"tar"', '"cpio"'))
    with pytest.raises(UsageError) as caught:
        load_debian(locks)
    assert caught.value.why == "sets.toml changed tools"
    assert load_wheels(locks) == WHEELS


def test_set_added_and_set_removed_are_named(locks: Path) -> None:
    text = SETS.replace("[debian.source]", "[debian.vm-tools]")
    (locks / "sets.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_debian(locks)
    assert caught.value.why == "sets.toml changed source, vm-tools"


def test_changed_wheels_are_noticed(locks: Path) -> None:
    (locks / "sets.toml").write_text(SETS.replace('"msgspec"', '"msgspec", "PyYAML"'))
    with pytest.raises(UsageError, match="made for other wheels"):
        load_wheels(locks)
    assert load_debian(locks) == debian_lock()


@pytest.mark.parametrize("text", ["[debian", SETS + "\n[extra]\n", SETS.replace("depends = false", "depends = 3")])
def test_broken_sets_are_refused(locks: Path, text: str) -> None:
    (locks / "sets.toml").write_text(text)
    with pytest.raises(UsageError, match=r"sets\.toml"):
        load_debian(locks)


# ---- what moved


def test_moved_packages_are_named_with_both_versions() -> None:
    old, new = debian_lock("bash", "gone", "libc6"), debian_lock("bash", "libc6", "new")
    new = msgspec.structs.replace(new, packages=new.packages | {"libc6": package("libc6", "1.0-2")})
    assert debian.moved(old, new) == ["gone 1.0-1 (no longer needed)", "libc6 1.0-1 -> 1.0-2", "new 1.0-1 (new)"]
    assert debian.moved(old, old) == []


def test_moved_wheels_are_named_with_both_versions() -> None:
    new = msgspec.structs.replace(
        WHEELS, wheels={"msgspec": Wheel("0.20.0", "x", "cd" * 32), "six": Wheel("1", "y", "ef" * 32)}
    )
    assert wheels.moved(WHEELS, new) == ["msgspec 0.19.0 -> 0.20.0", "six - -> 1"]


def test_comparison_with_an_unusable_lock_is_an_error_only_when_it_must_hold(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unusable() -> DebianLock:
        raise UsageError("there is no lock debian.json")

    monkeypatch.setattr(refresh, "load_debian", unusable)
    new = refresh.Resolved(debian_lock(), WHEELS)
    assert refresh.compare(new, strict=False).debian == ["all of it: there is no lock debian.json"]
    with pytest.raises(UsageError):
        refresh.compare(new, strict=True)
