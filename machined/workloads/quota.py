"""Sizes for directories: project quotas of ext4.

A directory is given a project, which everything that is made below it inherits, and the project a limit (ext4(5), project;
quotactl_fd(2); the kernel's include/uapi/linux/fs.h). The project's number is the directory's inode number: it is unique in its
file system, and nothing has to be remembered.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

from basalt.errors import BasaltError

_FSGETXATTR = 0x801C581F  # FS_IOC_FSGETXATTR, _IOR('X', 31, struct fsxattr)
_FSSETXATTR = 0x401C5820  # FS_IOC_FSSETXATTR
_FSXATTR = struct.Struct("=IIIII8x")  # xflags, extsize, nextents, projid, cowextsize
_PROJINHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_QUOTACTL_FD = 443  # of x86-64
_PRJQUOTA = 2
_Q_SETQUOTA = 0x800008
_BLOCK_LIMITS = 1  # QIF_BLIMITS
_QUOTA_BLOCK = 1024  # struct if_dqblk counts in kilobytes
_DQBLK = struct.Struct("=QQQQQQQQI4x")  # bhard, bsoft, curspace, ihard, isoft, curinodes, btime, itime, valid

_libc = ctypes.CDLL(None, use_errno=True)


def limit(directory: Path, size_bytes: int | None) -> None:
    """Have *directory* and what is below it hold no more than *size_bytes*; None takes a limit away.

    :raises BasaltError: the file system has no project quotas.
    :raises OSError: the kernel refused.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        project = os.fstat(fd).st_ino & 0xFFFFFFFF
        xflags, extsize, nextents, present, cow = _FSXATTR.unpack(fcntl.ioctl(fd, _FSGETXATTR, bytes(_FSXATTR.size)))
        if size_bytes is None and not present:
            return
        if present != project or not xflags & _PROJINHERIT:
            fcntl.ioctl(fd, _FSSETXATTR, _FSXATTR.pack(xflags | _PROJINHERIT, extsize, nextents, project, cow))
        _set_limit(fd, project, size_bytes or 0)
    except OSError as error:
        if size_bytes is None and error.errno == errno.ENOTTY:
            return  # a file system without quotas has no limit to take away
        if error.errno in (errno.ESRCH, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL):
            raise BasaltError(
                f"{directory} cannot be limited",
                why="its file system was made without project quotas",
                remedy="leave the volume's size out, or have DATA made anew",
            ) from error
        raise
    finally:
        os.close(fd)


def _set_limit(fd: int, project: int, size_bytes: int) -> None:
    blocks = -(-size_bytes // _QUOTA_BLOCK)
    record = ctypes.create_string_buffer(_DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS), _DQBLK.size)
    command = ctypes.c_uint(_Q_SETQUOTA << 8 | _PRJQUOTA)
    if _libc.syscall(ctypes.c_long(_QUOTACTL_FD), ctypes.c_int(fd), command, ctypes.c_uint(project), record) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
