"""Which disks the machine has, by what identifies them, and what is on one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from msgspec import Struct

from basalt.errors import BasaltError
from machined import paths
from machined.disks.apply import read_table
from machined.disks.facts import Disk, read_disk
from machined.tools import run
from machined.volumes.plan import EDGE_BYTES, Content, ContentKind, interpret

NOTHING_FOUND = 2  # blkid's exit code for a device on which it knows nothing
AMBIVALENT = 8  # and for one on which it knows several things that exclude one another
VPD_HEADER_BYTES = 4  # of a SCSI "unit serial number" page (SPC-5, 7.7.18): code and length


class Candidate(Struct, frozen=True):
    """A disk as sysfs identifies it; texts are empty where it does not say."""

    disk: Disk
    wwn: str = ""
    serial: str = ""
    model: str = ""
    held: bool = False  # another device (dm, md) is built on it

    @property
    def name(self) -> str:
        """Its name below ``/dev``."""
        return self.disk.name

    def __str__(self) -> str:
        """The disk for a person."""
        known = [f"serial {self.serial}" if self.serial else "", f"wwn {self.wwn}" if self.wwn else "", self.model]
        gib = self.disk.size_bytes / 1024**3
        return f"{self.name} ({', '.join([word for word in known if word] + [f'{gib:.1f} GiB'])})"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace").strip("\0 \n\t")
    except OSError:
        return ""


def _first(*values: str) -> str:
    return next((value for value in values if value), "")


def _vpd_serial(path: Path) -> str:
    try:
        return path.read_bytes()[VPD_HEADER_BYTES:].decode("ascii", "replace").strip("\0 \n\t")
    except OSError:
        return ""


def candidate(directory: Path) -> Candidate | None:
    """The disk whose directory below ``/sys/block`` is *directory*; None for what is no disk.

    What has no device behind it is made of other disks, memory or files (dm, md, loop, ram, zram). An optical drive is a device, but
    none to keep anything on. A hidden disk is one path of an NVMe namespace that has several.
    """
    if not (directory / "device").exists() or directory.name.startswith(("sr", "fd")):
        return None
    if _text(directory / "hidden") == "1" or _text(directory / "ro") == "1" or _text(directory / "size") in ("", "0"):
        return None
    device = directory / "device"
    parts = [entry for entry in directory.iterdir() if (entry / "partition").exists()]
    return Candidate(
        disk=read_disk(directory),
        wwn=_first(_text(directory / "wwid"), _text(device / "wwid")),
        serial=_first(_text(directory / "serial"), _text(device / "serial"), _vpd_serial(device / "vpd_pg80")),
        model=_text(device / "model"),
        held=any(any((place / "holders").glob("*")) for place in (directory, *parts)),
    )


def candidates(sys: Path, boot_disk: str) -> tuple[Candidate, ...]:
    """All disks but the one that the node booted from."""
    found = (candidate(entry) for entry in sorted((sys / "block").iterdir()) if entry.name != boot_disk)
    return tuple(disk for disk in found if disk is not None)


def _edges(device: Path, size_bytes: int) -> tuple[bytes, bytes]:
    """The first and the last MiB."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        length = min(EDGE_BYTES, size_bytes)
        return os.pread(fd, length, 0), os.pread(fd, length, size_bytes - length)
    finally:
        os.close(fd)


def said_by_blkid(output: str) -> str:
    """The words of ``blkid -p -o export`` that tell a person what it is."""
    telling = ("TYPE=", "LABEL=", "UUID=", "PTTYPE=", "PARTLABEL=")
    return " ".join(line for line in output.splitlines() if line.startswith(telling))


async def content_of(device: Path, disk: Disk, label: str) -> Content:
    """What is on the disk *device*, seen by the volume whose partition would be called *label*.

    :raises BasaltError: blkid or sfdisk failed; :raises OSError: the disk cannot be read.
    """
    try:
        output = await run([paths.BLKID, "-p", "-o", "export", str(device)], accept=frozenset({0, NOTHING_FOUND}))
    except BasaltError as error:
        if f"failed with {AMBIVALENT}" not in error.what:
            raise
        return Content(ContentKind.FOREIGN, "signatures of several kinds, which exclude one another")
    said = said_by_blkid(output)
    labels: dict[int, str] | None = None
    if "PTTYPE=gpt" in said.split():
        table = await read_table(device, disk)
        labels = {partition.number: partition.label for partition in table.partitions}
    first, last = await asyncio.to_thread(_edges, device, disk.size_bytes)  # a sick disk may take its time
    return interpret(said, labels, first, last, label)
