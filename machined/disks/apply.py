"""Takes the steps of :mod:`machined.disks.plan` with sfdisk, mke2fs and the kernel's partition ioctl."""

from __future__ import annotations

import os
from pathlib import Path

from basalt.errors import BasaltError
from machined import paths
from machined.disks import blkpg
from machined.disks.facts import Disk, Table, parse_table, read_disk
from machined.disks.plan import Append, Grow, Make, RelocateBackup, Step, next_step
from machined.tools import run

STEPS_MAX = 8  # relocate, append, make twice, grow: five; more means that a step does not do what it says

# --no-tell-kernel: the kernel is told partition by partition (blkpg); a re-read of a disk in use fails.
# --no-reread: do not refuse because the root is mounted from it. --wipe never: nothing outside our partitions is touched.
_SFDISK_WRITE = (paths.SFDISK, "--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never")


async def read_table(device: Path, disk: Disk) -> Table:
    """The GPT on *device*."""
    return parse_table(await run([paths.SFDISK, "--json", str(device)]), disk.size_bytes)


async def converge(device: Path, sysfs: Path, label: str) -> Table:
    """Take steps until nothing is left to do for the partition *label*; return the table as it then is.

    STATE comes first on the disk and in time: the API need not wait for DATA's file system to be made.

    :param device: the disk's node, ``/dev/vda``; *sysfs* its directory below ``/sys``.
    :raises BasaltError: the table refuses (no room, not a GPT), or a tool failed; what was done so far is resumable.
    """
    for _ in range(STEPS_MAX):
        disk = read_disk(sysfs)
        table = await read_table(device, disk)
        await tell_kernel(device, disk, table)
        step = next_step(table)
        if step is None or not _concerns(step, label):
            return table
        await take(step, device, disk, table)
    raise BasaltError(f"the partition table of {device} does not settle", why=f"{STEPS_MAX} steps were not enough")


def _concerns(step: Step, label: str) -> bool:
    match step:
        case Make():
            return step.label == label
        case Grow():
            return label == paths.LABEL_DATA
        case _:
            return True


async def take(step: Step, device: Path, disk: Disk, table: Table) -> None:
    """Carry out one step."""
    sector = table.sector_bytes
    match step:
        case RelocateBackup():
            await run([*_SFDISK_WRITE, "--relocate", "gpt-bak-std", str(device)])
        case Append(partitions):
            script = "".join(
                f"start={new.start_bytes // sector}, size={new.size_bytes // sector}, name={new.label}\n"
                for new in partitions
            )
            await run([*_SFDISK_WRITE, "--append", str(device)], stdin=script.encode())
        case Make(number, label):
            await make_filesystem(device.parent / disk.device_of(number), label, projects=label == paths.LABEL_DATA)
            await run([*_SFDISK_WRITE, "--part-label", str(device), str(number), label])
        case Grow(number, size_bytes):
            await run([*_SFDISK_WRITE, "-N", str(number), str(device)], stdin=f", {size_bytes // sector}\n".encode())
    flush(device)


async def make_filesystem(device: Path, label: str, *, projects: bool = False) -> None:
    """An empty ext4 on *device*; on stable storage when this returns.

    :param projects: whether directories can be given quotas (Documentation/filesystems/quota.rst).
    """
    features = ["-O", "quota,project", "-E", "quotatype=prjquota"] if projects else []
    await run(
        [
            paths.MKE2FS,
            *features,
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            label,
            "-m",
            "0",  # blocks reserved for root: everything that writes here is root
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",  # seconds instead of minutes on a large disk
            str(device),
        ]
    )
    flush(device)


async def tell_kernel(device: Path, disk: Disk, table: Table) -> None:
    """Bring the kernel's partitions in line with the table, which other steps or an earlier boot have changed."""
    known = {partition.number: partition for partition in disk.partitions}
    for partition in table.partitions:
        seen = known.get(partition.number)
        if seen is None:
            blkpg.add_partition(str(device), partition.number, partition.start_bytes, partition.size_bytes)
        elif seen.start_bytes == partition.start_bytes and seen.size_bytes != partition.size_bytes:
            blkpg.resize_partition(str(device), partition.number, partition.start_bytes, partition.size_bytes)


def flush(device: Path) -> None:
    """Have everything written to *device* on stable storage."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
