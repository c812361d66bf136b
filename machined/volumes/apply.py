"""Takes the steps of :mod:`machined.volumes.plan`: sfdisk, mke2fs, e2fsck, mount."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from pathlib import Path

from msgspec import Struct

from basalt.config.documents import VolumeConfig
from basalt.errors import BasaltError
from machined import paths
from machined.disks.apply import flush, make_filesystem, read_table, tell_kernel
from machined.disks.facts import read_disk
from machined.disks.filesystems import check_and_mount
from machined.syscalls import MNT_DETACH, MS_NOATIME, MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT, mount, umount
from machined.tools import run
from machined.volumes.facts import Candidate, content_of
from machined.volumes.plan import LayOut, Make, Mount, label_of, next_step

STEPS_MAX = 4  # lay out, make, mount: three; more means that a step does not do what it says
FLAGS = MS_NODEV | MS_NOSUID | MS_NOATIME
# Unlike on the boot disk, nothing here is in use: sfdisk may and shall check that, and have the kernel read the table again.
_SFDISK = (paths.SFDISK, "--quiet", "--wipe", "always", "--wipe-partitions", "always")


class Mounted(Struct, frozen=True):
    """A file system that is mounted below the volumes' directory."""

    name: str
    source: str
    read_only: bool


def mounted_volumes(table: str, directory: Path) -> dict[str, Mounted]:
    """What the text of ``/proc/self/mounts`` says is mounted right below *directory*, by name; the last mount wins."""
    found = {}
    for line in table.splitlines():
        source, point, _, options, *_ = line.split(" ")
        place = Path(point)
        if place.parent == directory:
            found[place.name] = Mounted(place.name, source, "ro" in options.split(","))
    return found


async def bring_up(volume: VolumeConfig, disk: Candidate, dev: Path, sysfs: Path, target: Path) -> None:
    """Make *disk* the volume, as far as it is not, and mount it at *target*.

    :raises BasaltError: other data is on it, or a tool failed; what was done so far is resumable.
    :raises OSError: the disk cannot be read, or the mount failed.
    """
    device, label = dev / disk.name, label_of(volume.name)
    for _ in range(STEPS_MAX):
        facts = read_disk(sysfs)
        match next_step(volume, await content_of(device, facts, label), str(disk)):
            case LayOut():
                print(f"volumes: {disk} becomes volume {volume.name}", flush=True)
                script = f"label: gpt\nname={label}{paths.MAKING_SUFFIX}\n"
                await run([*_SFDISK, str(device)], stdin=script.encode())
                await asyncio.to_thread(flush, device)
            case Make(number):
                partition = dev / facts.device_of(number)
                await _known_to_kernel(device, sysfs)
                await make_filesystem(partition, volume.name, projects=True)
                await run([paths.SFDISK, "--quiet", "--part-label", str(device), str(number), label])
                await asyncio.to_thread(flush, device)
            case Mount(number):
                await _known_to_kernel(device, sysfs)
                target.mkdir(mode=0o755, parents=True, exist_ok=True)
                flags = FLAGS | (MS_RDONLY if volume.read_only else 0)
                await check_and_mount(dev / facts.device_of(number), target, flags, quotas=True)
                return
    raise BasaltError(f"{disk} does not become a volume", why=f"{STEPS_MAX} steps were not enough")


async def _known_to_kernel(device: Path, sysfs: Path) -> None:
    """The kernel reads only the primary table; where a power cut left the backup alone, sfdisk knows more than it does."""
    facts = read_disk(sysfs)
    await tell_kernel(device, facts, await read_table(device, facts))


def remount(target: Path, *, read_only: bool) -> None:
    """Make a mounted volume read-only or writable.

    :raises OSError: EBUSY while a file on it is open for writing.
    """
    mount("none", str(target), "none", MS_REMOUNT | FLAGS | (MS_RDONLY if read_only else 0))


async def take_down(target: Path) -> bool:
    """Unmount a volume that is no longer wanted; whether that was possible: not while it is in use."""
    try:
        await asyncio.to_thread(umount, str(target))  # which writes back what is still in memory
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    with contextlib.suppress(OSError):
        target.rmdir()  # not empty where somebody wrote below it while nothing was mounted: those files are not ours
    return True


def let_go(target: Path) -> None:
    """Forget a volume whose disk has been pulled out: there is nothing to write back to."""
    umount(str(target), MNT_DETACH)
