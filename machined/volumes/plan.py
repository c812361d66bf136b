"""Which disk a volume gets, what is on it, and what to do next. Pure.

A disk is made into a volume in three steps, each durable before the next, and the partition's label says how far it got:

==============================================  ==================================================================
on disk when the power goes                     next boot
==============================================  ==================================================================
nothing yet                                     begins again
parts of our partition table, not yet all       knows them as its own (:func:`is_beginning`), begins again
``basalt-NAME.new``, any content                formats it (nothing was ever stored in it) and renames it
``basalt-NAME``                                 checks and mounts it
old data half erased, which was to be erased    is still other data, and still to be erased; begins again
==============================================  ==================================================================

Only a disk that is blank, a beginning of this very volume, or other data with ``existingData: wipe`` is ever written to. What bears the
volume's own label is never formatted again, whatever state its file system is in.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from basalt.config.documents import DiskSelector, VolumeConfig
from basalt.config.values import size_bytes
from basalt.errors import BasaltError
from machined import paths

if TYPE_CHECKING:
    from machined.volumes.facts import Candidate

EDGE_BYTES = 1024 * 1024  # looked at at both ends of a disk: partition tables and most signatures lie there

# UEFI 2.10, section 5.3: header in the block behind the protective MBR, at least 16 KiB of entries behind it; at the end of the disk
# the other way round. 34 blocks of 4096 bytes are within EDGE_BYTES.
_ENTRY_BYTES = 128
_ENTRIES_BYTES = 16 * 1024
_ENTRY_NAME = slice(56, 128)
_SIGNATURE = b"EFI PART"
_SECTORS = (512, 4096)


class ContentKind(enum.Enum):
    """What a disk is to a volume."""

    BLANK = "blank"
    BEGUN = "begun"  # its partition is there, and not finished
    OURS = "ours"
    FOREIGN = "foreign"


class Content(Struct, frozen=True):
    """What is on a disk. *said* describes other data in words; *partition* is the number of ours."""

    kind: ContentKind
    said: str = ""
    partition: int = 0


class LayOut(Struct, frozen=True):
    """Write a partition table with one partition, labelled as begun; what was there is lost."""


class Make(Struct, frozen=True):
    """Make the file system, then give the partition its final label."""

    partition: int


class Mount(Struct, frozen=True):
    """Check and mount it."""

    partition: int


Step = LayOut | Make | Mount


def label_of(name: str) -> str:
    """The label of volume *name*'s partition."""
    return paths.LABEL_VOLUME + name


def bare_wwn(text: str) -> str:
    """A world wide name without the word for its kind (naa, eui, 0x), in lower case: tools and sysfs differ in that."""
    return re.sub(r"^(naa\.|eui\.|uuid\.|0x)", "", text.strip().lower())


def fits(selector: DiskSelector, disk: Candidate) -> bool:
    """Whether a disk is all that *selector* says."""
    size = disk.disk.size_bytes
    checks = (
        (selector.wwn, lambda text: bare_wwn(text) == bare_wwn(disk.wwn)),
        (selector.serial, lambda text: text.strip() == disk.serial),
        (selector.model, lambda text: text.strip() == disk.model),
        (selector.size_min, lambda text: size >= size_bytes(text)),
        (selector.size_max, lambda text: size <= size_bytes(text)),
    )
    given = [check(text) for text, check in checks if text is not None]
    return bool(given) and all(given)


class NoDiskError(BasaltError):
    """No disk fits at present; one that is plugged in later may."""


def choose(
    volume: VolumeConfig, disks: Iterable[Candidate], others: frozenset[str], taken: frozenset[str]
) -> Candidate:
    """The disk of *volume*.

    Where several fit and one of them bears the volume's label already, it is that one: a further disk of the same kind does not
    bring a volume into doubt.

    :param others: names of the other configured volumes, whose disks are not to be had.
    :param taken: names of disks that other volumes have taken in this look.
    :raises NoDiskError: none fits; :raises BasaltError: several do.
    """
    known = list(disks)
    foreign = {label_of(name) + suffix for name in others for suffix in ("", paths.MAKING_SUFFIX)}
    free = [
        disk
        for disk in known
        if disk.name not in taken and not any(partition.label in foreign for partition in disk.disk.partitions)
    ]
    fitting = [disk for disk in free if fits(volume.disk, disk)]
    own = [disk for disk in fitting if disk.disk.labelled(label_of(volume.name))]
    if len(fitting) > 1 and len(own) == 1:
        return own[0]
    if len(fitting) > 1:
        raise BasaltError(
            f"{len(fitting)} disks fit",
            why=", ".join(map(str, fitting)),
            remedy="say more in `disk`: a serial number or a WWN names one",
        )
    if not fitting:
        there = ", ".join(map(str, free)) or "none"
        raise NoDiskError("no disk fits", why=f"free disks: {there}", remedy="a disk that is plugged in later is taken")
    return fitting[0]


