# ruff: noqa: PTH123
# Runs as PID 1 at the very end, when as little as possible should be able to fail.
"""The end of a boot: ``.s6-svscan/finish`` and ``crash``, both of which run as PID 1.

By now machined has stopped what it started in order (:mod:`machined.power`) and s6 has ended the services. What is left are
containers' processes and the file systems. Nothing here may raise: PID 1 must not end, and a node that cannot unmount must still
reboot, so each step prints its failure and the next one follows.
"""

from __future__ import annotations

import os
import signal
import time

from machined import paths
from machined.syscalls import MNT_DETACH, MS_RDONLY, MS_REMOUNT, RB_AUTOBOOT, RB_POWER_OFF, mount, reboot, umount

TERM_GRACE_S = 5.0
KILL_GRACE_S = 5.0
CRASH_PAUSE_S = 10.0  # long enough to read the console, like the kernel's panic=10

# File systems that are worth unmounting: the others hold nothing that could be lost.
DURABLE = frozenset({"ext4", "xfs", "btrfs", "vfat", "exfat", "overlay", "nfs", "nfs4", "fuse", "fuseblk"})


def say(text: str) -> None:
    """One line on the console; PID 1 has kept the descriptors that the kernel gave to /init."""
    try:
        os.write(1, f"basalt: {text}\n".encode())
    except OSError:
        return  # a console that is gone cannot be told that it is gone


def reap(deadline: float) -> bool:
    """Collect dead children until none is left (true) or *deadline* on the monotonic clock has passed (false)."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def end_processes() -> None:
    """SIGTERM to everything, and SIGKILL to what is left after the grace."""
    for number, grace_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, KILL_GRACE_S)):
        try:
            os.kill(-1, number)
        except ProcessLookupError:
            return
        if reap(time.monotonic() + grace_s):
            return
    say("shutdown: some processes do not end; going on without them")


def durable_mounts(table: str) -> list[str]:
    """Mount points in the text of ``/proc/self/mounts`` that hold data, the latest first."""
    points = []
    for line in table.splitlines():
        _, point, fstype, *_ = line.split(" ")
        if fstype.partition(".")[0] in DURABLE and point != "/":
            points.append(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
    return points[::-1]


def unmount_all() -> None:
    """Unmount what holds data; what is still busy becomes read-only, which makes it as clean."""
    try:
        with open("/proc/self/mounts", encoding="utf-8") as stream:
            points = durable_mounts(stream.read())
    except OSError as error:
        say(f"shutdown: {error}")
        return
    for point in points:
        try:
            umount(point)
        except OSError as busy:
            try:
                mount("none", point, "none", MS_REMOUNT | MS_RDONLY)
                umount(point, MNT_DETACH)
            except OSError as error:
                say(f"shutdown: {busy}; read-only: {error}")


def requested() -> str:
    """``reboot`` or ``poweroff``. Without a request (somebody ended s6) the node reboots: a node belongs up."""
    try:
        with open(paths.SHUTDOWN_REQUEST, encoding="ascii") as stream:
            return stream.read().strip()
    except (OSError, ValueError):
        return "reboot"


def main() -> None:
    """End this boot. Does not return, except in a process that is not PID 1: there kill(-1) would hit the wrong processes."""
    if os.getpid() != 1:
        say("shutdown: not PID 1, doing nothing")
        return
    action = requested()
    end_processes()
    os.sync()
    unmount_all()
    os.sync()
    say("power off" if action == "poweroff" else "reboot")
    try:
        reboot(RB_POWER_OFF if action == "poweroff" else RB_AUTOBOOT)
    except OSError as error:
        say(f"shutdown: {error}")
    while True:  # PID 1 must not end; an armed watchdog resets the machine if the kernel did not
        time.sleep(60)


def crashed() -> None:
    """s6-svscan could not go on: reboot in an orderly way, and let boot counting judge."""
    say("init: s6-svscan failed; rebooting in ten seconds")
    time.sleep(CRASH_PAUSE_S)
    main()
