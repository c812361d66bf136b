"""What a user gets out of the store: artifacts, answers and comparisons."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
import yaml

from basalt import output
from basalt.errors import BasaltError, UsageError
from osbuild import outputs
from osbuild.commands.inspect import listing_of
from osbuild.commands.verify import first_difference
from osbuild.graph import Context, build
from osbuild.outputs import Artifact, artifacts, hand_out
from osbuild.pipeline import FORMATS, image_graph
from osbuild.progress import Progress
from osbuild.store import Store
from osbuild.tree import File, Listing
from tests.unit.osbuild_steps import step


def write_disk(ctx: Context) -> None:
    with (ctx.out / "disk.raw").open("wb") as stream:
        stream.write(f"version {ctx.params['version']}".encode())
        stream.truncate(2**22)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "not" / "there" / "yet"


def disk(store: Store, version: int = 1) -> Artifact:
    made = step("disk", write_disk, version=version)
    build(store, [made], Progress())
    return Artifact("raw", made, "disk.raw", "basalt.raw")


def stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_artifact_is_a_copy_with_its_holes(store: Store, directory: Path) -> None:
    artifact = disk(store)
    paths = hand_out(store, [artifact], directory)
    assert paths == {"raw": directory / "basalt.raw"}
    inside = store.path(artifact.step.key) / "disk.raw"
    assert paths["raw"].read_bytes() == inside.read_bytes()
    assert paths["raw"].stat().st_ino != inside.stat().st_ino, "writing to it would change the store"
    assert paths["raw"].stat().st_blocks * 512 < 2**20


def test_unchanged_artifact_is_left_alone(store: Store, directory: Path) -> None:
    hand_out(store, [disk(store)], directory)
    before = stamp(directory / "basalt.raw"), stamp(directory / ".osbuild.json")
    hand_out(store, [disk(store)], directory)
    assert (stamp(directory / "basalt.raw"), stamp(directory / ".osbuild.json")) == before


def test_new_version_replaces_the_old(store: Store, directory: Path) -> None:
    hand_out(store, [disk(store)], directory)
    hand_out(store, [disk(store, version=2)], directory)
    assert (directory / "basalt.raw").read_bytes().startswith(b"version 2")


@pytest.mark.parametrize("harm", ["written to", "deleted", "record lost", "record broken"])
def test_artifact_that_somebody_touched_is_brought_again(store: Store, directory: Path, harm: str) -> None:
    artifact = disk(store)
    path = hand_out(store, [artifact], directory)["raw"]
    match harm:
        case "written to":
            with path.open("r+b") as stream:
                stream.write(b"booted")
        case "deleted":
            path.unlink()
        case "record lost":
            (directory / ".osbuild.json").unlink()
            path.write_bytes(b"x")
        case "record broken":
            (directory / ".osbuild.json").write_text("{")
            path.write_bytes(b"x")
    hand_out(store, [artifact], directory)
    assert path.read_bytes().startswith(b"version 1")


def test_failed_copy_leaves_the_old_artifact_and_no_part(
    store: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_out(store, [disk(store)], directory)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "copy_sparse", full)
    with pytest.raises(BasaltError) as caught:
        hand_out(store, [disk(store, version=2)], directory)
    assert caught.value.what == f"cannot write to {directory}"
    assert caught.value.why == "No space left on device"
    assert (directory / "basalt.raw").read_bytes().startswith(b"version 1")
    assert sorted(path.name for path in directory.iterdir()) == [".osbuild.json", "basalt.raw"]


def test_directory_that_cannot_be_made_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BasaltError, match="cannot write to"):
        hand_out(store, [disk(store)], tmp_path / "file" / "out")


def test_only_the_formats_asked_for_are_handed_out() -> None:
    image = image_graph("minimal", version="1.2.3")
    kinds = {formats: [artifact.kind for artifact in artifacts(image, formats)] for formats in (("raw",), FORMATS)}
    assert "qcow2" not in kinds["raw",]
    assert {"raw", "qcow2", "uki", "kernel", "manifest", "files", "sbom"} <= set(kinds[FORMATS])
    assert all(artifact.name.startswith("basalt-minimal-1.2.3.") for artifact in artifacts(image, FORMATS))
    assert image.qcow2 in image.targets(FORMATS)
    assert image.qcow2 not in image.targets(("raw",))


# ---- inspect


def test_list_of_files_is_found_beside_each_artifact(tmp_path: Path) -> None:
    listing = Listing([File("usr/bin/runc", 0o755, 9, "runc 1", sha256="aa")])
    (tmp_path / "basalt-minimal-0.1.0.files.json").write_bytes(msgspec.json.encode(listing))
    for ending in ("raw", "qcow2", "efi", "files.json"):
        path = tmp_path / f"basalt-minimal-0.1.0.{ending}"
        path.touch()
        assert listing_of(path) == listing


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for name, why in (("notes.txt", "its name"), ("basalt-minimal-0.1.0.raw", "no such file")):
        with pytest.raises(UsageError, match="is no image") as caught:
            listing_of(tmp_path / name)
        assert why in caught.value.why
    (tmp_path / "basalt-minimal-0.1.0.raw").touch()
    with pytest.raises(UsageError) as caught:
        listing_of(tmp_path / "basalt-minimal-0.1.0.raw")
    assert "Build the image again" in caught.value.remedy


# ---- verify


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal outputs, with other times."""
    for name in ("one", "other"):
        (tmp_path / name / "tree").mkdir(parents=True)
        (tmp_path / name / "tree" / "file").write_text("x")
        (tmp_path / name / "link").symlink_to("tree")
    os.utime(tmp_path / "one" / "tree" / "file", (0, 0))
    return tmp_path / "one", tmp_path / "other"


