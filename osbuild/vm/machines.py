"""Virtual machines by name: a directory each, with disk, console, QMP socket and a description.

::

    <state>/vm/<name>/
      vm.json                 see :class:`Record`; written last, so that a directory without it is a start that failed
      disk.qcow2              overlay of base.raw
      base.raw                the image, a hard link into the store where that is possible: collecting garbage cannot take it away
      firmware-variables.fd   UEFI variables, among them boot counting's
      client-ca.pem           handed to the node through fw_cfg
      fw-cfg-0 ...  oem-string-0 ...  config-drive-0.img ...   see :mod:`osbuild.vm.handover`
      console.log  qemu.log  qmp.sock  qemu.pid
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from basalt.errors import BasaltError, UsageError
from basalt.files import write_atomic
from osbuild import paths
from osbuild.sandbox import Bind, Sandbox
from osbuild.steps.disk import copy_sparse
from osbuild.vm import qmp
from osbuild.vm.definition import API_PORT, IMAGE, Launch, Machine, qemu_command
from osbuild.vm.handover import NOTHING, VM, Handover

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")
_START_TIMEOUT_S = 60


class Record(msgspec.Struct, frozen=True):
    """``vm.json``. *pid* and *started* (field 22 of /proc/PID/stat) name one process for good."""

    name: str
    profile: str
    machine: str
    definition: Machine
    accel: str
    cmdline: str
    kernel: str
    tools: str
    client_ca: bool
    pid: int
    started: int
    endpoint: str
    handover: Handover = NOTHING


def directory_of(name: str) -> Path:
    """Where machine *name* lives.

    :raises UsageError: when the name is not one (it becomes a file name and a host name).
    """
    if not _NAME.match(name):
        raise UsageError(f"'{name}' is no name for a machine", why="lower-case letters, digits and '-', at most 32")
    return paths.vm_directory() / name


def records() -> list[Record]:
    """All machines, running or not."""
    return [read(path.parent.name) for path in sorted(paths.vm_directory().glob("*/vm.json"))]


def read(name: str) -> Record:
    """The record of machine *name*.

    :raises UsageError: when there is none.
    """
    try:
        return msgspec.json.decode((directory_of(name) / "vm.json").read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        known = ", ".join(sorted(path.parent.name for path in paths.vm_directory().glob("*/vm.json"))) or "none"
        raise UsageError(f"there is no virtual machine '{name}'", remedy=f"Machines: {known}") from None


def _start_time(pid: int) -> int:
    """When process *pid* began (proc(5), stat field 22); 0 when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def alive(record: Record) -> bool:
    """True while the machine's QEMU runs."""
    return record.started != 0 and _start_time(record.pid) == record.started


def create(name: str, disk: Path, tools: Path, machine: Machine, client_ca: bytes | None) -> Path:
    """Prepare the directory of a new machine.

    :param disk: raw image it boots; never written to.
    :raises UsageError: when a machine of that name exists.
    """
    target = directory_of(name)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (target / "vm.json").exists():
        state = "runs" if alive(read(name)) else "exists, stopped"
        raise UsageError(
            f"a virtual machine '{name}' {state} already",
            remedy=f"Choose another --name, or remove it: osbuild stop {name}",
        )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    try:
        os.link(disk, target / "base.raw")
    except OSError:  # another file system
        with (target / "base.raw").open("wb") as stream:
            stream.truncate(disk.stat().st_size)
            copy_sparse(disk, stream.fileno(), 0)
    sandbox = Sandbox(tools, (Bind(target, VM, writable=True),))
    create_overlay = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        "base.raw",
        f"{VM}/disk.qcow2",
        f"{machine.disk_gib}G",
    ]
    sandbox.run(create_overlay, log=target / "qemu.log", cwd=VM)
    if machine.firmware == "ovmf":
        shutil.copyfile(tools / "usr/share/OVMF/OVMF_VARS_4M.fd", target / "firmware-variables.fd")
    if client_ca is not None:
        (target / "client-ca.pem").write_bytes(client_ca)
    return target


