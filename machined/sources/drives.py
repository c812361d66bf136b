"""Configuration drives: file systems labelled ``cidata`` or ``config-2``, on any drive but the one that the node booted from.

They are mounted read-only, and without set-user-id, device nodes, programs and symbolic links: what a stranger's file system says is
read as bytes of a bounded length, and nothing else of it takes effect.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from basalt.errors import BasaltError
from machined import paths
from machined.sources import cloud
from machined.sources.model import NOTHING, ON_DRIVES, Damaged, Material
from machined.sources.readers import check_size
from machined.syscalls import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_NOSYMFOLLOW, MS_RDONLY, mount, umount
from machined.tools import run

_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOSYMFOLLOW
_TYPES = ("vfat", "iso9660")
_NO_DRIVES = (
    "loop",
    "ram",
    "zram",
    "dm-",
    "md",
    "nbd",
    "fd",
)  # made by the node itself, or slow to say that they are empty
_NOTHING_FOUND = frozenset(
    {0, 2, 4, 8}
)  # blkid(8): nothing recognised, no medium, or signatures of several file systems


class Volume(Struct, frozen=True):
    """A file system on a drive. *disk* is the drive, equal to *device* where the file system fills it."""

    device: str
    disk: str
    label: str
    type: str


def candidates(sys: Path, boot_disk: str) -> tuple[tuple[str, str], ...]:
    """Device and drive of everything that may hold a file system, the boot disk and its partitions left out."""
    found = []
    for entry in sorted((sys / "class/block").glob("*")):
        place = entry.resolve()
        disk = place.parent.name if (place / "partition").exists() else entry.name
        if disk == boot_disk or disk.startswith(_NO_DRIVES):
            continue
        with contextlib.suppress(OSError, ValueError):
            if int((entry / "size").read_text(encoding="ascii")) and not any((entry / "holders").glob("*")):
                found.append((entry.name, disk))
    return tuple(found)


def parse_blkid(text: str) -> dict[str, str]:
    """What ``blkid -o export`` says of one device."""
    return {key: value for key, found, value in (line.partition("=") for line in text.splitlines()) if found}


def pick(label: str, volumes: Iterable[Volume]) -> Volume | Damaged | None:
    """The one volume with *label*, in any case of its letters.

    Two drives with the same label are both left alone: nothing says which of them is the old one.
    """
    fitting = [volume for volume in volumes if volume.label.strip().lower() == label and volume.type in _TYPES]
    whole = {volume.device for volume in fitting if volume.device == volume.disk}
    # The image of a CD on a stick shows the same file system on the drive and on its first partition.
    distinct = [volume for volume in fitting if volume.device == volume.disk or volume.disk not in whole]
    if len(distinct) > 1:
        devices = ", ".join(volume.device for volume in distinct)
        return Damaged(f"{len(distinct)} drives carry the label: {devices}; none is used until the others are gone")
    return distinct[0] if distinct else None


def read_files(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of *names* that are there.

    :raises BasaltError: one of them is no plain file, or larger than a configuration can be.
    """
    found = {}
    for name in names:
        try:
            # O_NONBLOCK: a FIFO must not hold the node up.
            fd = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        with os.fdopen(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BasaltError(f"{name} is no plain file")
            data = check_size(stream.read(paths.DOCUMENTS_BYTES_MAX + 1))
        if isinstance(data, Damaged):
            raise BasaltError(f"{name} cannot be used", why=data.problem)
        found[name] = data
    return found


def cards(sys: Path) -> dict[str, str]:
    """The node's network cards: MAC address → name."""
    found = {}
    for link in sorted((sys / "class/net").glob("*")):
        if (link / "device").exists():
            with contextlib.suppress(OSError):
                found[(link / "address").read_text(encoding="ascii").strip().lower()] = link.name
    return found


async def read_drives(node: paths.Paths, boot_disk: str) -> Mapping[str, Material]:
    """What each of the two kinds of drives holds; a drive that is not there holds nothing."""
    volumes = []
    for device, disk in candidates(node.sys, boot_disk):
        said = parse_blkid(
            await run(
                [paths.BLKID, "-p", "-o", "export", "-u", "filesystem", str(node.dev / device)], accept=_NOTHING_FOUND
            )
        )
        volumes.append(Volume(device, disk, said.get("LABEL", ""), said.get("TYPE", "")))
    return {label: _read(node, label, pick(label, volumes)) for label in ON_DRIVES}


def _read(node: paths.Paths, label: str, volume: Volume | Damaged | None) -> Material:
    if volume is None:
        return NOTHING
    if isinstance(volume, Damaged):
        return Material(volume, volume)
    target = node.config_drive
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        mount(str(node.dev / volume.device), str(target), volume.type, _FLAGS)
        try:
            files = read_files(target, cloud.FILES[label])
        finally:
            umount(str(target), MNT_DETACH)
    except (BasaltError, OSError) as error:
        damage = Damaged(f"{volume.device} ({volume.type}): {error}")
        return Material(damage, damage)
    return cloud.material(label, files, cards(node.sys))
