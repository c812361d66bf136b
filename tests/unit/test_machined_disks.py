"""The partition plan: every state a power cut can leave, and every disk that must be refused. sfdisk itself where it is installed."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from basalt.errors import BasaltError
from machined import paths
from machined.disks import apply
from machined.disks.facts import Disk, Partition, Table, boot_device, parse_table, read_disk
from machined.disks.filesystems import ext4_bytes, mounted_type
from machined.disks.plan import Append, Grow, Make, NewPartition, RelocateBackup, layout_is_complete, next_step
from machined.paths import Paths
from machined.storage import Storage

MIB = 1024 * 1024
IMAGE = (("ESP", 64), ("root-A", 100), ("verity-A", 8), ("root-B", 100), ("verity-B", 8))
IMAGE_END = 1 + sum(size for _, size in IMAGE)


def table(*extra: tuple[str, int], disk: int = 2048, usable: int | None = None) -> Table:
    """A disk of *disk* MiB with the image's partitions and *extra* behind them, sizes in MiB."""
    partitions, start = [], 1
    for number, (label, size) in enumerate((*IMAGE, *extra), start=1):
        partitions.append(Partition(number, label, start * MIB, size * MIB))
        start += size
    end = disk * MIB - 33 * 512 if usable is None else usable * MIB
    return Table(disk * MIB, 512, end, tuple(partitions))


REST = 2047 - IMAGE_END - 256


@pytest.mark.parametrize(
    ("given", "step"),
    [
        (table(usable=IMAGE_END), RelocateBackup()),
        (
            table(),
            Append(
                (
                    NewPartition("STATE.new", IMAGE_END * MIB, 256 * MIB),
                    NewPartition("DATA.new", (IMAGE_END + 256) * MIB, REST * MIB),
                )
            ),
        ),
        (table(("STATE.new", 256)), Append((NewPartition("DATA.new", (IMAGE_END + 256) * MIB, REST * MIB),))),
        (table(("STATE.new", 256), ("DATA.new", REST)), Make(6, "STATE")),
        (table(("STATE", 256), ("DATA.new", REST)), Make(7, "DATA")),
        (table(("STATE", 256)), Append((NewPartition("DATA.new", (IMAGE_END + 256) * MIB, REST * MIB),))),
        (table(("STATE", 256), ("DATA", REST)), None),
        (table(("STATE", 256), ("DATA", 500)), Grow(7, REST * MIB)),
        (table(("STATE", 256), ("DATA", REST - 15)), None),  # not worth touching the table for
        (table(("STATE", 256), ("DATA", 500), ("mine", 10)), None),  # somebody's partition follows: DATA stays
        (table(("STATE", 256), ("DATA", 500), ("STATE.new", 10)), None),  # a STATE that is there is never made anew
    ],
)
def test_next_step(given: Table, step: object) -> None:
    assert next_step(given) == step


def test_steps_resume_wherever_the_power_goes() -> None:
    """Taking the steps one by one ends with STATE and DATA, and each state in between is one that the next boot can begin with."""
    now = table(usable=IMAGE_END)
    taken = []
    while (step := next_step(now)) is not None:
        taken.append(type(step).__name__)
        match step:
            case RelocateBackup():
                now = structs.replace(now, usable_end_bytes=now.disk_bytes - 33 * 512)
            case Append(partitions):
                made = tuple(
                    Partition(6 + at, new.label, new.start_bytes, new.size_bytes) for at, new in enumerate(partitions)
                )
                now = structs.replace(now, partitions=now.partitions + made)
            case Make(number, label):
                renamed = tuple(structs.replace(p, label=label) if p.number == number else p for p in now.partitions)
                now = structs.replace(now, partitions=renamed)
        assert len(taken) < apply.STEPS_MAX
    assert taken == ["RelocateBackup", "Append", "Make", "Make"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (table(disk=IMAGE_END + 100), "256 MiB"),
        (table(disk=IMAGE_END + 256 + 20), "64 MiB"),
        (table(("STATE", 256), ("STATE", 10)), "partitions 6, 7"),
        (Table(2048 * MIB, 512, 2047 * MIB, (Partition(1, "EFI", MIB, MIB),)), "root-A"),
    ],
)
def test_refusals_say_why(given: Table, why: str) -> None:
    with pytest.raises(BasaltError) as raised:
        next_step(given)
    assert why in raised.value.why
    assert raised.value.remedy


def disk_of(given: Table) -> Disk:
    return Disk("vda", given.disk_bytes, given.partitions)


@pytest.mark.parametrize(
    ("given", "complete"),
    [
        (table(), False),
        (table(("STATE", 256), ("DATA.new", REST)), False),
        (table(("STATE", 256), ("DATA", REST)), True),
        (table(("STATE", 256), ("DATA", 500)), False),
        (table(("STATE", 256), ("DATA", 500), ("mine", 10)), True),
        (table(("STATE", 256), ("STATE", 10), ("DATA", REST)), False),
    ],
)
def test_an_ordinary_boot_runs_no_tool(given: Table, complete: bool) -> None:
    assert layout_is_complete(disk_of(given)) is complete


def sysfs(tmp_path: Path) -> Path:
    """A node's sysfs: dm-0 on vda2 (the data) and vda3 (the hash tree)."""
    disk = tmp_path / "devices/pci0/vda"
    for number, (label, size) in enumerate(IMAGE, start=1):
        partition = disk / f"vda{number}"
        partition.mkdir(parents=True)
        (partition / "partition").write_text(f"{number}\n")
        (partition / "start").write_text(f"{number * 1000}\n")
        (partition / "size").write_text(f"{size}\n")
        (partition / "uevent").write_text(f"MAJOR=254\nPARTN={number}\nPARTNAME={label}\n")
    (disk / "size").write_text("4194304\n")
    mapper = tmp_path / "devices/virtual/block/dm-0"
    (mapper / "slaves").mkdir(parents=True)
    (mapper / "slaves/vda2").symlink_to(disk / "vda2")
    (mapper / "slaves/vda3").symlink_to(disk / "vda3")
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / "dev/block/253:0").symlink_to(mapper)
    (tmp_path / "dev/block/254:5").symlink_to(disk / "vda5")
    return tmp_path


