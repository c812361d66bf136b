"""Which disk a volume gets, what is done to it, and what is never touched. blkid and sfdisk themselves where they are installed."""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from basalt.config.documents import DiskSelector, VolumeConfig
from basalt.errors import BasaltError
from machined import paths
from machined.disks.facts import Disk, Partition
from machined.reconcile import State
from machined.volumes import facts
from machined.volumes.apply import mounted_volumes
from machined.volumes.facts import Candidate, candidates, content_of, said_by_blkid
from machined.volumes.plan import (
    EDGE_BYTES,
    Content,
    ContentKind,
    LayOut,
    Make,
    Mount,
    NoDiskError,
    choose,
    fits,
    interpret,
    is_beginning,
    label_of,
    next_step,
)
from machined.volumes.reconciler import VolumesReconciler

MIB = 1024 * 1024
LABEL = label_of("a")
ZEROS = bytes(EDGE_BYTES)


def disk(name: str, *labels: str, serial: str = "", wwn: str = "", model: str = "", mib: int = 1024) -> Candidate:
    partitions = tuple(Partition(number, label, number * MIB, MIB) for number, label in enumerate(labels, start=1))
    return Candidate(Disk(name, mib * MIB, partitions), wwn=wwn, serial=serial, model=model)


def volume(*, wipe: bool = False, **selector: str) -> VolumeConfig:
    return VolumeConfig(name="a", disk=DiskSelector(**selector), existing_data="wipe" if wipe else "refuse")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"serial": "S1"}, True),
        ({"serial": "s1"}, False),
        ({"wwn": "0x5000C500A0B0C0D0"}, True),
        ({"wwn": "naa.5000c500a0b0c0d0"}, True),
        ({"model": "QEMU HARDDISK"}, True),
        ({"size_min": "1GiB", "size_max": "1GiB"}, True),
        ({"size_min": "1025MiB"}, False),
        ({"serial": "S1", "model": "other"}, False),
        ({}, False),  # nothing said fits nothing
    ],
)
def test_everything_that_is_said_must_fit(selector: dict[str, str], expected: bool) -> None:
    known = disk("sda", serial="S1", wwn="naa.5000c500a0b0c0d0", model="QEMU HARDDISK")
    assert fits(DiskSelector(**selector), known) is expected


NOBODY: frozenset[str] = frozenset()


class TestChoice:
    def test_exactly_one_must_fit(self) -> None:
        with pytest.raises(BasaltError, match=r"2 disks fit: vdb .*vdc"):
            choose(volume(size_min="1MiB"), [disk("vdb"), disk("vdc")], NOBODY, NOBODY)
        with pytest.raises(NoDiskError, match="free disks: vdb"):
            choose(volume(serial="x"), [disk("vdb", serial="y")], NOBODY, NOBODY)

    def test_a_further_disk_of_the_same_kind_does_not_bring_a_volume_into_doubt(self) -> None:
        ours = disk("vdb", LABEL)
        assert choose(volume(size_min="1MiB"), [ours, disk("vdc")], NOBODY, NOBODY) == ours

    def test_a_disk_of_another_volume_is_not_to_be_had(self) -> None:
        others = [disk("vdb", "basalt-b"), disk("vdc", "basalt-b.new"), disk("vdd")]
        assert choose(volume(size_min="1MiB"), others, frozenset("b"), NOBODY).name == "vdd"
        with pytest.raises(NoDiskError):
            choose(volume(size_min="1MiB"), others, frozenset("b"), frozenset({"vdd"}))


def entries(label: str, *further: str) -> bytes:
    made = b"".join(
        bytes([7]) * 16
        + bytes([9]) * 16
        + struct.pack("<QQQ", 2048, 4096, 0)
        + name.encode("utf-16-le").ljust(72, b"\0")
        for name in (label, *further)
    )
    return made.ljust(16 * 1024, b"\0")


def first_mib(
    *, mbr: bytes = b"", header: bytes = b"", table: bytes = b"", rest: bytes = b"", sector: int = 512
) -> bytes:
    return (mbr.ljust(sector, b"\0") + header.ljust(sector, b"\0") + table.ljust(16 * 1024, b"\0") + rest).ljust(
        EDGE_BYTES, b"\0"
    )


def last_mib(*, header: bytes = b"", table: bytes = b"", sector: int = 512) -> bytes:
    return (table.ljust(16 * 1024, b"\0") + header.ljust(sector, b"\0")).rjust(EDGE_BYTES, b"\0")


