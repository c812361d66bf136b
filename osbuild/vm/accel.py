"""Which accelerator to use: KVM where it works, emulation otherwise.

``/dev/kvm`` may open and make machines and yet kill every kernel ("KVM internal error, emulation failure", seen on nested hosts).
So the question is put to the kernel itself: it is booted once under KVM without a disk, and must get as far as missing its root.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from basalt.files import write_atomic
from osbuild.sandbox import Bind, Sandbox

_KVM = Path("/dev/kvm")
_REACHED = b"Unable to mount root fs"
_PROBE_TIMEOUT_S = 30  # a healthy KVM takes one second; a broken one hangs


def choose(tools: Path, kernel: Path, cache: Path) -> str:
    """ "kvm" or "tcg". The answer of a probe is kept until the host reboots or kernel or tools change.

    :param tools: the vm-tools tree.
    :param kernel: output directory of the kernel step.
    :param cache: directory for the remembered answer.
    """
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    mark = cache / f"kvm-{boot}-{tools.name[:12]}-{kernel.name[:12]}"
    if mark.exists():
        return mark.read_text()
    answer = "kvm" if probe(tools, kernel) else "tcg"
    for old in cache.glob("kvm-*"):
        old.unlink(missing_ok=True)
    write_atomic(mark, answer.encode())
    return answer


def probe(tools: Path, kernel: Path) -> bool:
    """Boot *kernel* under KVM; True when it ran until it found no root."""
    sandbox = Sandbox(tools, (Bind(kernel, "/image"), Bind(_KVM, "/dev/kvm", device=True)))
    command = [
        "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "kvm", "-cpu", "host",
        "-m", "512", "-no-reboot", "-serial", "stdio", "-kernel", "/image/vmlinux", "-append", "console=ttyS0 panic=-1 root=/dev/none",
    ]  # fmt: skip
    process = subprocess.Popen(
        sandbox.command(command, cwd="/"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = b""
    try:
        output, _ = process.communicate(timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        output, _ = process.communicate()
    return _REACHED in output