def test_equal_outputs_have_no_difference(twins: tuple[Path, Path]) -> None:
    assert first_difference(*twins) is None


@pytest.mark.parametrize("change", ["content", "mode", "added", "gone", "link", "kind", "directory"])
def test_first_difference_is_named(twins: tuple[Path, Path], change: str) -> None:
    _, other = twins
    expected = "tree/file"
    match change:
        case "content":
            (other / "tree" / "file").write_text("y")
        case "mode":
            (other / "tree" / "file").chmod(0o755)
        case "added":
            (other / "tree" / "extra").touch()
            expected = "tree/extra"
        case "gone":
            (other / "tree" / "file").unlink()
        case "link":
            (other / "link").unlink()
            (other / "link").symlink_to("elsewhere")
            expected = "link"
        case "kind":
            (other / "link").unlink()
            (other / "link").write_text("x")
            expected = "link"
        case "directory":
            (other / "empty").mkdir()
            expected = "empty"
    assert first_difference(*twins) == expected
    assert first_difference(*reversed(twins)) == expected


# ---- answers


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 * 2**20, "64.0 MiB"), (24 * 2**30, "24.0 GiB"), (2**41, "2048.0 GiB")],
)  # fmt: skip
def test_sizes_for_people(count: int, shown: str) -> None:
    assert output.size(count) == shown


def test_table_is_aligned() -> None:
    assert output.table(("name", "pid"), [("n1", 7), ("node-2", 1234)]).splitlines() == [
        "NAME    PID",
        "n1      7",
        "node-2  1234",
    ]
    assert output.table(("name", "pid"), []) == "NAME  PID"


def test_one_answer_in_three_forms(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"b": 1, "a": [{"x": None}]}
    seen = {}
    for form in ("table", "json", "yaml"):
        output.answer(form, value, "for people")
        seen[form] = capsys.readouterr().out
    assert seen["table"] == "for people\n"
    assert json.loads(seen["json"]) == yaml.safe_load(seen["yaml"]) == value
