"""The system calls that ``os`` does not offer: mount, umount2, reboot, prctl, adjtimex.

Constants are those of the kernel's uapi headers. Every function raises :class:`OSError` with the kernel's errno and the path.
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024

MNT_DETACH = 2

# linux/reboot.h; glibc's reboot(3) takes the command alone
RB_AUTOBOOT = 0x01234567
RB_POWER_OFF = 0x4321FEDC

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
CAP_LAST_POSSIBLE = 63  # the kernel answers EINVAL past its own last capability; that ends the loop

STA_UNSYNC = 0x0040  # sys/timex.h: the clock has no source

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: str | None = None) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode() or None),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), flags), target)


def reboot(command: int) -> None:
    """reboot(2); returns only when it fails."""
    _check(_libc.reboot(ctypes.c_int(command - (1 << 32) if command >= 1 << 31 else command)))


def drop_capability_bounds() -> None:
    """Empty the capability bounding set, so that no later exec can bring a capability back."""
    for capability in range(CAP_LAST_POSSIBLE + 1):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            return  # past the kernel's last capability


def set_no_new_privileges() -> None:
    """A set-uid file executed from here on gives nothing (prctl(2), PR_SET_NO_NEW_PRIVS)."""
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0))


class _Timex(ctypes.Structure):
    """struct timex, as far as it is read here; the tail is room for the fields that the kernel writes after it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock_is_synchronised() -> bool:
    """Whether a time daemon has told the kernel that its clock follows a source (adjtimex(2), STA_UNSYNC clear)."""
    timex = _Timex()
    _check(_libc.adjtimex(ctypes.byref(timex)))
    return not timex.status & STA_UNSYNC
