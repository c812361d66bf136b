"""Tell the kernel about one partition of a disk that is in use (ioctl BLKPG, include/uapi/linux/blkpg.h).

Re-reading the whole table (BLKRRPART) fails with EBUSY while any partition is mounted, and the root always is.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

_BLKPG = 0x1269
_ADD = 1
_RESIZE = 3


class _Partition(ctypes.Structure):
    """struct blkpg_partition; the names are unused by the kernel."""

    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("pno", ctypes.c_int),
        ("devname", ctypes.c_char * 64),
        ("volname", ctypes.c_char * 64),
    )


class _Argument(ctypes.Structure):
    """struct blkpg_ioctl_arg."""

    _fields_ = (
        ("op", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("datalen", ctypes.c_int),
        ("data", ctypes.POINTER(_Partition)),
    )


def _call(device: str, operation: int, number: int, start_bytes: int, size_bytes: int) -> None:
    partition = _Partition(start=start_bytes, length=size_bytes, pno=number)
    argument = _Argument(op=operation, datalen=ctypes.sizeof(partition), data=ctypes.pointer(partition))
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKPG, argument)
    finally:
        os.close(fd)


def add_partition(device: str, number: int, start_bytes: int, size_bytes: int) -> None:
    """Make the kernel know a new partition; its node appears in devtmpfs before this returns.

    :raises OSError: EBUSY when it overlaps one that the kernel knows already.
    """
    _call(device, _ADD, number, start_bytes, size_bytes)


def resize_partition(device: str, number: int, start_bytes: int, size_bytes: int) -> None:
    """Make the kernel know a partition's new size, also while it is mounted."""
    _call(device, _RESIZE, number, start_bytes, size_bytes)
