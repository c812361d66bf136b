# ruff: noqa: PTH102, PTH110, PTH112, PTH123, PTH211
# pathlib alone costs 17 ms to import natively, a tenth of a second under emulation: this is PID 1's first 100 ms.
"""``/init``: what PID 1 does before s6 takes over for good.

Mounts the kernel's file systems, keeps the clock from being earlier than the image, prepares cgroups and ``/run/service``, starts
loading modules in a child, and replaces itself by ``s6-svscan``. Nothing here needs a disk: STATE and DATA are machined's concern.

A mount that the node can live without prints a line and goes on. Without the others there is no node: :func:`main` then prints why
and returns, PID 1 ends, the kernel panics, ``panic=10`` reboots, and the boot counter moves towards the other slot.
"""

from __future__ import annotations

import os
import time

from machined import paths
from machined.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount

_QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC

# (type, where, flags, options, fatal when it fails). Order matters: a target must exist before it is mounted on.
MOUNTS = (
    ("proc", "/proc", _QUIET, "", True),
    ("sysfs", "/sys", _QUIET, "", True),
    ("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755", True),  # EBUSY where CONFIG_DEVTMPFS_MOUNT did it already
    ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", False),
    ("tmpfs", "/dev/shm", _QUIET, "mode=1777,size=25%", False),
    ("mqueue", "/dev/mqueue", _QUIET, "", False),
    # noexec: what runs here are symbolic links into the verified root (exec is judged by the file's own mount)
    ("tmpfs", "/run", _QUIET, "mode=0755,size=25%", True),
    ("tmpfs", "/tmp", _QUIET, "mode=1777,size=10%", True),
    ("cgroup2", "/sys/fs/cgroup", _QUIET, "nsdelegate,memory_recursiveprot", True),
    ("securityfs", "/sys/kernel/security", _QUIET, "", False),
    ("bpf", "/sys/fs/bpf", _QUIET, "mode=0700", False),
    ("pstore", "/sys/fs/pstore", _QUIET, "", False),
    ("efivarfs", "/sys/firmware/efi/efivars", _QUIET, "", False),
)

# Directories that later parts expect; /run/etc is where the image's /etc/resolv.conf and friends point.
DIRECTORIES = (
    ("/run/basalt", 0o755),
    ("/run/etc", 0o755),
    ("/run/log", 0o755),
    ("/run/service", 0o755),
    ("/run/lock", 0o755),
)

# The files behind /etc/hosts and friends until machined knows better: resolvers and TLS libraries stumble over dangling links.
ETC_FILES = (
    ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("hostname", "localhost\n"),
    ("resolv.conf", ""),
    ("machine-id", ""),
)

