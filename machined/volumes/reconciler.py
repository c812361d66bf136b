"""Looks after all volumes: takes up those that are configured, lets go of those that are not, and says how each stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from basalt.config.documents import VolumeConfig
from basalt.errors import BasaltError
from machined import paths
from machined.reconcile import CONVERGED, Status, failed, failed_by, together, waiting
from machined.volumes import apply
from machined.volumes.facts import Candidate, candidates
from machined.volumes.plan import NoDiskError, choose


class VolumesReconciler:
    """Owns ``/var/mnt`` and the disks of volumes.

    :param boot_disk: name of the disk that the node booted from; raises BasaltError when that is not known, and then no disk is safe.
    :param data_is_there: whether DATA is mounted, on which the mount points lie.
    """

    def __init__(
        self,
        node: paths.Paths,
        *,
        config: Callable[[], tuple[VolumeConfig, ...]],
        boot_disk: Callable[[], str],
        data_is_there: Callable[[], bool],
    ) -> None:
        self._node = node
        self._config = config
        self._boot_disk = boot_disk
        self._data_is_there = data_is_there

    async def reconcile(self) -> Status:
        """One look."""
        if not self._data_is_there():
            return waiting("DATA is not mounted", "volumes are mounted once it is") if self._config() else CONVERGED
        volumes = {volume.name: volume for volume in self._config()}
        table = (self._node.proc / "self/mounts").read_text(encoding="utf-8")
        mounted = apply.mounted_volumes(table, self._node.volumes)
        mounted = {name: here for name, here in mounted.items() if not self._let_go_of_lost(name, here)}
        parts = [(name, await self._remove(name)) for name in mounted if name not in volumes]
        parts += [(name, self._keep(volume, mounted[name])) for name, volume in volumes.items() if name in mounted]
        missing = [volume for name, volume in volumes.items() if name not in mounted]
        if missing:
            disks = candidates(self._node.sys, self._boot_disk())
            taken = {Path(here.source).name for here in mounted.values()}
            for volume in missing:
                others = frozenset(volumes) - {volume.name}
                parts.append((volume.name, await self._take_up(volume, disks, others, taken)))
        return together(parts)

    def _let_go_of_lost(self, name: str, here: apply.Mounted) -> bool:
        if (self._node.dev / here.source.removeprefix("/dev/")).exists():
            return False
        print(f"volumes: the disk of {name}, {here.source}, is gone", flush=True)
        apply.let_go(self._node.volumes / name)
        return True

    def _keep(self, volume: VolumeConfig, here: apply.Mounted) -> Status:
        if here.read_only == volume.read_only:
            return CONVERGED
        wanted = "read-only" if volume.read_only else "writable"
        try:
            apply.remount(self._node.volumes / volume.name, read_only=volume.read_only)
        except OSError as error:
            return failed(f"it does not become {wanted}: {error.strerror}", "stop what uses it, or reboot")
        return CONVERGED

    async def _remove(self, name: str) -> Status:
        try:
            unmounted = await apply.take_down(self._node.volumes / name)
        except OSError as error:
            return failed_by(error, "look at the disk; a reboot unmounts it")
        if unmounted:
            print(f"volumes: {name} is no longer configured, unmounted; its data is left alone", flush=True)
            return CONVERGED
        return waiting("no longer configured, but in use", "stop what uses it, or reboot; its data is left alone")

    async def _take_up(
        self, volume: VolumeConfig, disks: tuple[Candidate, ...], others: frozenset[str], taken: set[str]
    ) -> Status:
        in_use = frozenset(
            disk.name
            for disk in disks
            if disk.held or any(disk.disk.device_of(part.number) in taken for part in disk.disk.partitions)
        )
        try:
            disk = choose(volume, disks, others, in_use | frozenset(taken))
            taken.add(disk.name)
            await apply.bring_up(
                volume, disk, self._node.dev, self._node.sys / "block" / disk.name, self._node.volumes / volume.name
            )
        except NoDiskError as error:
            return waiting(str(error), error.remedy)
        except (BasaltError, OSError) as error:
            return failed_by(error, "look at the disk; nothing on it was changed by this")
        print(f"volumes: {volume.name} is mounted from {disk}", flush=True)
        return CONVERGED
