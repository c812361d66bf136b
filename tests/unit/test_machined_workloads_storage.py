"""The directories of workloads below a scratch directory: volumes, secrets, names; and the sizes of volumes where they can be had."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from basalt.config.documents import WorkloadConfig
from basalt.config.documents.workload import (
    SecretMount,
    Security,
    VolumeMount,
    WorkloadSecret,
    WorkloadVolume,
)
from basalt.errors import BasaltError
from machined.disks.filesystems import type_at
from machined.paths import Paths
from machined.workloads import quota
from machined.workloads.storage import WorkloadStorage
from tests.unit.fake_containerd_world import needs_root, one, workload

OWN = f"{os.getuid()}:{os.getgid()}"  # whom everybody may give a file to


@pytest.fixture
def node(tmp_path: Path) -> Paths:
    found = Paths(str(tmp_path))
    for directory in (found.run, found.etc, found.data):
        directory.mkdir(parents=True)
    return found


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """The limits that volumes are given; not every file system has some."""
    found: dict[str, int | None] = {}

    def limit(directory: Path, size_bytes: int | None) -> None:
        assert directory.is_dir()
        found[directory.name] = size_bytes

    monkeypatch.setattr(quota, "limit", limit)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def with_volumes(*volumes: WorkloadVolume) -> WorkloadConfig:
    mounts = tuple(VolumeMount(volume=volume.name, path=f"/{volume.name}") for volume in volumes)
    return workload("web", one(mounts=mounts), volumes=volumes)


class TestVolumes:
    def test_they_are_made_once_and_given_their_sizes_each_time(
        self, node: Paths, limits: dict[str, int | None]
    ) -> None:
        storage = WorkloadStorage(node)
        document = with_volumes(WorkloadVolume(name="data", size="16MiB"), WorkloadVolume(name="more"))
        storage.prepare(document)
        directory = node.data / "lib/basalt/volumes/web/data"
        assert mode(directory) == 0o755
        assert limits == {"data": 16 << 20, "more": None}
        (directory / "kept").write_text("kept")
        directory.chmod(0o700)  # as whoever uses it wanted
        storage.prepare(with_volumes(WorkloadVolume(name="data", size="32MiB")))
        assert limits["data"] == 32 << 20
        assert (directory / "kept").read_text() == "kept" and mode(directory) == 0o700

    def test_there_is_a_place_for_every_log(self, node: Paths) -> None:
        WorkloadStorage(node).prepare(workload("web", one(), one("side")))
        assert sorted(path.name for path in (node.data / "log/workloads/web").iterdir()) == ["main", "side"]

    def test_what_lies_in_memory_is_nobody_elses(self, node: Paths) -> None:
        WorkloadStorage(node).prepare(workload())
        assert mode(node.run / "workloads/web") == 0o700

    @needs_root
    def test_the_owner_is_given_when_a_volume_is_made_and_not_again(
        self, node: Paths, limits: dict[str, int | None]
    ) -> None:
        storage = WorkloadStorage(node)
        storage.prepare(
            with_volumes(WorkloadVolume(name="data", owner="1000:2000"), WorkloadVolume(name="b", owner="7"))
        )
        directory = node.data / "lib/basalt/volumes/web/data"
        assert (directory.stat().st_uid, directory.stat().st_gid) == (1000, 2000)
        assert (directory.parent / "b").stat().st_gid == 7
        os.chown(directory, 3, 3)
        storage.prepare(with_volumes(WorkloadVolume(name="data", owner="1000:2000")))
        assert directory.stat().st_uid == 3

    def test_one_on_a_further_disk_waits_for_the_disk(
        self, node: Paths, limits: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = WorkloadStorage(node)
        document = with_volumes(WorkloadVolume(name="data", disk="big", size="1GiB"))
        (node.volumes / "big").mkdir(parents=True)  # the mount point alone: what is written there is on DATA
        with pytest.raises(BasaltError, match="volume data is not there: the disk volume big is not mounted"):
            storage.prepare(document)
        assert not list((node.volumes / "big").iterdir()) and not limits
        monkeypatch.setattr(os.path, "ismount", lambda path: path == node.volumes / "big")
        storage.prepare(document)
        assert (node.volumes / "big/workloads/web/data").is_dir() and limits == {"data": 1 << 30}

    @needs_root
    def test_memory_is_a_file_system_of_its_size_until_the_workload_goes(self, node: Paths) -> None:
        storage = WorkloadStorage(node)
        document = with_volumes(
            WorkloadVolume(name="fast", medium="memory", size="1MiB", owner=OWN), WorkloadVolume(name="data")
        )
        directory = node.run / "workloads/web/memory/fast"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quota, "limit", lambda *_: None)
            try:
                storage.prepare(document)
            except OSError as error:
                pytest.skip(f"nothing can be mounted here: {error}")
            try:
                assert type_at(directory) == "tmpfs"
                assert os.statvfs(directory).f_blocks * os.statvfs(directory).f_frsize == 1 << 20
                (directory / "file").write_text("there")
                storage.prepare(document)
                assert (directory / "file").read_text() == "there"  # nothing was mounted over it
            finally:
                storage.remove("web")
        assert not (node.run / "workloads/web").exists()
        assert type_at(directory) is None
        assert (node.data / "lib/basalt/volumes/web/data").is_dir()

    def test_nothing_is_removed_of_what_was_never_there(self, node: Paths) -> None:
        WorkloadStorage(node).remove("web")


def with_secret(value: str = "s3cr3t", user: str | None = None, **fields: Any) -> WorkloadConfig:
    mount = SecretMount(secret="token", path="/run/token", **fields)
    container = one(secrets=(mount, mount), security=Security(user=user))
    return workload("web", container, secrets=(WorkloadSecret(name="token", value=value),))


class TestSecrets:
    def test_they_are_files_in_memory_with_their_mode_and_nobody_elses(self, node: Paths) -> None:
        storage = WorkloadStorage(node)
        storage.prepare(with_secret("grüße\n", owner=OWN, mode="0440"))
        directory = storage.places("web").secrets / "main"
        assert sorted(path.name for path in directory.iterdir()) == ["0", "1"]
        assert (directory / "0").read_text(encoding="utf-8") == "grüße\n"
        assert mode(directory / "0") == 0o440
        assert mode(directory) == mode(directory.parent.parent) == 0o700

    def test_a_new_value_is_a_new_file(self, node: Paths) -> None:
        """A container that still runs has the old one mounted, and must not see it change under its hands."""
        storage = WorkloadStorage(node)
        storage.prepare(with_secret("old", owner=OWN))
        path = storage.places("web").secrets / "main/0"
        with path.open() as before:
            storage.prepare(with_secret("new", owner=OWN))
            assert (before.read(), path.read_text()) == ("old", "new")

    def test_what_a_machined_that_was_killed_left_is_replaced(self, node: Paths) -> None:
        storage = WorkloadStorage(node)
        staged = storage.places("web").secrets / "main/0.new"
        staged.parent.mkdir(parents=True)
        staged.write_text("half")
        staged.chmod(0o777)
        storage.prepare(with_secret(owner=OWN))
        assert not staged.exists() and mode(staged.with_suffix("")) == 0o400

    @needs_root
    @pytest.mark.parametrize(
        ("user", "owner", "expected"),
        [
            (None, None, (0, 0)),
            ("1000", None, (1000, 1000)),
            ("1000:2000", None, (1000, 2000)),
            ("www", None, (0, 0)),  # nobody but the image knows who that is
            ("www:100", None, (0, 0)),
            ("1000", "7", (7, 7)),
            ("www", "7:8", (7, 8)),
        ],
    )
    def test_whose_they_are(self, user: str | None, owner: str | None, expected: tuple[int, int], node: Paths) -> None:
        storage = WorkloadStorage(node)
        storage.prepare(with_secret(user=user, owner=owner))
        found = (storage.places("web").secrets / "main/0").stat()
        assert (found.st_uid, found.st_gid) == expected

    def test_they_go_with_the_workload(self, node: Paths) -> None:
        storage = WorkloadStorage(node)
        storage.prepare(with_secret(owner=OWN))
        storage.remove("web")
        assert not (node.run / "workloads/web").exists()


class TestNames:
    def test_a_sandbox_asks_whom_the_node_asks(self, node: Paths) -> None:
        copy = node.data / "lib/containerd/io.containerd.grpc.v1.cri/sandboxes/s1/resolv.conf"
        copy.parent.mkdir(parents=True)
        copy.write_text("nameserver 192.0.2.1\nsearch a.very.long.domain.example\n")
        inode = copy.stat().st_ino
        (node.etc / "resolv.conf").write_text("nameserver 192.0.2.2\n")
        WorkloadStorage(node).follow_names("s1")
        assert copy.read_text() == "nameserver 192.0.2.2\n"
        assert copy.stat().st_ino == inode  # containers have this very file mounted

    def test_what_is_not_there_is_no_failure(self, node: Paths) -> None:
        WorkloadStorage(node).follow_names("s1")
        (node.etc / "resolv.conf").write_text("nameserver 192.0.2.2\n")
        WorkloadStorage(node).follow_names("s1")


class Kernel:
    """A stand-in for the kernel's project quotas: what was asked of it, and what it answers."""

    def __init__(self, project: int = 0, xflags: int = 0, refusal: int = 0) -> None:
        self.attributes = (xflags, 1, 2, project, 3)
        self.asked: list[Any] = []
        self._refusal = refusal

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        if request == 0x801C581F:
            return struct.pack("=IIIII8x", *self.attributes)
        assert request == 0x401C5820
        self.attributes = struct.unpack("=IIIII8x", argument)
        self.asked.append("attributes")
        return argument

    def syscall(self, number: Any, fd: Any, command: Any, project: Any, record: Any) -> int:
        assert (number.value, command.value) == (443, 0x800008 << 8 | 2)
        hard, soft, *_, valid = struct.unpack("=QQQQQQQQI4x", record.raw)
        assert hard == soft and valid == 1
        self.asked.append((project.value, hard))
        return 0