SYSCTLS = (
    ("kernel/kptr_restrict", "2"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/panic_on_oops", "1"),  # a kernel that has lost its footing reboots, and boot counting sees it
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("net/ipv4/conf/all/promote_secondaries", "1"),  # removing one address must not take its subnet's others along
    ("net/ipv4/conf/default/promote_secondaries", "1"),
)

SMALL_NODE_KIB = 4 * 1024 * 1024

CONTROLLERS = "+cpu +cpuset +hugetlb +io +memory +pids"


def say(text: str) -> None:
    """One line on the console, which the kernel has opened as our standard output."""
    os.write(1, f"basalt: {text}\n".encode())


def write(path: str, text: str) -> None:
    """Write *text* to an existing or new file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def attempt(what: str, path: str, text: str) -> None:
    """Write a kernel setting that the node can live without; say so when it cannot be written."""
    try:
        write(path, text)
    except OSError as error:
        say(f"init: {what}: {error}")


def mount_all() -> None:
    """Mount :data:`MOUNTS`.

    :raises OSError: for one without which there is no node.
    """
    already_mounted = 16  # EBUSY
    for fstype, target, flags, options, fatal in MOUNTS:
        try:
            if not os.path.isdir(target):
                if target.startswith("/sys/") and not fatal:
                    continue  # sysfs offers the directory exactly where the kernel has the file system (no EFI, no pstore)
                os.mkdir(target)
            mount(fstype, target, fstype, flags, options)
        except OSError as error:
            if error.errno == already_mounted:
                continue
            if fatal:
                raise
            say(f"init: {fstype} on {target}: {error}")


def image_info() -> dict[str, str]:
    """``image.json`` of the image as text values; empty (with a line) when it cannot be read.

    It is flat, and osbuild is its only writer: reading it by hand saves the 17 ms that ``json`` takes to import.
    """
    try:
        with open(paths.IMAGE_INFO, encoding="utf-8") as stream:
            body = stream.read().strip().removeprefix("{").removesuffix("}")
    except OSError as error:
        say(f"init: {error}")
        return {}
    fields = (field.partition(":") for field in body.split(","))
    return {key.strip().strip('"'): value.strip().strip('"') for key, _, value in fields}


def advance_clock(build_epoch: int) -> None:
    """A clock before the image was built is wrong; the build time is nearer to the truth (TLS would refuse everybody)."""
    if time.time() < build_epoch:
        time.clock_settime(time.CLOCK_REALTIME, build_epoch)
        say("init: clock was before the image's build time, set to it")


def start_loading_modules() -> None:
    """Load the modules that the present devices ask for, in a child: the node goes on, s6 reaps it, links appear as events."""
    if not os.path.exists(f"/lib/modules/{os.uname().release}/modules.alias.bin") or not os.path.exists(paths.KMOD):
        return  # this profile's kernel has everything built in
    if os.fork():
        return
    try:
        aliases = set()
        for bus in os.scandir("/sys/bus"):
            for device in os.scandir(f"{bus.path}/devices"):
                try:
                    with open(f"{device.path}/modalias", encoding="ascii") as stream:
                        aliases.add(stream.read().strip())
                except OSError:
                    continue  # most devices have none, and one may vanish while we look
        aliases.discard("")
        if aliases:
            os.execv(paths.KMOD, ["modprobe", "-a", "-b", "-q", *sorted(aliases)])
    except OSError as error:
        say(f"init: loading modules: {error}")
    finally:
        os._exit(0)


def prepare_cgroups() -> None:
    """Switch the controllers on, and protect the node's own programs from what workloads take."""
    attempt("cgroup controllers", f"{paths.CGROUP_ROOT}/cgroup.subtree_control", CONTROLLERS)
    try:
        os.mkdir(paths.CGROUP_SYSTEM)
    except OSError as error:
        say(f"init: {error}")
        return
    attempt("cgroup controllers", f"{paths.CGROUP_SYSTEM}/cgroup.subtree_control", CONTROLLERS)
    attempt("memory protection", f"{paths.CGROUP_SYSTEM}/memory.min", str(paths.SYSTEM_MEMORY_MIN_BYTES))
    attempt("processor share", f"{paths.CGROUP_SYSTEM}/cpu.weight", str(paths.SYSTEM_CPU_WEIGHT))


def relax_reserve() -> None:
    """Give a small node back what khugepaged reserves.

    It raises vm.min_free_kbytes to 22 MB whatever the memory, and the watermarks made from that take three times as much out of what
    programs can have. 8 MB is twice what the kernel chooses by itself for 1 GiB (mm/page_alloc.c, calculate_min_free_kbytes).
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            total_kib = int(stream.readline().split()[1])
    except (OSError, ValueError, IndexError) as error:
        say(f"init: reading the memory's size: {error}")
        return
    if total_kib < SMALL_NODE_KIB:
        attempt("memory reserve", "/proc/sys/vm/min_free_kbytes", "8192")


def link_services(source: str, target: str) -> None:
    """Lay out *target* as *source* is, every file a symbolic link into it.

    s6 wants to write beside the files (``supervise/``, ``event/``), the image is read-only, and a link keeps every executed byte
    on the verified root.
    """
    for entry in os.scandir(source):
        place = f"{target}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(place, 0o755)
            link_services(entry.path, place)
        else:
            os.symlink(entry.path, place)


def boottime_usec() -> int:
    """Microseconds since the kernel took over."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def main() -> None:
    """Bring up what s6 needs and become it. Returns only when that failed (see the module's text for what follows)."""
    begun = boottime_usec()
    try:
        mount_all()
        os.umask(0o022)
        os.chdir("/")
        for directory, mode in DIRECTORIES:
            os.mkdir(directory, mode)
        for name, content in ETC_FILES:
            write(f"/run/etc/{name}", content)
        info = image_info()
        say(f"init {info.get('version', 'unknown')} {info.get('profile', 'unknown')}")
        advance_clock(int(info.get("build_epoch", "0")))
        start_loading_modules()
        prepare_cgroups()
        for name, value in SYSCTLS:
            attempt("sysctl", f"/proc/sys/{name}", value)
        relax_reserve()
        link_services(paths.IMAGE_SERVICES, paths.RUN_SERVICES)
        write(paths.INIT_TIMES, f"{begun} {boottime_usec()}\n")
        os.execve(
            paths.S6_SVSCAN,
            [paths.S6_SVSCAN, paths.RUN_SERVICES],
            {"PATH": "/usr/bin:/usr/sbin", "LANG": "C.UTF-8", "HOME": "/"},
        )
    except (OSError, ValueError) as error:
        say(f"init: cannot go on: {error}; the kernel reboots in ten seconds and counts this boot as failed")
