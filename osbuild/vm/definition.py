"""Machine definitions (``qemu/*.toml``) and the QEMU command line that follows from one: a pure function."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from basalt.errors import UsageError
from osbuild import paths
from osbuild.vm.handover import NOTHING, VM, Handover

API_PORT = 50000
CLIENT_CA = "opt/basalt/client-ca"
IMAGE = "/image"  # where the sandbox shows the image
_OVMF = "/usr/share/OVMF"


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One definition.

    :param firmware: ovmf boots from the disk; none lets QEMU load the kernel.
    :param devices: further ``-device`` arguments.
    :param arguments: further words of the command line, for what the other keys cannot say.
    """

    description: str
    firmware: Literal["ovmf", "none"]
    machine: str
    cpus: int
    memory_mib: int
    disk_gib: int
    devices: list[str] = []
    arguments: list[str] = []


@dataclass(frozen=True)
class Launch:
    """What a machine is started with. *cmdline* is used where QEMU loads the kernel."""

    name: str
    accel: str
    cmdline: str
    client_ca: bool
    handover: Handover = NOTHING


def available(directory: Path = paths.MACHINES) -> list[str]:
    """Names of all definitions, sorted."""
    return sorted(path.stem for path in directory.glob("*.toml"))


def load(name: str, directory: Path = paths.MACHINES) -> Machine:
    """Read definition *name*, or the file *name* when it ends in ``.toml``.

    :raises UsageError: when there is none of that name, or it is wrong.
    """
    known = available(directory)
    as_file = name.endswith(".toml")
    if name not in known and not (as_file and Path(name).is_file()):
        nearest = difflib.get_close_matches(name, known, 1)
        guess = f"Did you mean '{nearest[0]}'? " if nearest else ""
        raise UsageError(f"there is no machine '{name}'", remedy=f"{guess}Machines: {', '.join(known)}")
    path = Path(name) if as_file else directory / f"{name}.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Machine)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(
            f"machine definition {path.name} is wrong", why=str(error), remedy="Correct the file"
        ) from error


def qemu_command(machine: Machine, launch: Launch) -> list[str]:
    """The words of the QEMU command, with the paths that the sandbox shows."""
    accel = "kvm" if launch.accel == "kvm" else "tcg,thread=multi"
    command = [
        "qemu-system-x86_64",
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-name",
        f"basalt-{launch.name}",
    ]
    # -cpu max under emulation too: SHA-NI makes dm-verity several times faster.
    command += ["-machine", machine.machine, "-accel", accel, "-cpu", "host" if launch.accel == "kvm" else "max"]
    command += ["-smp", str(machine.cpus), "-m", str(machine.memory_mib)]
    if machine.firmware == "ovmf":
        command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_OVMF}/OVMF_CODE_4M.fd"]
        command += ["-drive", f"if=pflash,format=raw,unit=1,file={VM}/firmware-variables.fd"]
    else:
        command += ["-kernel", f"{IMAGE}/vmlinux", "-append", launch.cmdline]
    disk = "virtio-blk-pci,drive=disk0" + (",bootindex=0" if machine.firmware == "ovmf" else "")
    command += ["-blockdev", f"driver=file,node-name=file0,filename={VM}/disk.qcow2,discard=unmap"]
    command += [
        "-blockdev",
        "driver=qcow2,node-name=disk0,file=file0,discard=unmap",
        "-device",
        disk,
    ]
    # Port 0: the kernel picks one that is free, and QMP tells which. Nothing can collide.
    command += ["-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:0-:{API_PORT}", "-device", "virtio-net-pci,netdev=net0"]
    command += ["-chardev", f"file,id=console0,path={VM}/console.log,append=on", "-serial", "chardev:console0"]
    command += ["-qmp", f"unix:{VM}/qmp.sock,server=on,wait=off", "-pidfile", f"{VM}/qemu.pid"]
    if launch.client_ca:
        command += ["-fw_cfg", f"name={CLIENT_CA},file={VM}/client-ca.pem"]
    command += launch.handover.arguments()
    for device in machine.devices:
        command += ["-device", device]
    return [*command, *machine.arguments]