def test_boot_disk_is_the_one_under_the_root(tmp_path: Path) -> None:
    sys = sysfs(tmp_path)
    directory, label = boot_device(sys, (253 << 8) | 0)
    assert (directory.name, label) == ("vda", "root-A")
    directory, label = boot_device(sys, (254 << 8) | 5)
    assert (directory.name, label) == ("vda", "verity-B")
    disk = read_disk(directory)
    assert disk.size_bytes == 2048 * MIB
    assert disk.labelled("root-A")[0].start_bytes == 2000 * 512
    with pytest.raises(BasaltError, match="no block device"):
        boot_device(sys, (9 << 8) | 9)


def test_a_node_without_a_disk_has_no_state_and_one_with_a_damaged_state_has(tmp_path: Path) -> None:
    node = Paths(str(tmp_path))
    assert not Storage(node).has_state
    storage = Storage(node)
    disk = sysfs(tmp_path) / "devices/pci0/vda"
    storage._sysfs = disk
    assert not storage.has_state
    (disk / "vda2/uevent").write_text("PARTN=2\nPARTNAME=STATE\n")
    assert storage.has_state


def test_partition_devices_of_disks_that_end_in_a_digit() -> None:
    assert Disk("vda", 0, ()).device_of(6) == "vda6"
    assert Disk("nvme0n1", 0, ()).device_of(6) == "nvme0n1p6"


def test_table_of_a_disk_with_large_sectors_and_of_no_gpt() -> None:
    dump = {
        "partitiontable": {
            "label": "gpt",
            "device": "/dev/nvme0n1",
            "lastlba": 99,
            "sectorsize": 4096,
            "partitions": [
                {"node": "/dev/nvme0n1p3", "start": 10, "size": 5, "name": "x"},
                {"node": "/dev/nvme0n1p1", "start": 2, "size": 5},
            ],
        }
    }
    parsed = parse_table(json.dumps(dump), 1000000)
    assert parsed.usable_end_bytes == 100 * 4096
    assert parsed.partitions == (Partition(1, "", 8192, 20480), Partition(3, "x", 40960, 20480))
    dump["partitiontable"]["label"] = "dos"
    with pytest.raises(BasaltError, match="dos, not gpt"):
        parse_table(json.dumps(dump), 0)


def test_size_of_a_file_system() -> None:
    superblock = bytearray(1024)
    superblock[0x4:0x8] = (450048).to_bytes(4, "little")
    superblock[0x18:0x1C] = (2).to_bytes(4, "little")
    assert ext4_bytes(bytes(superblock)) == 0  # not an ext4
    superblock[0x38:0x3A] = b"\x53\xef"
    assert ext4_bytes(bytes(superblock)) == 450048 * 4096
    superblock[0x150] = 1
    assert ext4_bytes(bytes(superblock)) == (2**32 + 450048) * 4096


def test_mounts() -> None:
    text = "a /state tmpfs rw 0 0\n/dev/vda6 /state ext4 rw 0 0\n/dev/vda7 /var ext4 rw 0 0\n"
    assert mounted_type(text, "/state") == "ext4"
    assert mounted_type(text, "/stat") is None


@pytest.mark.skipif(
    not (shutil.which("sfdisk") and shutil.which("mke2fs")), reason="sfdisk or mke2fs is not installed here"
)
def test_the_real_tools_on_an_image_that_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way with sfdisk and mke2fs on a file; only telling the kernel is left out (a file has no partitions to the kernel)."""
    monkeypatch.setattr(apply, "_SFDISK_WRITE", (str(shutil.which("sfdisk")), *apply._SFDISK_WRITE[1:]))
    monkeypatch.setattr(paths, "SFDISK", shutil.which("sfdisk"))
    image = tmp_path / "vda"
    script = "label: gpt\n" + "".join(f"size={size}MiB, name={label}\n" for label, size in IMAGE)
    with image.open("wb") as stream:
        stream.truncate((IMAGE_END + 2) * MIB)
    subprocess.run([str(shutil.which("sfdisk")), "-q", str(image)], input=script.encode(), check=True)
    made: list[str] = []

    async def make(device: Path, label: str) -> None:
        made.append(f"{device.name} {label}")

    async def quiet(*_: object) -> None:
        return None

    monkeypatch.setattr(apply, "make_filesystem", make)
    monkeypatch.setattr(apply, "_tell_kernel", quiet)

    async def converge(label: str) -> Table:
        directory = tmp_path / "sys"
        directory.mkdir(exist_ok=True)
        (directory / "size").write_text(str(image.stat().st_size // 512))
        return await apply.converge(image, directory, label)

    for size in (2048, 3072):
        with image.open("r+b") as stream:
            stream.truncate(size * MIB)
        asyncio.run(converge("STATE"))
        done = asyncio.run(converge("DATA"))
        labels = [partition.label for partition in done.partitions]
        assert labels == ["ESP", "root-A", "verity-A", "root-B", "verity-B", "STATE", "DATA"]
        assert done.partitions[-1].end_bytes == (size - 1) * MIB
    assert made == ["sys6 STATE", "sys7 DATA"]  # the second time nothing is made again
