"""The directories of a workload: volumes that stay, volumes in memory, secrets.

::

    /var/lib/basalt/volumes/<workload>/<volume>       on DATA; never removed by machined
    /var/mnt/<disk>/workloads/<workload>/<volume>     on the disk of a VolumeConfig
    /run/basalt/workloads/<workload>/memory/<volume>  a tmpfs of the volume's size
    /run/basalt/workloads/<workload>/secrets/<container>/<n>
    /var/log/workloads/<workload>/<container>/<n>.log
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from basalt.config.documents.workload import WorkloadConfig, WorkloadVolume
from basalt.config.values import size_bytes
from basalt.errors import BasaltError
from machined import paths
from machined.disks.filesystems import mounted_type
from machined.network.names import put
from machined.syscalls import MNT_DETACH, MS_NODEV, MS_NOSUID, mount, umount
from machined.workloads import quota
from machined.workloads.desired import Places, secret_file

_NOBODY_KNOWN = "the owner of a volume or secret must be given by number: names are the image's own"


class WorkloadStorage:
    """Makes and removes the directories of workloads below one root."""

    def __init__(self, node: paths.Paths) -> None:
        self._volumes = node.data / "lib/basalt/volumes"
        self._logs = node.data / "log/workloads"
        self._run = node.run / "workloads"
        self._data = node.data
        self._etc = node.etc
        self.disks = node.volumes

    def places(self, workload: str) -> Places:
        """Where things of *workload* lie."""
        run = self._run / workload
        return Places(self._logs / workload, self._volumes / workload, run / "memory", run / "secrets")

    def prepare(self, config: WorkloadConfig) -> None:
        """Have everything there that the containers of *config* mount.

        :raises BasaltError: a volume cannot be had: its disk is not mounted, or its size cannot be kept.
        :raises OSError: DATA is full or damaged.
        """
        places = self.places(config.name)
        (self._run / config.name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for volume in config.volumes:
            self._prepare(volume, places)
        self._write_secrets(config, places)
        for container in config.containers:
            (places.logs / container.name).mkdir(mode=0o755, parents=True, exist_ok=True)

    def _prepare(self, volume: WorkloadVolume, places: Places) -> None:
        if volume.disk and not os.path.ismount(self.disks / volume.disk):
            raise BasaltError(
                f"volume {volume.name} is not there",
                why=f"the disk volume {volume.disk} is not mounted",
                remedy="osctl status says why",
            )
        directory = places.volume(volume, self.disks)
        if not directory.exists():
            staged = directory.with_name(f".{directory.name}.new")  # never without its owner, whenever the power goes
            staged.mkdir(mode=0o755, parents=True, exist_ok=True)
            if volume.owner:
                os.chown(staged, *_numbers(volume.owner))
            staged.rename(directory)
        if volume.medium == "data":
            quota.limit(directory, size_bytes(volume.size) if volume.size else None)
        elif not mounted_type(Path("/proc/self/mounts").read_text(encoding="utf-8"), str(directory)):
            size = size_bytes(volume.size) if volume.size else 0
            mount("tmpfs", str(directory), "tmpfs", MS_NODEV | MS_NOSUID, f"mode=0755,size={size}")
            if volume.owner:
                os.chown(directory, *_numbers(volume.owner))

    def _write_secrets(self, config: WorkloadConfig, places: Places) -> None:
        values = {secret.name: secret.value for secret in config.secrets}
        for container in config.containers:
            user = container.security.user or "0"
            for at, mounted in enumerate(container.secrets):
                path = secret_file(places, container.name, at)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                staged = path.with_suffix(".new")
                staged.unlink(missing_ok=True)
                fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
                with os.fdopen(fd, "w", encoding="utf-8") as stream:
                    stream.write(values[mounted.secret])
                    owner = mounted.owner or (user if user.replace(":", "").isdecimal() else "0")
                    os.fchown(fd, *_numbers(owner))
                    os.fchmod(fd, int(mounted.mode, 8))
                staged.rename(path)

    def follow_names(self, sandbox: str) -> None:
        """Have a sandbox ask the DNS servers that the node asks. Its file is written in place: containers have it mounted."""
        copy = self._data / "lib/containerd/io.containerd.grpc.v1.cri/sandboxes" / sandbox / "resolv.conf"
        try:
            wanted = (self._etc / "resolv.conf").read_bytes()
            if copy.read_bytes() != wanted:
                with copy.open("r+b") as stream:
                    stream.write(wanted)
                    stream.truncate()
        except FileNotFoundError:
            return  # the sandbox has just gone

    def note_unhealthy(self, workload: str, container: str, reason: str) -> None:
        """Have it known also to the next machined why a container is stopped."""
        directory = self._run / workload / "unhealthy"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        put(directory / container, reason, mode=0o600)

    def why_unhealthy(self, workload: str, container: str) -> str:
        """Why a container was stopped; empty when it was not for its health."""
        try:
            return (self._run / workload / "unhealthy" / container).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def forget_unhealthy(self, workload: str, container: str) -> None:
        """A container has gone."""
        (self._run / workload / "unhealthy" / container).unlink(missing_ok=True)

    def remove(self, workload: str) -> None:
        """Take away what lies in memory; volumes and logs stay."""
        run = self._run / workload
        memory = run / "memory"
        if memory.is_dir():
            for directory in memory.iterdir():
                if os.path.ismount(directory):
                    umount(str(directory), MNT_DETACH)
        shutil.rmtree(run, ignore_errors=True)


def _numbers(owner: str) -> tuple[int, int]:
    user, _, group = owner.partition(":")
    if not user.isdecimal() or (group and not group.isdecimal()):
        raise BasaltError(f"{owner} is no owner", why=_NOBODY_KNOWN, remedy="give UID or UID:GID")
    return int(user), int(group or user)
