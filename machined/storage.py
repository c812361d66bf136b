"""The concerns "state" and "data": the two partitions found, made, checked, mounted, grown.

A node without a usable STATE still answers: it keeps its state in memory, says so, and accepts the first contact again. It never
formats a STATE that exists. A restarted machined finds everything mounted and touches nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

from basalt.errors import BasaltError
from machined import paths
from machined.disks import apply, filesystems
from machined.disks.facts import Disk, boot_device, read_disk
from machined.disks.plan import layout_is_complete
from machined.reconcile import CONVERGED, Status, failed, failed_by

_VOLATILE_REMEDY = "the node keeps its state in memory until the next boot; look at the disk, or write the image to it again to start anew"


class Storage:
    """The boot disk's STATE and DATA."""

    def __init__(self, node: paths.Paths) -> None:
        self._node = node
        self._sysfs: Path | None = None
        self._numbers: dict[str, int] = {}
        self.root_label = ""  # of the partition that holds the running root: root-A, root-B

    def locate(self) -> None:
        """Find the disk that the node booted from.

        :raises BasaltError: the root is on no disk.
        """
        self._sysfs, self.root_label = boot_device(self._node.sys, self._node.root.stat().st_dev)

    @property
    def disk_directory(self) -> Path:
        """The boot disk's directory below ``/sys``.

        :raises BasaltError: the root is on no disk.
        """
        if self._sysfs is None:
            self.locate()
        if self._sysfs is None:
            raise BasaltError("the boot disk is not known")
        return self._sysfs

    @property
    def disk_name(self) -> str:
        """Name of the boot disk's device, ``vda``; empty where the root is on no disk."""
        return self._sysfs.name if self._sysfs else ""

    @property
    def has_state(self) -> bool:
        """Whether a STATE was there when the kernel read the boot disk's table, usable or not."""
        try:
            return bool(read_disk(self.disk_directory).labelled(paths.LABEL_STATE))
        except (BasaltError, OSError):
            return False

    async def mount_state(self) -> Status:
        """Have STATE mounted, whatever it takes; in memory when it cannot be had."""
        target = self._node.state
        mounted = filesystems.type_at(target)
        if mounted == filesystems.VOLATILE:
            return failed("STATE is not available: this boot had to begin without it", _VOLATILE_REMEDY)
        if mounted:
            return CONVERGED
        try:
            await self._mount(paths.LABEL_STATE, target, filesystems.STATE_FLAGS)
        except (BasaltError, OSError) as error:
            filesystems.mount_volatile(target)
            status = failed_by(error, _VOLATILE_REMEDY)
            return failed(f"STATE is not available: {status.reason}", status.remedy)
        return CONVERGED

    async def mount_data(self) -> Status:
        """Have DATA mounted, reaching to the end of the disk."""
        target = self._node.data
        if not filesystems.type_at(target):
            await self._mount(paths.LABEL_DATA, target, filesystems.DATA_FLAGS)
        disk = read_disk(self.disk_directory)
        number = self._number(disk, paths.LABEL_DATA)
        device = self._node.dev / disk.device_of(number)
        for partition in disk.partitions:
            if partition.number == number and filesystems.needs_to_grow(device, partition.size_bytes):
                filesystems.grow(target, partition.size_bytes)
        return CONVERGED

    async def _mount(self, label: str, target: Path, flags: int) -> None:
        directory = self.disk_directory
        disk = read_disk(directory)
        if not layout_is_complete(disk):
            device = self._node.dev / disk.name
            table = await apply.converge(device, directory, label)
            numbers = {partition.label: partition.number for partition in table.partitions}
            number = numbers.get(label, 0)
        else:
            number = self._number(disk, label)
        if not number:
            raise BasaltError(f"there is no partition {label} on {disk.name}")
        self._numbers[label] = number
        device = self._node.dev / disk.device_of(number)
        is_data = label == paths.LABEL_DATA
        options = filesystems.DATA_OPTIONS if is_data else ""
        await filesystems.check_and_mount(device, target, flags, quotas=is_data, options=options)

    def _number(self, disk: Disk, label: str) -> int:
        """The partition's number; the kernel does not know the label of one made during this boot."""
        found = disk.labelled(label)
        return found[0].number if found else self._numbers.get(label, 0)


def apply_last_known_time(stamp: Path) -> bool:
    """Advance a clock that is behind the last time seen on this node; whether it was."""
    try:
        last = stamp.stat().st_mtime
    except FileNotFoundError:
        return False
    if time.time() >= last:
        return False
    time.clock_settime(time.CLOCK_REALTIME, last)
    return True


def save_time(stamp: Path) -> None:
    """Note the present time on STATE (its mtime: no data to write, nothing that could be half written)."""
    stamp.touch()
