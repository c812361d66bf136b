"""The concern "boot entry": the entry that booted gets its tries back once the node has shown that it is well."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from machined.bootloader import booted_entry, rearm
from machined.disks.facts import read_disk
from machined.paths import LABEL_ESP, Paths
from machined.reconcile import CONVERGED, Board, State, Status, waiting
from machined.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount, umount

# What must be well before a boot counts as good. Local conditions only: a network outage must not roll nodes back.
CONDITIONS = ("state", "configuration", "api")


class BootEntryReconciler:
    """Owns the boot counter of the running entry.

    :param disk: the boot disk's directory below ``/sys``.
    """

    def __init__(self, node: Paths, board: Board, *, disk: Callable[[], Path]) -> None:
        self._node = node
        self._board = board
        self._disk = disk

    async def reconcile(self) -> Status:
        """One look."""
        entry = booted_entry(self._node.efivars)
        if entry is None:
            return CONVERGED  # not counted: a direct kernel boot, or a loader without counting
        unwell = [concern for concern in CONDITIONS if self._board.state_of(concern) is not State.CONVERGED]
        if unwell:
            return waiting(f"not all is well yet: {', '.join(unwell)}", "the boot is counted as good once it is")
        with Esp(self._node, self._disk()) as esp:
            name = rearm(esp, entry)
        if name:
            print(f"boot entry: {name}", flush=True)
        return CONVERGED


class Esp:
    """The ESP, mounted for as long as a ``with`` block lasts and not a moment longer: FAT has no journal."""

    def __init__(self, node: Paths, disk: Path) -> None:
        self._target = node.esp_mount
        self._device = node.dev / _esp_device(disk)

    def __enter__(self) -> Path:
        mount(str(self._device), str(self._target), "vfat", MS_NOSUID | MS_NODEV | MS_NOEXEC, "umask=0077")
        return self._target

    def __exit__(self, *_: object) -> None:
        os.sync()
        umount(str(self._target))


def _esp_device(disk: Path) -> str:
    found = read_disk(disk)
    partitions = found.labelled(LABEL_ESP)
    if len(partitions) != 1:
        raise FileNotFoundError(2, f"{found.name} has {len(partitions)} partitions labelled {LABEL_ESP}")
    return found.device_of(partitions[0].number)
