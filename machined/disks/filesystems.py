"""Check, mount and grow the file systems on STATE and DATA."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from machined import paths
from machined.syscalls import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, mount
from machined.tools import run

_SUPERBLOCK_AT = 1024
_EXT4_MAGIC = 0xEF53
_EXT4_IOC_RESIZE_FS = 0x40086610  # _IOW('f', 16, __u64): the new size in file-system blocks (fs/ext4/ext4.h)

STATE_FLAGS = MS_NODEV | MS_NOSUID | MS_NOEXEC | MS_NOATIME
# Containers' volumes hold programs, so DATA alone may execute; what the node itself executes lies on the verified root.
DATA_FLAGS = MS_NODEV | MS_NOSUID | MS_NOATIME
# containerd notes durably that a layer is unpacked while its files are still in memory. Without delayed allocation the journal writes
# out the files' data before the note (Documentation/filesystems/ext4, data=ordered); with it, a power cut leaves a layer of empty files.
DATA_OPTIONS = ",nodelalloc"


VOLATILE = "tmpfs"


def mounted_type(table: str, target: str) -> str | None:
    """The file system mounted at *target* according to the text of ``/proc/self/mounts``; the last mount wins."""
    found = None
    for line in table.splitlines():
        _, point, fstype, *_ = line.split(" ")
        if point == target:
            found = fstype
    return found


def type_at(target: Path) -> str | None:
    """What is mounted at *target* now; something is after a restart of machined."""
    return mounted_type(Path("/proc/self/mounts").read_text(encoding="utf-8"), str(target))


async def check_and_mount(device: Path, target: Path, flags: int, *, quotas: bool = False, options: str = "") -> None:
    """Repair what can be repaired without a question, then mount.

    :param quotas: have the sizes of directories kept, where the file system was made for it.
    :param options: further ones of ext4's, each after a comma.
    :raises BasaltError: e2fsck found damage that it will not repair alone, and nothing was mounted.
    :raises OSError: the mount failed.
    """
    repaired = 1
    await run([paths.E2FSCK, "-p", str(device)], accept=frozenset({0, repaired}))
    if quotas:
        try:
            mount(str(device), str(target), "ext4", flags, f"errors=remount-ro,prjquota{options}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise  # not what a file system without that feature says
        else:
            return
    mount(str(device), str(target), "ext4", flags, f"errors=remount-ro{options}")


def mount_volatile(target: Path) -> None:
    """An empty file system in memory where a durable one cannot be had, so that the node answers and can say why."""
    mount("tmpfs", str(target), VOLATILE, STATE_FLAGS, "mode=0755,size=32M")


def ext4_bytes(superblock: bytes) -> int:
    """Size of a file system from its superblock (Documentation/filesystems/ext4/super.rst); 0 when it is none."""
    blocks_low, log_block, magic = (
        int.from_bytes(superblock[at : at + size], "little") for at, size in ((0x4, 4), (0x18, 4), (0x38, 2))
    )
    blocks_high = int.from_bytes(superblock[0x150:0x154], "little")
    return (blocks_high << 32 | blocks_low) * (1024 << log_block) if magic == _EXT4_MAGIC else 0


def needs_to_grow(device: Path, partition_bytes: int) -> bool:
    """Whether a partition holds an ext4 that is smaller by more than a rounding."""
    with device.open("rb") as stream:
        stream.seek(_SUPERBLOCK_AT)
        size = ext4_bytes(stream.read(_SUPERBLOCK_AT))
    return 0 < size < partition_bytes - paths.ALIGN_BYTES


def grow(mount_point: Path, partition_bytes: int) -> None:
    """Let a mounted ext4 fill its partition.

    :raises OSError: the kernel refused; the file system keeps its size.
    """
    fd = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        block_bytes = os.fstatvfs(fd).f_frsize
        blocks = partition_bytes // block_bytes
        fcntl.ioctl(fd, _EXT4_IOC_RESIZE_FS, struct.pack("=Q", blocks))
    finally:
        os.close(fd)