NEW = entries(f"{LABEL}.new")
HEADER = b"EFI PART" + bytes(range(80))


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize(
    ("first", "last", "ours"),
    [
        ({}, {}, False),
        # in the order in which they are written, cut after each
        ({}, {"table": NEW}, True),
        ({}, {"table": NEW, "header": HEADER}, True),
        ({"table": NEW}, {"table": NEW, "header": HEADER}, True),
        ({"table": NEW, "header": HEADER}, {"table": NEW, "header": HEADER}, True),
        # what others leave
        ({"header": HEADER}, {"header": HEADER}, False),
        ({}, {"table": entries(LABEL)}, False),
        ({}, {"table": entries("basalt-b.new")}, False),
        ({}, {"table": entries(f"{LABEL}.new", "other")}, False),
        ({"mbr": b"\xeb\x63"}, {"table": NEW, "header": HEADER}, False),
        ({"rest": b"data"}, {"table": NEW, "header": HEADER}, False),
        ({"header": b"LUKS"}, {"table": NEW}, False),
        ({"table": b"data"}, {"table": NEW}, False),
    ],
)
def test_a_power_cut_while_the_table_is_written_is_known_again(
    first: dict[str, bytes], last: dict[str, bytes], ours: bool, sector: int
) -> None:
    assert is_beginning(first_mib(**first, sector=sector), last_mib(**last, sector=sector), LABEL) is ours


@pytest.mark.parametrize(
    ("said", "labels", "first", "content"),
    [
        ("", None, ZEROS, Content(ContentKind.BLANK)),
        ("PTTYPE=gpt", {1: LABEL}, b"x", Content(ContentKind.OURS, partition=1)),
        ("PTTYPE=gpt", {1: f"{LABEL}.new"}, b"x", Content(ContentKind.BEGUN, partition=1)),
        ("PTTYPE=gpt", {}, b"x", Content(ContentKind.FOREIGN, "PTTYPE=gpt with no partition")),
        ("PTTYPE=gpt", {1: "ESP", 2: ""}, b"x", Content(ContentKind.FOREIGN, "PTTYPE=gpt with ESP, partition 2")),
        ("PTTYPE=gpt", {1: LABEL, 2: "x"}, b"x", Content(ContentKind.FOREIGN, f"PTTYPE=gpt with {LABEL}, x")),
        ("PTTYPE=gpt", {1: "basalt-b"}, b"x", Content(ContentKind.FOREIGN, "PTTYPE=gpt with basalt-b")),
        ("TYPE=ext4 LABEL=old", None, ZEROS, Content(ContentKind.FOREIGN, "TYPE=ext4 LABEL=old")),
    ],
)
def test_what_is_on_a_disk(said: str, labels: dict[int, str] | None, first: bytes, content: Content) -> None:
    assert interpret(said, labels, first, ZEROS, LABEL) == content


def test_what_nobody_knows_is_still_data() -> None:
    found = interpret("", None, ZEROS, b"\0" * 9 + b"x", LABEL)
    assert found.kind is ContentKind.FOREIGN and "not zero" in found.said


FOREIGN = Content(ContentKind.FOREIGN, "TYPE=xfs")


@pytest.mark.parametrize(
    ("content", "wipe", "step"),
    [
        (Content(ContentKind.BLANK), False, LayOut()),
        (Content(ContentKind.BEGUN, partition=1), False, Make(1)),
        (Content(ContentKind.OURS, partition=1), False, Mount(1)),
        (Content(ContentKind.OURS, partition=1), True, Mount(1)),  # wiping happens once
        (Content(ContentKind.BEGUN, partition=1), True, Make(1)),
        (FOREIGN, True, LayOut()),
    ],
)
def test_steps(content: Content, wipe: bool, step: object) -> None:
    assert next_step(volume(serial="S", wipe=wipe), content, "vdb") == step


def test_other_data_is_refused_with_what_was_found_and_how_to_go_on() -> None:
    with pytest.raises(BasaltError, match="vdb is not empty: found TYPE=xfs") as caught:
        next_step(volume(serial="S"), FOREIGN, "vdb")
    assert "existingData: wipe" in caught.value.remedy


def test_mounts_right_below_the_directory_are_volumes() -> None:
    table = (
        "/dev/vda7 /var ext4 rw 0 0\n/dev/vdb1 /var/mnt/a ext4 rw,nosuid 0 0\n"
        "/dev/vdc1 /var/mnt/b ext4 ro,nosuid 0 0\n/dev/x /var/mnt/a/deep ext4 rw 0 0\n"
    )
    found = mounted_volumes(table, Path("/var/mnt"))
    assert {name: (here.source, here.read_only) for name, here in found.items()} == {
        "a": ("/dev/vdb1", False),
        "b": ("/dev/vdc1", True),
    }


