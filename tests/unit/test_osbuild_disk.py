"""The disk as a plan, the command line that opens its root, and the account of what is in it."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from osbuild.steps import disk
from osbuild.steps.disk import MIB, copy_sparse, entry_name, partition_plan, sfdisk_script
from osbuild.steps.manifest import spdx
from osbuild.steps.uki import kernel_command_line, partition_uuids
from osbuild.tree import File

ROOT_HASH = "00112233445566778899aabbccddeeff" + "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
OTHER_HASH = hashlib.sha256(b"other").hexdigest()
SIZES = {"esp_mib": 64, "root_slot_mib": 100, "verity_slot_mib": 8}


# ---- partitions


def test_partitions_of_root_are_named_by_the_halves_of_its_hash() -> None:
    plan = {part.label: part for part in partition_plan(SIZES, ROOT_HASH)}
    assert plan["root-A"].uuid == uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    assert plan["verity-A"].uuid == uuid.UUID("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
    assert partition_uuids(ROOT_HASH) == (plan["root-A"].uuid, plan["verity-A"].uuid)


def test_partitions_follow_each_other_on_whole_mebibytes() -> None:
    plan = partition_plan(SIZES, ROOT_HASH)
    assert [part.label for part in plan] == ["ESP", "root-A", "verity-A", "root-B", "verity-B"]
    assert [part.size // MIB for part in plan] == [64, 100, 8, 100, 8]
    assert plan[0].offset == MIB
    for before, after in itertools.pairwise(plan):
        assert after.offset == before.offset + before.size
        assert after.offset % MIB == 0


def test_no_two_partitions_share_a_uuid_and_another_root_has_others() -> None:
    one, other = partition_plan(SIZES, ROOT_HASH), partition_plan(SIZES, OTHER_HASH)
    assert len({part.uuid for part in one + other}) == 10
    assert partition_plan(SIZES, ROOT_HASH) == one


def test_script_leaves_sfdisk_nothing_to_choose() -> None:
    plan = partition_plan(SIZES, ROOT_HASH)
    lines = sfdisk_script(plan, ROOT_HASH).splitlines()
    assert (lines[0], lines[2]) == ("label: gpt", "unit: sectors")
    assert uuid.UUID(lines[1].removeprefix("label-id: "))
    assert lines[4] == (
        'start=133120, size=204800, type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709, uuid=00112233-4455-6677-8899-aabbccddeeff, name="root-A"'
    )
    assert len(lines) == 3 + len(plan)


@pytest.mark.skipif(not shutil.which("sfdisk"), reason="sfdisk is not installed")
def test_sfdisk_makes_of_the_script_what_was_planned(tmp_path: Path) -> None:
    plan = partition_plan({"esp_mib": 4, "root_slot_mib": 6, "verity_slot_mib": 1}, ROOT_HASH)
    images = []
    for name in ("one", "other"):
        image = tmp_path / name
        with image.open("wb") as stream:
            stream.truncate(plan[-1].offset + plan[-1].size + MIB)
        command = ["sfdisk", "--quiet", "--no-tell-kernel", "--no-reread", str(image)]
        subprocess.run(command, input=sfdisk_script(plan, ROOT_HASH).encode(), check=True)
        images.append(image)
    shown = subprocess.run(["sfdisk", "--json", str(images[0])], capture_output=True, check=True).stdout
    table = json.loads(shown)["partitiontable"]
    assert [(p["name"], p["start"] * 512, p["size"] * 512, p["uuid"].lower()) for p in table["partitions"]] == [
        (part.label, part.offset, part.size, str(part.uuid)) for part in plan
    ]
    assert images[0].read_bytes() == images[1].read_bytes()


@pytest.mark.parametrize("version", ["0.1.0", "2026.11~rc1"])
def test_boot_counting_never_changes_the_length_of_a_name(version: str) -> None:
    name = entry_name(version)
    assert name == f"basalt_{version}+3-0.efi"
    assert all(len(name.replace("+3-0", f"+{left}-{3 - left}")) == len(name) for left in range(4))


# ---- copying


def data_of(path: Path) -> list[tuple[int, int]]:
    """The stretches of *path* that hold data, as (begin, end)."""
    found, position = [], 0
    with path.open("rb") as stream:
        while True:
            try:
                begin = os.lseek(stream.fileno(), position, os.SEEK_DATA)
            except OSError:
                return found
            position = os.lseek(stream.fileno(), begin, os.SEEK_HOLE)
            found.append((begin, position))


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """16 MiB with data at its begin, in its middle, and a hole at its end."""
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.write(b"begin" * 1000)
        stream.seek(5 * MIB)
        stream.write(os.urandom(3 * MIB))
        stream.truncate(16 * MIB)
    return path


def copy(source: Path, target: Path, offset: int = 0) -> None:
    with target.open("wb") as stream:
        stream.truncate(source.stat().st_size + offset)
        copy_sparse(source, stream.fileno(), offset)


def test_copy_has_the_bytes_and_the_holes(sparse: Path, tmp_path: Path) -> None:
    copy(sparse, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == sparse.read_bytes()
    assert data_of(tmp_path / "copy") == data_of(sparse)
    assert (tmp_path / "copy").stat().st_blocks * 512 < 5 * MIB


def test_copy_goes_where_it_is_told_and_leaves_the_rest(sparse: Path, tmp_path: Path) -> None:
    copy(sparse, tmp_path / "copy", offset=3 * MIB)
    with (tmp_path / "copy").open("rb") as stream:
        assert stream.read(3 * MIB) == bytes(3 * MIB)
        assert stream.read() == sparse.read_bytes()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_systems_that_cannot_copy_between_each_other_get_the_same(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_args: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    copy(sparse, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == sparse.read_bytes()
    assert data_of(tmp_path / "copy") == data_of(sparse)


def test_trouble_while_copying_is_not_swallowed(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for function in ("copy_file_range", "lseek"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
            patch.setattr(os, function, broken)
            copy(sparse, tmp_path / "copy")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="became shorter"):
        patch.setattr(disk, "_copy_range", lambda *args: 0)
        copy(sparse, tmp_path / "copy")


def test_file_of_nothing_but_a_hole(tmp_path: Path) -> None:
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", MIB)
    copy(tmp_path / "hole", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(MIB)


# ---- command line

ROOT = {"root_hash": ROOT_HASH, "salt": "ab" * 32, "data_blocks": 12345}


def test_command_line_lets_the_kernel_open_the_root_by_itself() -> None:
    assert kernel_command_line(ROOT, ["console=ttyS0", "quiet"]) == (
        "root=/dev/dm-0 rootfstype=erofs ro rootwait init=/init panic=10 "
        'dm-mod.create="root,,0,ro,0 98760 verity 1'
        " PARTUUID=00112233-4455-6677-8899-aabbccddeeff PARTUUID=0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
        f' 4096 4096 12345 1 sha256 {ROOT_HASH} {"ab" * 32} 2 restart_on_corruption ignore_zero_blocks" '
        "dm-mod.waitfor=PARTUUID=00112233-4455-6677-8899-aabbccddeeff,PARTUUID=0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 "
        "console=ttyS0 quiet"
    )


def test_table_of_the_command_line_has_the_words_that_dm_init_counts() -> None:
    words = dict(word.split("=", 1) for word in shlex.split(kernel_command_line(ROOT, [])) if "=" in word)
    name, identifier, minor, flags, table = words["dm-mod.create"].split(",")
    assert (name, identifier, minor, flags) == ("root", "", "0", "ro")
    assert (
        len(table.split()) == 3 + 10 + 3
    )  # start, length, target; ten arguments of verity; the count of options and they
    assert table.split()[13] == "2"


# ---- manifest

IDENTITY: dict[str, Any] = {"version": "0.1.0", "profile": "minimal", "build_epoch": 1_700_000_000, "arch": "x86_64"}
FILES = [
    File("bin", 0o777, 0, "basalt 0.1.0", target="usr/bin"),
    File("usr/bin/runc", 0o755, 9, "runc 1.1.15+ds1-2", sha256="aa"),
    File("usr/lib/a b.so", 0o644, 9, "grpcio 1.71.0 (wheel)", sha256="bb"),
    File("usr/lib/a-b.so", 0o644, 9, "grpcio 1.71.0 (wheel)", sha256="cc"),
]


def test_bill_of_materials_accounts_for_every_file_by_its_package() -> None:
    bill = spdx(FILES, IDENTITY, ROOT_HASH)
    regular = {f"./{file.path}": file for file in FILES if not file.target}
    listed = {entry["fileName"]: entry for entry in bill["files"]}
    assert listed.keys() == regular.keys()
    packages = {package["SPDXID"]: package for package in bill["packages"]}
    owner = {
        row["relatedSpdxElement"]: packages[row["spdxElementId"]]
        for row in bill["relationships"]
        if row["relationshipType"] == "CONTAINS"
    }
    for name, entry in listed.items():
        assert entry["checksums"] == [{"algorithm": "SHA256", "checksumValue": regular[name].sha256}]
        assert regular[name].origin.startswith(owner[entry["SPDXID"]]["name"])
    assert {(package["name"], package["versionInfo"]) for package in packages.values()} == {
        ("basalt", "0.1.0"),
        ("runc", "1.1.15+ds1-2"),
        ("grpcio", "1.71.0"),
    }


def test_identifiers_of_the_bill_are_valid_and_unique() -> None:
    bill = spdx(FILES, IDENTITY, ROOT_HASH)
    identifiers = [entry["SPDXID"] for entry in (*bill["files"], *bill["packages"])]
    assert len(set(identifiers)) == len(identifiers)
    assert all(identifier.isascii() and " " not in identifier and "/" not in identifier for identifier in identifiers)
    known = {*identifiers, "SPDXRef-DOCUMENT"}
    assert all({row["spdxElementId"], row["relatedSpdxElement"]} <= known for row in bill["relationships"])


def test_equal_images_have_equal_bills_and_others_have_others() -> None:
    one, again = (json.dumps(spdx(FILES, IDENTITY, ROOT_HASH)) for _ in range(2))
    assert one == again
    assert spdx(FILES, IDENTITY, ROOT_HASH)["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    other = spdx(FILES, IDENTITY, OTHER_HASH)
    assert other["documentNamespace"] != spdx(FILES, IDENTITY, ROOT_HASH)["documentNamespace"]
