"""What to do next to the partition table so that STATE and DATA exist and DATA reaches the end of the disk. Pure.

One step at a time: the caller takes it, reads the table again and asks for the next, so that a power cut between any two steps
resumes where it was. What makes that safe is the label: a partition is *created* as ``STATE.new`` and renamed to ``STATE`` once
its file system is durable. Only a partition whose label ends in ``.new`` is ever formatted; a STATE that will not mount is
reported, never made anew.

==================================  ==========================================================
on disk when the power goes         next boot
==================================  ==========================================================
nothing yet                         begins again
``STATE.new``, any content          formats it (nothing was ever stored in it) and renames it
``STATE``                           is done
DATA extended, file system not yet  mounts DATA, the file system grows online
==================================  ==========================================================

Partitions of others are never moved, resized or removed: without room the answer is a refusal that says so.
"""

from __future__ import annotations

from msgspec import Struct

from basalt.errors import BasaltError
from machined import paths
from machined.disks.facts import Disk, Partition, Table


class RelocateBackup(Struct, frozen=True):
    """Move the backup GPT to the end of a disk that is larger than the image written to it."""


class NewPartition(Struct, frozen=True):
    """A partition to append."""

    label: str
    start_bytes: int
    size_bytes: int


class Append(Struct, frozen=True):
    """Create partitions behind the existing ones, in one write of the table."""

    partitions: tuple[NewPartition, ...]


class Make(Struct, frozen=True):
    """Put a file system on a partition that was created for it, then give it its final label."""

    number: int
    label: str


class Grow(Struct, frozen=True):
    """Extend the last partition."""

    number: int
    size_bytes: int


Step = RelocateBackup | Append | Make | Grow


def layout_is_complete(disk: Disk) -> bool:
    """Whether the kernel's view alone shows that nothing is to be done: true at every boot but the first and after growth."""
    state, data = disk.labelled(paths.LABEL_STATE), disk.labelled(paths.LABEL_DATA)
    if len(state) != 1 or len(data) != 1:
        return False
    is_last = data[0] == disk.partitions[-1]
    return not is_last or disk.size_bytes - data[0].end_bytes < paths.GROW_BYTES_MIN


def next_step(table: Table) -> Step | None:
    """The next step, or None when STATE and DATA exist and nothing is to be grown.

    :raises BasaltError: the table does not allow what is needed; nothing was changed by asking.
    """
    _refuse_foreign(table)
    _refuse_duplicates(table)
    if table.disk_bytes - table.usable_end_bytes >= paths.GROW_BYTES_MIN:
        return RelocateBackup()
    labels = {partition.label for partition in table.partitions}
    missing = [
        label
        for label in (paths.LABEL_STATE, paths.LABEL_DATA)
        if label not in labels and label + paths.MAKING_SUFFIX not in labels
    ]
    if missing:
        return Append(tuple(_place(table, missing)))
    for partition in table.partitions:
        label = partition.label.removesuffix(paths.MAKING_SUFFIX)
        if label != partition.label and label in (paths.LABEL_STATE, paths.LABEL_DATA) and label not in labels:
            return Make(partition.number, label)
    return _growth(table)


def _refuse_foreign(table: Table) -> None:
    """The disk under the root is Basalt's own only when it has Basalt's layout; any other is not ours to write to."""
    labels = {partition.label for partition in table.partitions}
    absent = [label for label in paths.LABELS_OF_IMAGE if label not in labels]
    if absent:
        raise BasaltError(
            "the disk that the node booted from is not laid out by osbuild",
            why=f"it has no partition labelled {', '.join(absent)}",
            remedy="write a disk image made by osbuild to it",
        )


def _refuse_duplicates(table: Table) -> None:
    for label in (paths.LABEL_STATE, paths.LABEL_DATA):
        found = [partition.number for partition in table.partitions if partition.label == label]
        if len(found) > 1:
            raise BasaltError(
                f"cannot tell which partition is {label}",
                why=f"partitions {', '.join(map(str, found))} all carry that label",
                remedy="remove or rename the one that is not the node's",
            )


def _align_up(value: int) -> int:
    return -(-value // paths.ALIGN_BYTES) * paths.ALIGN_BYTES


def _end(table: Table) -> int:
    """The last aligned byte position that partitions may reach."""
    return table.usable_end_bytes // paths.ALIGN_BYTES * paths.ALIGN_BYTES


def _place(table: Table, missing: list[str]) -> list[NewPartition]:
    start = _align_up(max((partition.end_bytes for partition in table.partitions), default=paths.ALIGN_BYTES))
    placed = []
    for label in missing:
        size = paths.STATE_BYTES if label == paths.LABEL_STATE else _end(table) - start
        needed = paths.STATE_BYTES if label == paths.LABEL_STATE else paths.DATA_BYTES_MIN
        if size < needed or start + size > _end(table):
            free_mib = max(0, _end(table) - start) // 1024**2
            raise BasaltError(
                f"no room for {label}",
                why=f"{free_mib} MiB are free behind the last partition, it needs {needed // 1024**2} MiB",
                remedy="use a larger disk, or free the space behind the verity partitions",
            )
        placed.append(NewPartition(label + paths.MAKING_SUFFIX, start, size))
        start += size
    return placed


def _growth(table: Table) -> Grow | None:
    last: Partition = table.partitions[-1]
    room = _end(table) - last.end_bytes
    if last.label != paths.LABEL_DATA or room < paths.GROW_BYTES_MIN:
        return None
    return Grow(last.number, _end(table) - last.start_bytes)