def sysfs_disk(sys: Path, name: str, files: dict[str, str | bytes]) -> None:
    directory = sys / "block" / name
    (directory / "device").mkdir(parents=True)
    for path, content in {"size": "2097152\n", **files}.items():
        (directory / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_disks_are_known_by_what_sysfs_says_of_each_kind(tmp_path: Path) -> None:
    sysfs_disk(tmp_path, "vda", {"serial": "boot"})
    sysfs_disk(tmp_path, "vdb", {"serial": "SCR1\n"})
    sysfs_disk(tmp_path, "nvme0n1", {"wwid": "eui.0025\n", "device/serial": "S6Z  \n", "device/model": "Samsung  \n"})
    sysfs_disk(
        tmp_path, "sda", {"device/wwid": "naa.5000\n", "device/vpd_pg80": b"\0\x80\0\x04SER1", "device/model": "X\n"}
    )
    sysfs_disk(tmp_path, "sr0", {})
    sysfs_disk(tmp_path, "sdb", {"size": "0\n"})
    sysfs_disk(tmp_path, "nvme0c0n1", {"hidden": "1\n"})
    (tmp_path / "block/dm-0").mkdir()
    found = {known.name: (known.wwn, known.serial, known.model) for known in candidates(tmp_path, "vda")}
    assert found == {
        "vdb": ("", "SCR1", ""),
        "nvme0n1": ("eui.0025", "S6Z", "Samsung"),
        "sda": ("naa.5000", "SER1", "X"),
    }


def test_blkids_words_for_a_person() -> None:
    assert said_by_blkid("DEVNAME=/dev/vdb\nLABEL=old\nUUID=1\nBLOCK_SIZE=4096\nTYPE=ext4\nUSAGE=filesystem\n") == (
        "LABEL=old UUID=1 TYPE=ext4"
    )


@pytest.mark.skipif(
    shutil.which("blkid") is None or shutil.which("mke2fs") is None, reason="blkid or mke2fs is not installed here"
)
def test_blkid_on_files_that_look_like_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "BLKID", shutil.which("blkid"))
    image = tmp_path / "vdb"
    with image.open("wb") as stream:
        stream.truncate(64 * MIB)

    def content() -> Content:
        return asyncio.run(content_of(image, Disk("vdb", 64 * MIB, ()), LABEL))

    assert content() == Content(ContentKind.BLANK)
    with image.open("r+b") as stream:
        stream.seek(-5, 2)
        stream.write(b"x")
    assert content().kind is ContentKind.FOREIGN
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "old", str(image)], check=True)
    found = content()
    assert found.kind is ContentKind.FOREIGN and "LABEL=old" in found.said and "TYPE=ext4" in found.said


class TestReconciler:
    def reconciler(self, root: Path, *volumes: VolumeConfig, data: bool = True) -> VolumesReconciler:
        where = paths.Paths(str(root))
        (where.proc / "self").mkdir(parents=True)
        (where.proc / "self/mounts").write_text("")
        sysfs_disk(where.sys, "vda", {"serial": "boot"})
        return VolumesReconciler(where, config=lambda: volumes, boot_disk=lambda: "vda", data_is_there=lambda: data)

    def test_the_boot_disk_is_never_found(self, tmp_path: Path) -> None:
        status = asyncio.run(self.reconciler(tmp_path, volume(serial="boot")).reconcile())
        assert status.state is State.WAITING and "a: no disk fits: free disks: none" in status.reason

    def test_nothing_is_mounted_before_data_is(self, tmp_path: Path) -> None:
        status = asyncio.run(self.reconciler(tmp_path, volume(serial="boot"), data=False).reconcile())
        assert status.state is State.WAITING and "DATA" in status.reason

    def test_without_volumes_all_is_well(self, tmp_path: Path) -> None:
        assert asyncio.run(self.reconciler(tmp_path).reconcile()).state is State.CONVERGED


def test_a_disk_on_which_others_are_built_is_held(tmp_path: Path) -> None:
    sysfs_disk(tmp_path, "vdb", {})
    (tmp_path / "block/vdb/holders/dm-3").mkdir(parents=True)
    found = facts.candidate(tmp_path / "block/vdb")
    assert found is not None and found.held
