"""What the configuration says of the machine itself, on a booted node: kernel settings, watchdog, logs, registries, services, volumes."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basalt.errors import BasaltError
from osbuild.vm import machines, qmp
from tests.node.conftest import HERE, Boot, Node, until

pytestmark = pytest.mark.node

MIB = 1024 * 1024
HEADER = "---\napiVersion: basalt.dev/v1alpha1\n"
MACHINE = HEADER + "kind: MachineConfig\nhostname: tested\n"


class SystemNode(Node):
    """A node with the fault agent and places for further disks."""

    def apply(self, directory: Path, *documents: str) -> None:
        """Have these documents as the whole configuration, a MachineConfig alone where none is given."""
        path = directory / "node.yaml"
        path.write_text(
            "".join(documents) if any("MachineConfig" in text for text in documents) else MACHINE + "".join(documents)
        )
        self.osctl("apply-config", "-f", path)

    def read(self, path: str) -> str:
        """A file of the node's."""
        return str(self.fault(read=path)["text"]).strip()

    def pid(self, service: str) -> int:
        """The process that s6 has for a service."""
        return int(self.fault(pid=service)["pid"])

    def mounts(self) -> dict[str, list[str]]:
        """Mount point → device, file system and options."""
        lines = [line.split() for line in self.read("/proc/mounts").splitlines()]
        return {fields[1]: [fields[0], fields[2], *fields[3].split(",")] for fields in lines}

    def plug(self, name: str, device: str, **properties: Any) -> Path:
        """Plug in a disk that lies in the file NAME.raw of the machine's directory, made where it is not there; the file."""
        directory = machines.directory_of(self.name)
        image = directory / f"{name}.raw"
        if not image.exists():
            with image.open("wb") as stream:
                stream.truncate(256 * MIB)
        file = {"driver": "file", "filename": f"/vm/{name}.raw"}
        qmp.execute(directory / "qmp.sock", "blockdev-add", {"node-name": name, "driver": "raw", "file": file})
        device_add = {"driver": device, "drive": name, "id": f"disk-{name}", **properties}
        qmp.execute(directory / "qmp.sock", "device_add", device_add)
        return image

    def unplug(self, name: str) -> None:
        """Pull it out again, and wait until QEMU has let go of the file."""
        control = machines.directory_of(self.name) / "qmp.sock"
        qmp.execute(control, "device_del", {"id": f"disk-{name}"})

        def gone() -> bool:
            with contextlib.suppress(BasaltError):  # the guest has not let go of it yet
                qmp.execute(control, "blockdev-del", {"node-name": name})
            return all(node["node-name"] != name for node in qmp.execute(control, "query-named-block-nodes"))

        until(gone)