class TestQuotaCalls:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self.patch = tmp_path, monkeypatch
        self.inode = tmp_path.stat().st_ino & 0xFFFFFFFF

    def limit(self, kernel: Kernel, size_bytes: int | None) -> list[Any]:
        self.patch.setattr(fcntl, "ioctl", kernel.ioctl)
        self.patch.setattr(quota, "_libc", kernel)
        quota.limit(self.directory, size_bytes)
        return kernel.asked

    def test_a_directory_becomes_a_project_with_a_limit_against_fake_kernel(self) -> None:
        kernel = Kernel(xflags=0x40)
        assert self.limit(kernel, 1 << 20) == ["attributes", (self.inode, 1024)]
        assert kernel.attributes == (0x240, 1, 2, self.inode, 3)  # what else it has, it keeps

    def test_one_that_is_a_project_already_gets_the_limit_alone_against_fake_kernel(self) -> None:
        assert self.limit(Kernel(self.inode, 0x200), 1025) == [(self.inode, 2)]  # whole kilobytes

    def test_what_it_was_given_before_is_put_right_against_fake_kernel(self) -> None:
        assert self.limit(Kernel(7, 0x200), 1024) == ["attributes", (self.inode, 1)]
        assert self.limit(Kernel(self.inode, 0), 1024) == ["attributes", (self.inode, 1)]

    def test_a_limit_can_be_taken_away_against_fake_kernel(self) -> None:
        assert self.limit(Kernel(self.inode, 0x200), None) == [(self.inode, 0)]
        assert self.limit(Kernel(), None) == []

    @pytest.mark.parametrize("number", [errno.ESRCH, errno.EOPNOTSUPP, errno.ENOTTY])
    def test_a_file_system_without_quotas_is_told_so_against_fake_kernel(self, number: int) -> None:
        with pytest.raises(BasaltError, match="made without project quotas") as raised:
            self.limit(Kernel(refusal=number), 1024)
        assert "leave the volume's size out" in raised.value.remedy

    def test_other_errors_are_the_kernels_against_fake_kernel(self) -> None:
        with pytest.raises(PermissionError):
            self.limit(Kernel(refusal=errno.EPERM), 1024)

    def test_where_there_are_no_quotas_a_volume_without_a_size_needs_none_against_fake_kernel(self) -> None:
        assert self.limit(Kernel(refusal=errno.ENOTTY), None) == []


