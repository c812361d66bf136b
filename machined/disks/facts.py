"""What the kernel and the partition table say about the disk that the node booted from."""

from __future__ import annotations

import json
import os
from pathlib import Path

from msgspec import Struct

from basalt.errors import BasaltError

SYSFS_SECTOR = 512  # sysfs counts in these whatever the disk's own sector is (Documentation/ABI/stable/sysfs-block)


class Partition(Struct, frozen=True):
    """One partition; offsets in bytes from the start of the disk."""

    number: int
    label: str
    start_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        """The first byte after the partition."""
        return self.start_bytes + self.size_bytes


class Disk(Struct, frozen=True):
    """A disk as sysfs shows it: partition labels as the kernel read them when it scanned the table."""

    name: str
    size_bytes: int
    partitions: tuple[Partition, ...]

    def labelled(self, label: str) -> tuple[Partition, ...]:
        """The partitions with this label."""
        return tuple(partition for partition in self.partitions if partition.label == label)

    def device_of(self, number: int) -> str:
        """Name of a partition's device below /dev: ``vda6``, ``nvme0n1p6``."""
        return f"{self.name}{'p' if self.name[-1].isdigit() else ''}{number}"


class Table(Struct, frozen=True):
    """A disk's GPT as sfdisk reads it."""

    disk_bytes: int
    sector_bytes: int
    usable_end_bytes: int  # the first byte after what the table lets partitions use
    partitions: tuple[Partition, ...]


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _label(partition: Path) -> str:
    for line in (partition / "uevent").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key == "PARTNAME":
            return value
    return ""


def boot_device(sys: Path, device: int) -> tuple[Path, str]:
    """The sysfs directory of the disk under the block device *device*, and the label of the partition in between.

    :param device: ``st_dev`` of the root directory; a device-mapper target is followed to what it lies on.
    :raises BasaltError: it is no block device that sysfs knows.
    """
    node = sys / f"dev/block/{os.major(device)}:{os.minor(device)}"
    if not node.exists():
        raise BasaltError(
            "cannot find the disk that the node booted from",
            why=f"the root file system is on no block device ({os.major(device)}:{os.minor(device)})",
            remedy="the node runs without STATE and DATA; boot it from a disk to keep anything",
        )
    place = node.resolve()
    while below := sorted((place / "slaves").glob("*")):
        place = below[0].resolve()
    if (place / "partition").exists():
        return place.parent, _label(place)
    return place, ""


def read_disk(directory: Path) -> Disk:
    """The disk whose sysfs directory is *directory*."""
    partitions = []
    for entry in sorted(directory.iterdir()):
        if (entry / "partition").exists():
            partitions.append(
                Partition(
                    number=_number(entry / "partition"),
                    label=_label(entry),
                    start_bytes=_number(entry / "start") * SYSFS_SECTOR,
                    size_bytes=_number(entry / "size") * SYSFS_SECTOR,
                )
            )
    size_bytes = _number(directory / "size") * SYSFS_SECTOR
    return Disk(directory.name, size_bytes, tuple(sorted(partitions, key=lambda partition: partition.start_bytes)))


def parse_table(dump: str, disk_bytes: int) -> Table:
    """Read the output of ``sfdisk --json``.

    :raises BasaltError: it is not a GPT.
    """
    table = json.loads(dump)["partitiontable"]
    if table["label"] != "gpt":
        raise BasaltError(
            f"cannot use the partition table of {table['device']}",
            why=f"it is {table['label']}, not gpt",
            remedy="write the image to the disk again",
        )
    sector = int(table["sectorsize"])
    partitions = tuple(
        Partition(
            number=int(entry["node"].removeprefix(table["device"]).lstrip("p")),
            label=entry.get("name", ""),
            start_bytes=entry["start"] * sector,
            size_bytes=entry["size"] * sector,
        )
        for entry in table.get("partitions", [])
    )
    return Table(
        disk_bytes=disk_bytes,
        sector_bytes=sector,
        usable_end_bytes=(int(table["lastlba"]) + 1) * sector,
        partitions=tuple(sorted(partitions, key=lambda partition: partition.start_bytes)),
    )