def is_blank(data: bytes) -> bool:
    """Whether there is nothing but zeros."""
    return not data.strip(b"\0")


def is_beginning(first: bytes, last: bytes, label: str) -> bool:
    """Whether the ends of a disk hold nothing but a partition table of ours that a power cut left unfinished.

    The backup entries and header are written first, then the primary ones, the protective MBR at the end (UEFI 2.10, section 5.3.2),
    and until that last one is there no tool sees a table. It is ours when each block that is not zero is a header, or entries of
    which exactly the first is used and has *label*, which no other program gives.
    """
    if is_blank(first) and is_blank(last):
        return False
    return any(_is_beginning(first, last, label, sector) for sector in _SECTORS)


def _is_beginning(first: bytes, last: bytes, label: str, sector: int) -> bool:
    header, entries = first[sector : 2 * sector], first[2 * sector : 2 * sector + _ENTRIES_BYTES]
    other_header, other_entries = last[-sector:], last[-sector - _ENTRIES_BYTES : -sector]
    rest = first[:sector], first[2 * sector + _ENTRIES_BYTES :], last[: -sector - _ENTRIES_BYTES]
    return (
        all(is_blank(part) for part in rest)
        and all(is_blank(part) or part.startswith(_SIGNATURE) for part in (header, other_header))
        and all(is_blank(part) or _is_our_entry(part, label) for part in (entries, other_entries))
        and not all(is_blank(part) for part in (entries, other_entries))
    )


def _is_our_entry(entries: bytes, label: str) -> bool:
    name = entries[_ENTRY_NAME].decode("utf-16-le", "replace").rstrip("\0")
    return name == label + paths.MAKING_SUFFIX and is_blank(entries[_ENTRY_BYTES:])


def interpret(said: str, labels: dict[int, str] | None, first: bytes, last: bytes, label: str) -> Content:
    """What a disk is to the volume with partition label *label*.

    :param said: what blkid found, empty for nothing; *labels*: the labels of a GPT's partitions by number, None without a GPT.
    :param first: the disk's first MiB, *last* its last.
    """
    if labels is not None and len(labels) == 1:
        ((number, found),) = labels.items()
        if found == label:
            return Content(ContentKind.OURS, partition=number)
        if found == label + paths.MAKING_SUFFIX:
            return Content(ContentKind.BEGUN, partition=number)
    if labels is not None:
        named = ", ".join(found or f"partition {number}" for number, found in labels.items()) or "no partition"
        return Content(ContentKind.FOREIGN, f"{said} with {named}")
    if said:
        return Content(ContentKind.FOREIGN, said)
    if (is_blank(first) and is_blank(last)) or is_beginning(first, last, label):
        return Content(ContentKind.BLANK)
    return Content(ContentKind.FOREIGN, "data that blkid does not know: the first or last MiB is not zero")


def next_step(volume: VolumeConfig, content: Content, disk: str) -> Step:
    """What to do with the disk of *volume*, described by *disk*.

    :raises BasaltError: there is other data on it, and nobody said that it may be erased.
    """
    match content.kind:
        case ContentKind.OURS:
            return Mount(content.partition)
        case ContentKind.BEGUN:
            return Make(content.partition)
        case ContentKind.BLANK:
            return LayOut()
        case ContentKind.FOREIGN if volume.existing_data == "wipe":
            return LayOut()
        case _:
            raise BasaltError(
                f"{disk} is not empty",
                why=f"found {content.said}",
                remedy="choose another disk, or say `existingData: wipe`, which erases it",
            )
