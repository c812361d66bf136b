"""The disk: GPT with the EFI system partition, slot A filled and slot B empty; raw and qcow2.

STATE and DATA are not here: the node makes them on first boot, on the disk it booted from, with DATA up to that disk's end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basalt.errors import UsageError
from osbuild.graph import Context, Step
from osbuild.steps.uki import partition_uuids

MIB = 1 << 20
SECTOR_BYTES = 512
_CHUNK_BYTES = 4 * MIB
# Discoverable Partitions Specification (uapi-group.org), x86-64; the ESP's is UEFI's own.
TYPE_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
TYPE_ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
TYPE_VERITY = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
TRIES = 3
_LOADER_CONF = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\n"


@dataclass(frozen=True)
class Partition:
    """One partition of the plan; sizes and offsets in bytes."""

    label: str
    type: str
    uuid: uuid.UUID
    offset: int
    size: int


def entry_name(version: str) -> str:
    """File name of a UKI with all its tries left, as systemd-boot counts them; of fixed width, so that a rename never grows it."""
    return f"basalt_{version}+{TRIES}-0.efi"


def partition_plan(sizes: Mapping[str, int], root_hash: str) -> list[Partition]:
    """The partitions of a fresh disk, each aligned to 1 MiB.

    The empty slot needs UUIDs too; they are derived from the root hash, so that two nodes made from one image have equal disks.
    """
    data, tree = partition_uuids(root_hash)

    def derived(name: str) -> uuid.UUID:
        return uuid.UUID(bytes=hashlib.sha256(f"{name} {root_hash}".encode()).digest()[:16])

    rows = [
        ("ESP", TYPE_ESP, derived("ESP"), sizes["esp_mib"]),
        ("root-A", TYPE_ROOT, data, sizes["root_slot_mib"]),
        ("verity-A", TYPE_VERITY, tree, sizes["verity_slot_mib"]),
        ("root-B", TYPE_ROOT, derived("root-B"), sizes["root_slot_mib"]),
        ("verity-B", TYPE_VERITY, derived("verity-B"), sizes["verity_slot_mib"]),
    ]
    plan, offset = [], MIB
    for label, kind, identifier, size_mib in rows:
        plan.append(Partition(label, kind, identifier, offset, size_mib * MIB))
        offset += size_mib * MIB
    return plan


def sfdisk_script(plan: list[Partition], root_hash: str) -> str:
    """The table as sfdisk(8) reads it, every identifier explicit so that none is random."""
    disk = uuid.UUID(bytes=hashlib.sha256(f"disk {root_hash}".encode()).digest()[:16])
    lines = ["label: gpt", f"label-id: {disk}", "unit: sectors"]
    for part in plan:
        start, size = part.offset // SECTOR_BYTES, part.size // SECTOR_BYTES
        lines.append(f'start={start}, size={size}, type={part.type}, uuid={part.uuid}, name="{part.label}"')
    return "\n".join(lines) + "\n"


def disk_step(tools: Step, root: Step, uki: Step, identity: Mapping[str, Any], sizes: Mapping[str, int]) -> Step:
    """*sizes* is the profile's table ``disk``."""
    return Step(
        "disk",
        build_disk,
        inputs={"tools": tools, "root": root, "uki": uki},
        params={"identity": dict(identity), "sizes": dict(sizes)},
    )


def qcow2_step(tools: Step, disk: Step) -> Step:
    """The raw disk as qcow2."""
    return Step("qcow2", build_qcow2, inputs={"tools": tools, "disk": disk})


def build_disk(ctx: Context) -> None:
    """Run function of :func:`disk_step`. Output: disk.raw (sparse)."""
    root = json.loads((ctx.input("root") / "root.json").read_text())
    plan = partition_plan(ctx.params["sizes"], root["root_hash"])
    by_label = {part.label: part for part in plan}
    contents = {"root-A": ctx.input("root") / "root.erofs", "verity-A": ctx.input("root") / "root.verity"}
    for label, path in contents.items():
        if path.stat().st_size > by_label[label].size:
            raise UsageError(
                f"{label} is too small",
                why=f"{path.stat().st_size} bytes do not fit {by_label[label].size}",
                remedy="Raise root_slot_mib or verity_slot_mib in the profile",
            )
    contents["ESP"] = _make_esp(ctx, by_label["ESP"].size, root["root_hash"])
    raw = ctx.out / "disk.raw"
    end = plan[-1].offset + plan[-1].size
    with raw.open("wb") as stream:
        stream.truncate(end + MIB)  # the backup table lies in the last MiB
    script = sfdisk_script(plan, root["root_hash"])
    ctx.run(["sfdisk", "--quiet", "--no-tell-kernel", "--no-reread", "/out/disk.raw"], stdin=script.encode())
    with raw.open("r+b") as stream:
        for label, path in contents.items():
            copy_sparse(path, stream.fileno(), by_label[label].offset)


def _make_esp(ctx: Context, size: int, root_hash: str) -> Path:
    identity = ctx.params["identity"]
    epoch = identity["build_epoch"]
    esp = ctx.work / "esp.img"
    with esp.open("wb") as stream:
        stream.truncate(size)
    (ctx.work / "loader.conf").write_text(_LOADER_CONF)
    volume = hashlib.sha256(f"ESP {root_hash}".encode()).hexdigest()[:8]
    ctx.run(["mkfs.fat", "-F32", "-n", "ESP", "-i", volume, "--invariant", "/work/esp.img"])
    # Directories get the time of SOURCE_DATE_EPOCH; files, with -m, that of their source, which must be a copy for that.
    env = {"SOURCE_DATE_EPOCH": str(epoch)}
    ctx.run(["mmd", "-i", "/work/esp.img", "::EFI", "::EFI/BOOT", "::EFI/Linux", "::EFI/systemd", "::loader"], env=env)
    loader = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    for source, target in (
        (loader, "EFI/BOOT/BOOTX64.EFI"),
        ("/in/uki/basalt.efi", f"EFI/Linux/{entry_name(identity['version'])}"),
        ("/work/loader.conf", "loader/loader.conf"),
    ):
        ctx.run(["cp", source, "/work/copied"])
        os.utime(ctx.work / "copied", (epoch, epoch))
        ctx.run(["mcopy", "-m", "-i", "/work/esp.img", "/work/copied", f"::{target}"], env=env)
    return esp


def build_qcow2(ctx: Context) -> None:
    """Run function of :func:`qcow2_step`. Output: disk.qcow2."""
    # Without -W clusters are written in order, so that equal disks give equal files.
    ctx.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "/in/disk/disk.raw", "/out/disk.qcow2"])


def copy_sparse(source: Path, target_fd: int, offset: int) -> None:
    """Copy the data of *source*, and none of its holes, to *offset* of an open file."""
    with source.open("rb") as stream:
        fd, end, position = stream.fileno(), source.stat().st_size, 0
        while position < end:
            try:
                begin = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            position = os.lseek(fd, begin, os.SEEK_HOLE)
            while begin < position:
                copied = _copy_range(fd, target_fd, position - begin, begin, offset + begin)
                if copied == 0:
                    raise OSError(errno.EIO, "it became shorter while it was copied", str(source))
                begin += copied


def _copy_range(source_fd: int, target_fd: int, count: int, begin: int, target: int) -> int:
    try:
        return os.copy_file_range(source_fd, target_fd, count, begin, target)
    except OSError as error:
        # Not between these file systems (copy_file_range(2), "Errors").
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
    return os.pwrite(target_fd, os.pread(source_fd, min(count, _CHUNK_BYTES), begin), target)
