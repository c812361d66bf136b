"""osctl image: archives on their way to a node and back, and what lies there."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml

from basalt.errors import ExitCode
from osctl import archives, transfers
from osctl.__main__ import main
from tests.unit.fake_containers import DIGEST
from tests.unit.fake_node import FakeNode
from tests.unit.test_osctl import Osctl, home, node, osctl, second

__all__ = ["home", "node", "osctl", "second"]

NGINX = "registry.example.org/nginx:1"


@pytest.fixture
def layout(home: Path) -> Path:
    """A directory with an OCI image layout, and something beside it that is none of its business."""
    directory = home / "layout"
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    (blobs / ("a1" * 32)).write_bytes(b"small")
    (blobs / ("b2" * 32)).write_bytes(os.urandom(3 << 20))
    (directory / "notes.txt").write_text("mine")
    return directory


@pytest.fixture
def archive(layout: Path) -> Path:
    """The same as a tar."""
    path = layout.parent / "image.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(layout, arcname=".")
    return path


def test_pull_ends_with_the_digest_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl(f"image pull {NGINX}") == f"{DIGEST}\n"
    assert osctl.err.startswith("  n1: 3.0 MiB in ")
    answer = osctl.json(f"image pull {NGINX}")
    assert (answer["node"], answer["digest"], answer["reference"]) == ("n1", DIGEST, NGINX)
    assert osctl.err == "", "a program gets the answer alone"


def test_pull_tells_how_far_it_is_against_fake_node(
    node: FakeNode, osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "PLAIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(transfers, "JSON_INTERVAL_S", 0.0)
    osctl(f"image pull {NGINX}")
    assert osctl.err.splitlines()[:2] == ["  n1: 1.0 MiB of 3.0 MiB", "  n1: 3.0 MiB of 3.0 MiB"]
    osctl(f"image pull {NGINX} --progress json")
    events = [json.loads(line) for line in osctl.err.splitlines()]
    assert [event["event"] for event in events] == ["start", "progress", "progress", "done"]
    assert events[1] | {"time": 0} == {
        "event": "progress",
        "node": "n1",
        "time": 0,
        "done_bytes": 1 << 20,
        "total_bytes": 3 << 20,
    }
    osctl(f"image pull {NGINX} --progress none")
    assert osctl.err == ""


def test_bars_end_with_the_pull(capsys: pytest.CaptureFixture[str]) -> None:
    with transfers._Bars() as shown:
        with shown.of("n1") as transfer:
            transfer.at(1 << 20, 3 << 20)
        with pytest.raises(ValueError), shown.of("n2"):
            raise ValueError
    said = capsys.readouterr().err
    assert "n1" in said
    assert "n2 FAILED" in said


def test_pull_that_fails_says_why_and_what_helps_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    osctl("image pull registry.example.org/missing:1", code=ExitCode.REFUSED)
    assert "registry.example.org/missing:1: not found" in osctl.err
    assert "  -> check the name and the tag" in osctl.err
    assert "  n1: FAILED after 0 B\n" in osctl.err


def test_pull_that_ends_in_the_middle_is_no_success_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    node.containers.pull_ends_early = True
    assert osctl(f"image pull {NGINX}", code=ExitCode.FAILED) == ""
    assert "before it was done" in osctl.err


def test_archive_arrives_as_it_is_against_fake_node(node: FakeNode, osctl: Osctl, archive: Path) -> None:
    assert osctl("image import image.tar --reference app:1").splitlines() == [
        "IMAGE                            DIGEST        SIZE     USED BY",
        "registry.example.org/imported:1  d1d1d1d1d1d1  3.0 MiB  -",
    ]
    assert node.containers.imported == archive.read_bytes()
    assert node.containers.imported_as == "app:1"
    assert max(node.containers.chunks) <= 1 << 20
    assert osctl.json("image import image.tar")[0]["digest"] == DIGEST


def test_archive_in_gzip_arrives_as_it_is_against_fake_node(node: FakeNode, osctl: Osctl, archive: Path) -> None:
    compressed = archive.with_suffix(".tar.gz")
    compressed.write_bytes(gzip.compress(archive.read_bytes()))
    osctl("image import image.tar.gz")
    assert node.containers.imported == compressed.read_bytes()


def test_layout_becomes_a_tar_on_its_way_against_fake_node(node: FakeNode, osctl: Osctl, layout: Path) -> None:
    osctl("image import layout")
    with tarfile.open(fileobj=io.BytesIO(node.containers.imported)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert list(members)[:2] == ["oci-layout", "index.json"]
    expected = {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    del expected["notes.txt"]
    assert members == expected
    archive = archives.find_archive(str(layout))
    assert archive.size_bytes == len(node.containers.imported)
    assert b"".join(archive.chunks()) == node.containers.imported, "the same layout makes the same bytes"


def test_archive_goes_to_several_nodes_against_fake_node(
    node: FakeNode, second: FakeNode, osctl: Osctl, archive: Path
) -> None:
    osctl("image import image.tar -n all")
    assert node.containers.imported == second.containers.imported == archive.read_bytes()


def test_archive_comes_from_standard_input_against_fake_node(
    node: FakeNode, second: FakeNode, archive: Path, home: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "osctl", "image", "import", *arguments],
            input=archive.read_bytes(),
            capture_output=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )

    done = run("-", "-n", "n1")
    assert done.returncode == 0, done.stderr
    assert node.containers.imported == archive.read_bytes()
    refused = run("-", "-n", "all")
    assert refused.returncode == ExitCode.USAGE
    assert b"can be sent to one node only" in refused.stderr


def test_pipe_is_read_once_against_fake_node(node: FakeNode, osctl: Osctl, archive: Path, home: Path) -> None:
    os.mkfifo(home / "pipe")
    with subprocess.Popen(["cp", str(archive), str(home / "pipe")]):
        osctl("image import pipe")
    assert node.containers.imported == archive.read_bytes()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_text("hello" * 1000), "does not begin like a tar"),
        (lambda path: path.write_bytes(gzip.compress(b"hello")), "does not begin like a tar"),
        (lambda path: path.write_bytes(b"\x1f\x8bhello"), "its gzip is broken"),
        (lambda path: path.mkdir(), "it has no file oci-layout"),
        (lambda path: (path.mkdir(), (path / "oci-layout").write_text("{}")), "names no imageLayoutVersion"),
        (
            lambda path: (path.mkdir(), (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')),
            "it has no file index.json",
        ),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_what_is_no_archive_is_told_before_the_node_is_asked(
    node: FakeNode, osctl: Osctl, home: Path, make: object, why: str
) -> None:
    assert callable(make)
    make(home / "x")
    node.stop()
    osctl("image import x", code=ExitCode.USAGE)
    assert why in osctl.err
    assert "Traceback" not in osctl.err


def test_archive_cut_short_is_told_by_the_node_against_fake_node(node: FakeNode, osctl: Osctl, archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: 1 << 20])
    osctl("image import image.tar", code=ExitCode.USAGE)
    assert "the archive is not whole: unexpected end of data" in osctl.err


def test_node_that_refuses_in_the_middle_is_heard_against_fake_node(
    node: FakeNode, osctl: Osctl, archive: Path
) -> None:
    node.containers.refuse_import_after = 3
    osctl("image import image.tar", code=ExitCode.REFUSED)
    assert "    DATA is full\n  -> `osctl image prune` makes room\n" in osctl.err
    assert "Traceback" not in osctl.err


@pytest.mark.parametrize("refused", [True, False])
def test_import_ends_at_once_though_its_source_is_silent_against_fake_node(
    node: FakeNode, archive: Path, refused: bool
) -> None:
    node.containers.refuse_import_after = 2 if refused else 0
    with subprocess.Popen(
        [sys.executable, "-m", "osctl", "image", "import", "-", "--progress", "json"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(archive.read_bytes()[: 1 << 17])
        process.stdin.flush()
        if refused:
            assert process.wait(30) == ExitCode.REFUSED
            assert b"DATA is full" in process.stderr.read()
        else:
            assert json.loads(process.stderr.readline())["event"] == "start"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == ExitCode.INTERRUPTED
            assert b"rror" not in process.stderr.read()


def test_layout_that_changes_while_it_is_sent_is_not_taken_for_whole_against_fake_node(
    node: FakeNode, osctl: Osctl, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = archives._layout_files(layout)
    monkeypatch.setattr(archives, "_layout_files", lambda _: [(path, length + 1) for path, length in found])
    osctl(f"image import {layout}", code=ExitCode.FAILED)
    assert "became shorter while it was sent" in osctl.err
    assert "Traceback" not in osctl.err
    assert node.containers.imported == b""


def test_export_appears_whole_against_fake_node(node: FakeNode, osctl: Osctl, home: Path) -> None:
    (home / "x.tar").write_text("old")
    assert osctl(f"image export {NGINX} -O x.tar") == "x.tar, 6 B\n"
    assert (home / "x.tar").read_bytes() == b"onetwo"
    assert (home / "x.tar").stat().st_mode & 0o777 == 0o644
    assert osctl.json(f"image export {NGINX} -O x.tar") == {
        "node": "n1",
        "references": [NGINX],
        "file": "x.tar",
        "size_bytes": 6,
    }


def test_export_to_standard_output_is_the_archive_alone_against_fake_node(
    node: FakeNode, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["image", "export", NGINX, "-O", "-"]) == 0
    assert capfdbinary.readouterr().out == b"onetwo"
    assert main(["image", "export", NGINX, "-O", "-", "-o", "json"]) == ExitCode.USAGE
    assert capfdbinary.readouterr().out == b""


def test_export_that_fails_leaves_what_was_there_against_fake_node(node: FakeNode, osctl: Osctl, home: Path) -> None:
    (home / "x.tar").write_text("old")
    before = sorted(home.iterdir())
    node.containers.export_fails = True
    osctl(f"image export {NGINX} -O x.tar", code=ExitCode.FAILED)
    assert "a layer cannot be read" in osctl.err
    osctl("image export registry.example.org/other:1 -O x.tar", code=ExitCode.USAGE)
    assert "there is no image 'registry.example.org/other:1'" in osctl.err
    node.containers.export_fails = False
    node.containers.exported = []
    osctl(f"image export {NGINX} -O x.tar", code=ExitCode.FAILED)
    assert "an empty archive" in osctl.err
    assert (home / "x.tar").read_text() == "old"
    assert sorted(home.iterdir()) == before


def test_export_to_an_unwritable_place_leaves_nothing_and_asks_nobody(node: FakeNode, osctl: Osctl, home: Path) -> None:
    (home / "file").write_text("")
    before = sorted(home.iterdir())
    node.stop()
    for place, why in (
        ("nowhere/x.tar", "No such file"),
        ("file/x.tar", "Not a directory"),
        (".", "no regular file"),
        ("/dev/null", "no regular file"),
    ):
        osctl(f"image export {NGINX} -O {place}", code=ExitCode.USAGE)
        assert f"cannot write {place}" in osctl.err
        assert why in osctl.err
    assert sorted(home.iterdir()) == before


def test_export_onto_a_full_disk_is_told_against_fake_node(
    node: FakeNode, osctl: Osctl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("osctl.archives.os.fsync", full)
    osctl(f"image export {NGINX} -O x.tar", code=ExitCode.FAILED)
    assert "cannot write x.tar\n    No space left on device" in osctl.err
    assert not list(home.glob("*x.tar*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_export_that_is_interrupted_leaves_nothing_against_fake_node(
    node: FakeNode, home: Path, how: signal.Signals
) -> None:
    place = home / "exports"
    place.mkdir()
    node.containers.export_stays = True
    with subprocess.Popen(
        [sys.executable, "-m", "osctl", "image", "export", NGINX, "-O", str(place / "x.tar"), "--progress", "none"],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        while not list(place.iterdir()):
            time.sleep(0.02)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (ExitCode.INTERRUPTED, b"")
    assert list(place.iterdir()) == []


def test_export_is_from_one_node(node: FakeNode, second: FakeNode, osctl: Osctl) -> None:
    osctl(f"image export {NGINX} -O x.tar -n all", code=ExitCode.USAGE)
    assert "one node at a time" in osctl.err


def test_images_are_aligned_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    assert osctl("image list").splitlines() == [
        "IMAGE                                  DIGEST        SIZE     USED BY",
        "registry.example.org/nginx:1           d1d1d1d1d1d1  3.0 MiB  web/nginx",
        "registry.example.org/old@d1d1d1d1d1d1  d1d1d1d1d1d1  3.0 MiB  -",
    ]
    answer = osctl.json("image list")
    assert answer[0]["used_by"] == ["web/nginx"]
    assert yaml.safe_load(osctl("image list -o yaml")) == answer


def test_image_without_a_name_is_shown_by_its_id_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    image = node.containers.images[0]
    del image.references[:]
    image.digest = ""
    del image.used_by[:]
    image.used_by.extend(["c0" * 32, "web/a", "web/b", "web/c"])
    node.containers.images[1].pinned = True
    rows = osctl("image list").splitlines()
    assert rows[1].split("  ")[0] == "id 1d1d1d1d1d1d"
    assert rows[1].endswith("c0c0c0c0c0c0, web/a and 2 more")
    assert rows[2].endswith("the runtime itself")


def test_image_in_use_is_removed_by_force_alone_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    osctl(f"image remove {NGINX}", code=ExitCode.REFUSED)
    assert f"{NGINX} is used by web/nginx\n  -> --force removes it" in osctl.err
    assert osctl(f"image remove {NGINX} --force") == f"removed {NGINX}\n"
    assert node.containers.removed_with_force
    assert osctl.json(f"image remove {NGINX} --force")["removed"] == [NGINX]


def test_prune_shows_and_then_removes_against_fake_node(node: FakeNode, osctl: Osctl) -> None:
    tried = osctl("image prune --dry-run").splitlines()
    assert tried[-1] == "3.0 MiB would be freed; nothing was removed (--dry-run)"
    assert len(tried) == 3
    assert osctl.json("image prune --dry-run")["dry_run"] is True
    assert osctl("image prune").splitlines()[-1] == "3.0 MiB freed"
    assert osctl("image prune").startswith("nothing to remove: ")
