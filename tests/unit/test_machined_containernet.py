"""What containerd finds when it starts: handlers, the workloads' network, CNI's plugins, and the image of its sandboxes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from machined import containerd
from machined.containerd import PAUSE, ContainersReconciler, containerd_toml
from machined.containernet import BRIDGE, SUBNET, link_plugins, write_configuration
from machined.paths import CONTAINERD, Paths
from machined.reconcile import State
from machined.runtime.client import Runtime
from machined.workloads.desired import handler_of
from osbuild.parts import Part
from osbuild.steps import pause_part
from osbuild.steps.pause_part import ARCHIVE, oci_archive
from tests.unit.fake_containerd import FakeContainerd
from tests.unit.fake_containerd_images import Brought, digest_of
from tests.unit.fake_containerd_world import HOST, quick, workload


class TestPlugins:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        source = tmp_path / "usr/lib/cni"
        source.mkdir(parents=True)
        for name in ("bridge", "host-local", "portmap"):
            (source / name).write_text(name)
        return source

    def test_those_of_the_image_are_linked_and_others_stay(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "opt/cni/bin"
        link_plugins(source, target)
        (target / "flannel").write_text("a provider's own")
        (target / "dangling").symlink_to("/gone")
        link_plugins(source, target)
        assert (target / "flannel").read_text() == "a provider's own" and (target / "dangling").is_symlink()
        assert {path.name: path.readlink() for path in target.iterdir() if path.exists() and path.is_symlink()} == {
            name: source / name for name in ("bridge", "host-local", "portmap")
        }

    def test_whatever_has_the_name_of_one_is_replaced(self, source: Path, tmp_path: Path) -> None:
        """Somebody's own copy, a link to an older image, half a link of a machined that was killed: none of them may stay."""
        target = tmp_path / "opt/cni/bin"
        target.mkdir(parents=True)
        (target / "bridge").write_text("foreign")
        (target / "portmap").symlink_to("/old/portmap")
        (target / ".portmap.new").symlink_to("/old/portmap")
        (target / "host-local").symlink_to(source / "bridge")
        link_plugins(source, target)
        assert [(target / name).read_text() for name in ("bridge", "host-local", "portmap")] == [
            "bridge",
            "host-local",
            "portmap",
        ]
        assert len(list(target.iterdir())) == 3

    def test_a_link_that_is_right_is_not_touched(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "opt/cni/bin"
        link_plugins(source, target)
        before = {path.name: path.lstat().st_ino for path in target.iterdir()}
        link_plugins(source, target)
        assert {path.name: path.lstat().st_ino for path in target.iterdir()} == before


def test_the_workloads_network_is_out_of_a_kubelets_sight(tmp_path: Path) -> None:
    node = Paths(str(tmp_path))
    (tmp_path / "etc").mkdir()
    (tmp_path / "run/etc-cni").mkdir(parents=True)
    (tmp_path / "etc/cni").symlink_to(
        tmp_path / "run/etc-cni"
    )  # /etc is read-only: what is written there lies in memory
    write_configuration(node)
    (file,) = node.cni_bridge.iterdir()
    conflist = json.loads(file.read_text())
    assert file.suffix == ".conflist" and conflist["cniVersion"] == "1.0.0"
    bridge, portmap = conflist["plugins"]
    assert (bridge["type"], bridge["bridge"], bridge["ipam"]["ranges"]) == ("bridge", BRIDGE, [[{"subnet": SUBNET}]])
    assert bridge["isGateway"] and bridge["ipMasq"] and bridge["hairpinMode"]
    assert (portmap["type"], portmap["capabilities"]) == ("portmap", {"portMappings": True})
    assert list((tmp_path / "etc/cni/net.d").iterdir()) == []
    before = file.stat().st_ino
    write_configuration(node)
    assert file.stat().st_ino == before


class TestContainerdToml:
    @pytest.fixture
    def cri(self) -> dict[str, Any]:
        found: dict[str, Any] = tomllib.loads(containerd_toml(None))["plugins"]["io.containerd.grpc.v1.cri"]
        return found

    def test_workloads_have_handlers_of_their_own(self, cri: dict[str, Any]) -> None:
        runtimes = cri["containerd"]["runtimes"]
        assert set(runtimes) == {"runc", "crun", "bridge-runc", "bridge-crun"}
        for name, binary in (("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")):
            plain, bridged = runtimes[name], runtimes[f"bridge-{name}"]
            assert plain["options"] == bridged["options"] == {"BinaryName": binary, "SystemdCgroup": False}
            assert plain["runtime_type"] == bridged["runtime_type"] == "io.containerd.runc.v2"
            assert "cni_conf_dir" not in plain
            assert bridged["cni_conf_dir"] == f"/{Paths().cni_bridge.relative_to('/')}"
        assert cri["containerd"]["default_runtime_name"] == "runc"
        assert cri["cni"] == {"bin_dir": "/opt/cni/bin", "conf_dir": "/etc/cni/net.d"}

    def test_every_handler_that_a_workload_asks_for_is_there(self, cri: dict[str, Any]) -> None:
        for runtime in ("runc", "crun"):
            for fields in ({"network": HOST}, {}):
                document = workload("web", runtime=runtime, **fields)
                assert handler_of(document) in cri["containerd"]["runtimes"]

    def test_its_sandboxes_are_made_from_the_image_in_the_root(self, cri: dict[str, Any]) -> None:
        assert cri["sandbox_image"] == PAUSE == pause_part.REFERENCE
        assert str(Paths().pause_archive) == f"/{ARCHIVE}"


class Layout:
    """An OCI image layout in a tar, read as its specification has it (image-spec 1.0, image-layout.md)."""

    def __init__(self, archive: bytes) -> None:
        self.tar = tarfile.open(fileobj=io.BytesIO(archive))  # noqa: SIM115 - it is in memory
        self.files = {entry.name: self._read(entry) for entry in self.tar.getmembers()}
        self.index = json.loads(self.files["index.json"])

    def _read(self, entry: tarfile.TarInfo) -> bytes:
        stream = self.tar.extractfile(entry)
        assert stream is not None
        return stream.read()

    def blob(self, descriptor: dict[str, Any], media: str) -> bytes:
        """What a descriptor describes."""
        assert descriptor["mediaType"] == f"application/vnd.oci.image.{media}"
        algorithm, _, digest = descriptor["digest"].partition(":")
        content = self.files[f"blobs/{algorithm}/{digest}"]
        assert (hashlib.new(algorithm, content).hexdigest(), len(content)) == (digest, descriptor["size"])
        return content


class TestPauseImage:
    PROGRAM = b"\x7fELF catatonit"

    def test_it_is_a_layout_of_one_image(self) -> None:
        layout = Layout(oci_archive({"pause": self.PROGRAM}, ["/pause", "-P"]))
        assert json.loads(layout.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        (named,) = layout.index["manifests"]
        assert layout.index["schemaVersion"] == 2
        assert named["annotations"] == {"io.containerd.image.name": PAUSE}
        assert named["platform"] == {"architecture": "amd64", "os": "linux"}
        manifest = json.loads(layout.blob(named, "manifest.v1+json"))
        assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, named["mediaType"])
        config = json.loads(layout.blob(manifest["config"], "config.v1+json"))
        assert (config["architecture"], config["os"]) == ("amd64", "linux")
        assert config["config"] == {"Entrypoint": ["/pause", "-P"], "User": "65534:65534"}
        (descriptor,) = manifest["layers"]
        layer = layout.blob(descriptor, "layer.v1.tar")
        assert config["rootfs"] == {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
        with tarfile.open(fileobj=io.BytesIO(layer)) as files:
            (entry,) = files.getmembers()
        assert (entry.name, entry.mode, entry.uid, entry.gid, entry.mtime) == ("pause", 0o755, 0, 0, 0)
        assert entry.size == len(self.PROGRAM)
        assert len(layout.files) == 2 + 3  # nothing that nobody refers to

    def test_its_bytes_follow_from_the_program_alone(self) -> None:
        first = oci_archive({"pause": self.PROGRAM}, ["/pause"])
        assert oci_archive({"pause": bytes(self.PROGRAM)}, ["/pause"]) == first
        assert oci_archive({"pause": self.PROGRAM + b"\0"}, ["/pause"]) != first
        for entry in Layout(first).tar.getmembers():
            assert (entry.uid, entry.gid, entry.mtime, entry.uname, entry.mode) == (0, 0, 0, "", 0o644)

    def test_the_step_makes_a_part_of_it(self, tmp_path: Path) -> None:
        pool = tmp_path / "pool/catatonit/usr/bin"
        pool.mkdir(parents=True)
        (pool / "catatonit").write_bytes(self.PROGRAM)
        ctx: Any = SimpleNamespace(
            out=tmp_path / "out", input=lambda name: tmp_path / name, params={"version": "0.2.1-2"}
        )
        ctx.out.mkdir()
        pause_part.build_pause(ctx)
        part = Part.load(ctx.out)
        assert part.origins == {ARCHIVE: "catatonit 0.2.1-2"}
        assert (part.tree / ARCHIVE).read_bytes() == oci_archive({"pause": self.PROGRAM}, ["/pause", "-P"])


class Services:
    """A stand-in for s6: containerd is what it is told to be."""

    def __init__(self) -> None:
        self.on, self.up = True, True
        self.asked: list[tuple[bool, str]] = []

    def enabled(self, name: str) -> bool:
        return self.on

    async def keep(self, service: Any, *, wanted: bool, configuration: str = "") -> Any:
        self.asked.append((wanted, configuration))
        return SimpleNamespace(up=self.up)


class TestContainersReconciler:
    """The concern "containers"."""

    def reconciler(self, node: Paths, services: Services, runtime: Runtime, **fields: Any) -> ContainersReconciler:
        keeper: Any = services
        given: dict[str, Any] = {
            "config": lambda: None,
            "settings": lambda: None,
            "data_is_there": lambda: True,
            "look_again": lambda: None,
            **fields,
        }
        return ContainersReconciler(node, keeper, runtime=runtime, **given)

    def node(self, root: Path) -> Paths:
        node = Paths(str(root))
        program = root / CONTAINERD.lstrip("/")
        for directory in (program.parent, root / "usr/lib/cni", node.pause_archive.parent, node.run, root / "etc"):
            directory.mkdir(parents=True, exist_ok=True)
        program.touch()
        (root / "usr/lib/cni/bridge").touch()
        return node

    def test_it_is_up_once_it_has_the_image_of_its_sandboxes_against_fake_containerd(self, tmp_path: Path) -> None:
        async def body() -> None:
            node, services, looks = self.node(tmp_path), Services(), asyncio.Event()
            fake, runtime = FakeContainerd(node.containerd_socket), Runtime(node.containerd_socket)
            reconciler = self.reconciler(node, services, runtime, look_again=looks.set)
            assert (await reconciler.reconcile()).reason == "containerd is starting"
            await asyncio.wait_for(looks.wait(), 5)
            await fake.start()
            try:
                fake.archives.brings = [Brought(digest_of("pause"), PAUSE)]
                node.pause_archive.write_bytes(oci_archive({"pause": b"x" * 600_000}, ["/pause"]))
                for _ in range(200):
                    if (status := await reconciler.reconcile()).state is State.CONVERGED:
                        break
                    await asyncio.sleep(0.02)
                assert status.state is State.CONVERGED
                assert fake.archives.taken == node.pause_archive.read_bytes()
                assert PAUSE in fake.images.known
                await reconciler.reconcile()
                assert len(fake.asked("Transfer.Transfer")) == 1  # what is there is not taken again
            finally:
                await runtime.close()
                await fake.stop()
            assert services.asked[-1] == (True, containerd_toml(None))
            assert node.containerd_conf.read_text() == containerd_toml(None)
            assert node.containerd_conf.stat().st_mode & 0o777 == 0o600
            assert (node.data / "opt/cni/bin/bridge").is_symlink() and node.cni_bridge.is_dir()

        with quick() as patch:
            patch.setattr(containerd, "START_POLL_S", 0.01)
            asyncio.run(body())

    def test_an_image_without_the_sandboxes_image_is_told_so_and_holds_up_nothing_against_fake_containerd(
        self, tmp_path: Path
    ) -> None:
        async def body() -> None:
            node = self.node(tmp_path)
            fake, runtime = FakeContainerd(node.containerd_socket), Runtime(node.containerd_socket)
            await fake.start()
            try:
                with pytest.raises(FileNotFoundError, match=r"pause\.tar"):
                    await asyncio.wait_for(self.reconciler(node, Services(), runtime).reconcile(), 2)
            finally:
                await runtime.close()
                await fake.stop()

        with quick():
            asyncio.run(body())

    def test_what_it_waits_for_against_fake_services(self, tmp_path: Path) -> None:
        async def body() -> None:
            node, services, runtime = self.node(tmp_path), Services(), Runtime(tmp_path / "nobody")
            status = await self.reconciler(node, services, runtime, data_is_there=lambda: False).reconcile()
            assert (status.state, status.reason) == (State.WAITING, "DATA is not mounted")
            assert not services.asked
            services.on = False
            status = await self.reconciler(node, services, runtime).reconcile()
            assert status.state is State.CONVERGED and status.reason.startswith("containerd is switched off")
            assert services.asked == [(False, "")]
            (tmp_path / CONTAINERD.lstrip("/")).unlink()
            status = await self.reconciler(node, services, runtime).reconcile()
            assert (status.state, status.reason) == (State.WAITING, "this image has no containerd")
            await runtime.close()

        asyncio.run(body())