class Collector:
    """A collector of logs on the host, which the node reaches as 10.0.2.2."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.port = 0
        self._socket: socket.socket | None = None
        self._connections: list[socket.socket] = []

    def start(self) -> None:
        """Listen, on the same port as before."""
        listening = self._socket = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        threading.Thread(target=self._serve, args=(listening,), daemon=True).start()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        try:
            for line in connection.makefile("rb"):
                self.lines.append(json.loads(line))
        except OSError:
            return  # taken away by the test

    def stop(self) -> None:
        """Be gone, connections included."""
        assert self._socket is not None
        for open_socket in (self._socket, *self._connections):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        self._connections.clear()

    def until(self, condition: Callable[[dict[str, Any]], bool], start: int = 0) -> None:
        """Wait for a line."""
        until(lambda: any(condition(line) for line in self.lines[start:]), lambda: self.lines[start:])


@pytest.fixture(scope="module")
def node(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> SystemNode:
    """A configured node."""
    booted = boot(profile=HERE / "faulty.toml", machine=HERE / "disks-machine.toml")
    ours = SystemNode(booted.name, booted.facts)
    ours.apply(tmp_path_factory.mktemp("system"))
    ours.until_converged("data", "containers")
    return ours


@pytest.fixture
def collector() -> Iterator[Collector]:
    listening = Collector()
    listening.start()
    yield listening
    listening.stop()


def test_sysctl_is_set_healed_and_put_back(node: SystemNode, tmp_path: Path) -> None:
    path = "/proc/sys/vm/swappiness"
    before = node.read(path)
    assert before != "17"
    node.apply(tmp_path, MACHINE + "sysctls:\n  vm.swappiness: '17'\n  net/ipv4/conf/lo/rp_filter: '1'\n")
    node.until("kernel", "converged")
    assert node.read(path) == "17" and node.read("/proc/sys/net/ipv4/conf/lo/rp_filter") == "1"
    node.fault(write=path, text="90")
    node.fault(kill="machined")  # the one that comes back heals it, and still knows what it was before
    until(lambda: node.read(path) == "17")
    node.apply(tmp_path, MACHINE)
    until(lambda: node.read(path) == before)


def test_what_the_kernel_refuses_is_told_by_name_and_the_rest_is_done(node: SystemNode, tmp_path: Path) -> None:
    settings = "sysctls:\n  kernel.nonsense: '1'\n  kernel.pid_max: never\n  vm.swappiness: '18'\n"
    node.apply(tmp_path, MACHINE + settings + "modules:\n- name: virtio_blk\n- name: zfs\n")
    reason = node.until("kernel", "failed", "zfs").reason
    assert "sysctl kernel.nonsense: this kernel has no such setting" in reason
    assert "sysctl kernel.pid_max: the kernel refuses 'never': Invalid argument" in reason
    assert "this image has no module zfs" in reason and "virtio_blk" not in reason
    assert node.read("/proc/sys/vm/swappiness") == "18"
    node.apply(tmp_path, MACHINE)
    node.until("kernel", "converged")


def test_watchdog_has_the_timeout_that_is_asked_for(node: SystemNode, tmp_path: Path) -> None:
    node.apply(tmp_path, MACHINE + "watchdog: {timeoutS: 120}\n")
    node.until("watchdog", "converged", "i6300ESB timer resets the machine after 120 s")
    assert node.read("/sys/class/watchdog/watchdog0/timeout") == "120"


def test_logs_reach_a_collector_that_goes_and_comes_back(
    node: SystemNode, tmp_path: Path, collector: Collector
) -> None:
    endpoint = f"tcp://10.0.2.2:{collector.port}"
    node.apply(tmp_path, MACHINE + f"logging:\n  destinations:\n  - endpoint: {endpoint}\n")
    collector.until(lambda line: line["service"] == "machined" and "boot: prepare" in line["message"])
    collector.until(lambda line: line["service"] == "kernel" and "Linux version" in line["message"])
    assert {line["host"] for line in collector.lines} == {"tested"}
    node.until("logging", "converged")
    collector.stop()
    assert "since " in node.until("logging", "waiting", endpoint).reason
    seen = len(collector.lines)
    node.apply(tmp_path, MACHINE + f"labels: {{a: b}}\nlogging:\n  destinations:\n  - endpoint: {endpoint}\n")
    collector.start()
    collector.until(lambda line: "logging: waiting" in line["message"], seen)
    node.until("logging", "converged")
    node.apply(tmp_path, MACHINE)


REGISTRIES = HEADER + (
    "kind: RegistryConfig\nmirrors:\n- registry: docker.io\n  endpoints: ['http://10.0.2.2:1']\n  fallback: false\n"
    "auth:\n- host: docker.io\n  username: me\n  password: hush-hush\n"
)


def test_registries_change_without_a_restart_and_credentials_with_one(node: SystemNode, tmp_path: Path) -> None:
    node.until_converged("containers")
    before = node.pid("containerd")
    node.apply(tmp_path, REGISTRIES.partition("auth:")[0])
    node.until("registries", "converged")
    assert 'server = "http://10.0.2.2:1"' in node.read("/run/basalt/registries/docker.io/hosts.toml")
    assert node.pid("containerd") == before
    node.apply(tmp_path, REGISTRIES)
    until(lambda: node.pid("containerd") not in (0, before))
    node.until("containers", "converged")
    assert node.fault(stat="/run/basalt/containerd.toml")["mode"] & 0o777 == 0o600
    assert "hush-hush" in node.read("/run/basalt/containerd.toml")
    log = node.osctl("logs", "containerd")
    assert "hush-hush" not in log
    said = log.rpartition("Start cri plugin")[2]
    assert "successfully booted" in said and "invalid plugin config" not in log
    node.apply(tmp_path)
    until(lambda: node.fault(list="/run/basalt/registries")["names"] == [".authorities"])


def service(name: str, text: str) -> str:
    return f"{HEADER}kind: ServiceConfig\nname: {name}\n{text}"


def test_service_is_limited_live_given_an_environment_and_switched_off(node: SystemNode, tmp_path: Path) -> None:
    node.until_converged("containers")
    before = node.pid("containerd")
    limits = "memoryMax: 600MiB\ncpuWeight: 300\n"
    node.apply(tmp_path, service("containerd", limits))
    until(lambda: node.read("/sys/fs/cgroup/system/containerd/memory.max") == str(600 * MIB))
    assert node.read("/sys/fs/cgroup/system/containerd/cpu.weight") == "300"
    assert node.pid("containerd") == before
    node.apply(tmp_path, service("containerd", limits + "environment: {NO_PROXY: secret-host}\n"))
    until(lambda: node.pid("containerd") not in (0, before))
    # The launcher becomes containerd only after a moment.
    until(lambda: "NO_PROXY=secret-host" in node.read(f"/proc/{node.pid('containerd')}/environ"))
    assert "secret-host" not in node.osctl("logs", "machined")
    node.apply(tmp_path, service("containerd", "enabled: false\n"))
    node.until("containers", "converged", "switched off")
    until(lambda: not node.pid("containerd"))
    node.apply(tmp_path)
    until(lambda: node.pid("containerd"))
    node.until("containers", "converged")
    assert node.read("/sys/fs/cgroup/system/containerd/memory.max") == "max"


def test_killed_chronyd_is_back_and_stopped_containerd_too(node: SystemNode, tmp_path: Path) -> None:
    node.apply(tmp_path, HEADER + "kind: TimeConfig\nservers:\n- address: 10.0.2.2\n")
    before = until(lambda: node.pid("chronyd"))
    node.fault(kill="chronyd")
    until(lambda: node.pid("chronyd") not in (0, before))
    node.until("services", "waiting", "chronyd: it ended and was started again")
    running = node.pid("containerd")
    node.fault(stop="containerd")
    until(lambda: node.pid("containerd") not in (0, running))
    node.apply(tmp_path)
    until(lambda: not node.pid("chronyd"))


VOLUME = HEADER + "kind: VolumeConfig\nname: scratch\ndisk: {{serial: {serial}}}\n{more}"


def test_volume_on_a_blank_disk_that_is_plugged_in_outlives_reboots(node: SystemNode, tmp_path: Path) -> None:
    node.apply(tmp_path, VOLUME.format(serial="SCR1", more=""))
    assert node.until("volumes", "waiting", "no disk fits")
    node.plug("one", "virtio-blk-pci", bus="port1", serial="SCR1")
    node.until("volumes", "converged")
    device, kind, *options = node.mounts()["/var/mnt/scratch"]
    assert kind == "ext4" and {"rw", "nosuid", "nodev"} <= set(options)
    node.fault(write="/var/mnt/scratch/kept", text="precious")
    node.restart()  # a power cut: the disk is plugged in again while the node runs, and is the volume already
    node.plug("one", "virtio-blk-pci", bus="port1", serial="SCR1")
    node.until("volumes", "converged")
    assert node.read("/var/mnt/scratch/kept") == "precious"
    node.apply(tmp_path, VOLUME.format(serial="SCR1", more="readOnly: true\n"))
    until(lambda: "ro" in node.mounts()["/var/mnt/scratch"])
    node.apply(tmp_path)
    until(lambda: "/var/mnt/scratch" not in node.mounts())
    node.apply(tmp_path, VOLUME.format(serial="SCR1", more="existingData: wipe\n"))  # ... which wipes no volume
    node.until("volumes", "converged")
    assert node.read("/var/mnt/scratch/kept") == "precious"
    assert device.startswith("/dev/vd")


def test_table_that_a_power_cut_left_unfinished_is_finished_and_other_data_is_refused_until_it_may_be_wiped(
    node: SystemNode, tmp_path: Path
) -> None:
    """On a SCSI disk: other sysfs files than those of virtio."""
    node.apply(tmp_path)
    until(lambda: "/var/mnt/scratch" not in node.mounts())
    made = machines.directory_of(node.name) / "one.raw"
    torn = machines.directory_of(node.name) / "two.raw"
    # The backup table as the first of sfdisk's writes leaves it; of the rest of the disk, nothing yet.
    final, begun = (f"basalt-scratch{suffix}".encode("utf-16-le").ljust(36, b"\0") for suffix in ("", ".new"))
    backup_entries = made.read_bytes()[-33 * 512 : -512].replace(final, begun)
    with torn.open("wb") as stream:
        stream.truncate(256 * MIB)
        stream.seek(-33 * 512, 2)
        stream.write(backup_entries)
    node.plug("two", "scsi-hd", bus="scsi0.0", serial="SCR2", wwn=0x5000C500A0B0C0D0)
    node.apply(tmp_path, VOLUME.format(serial="SCR2", more=""))
    node.until("volumes", "converged")
    node.apply(tmp_path)
    until(lambda: "/var/mnt/scratch" not in node.mounts())
    node.unplug("two")
    with torn.open("r+b") as stream:
        for at in (0, -MIB):
            stream.seek(at, 0 if at >= 0 else 2)
            stream.write(bytes(MIB))
        stream.seek(MIB // 2)
        stream.write(b"somebody's database")
    node.plug("two", "scsi-hd", bus="scsi0.0", serial="SCR2", wwn=0x5000C500A0B0C0D0)
    by_wwn = HEADER + "kind: VolumeConfig\nname: scratch\ndisk: {wwn: 5000c500a0b0c0d0}\n"
    node.apply(tmp_path, by_wwn)
    assert "existingData: wipe" in node.until("volumes", "failed", "is not empty").remedy
    node.unplug("two")
    assert b"somebody's database" in torn.read_bytes()[:MIB]
    node.plug("two", "scsi-hd", bus="scsi0.0", serial="SCR2", wwn=0x5000C500A0B0C0D0)
    node.apply(tmp_path, by_wwn + "existingData: wipe\n")
    node.until("volumes", "converged")
    assert node.mounts()["/var/mnt/scratch"][1] == "ext4"