def launch(
    name: str, profile: str, machine_name: str, machine: Machine, launching: Launch, *, tools: Path, kernel: Path
) -> Record:
    """Start QEMU for a machine that :func:`create` prepared, or that was stopped.

    :raises BasaltError: when QEMU ends at once, with what it said.
    """
    target = directory_of(name)
    binds = [Bind(target, VM, writable=True), Bind(kernel, IMAGE)]
    if launching.accel == "kvm":
        binds.append(Bind(Path("/dev/kvm"), "/dev/kvm", device=True))
    sandbox = Sandbox(tools, tuple(binds), network=True, detached=True)
    for stale in ("qmp.sock", "qemu.pid"):
        (target / stale).unlink(missing_ok=True)
    log = target / "qemu.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            sandbox.command(qemu_command(machine, launching), cwd=VM),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        port = _wait_for_qmp(process, target / "qmp.sock", log)
        pid = int((target / "qemu.pid").read_text())
        record = Record(
            name=name, profile=profile, machine=machine_name, definition=machine, accel=launching.accel, cmdline=launching.cmdline,
            kernel=str(kernel), tools=str(tools), client_ca=launching.client_ca, pid=pid, started=_start_time(pid),
            endpoint=f"127.0.0.1:{port}", handover=launching.handover,
        )  # fmt: skip
        write_atomic(target / "vm.json", msgspec.json.encode(record))
    except BaseException:
        # The whole session: QEMU does not end with the bubblewrap that started it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return record


def _wait_for_qmp(process: subprocess.Popen[bytes], socket: Path, log: Path) -> int:
    """Wait until QEMU answers; returns the port that leads to the node's API.

    :raises BasaltError: when QEMU ends instead, with what it said.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        if process.poll() is not None:
            raise BasaltError(
                "QEMU ended at its start",
                why=log.read_text(errors="replace").strip()[-2000:],
                remedy="Correct the machine definition in qemu/ that it complains about",
            )
        # Bound, but not listening yet: a socket's file is there before anybody answers on it.
        with contextlib.suppress(BasaltError):
            if socket.exists():
                return qmp.forwarded_port(socket, API_PORT)
        if time.monotonic() > deadline:
            raise BasaltError(
                "QEMU does not start", why=f"no answer over QMP for {_START_TIMEOUT_S} s", remedy=f"See {log}"
            )
        time.sleep(0.02)


def restart(name: str) -> Record:
    """Start a stopped machine again from its disk.

    :raises UsageError: when it runs.
    :raises BasaltError: when the store no longer has what it was started with.
    """
    record = read(name)
    if alive(record):
        raise UsageError(f"the virtual machine '{name}' runs already")
    for what, path in (("QEMU", record.tools), ("kernel", record.kernel)):
        if not Path(path).is_dir():
            raise BasaltError(
                f"cannot start the virtual machine '{name}'",
                why=f"its {what} was collected from the store: {path}",
                remedy="Build it again by booting another machine of the same profile; this one's disk is kept",
            )
    launching = Launch(name, record.accel, record.cmdline, record.client_ca, record.handover)
    return launch(
        name,
        record.profile,
        record.machine,
        record.definition,
        launching,
        tools=Path(record.tools),
        kernel=Path(record.kernel),
    )


def power_off(record: Record) -> None:
    """End the machine as pulling its plug would; returns when QEMU is gone."""
    if not alive(record):
        return
    ways: list[signal.Signals | None] = [signal.SIGTERM, signal.SIGKILL]
    with contextlib.suppress(BasaltError):
        qmp.execute(directory_of(record.name) / "qmp.sock", "quit")
        ways.insert(0, None)  # it has been asked, and gets time to do it
    for sent in ways:
        if sent is not None and alive(record):
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, sent)
        deadline = time.monotonic() + 10
        while alive(record) and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(record.pid, os.WNOHANG)  # ours when the same process started it
            time.sleep(0.05)
        if not alive(record):
            return
    raise BasaltError(f"QEMU of '{record.name}' does not end", why=f"process {record.pid} survives SIGKILL")


def forget(name: str) -> None:
    """Delete the directory of a stopped machine."""
    shutil.rmtree(directory_of(name), ignore_errors=True)


def console_lines(record: Record, offset: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """Lines of the console from *offset* on, each once it is whole, until *stopped* or the machine has ended."""
    path = directory_of(record.name) / "console.log"
    pending = b""
    with path.open("rb") as stream:
        stream.seek(offset)
        while True:
            running = alive(record) and not stopped()
            chunk = stream.read(65536)
            pending += chunk
            *lines, pending = pending.split(b"\n")
            yield from lines
            if not chunk:
                if not running:
                    yield from [pending] if pending else []
                    return
                time.sleep(0.05)