@needs_root
class TestQuotaOnExt4:
    def mounted(self, directory: Path, *features: str, options: str = "loop") -> Path:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("mkfs.ext4 is not installed")
        image, target = directory / "image", directory / "mounted"
        with image.open("wb") as stream:
            stream.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", *features, image], check=True)
        target.mkdir()
        done = subprocess.run(["mount", "-o", options, image, target], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"such a file system cannot be mounted here: {done.stderr.strip()}")
        return target

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Path]:
        yield tmp_path
        subprocess.run(["umount", "-l", tmp_path / "mounted"], capture_output=True, check=False)

    def test_a_directory_holds_no_more_than_its_limit(self, place: Path) -> None:
        target = self.mounted(place, "-O", "quota,project", "-E", "quotatype=prjquota", options="loop,prjquota")
        volume = target / "volume"
        volume.mkdir()
        quota.limit(volume, 1 << 20)
        (volume / "below").mkdir()
        with pytest.raises(OSError) as raised:
            (volume / "below/file").write_bytes(bytes(2 << 20))
        assert raised.value.errno == errno.EDQUOT
        quota.limit(volume, 4 << 20)
        (volume / "below/file").write_bytes(bytes(2 << 20))
        quota.limit(volume, None)
        (volume / "below/more").write_bytes(bytes(6 << 20))

    def test_an_older_file_system_says_why_it_cannot(self, place: Path) -> None:
        target = self.mounted(place)
        quota.limit(target, None)
        with pytest.raises(BasaltError, match="its file system was made without project quotas"):
            quota.limit(target, 1 << 20)
